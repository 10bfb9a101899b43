"""The entries of the sharpness probe, as plain fields of ``Metric``: ``metrics.py`` registers them."""

from __future__ import annotations

Fields = tuple[str, str, str, str, float | None, float | None, str, str, str]

# The maps of ``fdlab.encoders.stretch``, in the order that ``x`` counts from 1 in the rows of the control.
MAPS = {
    "queries_keys": "queries x 4, keys / 4",
    "values_projection": "values x 4, projection / 4",
    "norms": "LayerNorms x 4, next layer / 4",
    "channels": "the same, channel by channel",
    "heads_mixed": "a matrix inside each head",
}
_SOURCE = "Andriushchenko et al. 2023 (arXiv 2302.07011); eval mode, fixed images, no augmentation"
_SCALE = "It moves when weights are rescaled and the function is not: read the reparametrisation control."
_DIAGONAL = "Rescaling single weights leaves it alone; an invertible map inside a head still moves it."

SHARPNESS: list[Fields] = [
    (
        "sharpness_average",
        "average rise of the loss",
        "nats",
        "E_d L(w + rho d) - L(w), d ~ N(0, 1) over all parameters looked at, rho stated",
        None,
        None,
        "How much the loss rises under noise of one size everywhere.",
        _SCALE,
        _SOURCE,
    ),
    (
        "sharpness_worst",
        "worst rise of the loss",
        "nats",
        "max L(w + d) - L(w) over |d|_2 <= rho, by ascent on the sphere; a lower bound",
        0.0,
        None,
        "How much the loss can rise at a distance rho.",
        _SCALE,
        _SOURCE,
    ),
    (
        "sharpness_adaptive",
        "average rise, noise in proportion to each weight",
        "nats",
        "E_d L(w + rho |w| d) - L(w) element-wise, d ~ N(0, 1), rho stated",
        None,
        None,
        "How much the loss rises when every weight is off by a share of itself.",
        _DIAGONAL,
        f"{_SOURCE}; c = |w| after Kwon et al. 2021 (ASAM)",
    ),
    (
        "sharpness_adaptive_worst",
        "worst rise, each weight by a share of itself",
        "nats",
        "max L(w + d) - L(w) over |d / w|_2 <= rho, by ascent on the sphere; a lower bound",
        0.0,
        None,
        "How much the loss can rise when weights move in proportion to themselves.",
        _DIAGONAL,
        f"{_SOURCE}; c = |w| after Kwon et al. 2021 (ASAM)",
    ),
    (
        "noise_to_rise",
        "noise at which the loss has risen by 0.1",
        "",
        "smallest s with mean over directions of L(w + s d) - L(w) = 0.1, d Gaussian with the norm of each filter",
        0.0,
        None,
        "How much relative noise the weights bear; larger is flatter.",
        "Filters are normalised row by row: a rescaling channel by channel still moves it.",
        "bisection on common random numbers; filter normalisation of Li et al. 2018 (arXiv 1712.09913)",
    ),
    (
        "noise_curve",
        "rise of the loss under noise",
        "nats",
        "mean over directions and images of L(w + x d) - L(w), d Gaussian with the norm of each filter",
        None,
        None,
        "How the loss rises with the noise.",
        "It is an average over directions; single ones scatter around it.",
        "filter normalisation of Li et al. 2018 (arXiv 1712.09913)",
    ),
]
_MOVED = {
    "eigenvalue_1": "largest Hessian eigenvalue",
    "eigenvalue_1_balanced": "largest eigenvalue, balanced",
    "sharpness_average": "average rise",
    "sharpness_worst": "worst rise",
    "sharpness_adaptive": "adaptive average rise",
    "sharpness_adaptive_worst": "adaptive worst rise",
    "noise_to_rise": "noise to a rise",
}
SHARPNESS += [
    (
        f"moved_{name}",
        f"{label}, ratio",
        "",
        f"{name} of the reparametrised model / {name}; x counts the maps: {', '.join(MAPS.values())}",
        0.0,
        None,
        "How far this measure moves while the function stays.",
        "A measure that stays here is not shown to predict anything by that.",
        "Dinh et al. 2017 (arXiv 1703.04933): flatness in weight space can be made arbitrary",
    )
    for name, label in _MOVED.items()
]
SHARPNESS.append(
    (
        "moved_function",
        "change of the outputs",
        "",
        "largest change of a token / largest token; x counts the maps as above",
        0.0,
        None,
        "That the map keeps the function, up to rounding.",
        "It is checked on the images given alone.",
        "our check",
    )
)

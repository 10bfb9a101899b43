"""The entries of the Hessian probe, as plain fields of ``Metric``: ``metrics.py`` registers them."""

from __future__ import annotations

Fields = tuple[str, str, str, str, float | None, float | None, str, str, str]

_LANCZOS = "Lanczos 1950 with full re-orthogonalisation; exact products by double backward (Pearlmutter 1994)"
_FLAT = (
    "Scales that keep the function move it several-fold: read the balanced form too, and compare one objective only."
)
_ORDINAL = ("largest", "second largest", "third largest", "fourth largest", "fifth largest")


def _eigenvalues() -> list[Fields]:
    entries: list[Fields] = []
    for rank, word in enumerate(_ORDINAL, start=1):
        entries.append(
            (
                f"eigenvalue_{rank}",
                f"{word} Hessian eigenvalue",
                "",
                f"lambda_{rank} of the Hessian of the mean loss over the parameters looked at, algebraic order",
                None,
                None,
                f"How sharply the loss is curved along its {word.replace(' largest', '')} sharpest direction."
                if rank > 1
                else "How sharply the loss is curved along its sharpest direction.",
                _FLAT,
                _LANCZOS,
            )
        )
    return entries


_RAW: list[Fields] = [
    *_eigenvalues(),
    (
        "eigenvalue_lowest",
        "lowest Hessian eigenvalue",
        "",
        "lambda_P of the Hessian of the mean loss, algebraic order",
        None,
        None,
        "How strongly the loss curves downwards along its most negative direction; 0 or above at a minimum.",
        "A negative value does not mean a way out: off a minimum every network has some.",
        _LANCZOS,
    ),
    (
        "trace",
        "trace of the Hessian",
        "",
        "sum of all eigenvalues = exact over the Lanczos basis + random probes on its complement",
        None,
        None,
        "The mean curvature over all directions, times their number.",
        _FLAT,
        "Hutch++ (Meyer et al. 2021) with the Krylov basis in place of a sketch; interval over the probes",
    ),
    (
        "negative_mass",
        "negative share of the curvature",
        "",
        "sum of |lambda| over lambda < 0 / sum of |lambda|, values under 1e-6 of the largest left out",
        0.0,
        1.0,
        "What share of all curvature is downwards.",
        "It is no count of negative eigenvalues: nearly half of them are zero but for rounding.",
        "stochastic Lanczos quadrature (Ubaru et al. 2017)",
    ),
    (
        "gradient_norm",
        "norm of the gradient",
        "",
        "|gradient of the mean loss| over the parameters looked at",
        0.0,
        None,
        "How far the model is from a stationary point of this objective.",
        "A frozen encoder was never trained on the probe's loss, so it is not 0.",
        "by backward passes over all images",
    ),
    (
        "objective_loss",
        "loss looked at",
        "",
        "mean loss over the images, in eval mode",
        None,
        None,
        "The loss whose curvature is measured, at the model itself.",
        "Near zero cross-entropy the curvature goes to 0 too: compare at like losses.",
        "the objective's own definition",
    ),
]

_OTHERS: list[Fields] = [
    (
        "spectral_mass",
        "share of the eigenvalues",
        "",
        "mass of the spectral density at x; atoms of mass 1 / P from Lanczos, the rest from random probes",
        0.0,
        1.0,
        "How the eigenvalues are spread.",
        "Places and masses between the outliers are a quadrature, not single eigenvalues.",
        "stochastic Lanczos quadrature (Golub & Meurant 1994; Ubaru et al. 2017) after deflation",
    ),
    (
        "max_eigenvalue",
        "eigenvalues of minibatches",
        "",
        "the five largest eigenvalues of the Hessian of each minibatch's mean loss, pooled",
        None,
        None,
        "How sharp the loss of single minibatches is.",
        "Maxima of small batches lie above that of all images, the more the smaller the batch.",
        "Park & Kim 2022 (how do vision transformers work), without augmentation and penalty",
    ),
    (
        "max_eigenvalue_mean",
        "mean largest eigenvalue of minibatches",
        "",
        "mean over minibatches of the largest eigenvalue",
        None,
        None,
        "How sharp the loss of a typical minibatch is.",
        "It depends on the batch size: the mean of maxima is never below the maximum of the mean.",
        "Park & Kim 2022 (how do vision transformers work)",
    ),
]


def _balanced(fields: Fields) -> Fields:
    name, label, unit, formula, low, high, says, _, source = fields
    after = "after equal norms of queries and keys, values and projection in each head, and folded LayerNorms"
    return (
        f"{name}_balanced",
        f"{label}, balanced",
        unit,
        f"{formula}; {after}",
        low,
        high,
        says,
        "It takes out scales alone: an invertible map inside a head keeps the function and still moves it.",
        source,
    )


def _of_part(fields: Fields, part: str) -> Fields:
    name, label, unit, formula, low, high, says, not_says, source = fields
    where = {"embedding": "patch embedding, tokens and positions", "final": "final norm"}[part]
    return f"{name}_{part}", f"{label}, {where}", unit, f"{formula}; {where} alone", low, high, says, not_says, source


_PARTS = [fields for fields in _RAW if fields[0] in ("eigenvalue_1", "eigenvalue_lowest", "trace")]
CURVATURE: list[Fields] = [
    *_RAW,
    *_OTHERS,
    *(_balanced(fields) for fields in _RAW),
    *(_of_part(fields, part) for part in ("embedding", "final") for fields in _PARTS),
]

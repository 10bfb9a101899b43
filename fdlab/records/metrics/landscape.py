"""The entries of the landscape probe, as plain fields of ``Metric``: ``metrics.py`` registers them."""

from __future__ import annotations

Fields = tuple[str, str, str, str, float | None, float | None, str, str, str]

_LI = "Li et al. 2018 (arXiv 1712.09913): Gaussian directions, each filter with the norm of the model's own"
_CUT = (
    "A cut along few of very many directions: nothing follows on what lies off it, and rescaled weights look otherwise."
)
_FORMS = {
    "line": (
        "random lines",
        "median over directions of L(w + x d); low and high: 10 % and 90 % of the directions",
        _LI,
    ),
    "plane": ("a random plane", "L(w + x d1 + y d2)", _LI),
    "interpolation": (
        "the line to another model",
        "L((1 - x) w0 + x w1), heads interpolated too",
        "Goodfellow et al. 2015 (arXiv 1412.6544)",
    ),
    "trajectory": (
        "the plane of a training's path",
        "L(w + x p1 + y p2), p the first two principal axes of w_t - w",
        "Li et al. 2018; a random walk looks alike (Antognini & Sohl-Dickstein 2018, arXiv 1806.08805)",
    ),
    "eigenvectors": (
        "the plane of the two sharpest directions",
        "L(w + x v1 + y v2), v unit eigenvectors of the Hessian",
        "Yao et al. 2020 (arXiv 1912.07145)",
    ),
}
LANDSCAPE: list[Fields] = [
    (
        f"{what}_{form}",
        f"{what} on {where}",
        "nats" if what == "loss" else "",
        formula if what == "loss" else formula.replace("L(", "accuracy("),
        0.0 if what == "accuracy" else None,
        1.0 if what == "accuracy" else None,
        f"How the {what} changes along {where}; rows without n are interpolated on the logarithm.",
        _CUT,
        source,
    )
    for form, (where, formula, source) in _FORMS.items()
    for what in ("loss", "accuracy")
]
_WALK = "a random walk of as many points shows nearly as much in two axes"
LANDSCAPE += [
    (
        "trajectory",
        "step of a snapshot",
        "steps",
        "(x, y): the snapshot's weights on the plane of the path; value: its step",
        0.0,
        None,
        "Where the training came from.",
        "Most of any walk lies in the plane of its first two axes, a random one too.",
        "Li et al. 2018 (arXiv 1712.09913), section 7",
    ),
    (
        "trajectory_explained",
        "share of the path on an axis",
        "",
        "eigenvalue x / trace of the Gram matrix of w_t - w",
        0.0,
        1.0,
        "How much of the path the plane holds.",
        f"{_WALK.capitalize()}.",
        "Li et al. 2018 (arXiv 1712.09913), section 7, uncentred",
    ),
    (
        "trajectory_random_walk",
        "the same of a random walk",
        "",
        "eigenvalue x / trace of min(i, j), the expected Gram matrix of as many equal independent steps",
        0.0,
        1.0,
        "What the share would be without any structure.",
        "Real training steps are neither equal nor independent.",
        "Antognini & Sohl-Dickstein 2018 (arXiv 1806.08805)",
    ),
]

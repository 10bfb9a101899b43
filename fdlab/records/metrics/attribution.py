"""The entries of the attribution probe, as plain fields of ``Metric``: ``metrics.py`` registers them."""

from __future__ import annotations

Fields = tuple[str, str, str, str, float | None, float | None, str, str, str]

# How the cells of an image are ranked; the suffix of a metric's name -> in words.
ORDERS = {"gradients": "integrated gradients", "rollout": "attention rollout", "random": "random order"}
RANKED = tuple(name for name in ORDERS if name != "random")

_S = (
    "s: score (a class logit, or the cosine to the image's own feature; see the column objective), of the whole image"
    " s1, of the mean colour alone s0; averages over images are taken first"
)
_OUTSIDE = "Removed cells leave a picture that the model was never trained on: read it against the random order."
_PETSIUK = "Petsiuk et al. 2018 (RISE); cells of the model's own grid, mean colour, normalised here"
_NO_TRUTH = "It ranks explanations by what the model does, not by what is true of the picture."


def _curve(order: str, words: str) -> list[Fields]:
    return [
        (
            f"deletion_curve_{order}",
            "share of the score left",
            "",
            f"(s - s0) / (s1 - s0) after the share x of the cells was removed, first by {words}; {_S}",
            None,
            None,
            f"How fast the score is lost when cells go in the order of {words}: faster is a better ranking.",
            _OUTSIDE,
            _PETSIUK,
        ),
        (
            f"insertion_curve_{order}",
            "share of the score there",
            "",
            f"(s - s0) / (s1 - s0) after the share x of the cells was put on the mean colour, first by {words}; {_S}",
            None,
            None,
            f"How fast the score comes when cells come in the order of {words}: faster is a better ranking.",
            _OUTSIDE,
            _PETSIUK,
        ),
        (
            f"deletion_area_{order}",
            "area under the deletion curve",
            "",
            f"integral over x in [0, 1] of deletion_curve_{order}, by trapezoids",
            None,
            None,
            f"One number for the deletion curve in the order of {words}: lower is a better ranking.",
            f"{_NO_TRUTH} The random order's area is the yardstick, not 0.",
            _PETSIUK,
        ),
        (
            f"insertion_area_{order}",
            "area under the insertion curve",
            "",
            f"integral over x in [0, 1] of insertion_curve_{order}, by trapezoids",
            None,
            None,
            f"One number for the insertion curve in the order of {words}: higher is a better ranking.",
            f"{_NO_TRUTH} The random order's area is the yardstick, not 1.",
            _PETSIUK,
        ),
    ]


def _gain(order: str, words: str) -> list[Fields]:
    return [
        (
            f"{kind}_gain_{order}",
            f"{kind} area against random",
            "",
            f"{difference}, on the same images",
            None,
            None,
            f"How much better than chance {words} rank the cells in {kind}: 0 is chance, above it is better.",
            _NO_TRUTH,
            f"{_PETSIUK}; one random order an image as the control",
        )
        for kind, difference in (
            ("deletion", f"deletion_area_random - deletion_area_{order}"),
            ("insertion", f"insertion_area_{order} - insertion_area_random"),
        )
    ]


_WHOLE: list[Fields] = [
    (
        "completeness_error",
        "completeness error of integrated gradients",
        "",
        "mean |sum of attributions - (s(x) - s(baseline))| / mean |s(x) - s(baseline)| over images",
        0.0,
        None,
        "How far the attributions are from summing to the score that they explain: 0 for an exact integral.",
        "A small error says that the integral is right, not that the explanation is.",
        "Sundararajan et al. 2017 (completeness axiom), Gauss-Legendre rule",
    ),
    (
        "score_whole",
        "score of the whole image",
        "",
        "mean over images of the logit of the class, or 1 where the score is the cosine to the image's own feature",
        None,
        None,
        "Where the curves start or end, before they are normalised.",
        "Logits of two models have no common scale: compare shares only.",
        "the score that deletion, insertion and head effects look at",
    ),
    (
        "score_empty",
        "score of the mean colour",
        "",
        "mean over images of the same score of an image that is the mean colour everywhere",
        None,
        None,
        "What of the score needs no image at all.",
        "If it is as high as the score of the whole image, shares of the difference are undefined.",
        "the baseline of deletion, insertion and integrated gradients",
    ),
]

_HEADS: list[Fields] = [
    (
        "head_effect",
        "drop of the score without the head",
        "",
        "mean over images of s1 - s with the head's channels set to 0 at the input of attn.proj",
        None,
        None,
        "How much the score needs this head, all others being there; negative: it is higher without the head.",
        "Heads that can stand in for each other all have a small effect; together they may matter.",
        "Michel et al. 2019 (are sixteen heads really better than one?), heads masked one at a time",
    ),
    (
        "head_effect_share",
        "drop without the head / whole score",
        "",
        f"head_effect / (s1 - s0); {_S}",
        None,
        None,
        "The same drop in parts of what the image adds to the score: comparable between models and scores.",
        "The shares of all heads do not sum to 1: heads replace and need each other.",
        "head_effect after Michel et al. 2019, divided by the whole effect of the image",
    ),
    (
        "head_conductance",
        "conductance of the head",
        "",
        "sum over its channels y and all tokens of the integral of ds/dy dy/da along a from mean colour to image",
        None,
        None,
        "How much of the change from no image to the image flows through this head.",
        "Heads of a block do not sum to s1 - s0: the residual stream goes past them.",
        "Dhamdhere et al. 2019 (conductance) at the input of attn.proj, as captum's LayerConductance",
    ),
]

ATTRIBUTION: list[Fields] = [
    *(fields for order, words in ORDERS.items() for fields in _curve(order, words)),
    *(fields for order in RANKED for fields in _gain(order, ORDERS[order])),
    *_WHOLE,
    *_HEADS,
]

"""The entries of ``fdlab predict``, as plain fields of ``Metric``: ``metrics.py`` registers them."""

from __future__ import annotations

Fields = tuple[str, str, str, str, float | None, float | None, str, str, str]

_TAU = "tau_b = sum_{i<j} s_ij t_ij / sqrt(sum s_ij^2 sum t_ij^2), s and t the signs of the models' differences"
_RANKS = "How far a measure orders models as their fine-tuning does: 1 the same order, -1 the reverse, 0 unrelated."
_FEW = "With fewer than five models nothing can be told from 0; models of one family are not independent."
_KENDALL = "Kendall 1945 (tau-b)"

PREDICT: list[Fields] = [
    (
        "score",
        "known fine-tuning score",
        "",
        "as the cohort states it",
        None,
        None,
        "What a measure is held against.",
        "Scores of different sources have different budgets and data.",
        "the cohort",
    ),
    ("kendall_tau", "Kendall's tau-b with the score", "", _TAU, -1.0, 1.0, _RANKS, _FEW, _KENDALL),
    (
        "kendall_one_out",
        "tau-b without one model",
        "",
        "lowest and highest tau-b when any one model is left out",
        -1.0,
        1.0,
        "Whether the order hangs on one model.",
        "A range over the models at hand, not an interval.",
        "ours",
    ),
    (
        "kendall_family_out",
        "tau-b without one family",
        "",
        "lowest and highest tau-b when all models of any one family are left out",
        -1.0,
        1.0,
        "Whether the measure ranks within and between the other families too.",
        "A range over the families at hand, not an interval.",
        "ours",
    ),
    (
        "kendall_p",
        "p of no association",
        "",
        "share of all orders of the scores whose |tau-b| is at least as large",
        0.0,
        1.0,
        "How often chance alone ranks as well.",
        "Of one measure chosen in advance.",
        "permutation test; without ties Kendall 1938",
    ),
    (
        "kendall_p_holm",
        "p after Holm's correction",
        "",
        "step-down over all measures of the table",
        0.0,
        1.0,
        "How often chance alone ranks as well by any of the measures.",
        "It grows with the number of measures.",
        "Holm 1979",
    ),
]

"""Attention on prefix tokens by their kind, as plain fields of ``Metric``: ``metrics.py`` registers them."""

from __future__ import annotations

Fields = tuple[str, str, str, str, float | None, float | None, str, str, str]


def _entry(kind: str, words: str) -> Fields:
    return (
        f"prefix_mass_{kind}",
        f"attention on the {words}",
        "",
        f"(1/N) sum_i (attention of patch i to the {words}), softmax over all tokens; the kinds add up to prefix_mass",
        0.0,
        1.0,
        f"What share of the patches' attention goes to the {words}.",
        "Only where a model has several kinds; a share for many tokens is not a share for each of them.",
        "Darcet et al. 2024 (registers) for the phenomenon; mean over patch queries",
    )


PREFIX = tuple(
    _entry(kind, words)
    for kind, words in (("cls", "class token"), ("dist", "distillation token"), ("register", "registers"))
)

"""The attribution probe's rows from its per-image values: shares, areas, gains over chance, effects of heads.

A share is taken of averages over images, not averaged over images: one image whose score hardly changes would decide.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fdlab.records.estimate import Estimate
from fdlab.records.intervals import interval_of_means, mean_interval

Rows = list[dict[str, Any]]
UNDEFINED = "shares of the score"


def area(curve: Any, shares: Any) -> Any:
    """(..., points) -> (...): the area under a curve over ``shares`` in [0, 1], by trapezoids; of an array or a tensor.

    >>> float(area(np.array([1.0, 0.5, 0.0]), np.array([0.0, 0.5, 1.0])))
    0.5
    """
    return ((shares[1:] - shares[:-1]) * (curve[..., 1:] + curve[..., :-1]) / 2).sum(-1)


def falling(curve: Any) -> Any:
    """A deletion curve as the share of the score that is left: 1 with the whole image, 0 with none of it.

    >>> falling(np.array([5.0, 2.0, 1.0])).tolist()
    [1.0, 0.25, 0.0]
    """
    return (curve - curve[..., -1:]) / (curve[..., :1] - curve[..., -1:])


def rising(curve: Any) -> Any:
    """An insertion curve as the share of the score that is there: 0 with nothing, 1 with the whole image."""
    return (curve - curve[..., :1]) / (curve[..., -1:] - curve[..., :1])


_FORMS = {"deletion": falling, "insertion": rising}


@np.errstate(invalid="ignore", divide="ignore")  # undefined shares are left empty, and a sentence says so
def curve_rows(
    arrays: dict[str, np.ndarray], shares: np.ndarray, orders: list[str], seed: int
) -> tuple[Rows, list[str]]:
    """Rows of curves, areas, gains and completeness, and a sentence where shares of the score are undefined.

    Args:
        arrays: ``deletion_ORDER`` and ``insertion_ORDER`` (n, points), ``score_whole``, ``score_empty`` (n,),
            ``completeness_gap`` (n,) with gradients.
        shares: (points,) of changed cells.
    """
    rows: Rows = []
    defined, notes = _shares_defined(arrays, seed)
    for kind, share in _FORMS.items():
        chance = arrays[f"{kind}_random"]
        for name in orders:
            scores = arrays[f"{kind}_{name}"]
            points = interval_of_means(scores, share, seed)
            rows += [
                _row(f"{kind}_curve_{name}", Estimate(*(bound[i] for bound in points[:3])), defined, x=float(x))
                for i, x in enumerate(shares)
            ]
            estimate = interval_of_means(scores, lambda means, share=share: area(share(means), shares), seed)  # type: ignore[misc]
            rows.append(_row(f"{kind}_area_{name}", estimate, defined))
            if name == "random":
                continue
            first, second = (scores, chance) if kind == "insertion" else (chance, scores)
            gain = interval_of_means(
                np.stack([first, second], 1),
                lambda m, share=share: area(share(m[:, 0]), shares) - area(share(m[:, 1]), shares),  # type: ignore[misc]
                seed,
            )
            rows.append(_row(f"{kind}_gain_{name}", gain, defined))
    if "completeness_gap" in arrays:
        change = np.abs(arrays["score_whole"] - arrays["score_empty"])
        both = np.stack([np.abs(arrays["completeness_gap"]), change], 1)
        estimate = interval_of_means(both, lambda m: m[:, 0] / m[:, 1], seed)
        rows.append(
            _row("completeness_error", estimate._replace(low=np.fmax(estimate.low, 0.0)), bool(change.mean() > 0))
        )
    return rows, notes


def score_rows(arrays: dict[str, np.ndarray], seed: int) -> Rows:
    """What the score is with the whole image and with none of it."""
    return [_row(name, mean_interval(arrays[name], seed)) for name in ("score_whole", "score_empty")]


@np.errstate(invalid="ignore", divide="ignore")
def head_rows(arrays: dict[str, np.ndarray], heads: list[int], seed: int) -> tuple[Rows, list[str]]:
    """Three rows a block and head from (n, blocks, heads) values, and a sentence where shares are undefined."""
    effect = arrays["head_effect"]
    defined, notes = _shares_defined(arrays, seed)
    whole = (arrays["score_whole"] - arrays["score_empty"])[:, None]
    share = interval_of_means(
        np.concatenate([effect.reshape(len(effect), -1), whole], 1), lambda means: means[:, :-1] / means[:, -1:], seed
    )
    estimates = {
        "head_effect": (mean_interval(effect, seed), True),
        "head_effect_share": (Estimate(*(bound.reshape(effect.shape[1:]) for bound in share[:3])), defined),
        "head_conductance": (mean_interval(arrays["head_conductance"], seed), True),
    }
    rows = [
        _row(name, Estimate(*(bound[block, head] for bound in interval[:3])), known,
             block=block, depth=(block + 1) / len(heads), head=head)
        for name, (interval, known) in estimates.items()
        for block, count in enumerate(heads)
        for head in range(count)
    ]  # fmt: skip
    return rows, notes


def _shares_defined(arrays: dict[str, np.ndarray], seed: int) -> tuple[bool, list[str]]:
    """Shares of s1 - s0 mean something only where images raise the score beyond its own interval."""
    estimate = mean_interval(arrays["score_whole"] - arrays["score_empty"], seed)
    known = estimate.low if np.isfinite(estimate.low) else estimate.value
    if known > 0:
        return True, []
    return False, [
        f"{UNDEFINED}: it is not surely higher with the image than with the mean colour (difference "
        f"{estimate.value:.3g}, {estimate.low:.3g} to {estimate.high:.3g})"
    ]


def _row(metric: str, estimate: Estimate, defined: bool = True, **more: Any) -> dict[str, Any]:
    value, low, high = (float(bound) if defined else float("nan") for bound in estimate[:3])
    return {"metric": metric, "value": value, "low": low, "high": high, **more}

"""Known answers through the same code as any model: what ``fdlab doctor --probes`` prints.

A group of cases joins by a line in ``CASES``: the names of its cases and what runs one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import pandas as pd
import torch

from fdlab.known_answers import attention, attribution, curvature, features

if TYPE_CHECKING:
    from fdlab.known_answers.check import Check

CASES: dict[str, tuple[Callable[[], Iterable[str]], Callable[[str, torch.dtype], list[Check]]]] = {
    "attention": (attention.names, attention.run_case),
    "attribution": (lambda: attribution.CASES, attribution.run_case),
    "features": (lambda: features.CASES, features.run_case),
    "curvature": (lambda: curvature.CASES, curvature.run_case),
}
DTYPES = (torch.float64, torch.float32)


def known_answers() -> pd.DataFrame:
    """One row per probe, case and precision: ``probe``, ``case``, ``dtype``, ``checks``, ``wrong``,
    ``worst`` (the number farthest from its known answer, in parts of its tolerance) and ``error`` (its error)."""
    rows = []
    for probe, (names, run) in CASES.items():
        for name in names():
            for dtype in DTYPES:
                checks = run(name, dtype)
                worst = max(checks, key=_share)
                rows.append(
                    {
                        "probe": probe,
                        "case": name,
                        "dtype": str(dtype).removeprefix("torch."),
                        "checks": len(checks),
                        "wrong": sum(not check.right for check in checks),
                        "worst": worst.what,
                        "error": f"{worst.error:.1e}",
                        "allowed": f"{worst.tolerance:.1e}",
                    }
                )
    return pd.DataFrame(rows)


def _share(check: Check) -> float:
    """The error in parts of what is allowed; infinite where the answer is wrong."""
    if not check.right:
        return float("inf")
    return check.error / check.tolerance if check.tolerance else 0.0

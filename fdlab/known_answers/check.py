"""One number with a known answer."""

from __future__ import annotations

import math
from typing import NamedTuple


class Check(NamedTuple):
    """One number of one case: right where |measured - expected| <= tolerance, or both are undefined (NaN)."""

    what: str
    measured: float
    expected: float
    tolerance: float

    @property
    def right(self) -> bool:
        if math.isnan(self.expected):
            return math.isnan(self.measured)
        return bool(abs(self.measured - self.expected) <= self.tolerance)

    @property
    def error(self) -> float:
        """|measured - expected|; 0 where both are undefined."""
        return 0.0 if math.isnan(self.expected) and self.right else abs(self.measured - self.expected)

"""A number with its 95 % interval: the one shape that every wing uses."""

from __future__ import annotations

import math
from typing import Any, NamedTuple


class Estimate(NamedTuple):
    """A value with its 95 % interval (NaN where unknown) and the n behind it (0 where unknown).

    Floats for one number, arrays of one shape for many.

    >>> Estimate(0.5, 0.4, 0.6, 64).row
    {'value': 0.5, 'low': 0.4, 'high': 0.6}
    >>> UNKNOWN.known
    False
    """

    value: Any
    low: Any
    high: Any
    n: int = 0

    @property
    def known(self) -> bool:
        """Whether there is a value."""
        return math.isfinite(self.value)

    @property
    def bounded(self) -> bool:
        """Whether there are a value and both ends of its interval."""
        return self.known and math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def row(self) -> dict[str, Any]:
        """The columns ``value``, ``low`` and ``high`` of the one table."""
        return {"value": self.value, "low": self.low, "high": self.high}


UNKNOWN = Estimate(math.nan, math.nan, math.nan)

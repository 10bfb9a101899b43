"""What a metric's entry is, and how the entries are read from the TOML files of this folder, one for each probe.

A file holds ``[[metric]]`` entries whose keys are the fields of ``Metric``; absent are an empty unit and open bounds.
``{word}`` in a string stands for a text of the file's ``[text]`` table. An entry with ``each`` is made once for every
row of it, and ``{key}`` then stands for the row's value; a row with ``of = "NAME"`` starts from that earlier metric,
whose fields are words too. Where several entries share the rows, each is a ``[[metric.form]]`` of one entry.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from importlib import resources
from typing import Any

from fdlab.errors import USAGE, FdlabError, nearest

# in the order in which metrics are listed
FILES = (
    *("attention", "evaluation", "features", "hessian", "sharpness"),
    *("landscape", "attribution", "trainability", "rank"),
)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric.

    ``label`` stands on axes; ``low`` and ``high`` bound the possible values (None: no bound); ``formula`` is
    plain text; ``says`` and ``not_says`` are one sentence each; ``source`` names the paper or the rule.
    ``matters`` is the smallest difference of two models that matters, where one can be defended (docs/decisions.md):
    a choice of fdlab, in the metric's own unit; of pixels a share of the distance of uniform attention. A ``skewed``
    metric is positive and spreads over decades: its interval over seeds is Cox's (``skewed_interval``).
    """

    name: str
    label: str
    unit: str = ""
    formula: str
    low: float | None = None
    high: float | None = None
    says: str
    not_says: str
    source: str
    matters: float | None = None
    skewed: bool = False

    @property
    def axis(self) -> str:
        """The axis label with its unit in brackets, where it has one.

        >>> METRICS["distance"].axis
        'mean attention distance (px)'
        """
        return f"{self.label} ({self.unit})" if self.unit else self.label


def read_metrics(text: str) -> Iterator[Metric]:
    """The metrics of one file, in its order.

    Raises:
        TypeError: an entry lacks a field or has a key that is none.
        KeyError: a ``{word}`` or an ``of`` that the file does not have.
    """
    file = tomllib.loads(text)
    made: dict[str, dict[str, Any]] = {}
    for entry in file["metric"]:
        rows, forms = entry.pop("each", [{}]), entry.pop("form", [{}])
        for row in rows:
            base = made[row["of"]] if "of" in row else {}
            words = {**file.get("text", {}), **base, **row}
            start = {key: value for key, value in {**base, **row}.items() if key in _FIELDS}
            for form in forms:
                metric = Metric(**{key: _filled(value, words) for key, value in {**start, **entry, **form}.items()})
                made[metric.name] = asdict(metric)
                yield metric


def _filled(value: Any, words: Mapping[str, Any]) -> Any:
    if not isinstance(value, str):
        return value
    return re.sub(r"\{(\w+)\}", lambda match: str(words[match[1]]), value)


_FIELDS = {field.name for field in fields(Metric)}

METRICS: dict[str, Metric] = {
    metric.name: metric
    for name in FILES
    for metric in read_metrics(resources.files(__package__).joinpath(f"{name}.toml").read_text(encoding="utf-8"))
}


def find_metric(name: str) -> Metric:
    """The metric of this name.

    Raises:
        FdlabError: code 2, there is none; the nearest name is given.
    """
    if name in METRICS:
        return METRICS[name]
    raise FdlabError(
        f"No metric is called '{name}'.{nearest(name, METRICS)}", fix=f"Known: {', '.join(METRICS)}.", code=USAGE
    )

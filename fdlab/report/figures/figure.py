"""What every figure has in common: whose rows it draws, its four sentences, its numbers as text."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping
from functools import cache, cached_property
from importlib import resources
from operator import attrgetter
from typing import Any

import pandas as pd
from matplotlib.figure import Figure as Drawing

from fdlab.compare.significance import weighted_sum
from fdlab.records.estimate import Estimate
from fdlab.report.captions import (
    Caption,
    caution,
    compared,
    counted,
    late_comparison,
    listed,
    on_data,
    options,
    pair,
    seeds,
    several_seeds,
)
from fdlab.report.numbers import show
from fdlab.report.report import Report, estimate_at
from fdlab.report.style import Look, looks_of

Lines = Iterator[dict[str, str]]  # rows of a table of text, column -> text


@cache
def words_of(figure: str) -> dict[str, Any]:
    """The title and the sentences of a figure in captions.toml, pieces of sentences under ``if`` and ``else``."""
    text = resources.files("fdlab.report").joinpath("captions.toml").read_text(encoding="utf-8")
    written = tomllib.loads(text)
    return {"if": {}, "else": {}, **written["default"], **written[figure]}


class Figure:
    """One subject of a report, drawn from its table and nothing else; its words are in captions.toml.

    A figure states the variables below, ``draw``, ``lines`` and, for the names in its words, ``terms``. The third
    sentence compares ``value`` of the pair of models, or states that of the only one.
    """

    metrics: tuple[str, ...]  # what a reader must know the formula of
    probe: str
    metric: str  # the figure is there where the table has values of it
    headline: str = ""  # the metric that sentence three compares; by default ``metric``
    written_as: str = ""  # the metric whose digits and unit it is written with; by default the same
    late: bool = False  # sentence three compares the last half of the blocks
    fewer: bool = False  # the probe may have seen fewer images than others, which the caption then says
    trainings: bool = True  # sentence four warns of what holds for every comparison of trainings

    def __init__(self, report: Report) -> None:
        self.report, self.facts = report, report.facts
        self.words = words_of(type(self).__module__.rpartition(".")[2])

    @property
    def present(self) -> bool:
        """Whether the table has the rows of this figure."""
        return not self.rows.empty

    @cached_property
    def rows(self) -> pd.DataFrame:
        """The rows that decide which models are shown."""
        return self.report.rows(self.probe, self.metric)

    @cached_property
    def names(self) -> list[str]:
        """The models of the figure in the report's order."""
        return self.report.ordered(self.rows["model"])

    @cached_property
    def looks(self) -> dict[str, Look]:
        """Colour, marker and line of every model of the report."""
        return looks_of(self.report)

    @cached_property
    def pair(self) -> tuple[str, str] | None:
        """The two models that the caption compares, or None."""
        return pair(self.report, self.names)

    def of(self, name: str, metric: str | None = None) -> pd.DataFrame:
        """A model's rows of a metric, by default of the figure's own."""
        return self.rows[self.rows["model"] == name] if metric is None else self.report.of(name, self.probe, metric)

    def whole(self, metric: str, name: str) -> Estimate:
        """A number of the whole model."""
        return self.report.whole(self.probe, metric, name)

    def value(self, name: str) -> Estimate:
        """A model's number in sentence three."""
        return self.whole(self.headline or self.metric, name)

    def draw(self) -> Drawing:
        """The figure, in its exact size."""
        raise NotImplementedError

    def numbers(self) -> pd.DataFrame:
        """The figure's numbers as a table of text, for those who do not see the picture."""
        return pd.DataFrame(self.lines())

    def lines(self) -> Lines:
        """The rows of ``numbers``."""
        raise NotImplementedError

    def lines_by_block(self, labels: Mapping[str, str]) -> Lines:
        """A row a model and block with several metrics (metric -> column), ``–`` where a block has no value."""
        for name in self.names:
            series = {metric: self.report.by_block(metric, name, self.probe) for metric in labels}
            for block in sorted({block for data in series.values() for block in data["block"]}):
                line = {"model": name, "block": str(block)}
                for metric, data in series.items():
                    there = block in set(data["block"])
                    line[labels[metric]] = show(estimate_at(data, block), metric) if there else "–"
                yield line

    def terms(self) -> dict[str, object]:
        """What the names in the words of this figure stand for, beside its attributes."""
        return {}

    @cached_property
    def _terms(self) -> dict[str, object]:
        return self.terms()

    def term(self, name: str) -> object:
        """What stands for a name in the figure's words: of its ``terms``, of those that all share, or an attribute."""
        if name in self._terms:
            return self._terms[name]
        return SHARED[name](self) if name in SHARED else attrgetter(name)(self)

    @property
    def title(self) -> str:
        """The heading of the figure."""
        return str(self.words["title"])

    def caption(self) -> Caption:
        """Exactly four sentences: what, how to read, what it shows here, what not to conclude."""
        return self.say("what"), self.say("reading"), self.shows(), self.caution()

    def say(self, sentence: str, **more: object) -> str:
        """A sentence of captions.toml with its names filled in, by ``more`` or by the figure's ``term``."""
        return str(self.words[sentence]).format_map(_Names(self, more))

    def shows(self) -> str:
        """What it shows here: one comparison with its numbers."""
        if "shows" in self.words:
            return self.say("shows")
        if self.late:
            return late_comparison(self.report, self.headline or self.metric, self.say("quantity"), self.probe)
        metric, quantity = self.written_as or self.headline or self.metric, self.say("quantity")
        if self.pair is None:
            value = show(self.value(self.names[0]), metric, unit=True)
            return self.say("alone", quantity=quantity, name=self.names[0], value=value)
        first, second = self.pair
        return compared(
            quantity, metric, (self.value(first), self.value(second)), self.pair, self.difference(first, second)
        )

    def difference(self, first: str, second: str) -> tuple[Estimate, str]:
        """The second model's number minus the first's, and in words what its interval is over."""
        if type(self).value is Figure.value:
            return self.report.difference(first, second, self.headline or self.metric, self.probe)
        change = weighted_sum([(1.0, self.value(second)), (-1.0, self.value(first))])
        return change, "two intervals taken as independent"

    def caution(self) -> str:
        """What not to conclude, here and from any comparison of trainings."""
        warning = self.say("not_said")
        return caution(self.report, warning, self.names, self.rows) if self.trainings else f"{warning}."

    @property
    def any_control(self) -> bool:
        """Whether the untrained start of a model shown is known."""
        return any(self.report.control_of(name, self.names) for name in self.names)


# The names that all figures share in their words.
SHARED: dict[str, Callable[[Figure], object]] = {
    "seeds": lambda figure: seeds(figure.report),  # ", seeds 0 and 1", or nothing
    "options": lambda figure: options(figure.report, figure.names),  # what of the models is not the paper's setting
    "settings": lambda figure: seeds(figure.report) + options(figure.report, figure.names),
    "on_images": lambda figure: on_data(figure.report, figure.rows, fewer=figure.fewer),  # "256 images of digits"
    "images": lambda figure: int(figure.rows["n"].max()),  # the most behind one of the rows
    "over": lambda figure: "trainings (seeds)" if several_seeds(figure.rows) else "images",  # what intervals are over
    "repeated": lambda figure: several_seeds(figure.rows),
    "models": lambda figure: counted(len(figure.names), "model"),
    "any_untrained": lambda figure: any(figure.report.untrained(name) for name in figure.names),
    "objective": lambda figure: str(figure.rows["objective"].iloc[0]),  # the loss that the rows were measured on
    "objectives": lambda figure: listed(list(dict.fromkeys(figure.rows["objective"]))),
}


class _Names:
    """What stands for a name in a figure's words: a piece of a sentence, or a term of the figure."""

    def __init__(self, figure: Figure, more: Mapping[str, object]) -> None:
        self.figure, self.more = figure, more

    def __getitem__(self, name: str) -> object:
        if name in self.more:
            return self.more[name]
        yes, no = self.figure.words["if"], self.figure.words["else"]
        for condition in (condition for side in (yes, no) for condition, pieces in side.items() if name in pieces):
            side = yes if self.figure.term(condition) else no
            return str(side.get(condition, {}).get(name, "")).format_map(self)
        value = self.figure.term(name)
        return listed(value) if isinstance(value, list) else value

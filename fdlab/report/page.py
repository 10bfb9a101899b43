"""One self-contained page: answer first, then the numbers, then a section a figure, then how it was made.

No network: the figures are inline SVG whose colours are CSS variables, so that they follow light and dark and a model
can be hidden; a small script only adds keys. The template (page.html.j2) escapes every name.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib import resources
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from fdlab.records.atomic import write_text
from fdlab.records.metrics import METRICS
from fdlab.records.table import write_table
from fdlab.report.alerts import alerts, badges
from fdlab.report.answers import answers
from fdlab.report.captions import ONE_SEED, OTHER_DESIGN, other_design, several_seeds
from fdlab.report.facts import Facts
from fdlab.report.figures import available, draw_figure, figure_of
from fdlab.report.findings import by_question, scope
from fdlab.report.latex import escape
from fdlab.report.marks import mark
from fdlab.report.numbers import readable
from fdlab.report.pairs import MOST, pairwise
from fdlab.report.report import Report
from fdlab.report.style import COLUMN, DARK, METADATA, Look, laid_out, looks_of, settings
from fdlab.report.svg import inches_wide, inline_svg, variable
from fdlab.report.teach import cards, glossary

HEADERS = {
    "accuracy": "accuracy (%)",
    "late_distance": "distance (px)",
    "late_distance_spread": "spread over heads (px)",
    "late_head_similarity": "cosine between heads",
    "late_head_similarity_shuffled": "the same, keys shuffled",
    "late_entropy": "entropy / ln N",
    "late_nmi": "NMI",
    "late_nmi_shuffled": "NMI, keys shuffled",
    "late_r2_relative": "r2_relative",
    "late_r2_absolute": "r2_absolute",
    "teacher_r2": "teacher_r2",
}
FAMILY_NAMES = {"mim": "masked image modelling", "random": "untrained control", "unknown": "family not stated"}
# The first of these that a report has is its first picture; the others of them follow, and the rest is folded.
HERO = ("two_way", "attention_distance", "trainability", "finetune", "over_steps")
SHOWN = (*HERO, "head_similarity", "position", "teacher")
EMBED = 600_000  # bytes of compressed table that a page carries inside
CLAIM = {"verdict": "not tested", "said": "", "statement": "", "effect": "", "answers": (), "not_controlled": ""}
VERDICTS = {
    "supported": "✓",
    "holds, not attributable": "≈",
    "does not hold": "✗",
    "smaller than the margin": "≤",
    "undecided": "?",
    "one seed": "1",
    "not tested": "–",
}


def write_page(
    path: Path | str,
    report: Report,
    figures: Sequence[str] | None = None,
    *,
    teach: bool = False,
    drawn: Mapping[str, str] | None = None,
    files: bool = False,
) -> Path:
    """Writes index.html, and table.csv beside it.

    Args:
        path: the page's file.
        report: the table and its facts; sections without rows are left out.
        figures: which figures (default: all that the table has).
        teach: a question before each figure, a glossary, exercises.
        drawn: SVGs of figures that were just drawn of this report for a page; the others are drawn here.
        files: the folder ``figures/`` with PDFs stands beside the page, and is linked.

    Raises:
        FdlabError: code 2, an unknown figure or one that the table has no rows for.
    """
    path = Path(path)
    write_text(path, page(report, figures, teach=teach, drawn=drawn, files=files))
    write_table(path.with_name("table.csv"), report.table)
    return path


def page(
    report: Report,
    figures: Sequence[str] | None = None,
    *,
    teach: bool = False,
    drawn: Mapping[str, str] | None = None,
    files: bool = False,
) -> str:
    """The page as text; arguments as for ``write_page``."""
    return _Page(report, drawn or {}, files).text(available(report) if figures is None else list(figures), teach)


class _Page:
    """The parts of the template, each from the report."""

    def __init__(self, report: Report, drawn: Mapping[str, str], files: bool) -> None:
        self.report, self.table, self.facts, self.drawn, self.files = report, report.table, report.facts, drawn, files

    @cached_property
    def looks(self) -> dict[str, Look]:
        return looks_of(self.report)

    @cached_property
    def place(self) -> dict[str, int]:
        """The number of each model's colour variable."""
        return {name: number for number, name in enumerate(self.looks)}

    def text(self, figures: list[str], teach: bool) -> str:
        source = _text("page.html.j2")
        environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        taught, facts, claims = cards(figures) if teach else {}, self.facts, _claims(self.facts)
        hero = next((name for name in HERO if name in figures), figures[0] if figures else "")
        shown = [name for name in (hero, *figures) if name in figures and (name == hero or name in SHOWN)]
        shown = list(dict.fromkeys(shown))
        marked = badges(alerts(self.report), figures)
        sections = {
            name: self.section(name) | {"card": taught.get(name), "badges": marked.get(name, [])} for name in figures
        }
        return environment.from_string(source).render(
            title=facts.title or "Attention of vision transformers",
            question=facts.question,
            meta=self.meta(),
            answers=answers(facts),
            claims=claims,
            untested=_untested(claims),
            untested_count=sum(claim["verdict"] == "not tested" for claim in claims),
            findings=by_question(facts.findings),
            scope=scope(facts.findings),
            notes=list(facts.notes),
            badges=marked.get("", []),
            models=self.models(),
            seeds_joined=several_seeds(self.table),
            summary=self.summary(),
            pairs=self.pairs(),
            hero=sections.get(hero),
            figures=[sections[name] for name in shown[1:]],
            deeper=[sections[name] for name in figures if name not in shown],
            glossary=glossary() if teach else [],
            method=_method(facts),
            seconds=[(str(stage), f"{float(value):.1f}") for stage, value in facts.seconds.items()],
            versions=[(str(name), str(version)) for name, version in facts.versions.items()],
            weights=_weights(facts),
            command=facts.command,
            explorer=facts.explorer,
            limits=self.limits(),
            metrics=[METRICS[name] for name in dict.fromkeys(self.table["metric"]) if name in METRICS],
            variables=_variables(),
            version=str(facts.versions.get("fdlab", "")),
            rows=len(self.table),
            digest=self.report.digest,
            inside=self.embedded(),
            css=Markup(_text("page.css")),
            script=Markup(_text("page.js")),
        )

    def models(self) -> list[dict[str, Any]]:
        """The models in the order of their colour variables, each with its family."""
        families = self.report.families
        return [
            {
                "name": name,
                "family": FAMILY_NAMES.get(families.get(name, ""), families.get(name, "")),
                "base": variable(look.base or look.color),
                "mark": mark(look, place),
            }
            for place, (name, look) in enumerate(self.looks.items())
        ]

    def meta(self) -> str:
        """What the page rests on, in a line: models, images, trainings."""
        count, facts, seeds = len(self.report.models), self.facts, self.facts.seeds
        parts = [f"{count} model{'s' * (count != 1)}"] if count else []
        if facts.images:
            parts.append(f"{facts.images} images" + (f" of {facts.data}" if facts.data else ""))
        elif facts.data:
            parts.append(facts.data)
        several = several_seeds(self.table[~self.table["probe"].isin(["ruler", "curve"])])
        if several:
            parts.append(f"{len(seeds)} trainings of each" if seeds else "several trainings of each")
        over = scope(facts.findings) or (
            "Intervals are 95 %, over the trainings." if several else "Intervals are 95 %, over images."
        )
        return f"{', '.join(parts)}. {over}" if parts else over

    def pairs(self) -> dict[str, Any] | None:
        """The first differences, and how many more there are; None without any."""
        differences = pairwise(self.report)
        if differences.empty:
            return None
        return self.cells(differences.head(MOST)) | {"more": max(0, len(differences) - MOST)}

    def embedded(self) -> str:
        """The table as a link that needs no file beside the page; empty where it would be too large."""
        packed = gzip.compress(self.report.csv, mtime=0)
        return f"data:application/gzip;base64,{base64.b64encode(packed).decode()}" if len(packed) <= EMBED else ""

    def section(self, name: str) -> dict[str, Any]:
        figure = figure_of(name, self.report)
        svg, caption = self.drawn.get(name) or self.svg(name), figure.caption()
        return {
            "id": name.replace("_", "-"),
            "file": name,
            "title": figure.title,
            "pan": inches_wide(svg) > COLUMN,  # wider than a narrow screen: moved sideways there
            "svg": inline_svg(svg, name, figure.title, caption[0], list(self.looks.values())),
            "caption": caption,
            "table": self.cells(figure.numbers()),
            "metrics": [METRICS[metric] for metric in figure.metrics],
            "copied": " ".join(caption),
            "latex": _latex(name, " ".join(caption)),
            "pdf": f"figures/{name}.pdf" if self.files else "",
        }

    def svg(self, name: str) -> str:
        drawn, text = draw_figure(name, self.report), StringIO()
        with settings(), laid_out(drawn):
            drawn.savefig(text, format="svg", metadata=METADATA["svg"])
        return text.getvalue()

    def cells(self, numbers: pd.DataFrame) -> dict[str, Any]:
        """A table of text; each row knows the place of its model, so that it can be hidden with it."""
        names = numbers["model"] if "model" in numbers.columns else [""] * len(numbers)
        rows = zip(names, numbers.astype(str).to_numpy().tolist(), strict=True)
        return {
            "head": list(numbers.columns),
            "rows": [{"model": self.place.get(name, ""), "cells": cells} for name, cells in rows],
        }

    def summary(self) -> dict[str, Any] | None:
        """The table of models; None where there is nothing to put into it."""
        if not self.report.models:
            return None
        numbers = self.report.summary()
        text = readable(numbers)
        columns = list(text.columns[2:])
        if not columns:
            return None
        bars = {column: _whiskers(numbers, column) for column in columns}
        return {
            "head": [HEADERS[column] for column in columns],
            "late": [column.startswith("late_") for column in columns],
            "rows": [
                {
                    "model": name,
                    "place": self.place[name],
                    "mark": mark(self.looks[name], self.place[name]),
                    "open": not self.looks[name].fill,
                    "family": FAMILY_NAMES.get(family, family or "unknown"),
                    "cells": [
                        {
                            "value": _known(numbers[column][row]),
                            "text": cell.partition(" ")[0],
                            "interval": cell.partition(" ")[2],
                        }
                        | {"bar": bars[column][row]}
                        for column, cell in zip(columns, cells, strict=True)
                    ],
                }
                for row, (name, family, *cells) in enumerate(text.itertuples(index=False))
            ],
        }

    def limits(self) -> list[str]:
        """What this page cannot show, as far as its table has it; the limits of the facts come first."""
        attention, training = self.report.rows("attention"), self.report.rows("training")
        limits = [str(limit) for limit in self.facts.limits]
        limits.append(
            "Two models are compared by the interval of their difference; whether the intervals of their own values "
            "overlap says little."
        )
        if len(attention):
            limits += [
                "A large attention distance may only mean uniform attention, and alike heads may only mean broad "
                "ones: read both with the entropy.",
                "Distances depend on the grid and the patch size, similarities on the measure of likeness.",
            ]
        if len(training):
            limits.append("Accuracies hold for this fine-tuning budget and these splits alone.")
        measured = self.table[self.table["probe"].isin(["attention", "training"])]
        if len(attention) + len(training) and not several_seeds(measured):
            limits.append(f"Each model was trained once here or taken as it is: {ONE_SEED}.")
        if other_design(self.report, self.report.models):
            limits.append(f"Of the two models that the captions compare: {OTHER_DESIGN}.")
        return limits


def _known(value: float) -> str:
    return f"{value:.6g}" if np.isfinite(value) else ""


def _whiskers(numbers: pd.DataFrame, column: str) -> list[tuple[str, str, str] | None]:
    """Low, value and high of every model in per cent of the column's common scale; None where one is unknown."""
    three = numbers[[f"{column}_low", column, f"{column}_high"]].to_numpy(float)
    low, high = np.nanmin(three, initial=np.inf), np.nanmax(three, initial=-np.inf)
    span = (high - low) or 1.0
    return [
        (*(f"{5 + 90 * (part - low) / span:.1f}" for part in row),) if np.isfinite(row).all() else None  # type: ignore[misc]
        for row in three
    ]


def _text(name: str) -> str:
    return resources.files("fdlab.report").joinpath(name).read_text(encoding="utf-8")


def _latex(name: str, caption: str) -> str:
    return "\n".join(
        [
            r"\begin{figure}",
            r"  \centering",
            rf"  \includegraphics[width=\linewidth]{{figures/{name}.pdf}}",
            rf"  \caption{{{escape(caption)}}}",
            rf"  \label{{fig:{name.replace('_', '-')}}}",
            r"\end{figure}",
        ]
    )


def _claims(facts: Facts) -> list[dict[str, Any]]:
    """The verdict strip: each claim with its sign, so that colour is never alone."""
    return [
        {
            **CLAIM,
            **{key: value if key == "answers" else str(value) for key, value in claim.items()},
            "sign": VERDICTS.get(str(claim.get("verdict")), "–"),
        }
        for claim in facts.claims
    ]


def _untested(claims: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """What is lacking, each once, with the claims that lack it."""
    by_reason: dict[str, list[str]] = {}
    for claim in claims:
        if claim["verdict"] == "not tested":
            by_reason.setdefault(str(claim["effect"]), []).append(str(claim["statement"]))
    return [{"reason": reason, "statements": " ".join(statements)} for reason, statements in by_reason.items()]


def _weights(facts: Facts) -> list[dict[str, str]]:
    """What is needed to get the same models again."""
    return [
        {"name": str(name), "source": "", "sha256": "", **{key: str(value) for key, value in known.items()}}
        for name, known in facts.models.items()
    ]


def _variables() -> dict[str, dict[str, str]]:
    return {
        "light": {f"--c{color[1:]}": color for color in DARK},
        "dark": {f"--c{color[1:]}": dark for color, dark in DARK.items()},
    }


def _method(facts: Facts) -> list[tuple[str, str]]:
    """Facts that need no more than a line each."""
    lines = [
        ("Data", facts.data),
        ("Images measured", facts.images),
        ("Images skipped", facts.written.get("skipped_images")),
        ("Labels", ", ".join(f"{count} {name}" for name, count in facts.splits.items())),
        ("Fine-tuning budget", facts.budget),
        ("Seeds", ", ".join(map(str, facts.seeds))),
        *((f"Options of {name}", ", ".join(having)) for name, having in facts.options.items()),
        *((f"Control of {name}", control) for name, control in facts.controls.items()),
    ]
    return [(name, str(value)) for name, value in lines if value not in (None, "")]

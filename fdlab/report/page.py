"""One self-contained page: answer first, then the numbers, then a section a figure, then how it was made.

No script and no network: the figures are inline SVG whose colours are CSS variables, so that they follow
light and dark; the template (page.html.j2) escapes every name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from fdlab.records.atomic import write_text
from fdlab.records.metrics import METRICS
from fdlab.records.table import write_table
from fdlab.report.captions import ONE_SEED, OTHER_DESIGN, other_design, several_seeds
from fdlab.report.figures import available, draw_figure, figure_module
from fdlab.report.style import DARK, looks_of, settings
from fdlab.report.summary import Facts, models, readable, rows, summary

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


FAMILY_NAMES = {"mim": "masked image modelling", "random": "untrained control"}


def write_page(path: Path | str, table: pd.DataFrame, facts: Facts, figures: list[str] | None = None) -> Path:
    """Writes index.html, and table.csv beside it.

    Args:
        path: the page's file.
        table: rows in the form of ``records.table``; sections without rows are left out.
        facts: what is known beside the table (question, notes, budget, options, controls, ...).
        figures: which figures (default: all that the table has).

    Raises:
        FdlabError: code 2, an unknown figure or one that the table has no rows for.
    """
    path = Path(path)
    write_text(path, page(table, facts, figures))
    write_table(path.with_name("table.csv"), table)
    return path


def page(table: pd.DataFrame, facts: Facts, figures: list[str] | None = None) -> str:
    """The page as text."""
    source = resources.files("fdlab.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    shown = available(table) if figures is None else figures
    return environment.from_string(source).render(
        title=facts.get("title") or "Attention of vision transformers",
        question=facts.get("question") or "",
        notes=list(facts.get("notes") or ()),
        seeds_joined=several_seeds(table),
        summary=_summary(table, facts),
        figures=[_section(figure, table, facts) for figure in shown],
        method=_method(table, facts),
        seconds=_pairs(facts.get("seconds"), lambda value: f"{float(value):.1f}"),
        versions=_pairs(facts.get("versions"), str),
        command=facts.get("command") or "",
        limits=_limits(table, facts),
        metrics=[METRICS[name] for name in dict.fromkeys(table["metric"]) if name in METRICS],
        variables=_variables(),
        version=str((facts.get("versions") or {}).get("fdlab", "")),
        rows=len(table),
    )


def inline_svg(svg: str, figure: str, title: str, description: str) -> Markup:
    """matplotlib's SVG made fit for a page: own ids, colours as CSS variables, a title and a description.

    Every SVG of matplotlib has the ids ``figure_1``, ``axes_1``, ...: without a prefix they clash.
    """
    prefix = f"{figure.replace('_', '-')}-"
    body = svg[svg.index("<svg") :]
    body = re.sub(r'(\sid=")', rf"\g<1>{prefix}", body)
    body = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}", body)
    body = re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", body)
    body = re.sub(r"#[0-9a-f]{6}\b", lambda found: _variable(found.group()), body)
    # The figures were measured in DejaVu Sans; Verdana has nearly its widths.
    body = body.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif")
    width, height = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', body)[0]
    named = f'role="img" aria-labelledby="{prefix}title {prefix}description"'
    size = f'style="max-width: {float(width) / 72 * 8.6:.1f}rem" viewBox="0 0 {width} {height}"'
    words = f'<title id="{prefix}title">{escape(title)}</title>'
    words += f'<desc id="{prefix}description">{escape(description)}</desc>'
    return Markup(re.sub(r"<svg[^>]*>", lambda _: f"<svg {named} {size}>{words}", body, count=1))


def _variable(color: str) -> str:
    return f"var(--c{color[1:]})" if color in DARK else color


def _variables() -> dict[str, dict[str, str]]:
    return {
        "light": {f"--c{color[1:]}": color for color in DARK},
        "dark": {f"--c{color[1:]}": dark for color, dark in DARK.items()},
    }


def _section(figure: str, table: pd.DataFrame, facts: Facts) -> dict[str, Any]:
    module = figure_module(figure)
    drawn = draw_figure(figure, table, facts)
    text = StringIO()
    with settings():
        drawn.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    caption = module.caption(table, facts)
    return {
        "id": figure.replace("_", "-"),
        "title": module.TITLE,
        "svg": inline_svg(text.getvalue(), figure, module.TITLE, caption[0]),
        "caption": caption,
        "table": _cells(module.numbers(table, facts)),
    }


def _cells(numbers: pd.DataFrame) -> dict[str, Any]:
    return {"head": list(numbers.columns), "rows": numbers.astype(str).to_numpy().tolist()}


def _summary(table: pd.DataFrame, facts: Facts) -> dict[str, Any] | None:
    """The table of models; None where the table has no model (a ruler alone)."""
    if not models(table, facts):
        return None
    text = readable(summary(table, facts))
    look = looks_of(table, facts)
    return {
        "head": [HEADERS[column] for column in text.columns[2:]],
        "late": [column.startswith("late_") for column in text.columns[2:]],
        "rows": [
            {
                "model": name,
                "family": FAMILY_NAMES.get(family, family or "unknown"),
                "color": _variable(look[name].color),
                "cells": [cell.partition(" ")[::2] for cell in cells],
            }
            for name, family, *cells in text.itertuples(index=False)
        ],
    }


def _pairs(values: Any, show: Any) -> list[tuple[str, str]]:
    return [(str(key), show(value)) for key, value in values.items()] if isinstance(values, Mapping) else []


def _method(table: pd.DataFrame, facts: Facts) -> list[tuple[str, str]]:
    """Facts that need no more than a line each."""
    seed = facts.get("seed")
    lines = [
        ("Data", facts.get("data")),
        ("Images measured", facts.get("images")),
        ("Images skipped", facts.get("skipped_images")),
        ("Labels", ", ".join(f"{count} {name}" for name, count in (facts.get("splits") or {}).items())),
        ("Fine-tuning budget", facts.get("budget")),
        ("Seeds", ", ".join(map(str, seed)) if isinstance(seed, list | tuple) else seed),
        *((f"Options of {name}", ", ".join(having)) for name, having in (facts.get("options") or {}).items()),
        *((f"Control of {name}", control) for name, control in (facts.get("controls") or {}).items()),
    ]
    return [(name, str(value)) for name, value in lines if value not in (None, "")]


def _limits(table: pd.DataFrame, facts: Facts) -> list[str]:
    """What this page cannot show, as far as its table has it; ``facts["limits"]`` comes first."""
    attention, training = rows(table, "attention"), rows(table, "training")
    limits = [str(limit) for limit in facts.get("limits") or ()]
    limits.append(
        "Separate intervals mean a difference on these images; overlapping ones may still hide a difference "
        "that a paired comparison on the same images finds."
    )
    if len(attention):
        limits += [
            "A large attention distance may only mean uniform attention, and alike heads may only mean broad "
            "ones: read both with the entropy.",
            "Distances depend on the grid and the patch size, similarities on the measure of likeness.",
        ]
    if len(training):
        limits.append("Accuracies hold for this fine-tuning budget and these splits alone.")
    if len(attention) + len(training) and not several_seeds(table[table["probe"].isin(["attention", "training"])]):
        limits.append(f"Each model was trained once here or taken as it is: {ONE_SEED}.")
    if other_design(models(table, facts), table, facts):
        limits.append(f"Of the two models that the captions compare: {OTHER_DESIGN}.")
    return limits

"""One self-contained page: answer first, then the numbers, then a section a figure, then how it was made.

No network: the figures are inline SVG whose colours are CSS variables, so that they follow light and dark and a model
can be hidden; a small script only adds keys. The template (page.html.j2) escapes every name.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping
from importlib import resources
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined

from fdlab.records.atomic import write_text
from fdlab.records.metrics import METRICS
from fdlab.records.table import write_table
from fdlab.report.alerts import alerts
from fdlab.report.captions import ONE_SEED, OTHER_DESIGN, other_design, several_seeds
from fdlab.report.figures import available, draw_figure, figure_module
from fdlab.report.pairs import MOST, pairwise
from fdlab.report.provenance import table_digest
from fdlab.report.style import COLUMN, DARK, laid_out, looks_of, settings
from fdlab.report.summary import Facts, families, models, readable, rows, summary
from fdlab.report.svg import inline_svg, variable, width_of
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


FAMILY_NAMES = {"mim": "masked image modelling", "random": "untrained control"}
EMBED = 600_000  # bytes of compressed table that a page carries inside
CLAIM = {"verdict": "not tested", "scope": "", "statement": "", "effect": "", "not_controlled": ""}
VERDICTS = {"supported": "✓", "contradicted": "✗", "undecided": "?", "not tested": "–"}


def write_page(
    path: Path | str,
    table: pd.DataFrame,
    facts: Facts,
    figures: list[str] | None = None,
    *,
    teach: bool = False,
    drawn: Mapping[str, str] | None = None,
) -> Path:
    """Writes index.html, and table.csv beside it.

    Args:
        path: the page's file.
        table: rows in the form of ``records.table``; sections without rows are left out.
        facts: what is known beside the table (question, notes, budget, options, controls, ...).
        figures: which figures (default: all that the table has).
        teach: a question before each figure, a glossary, exercises.
        drawn: SVGs of figures that were just drawn of this table for a page; the others are drawn here.

    Raises:
        FdlabError: code 2, an unknown figure or one that the table has no rows for.
    """
    path = Path(path)
    write_text(path, page(table, facts, figures, teach=teach, drawn=drawn))
    write_table(path.with_name("table.csv"), table)
    return path


def page(
    table: pd.DataFrame,
    facts: Facts,
    figures: list[str] | None = None,
    *,
    teach: bool = False,
    drawn: Mapping[str, str] | None = None,
) -> str:
    """The page as text."""
    source = resources.files("fdlab.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    shown = available(table) if figures is None else figures
    taught = cards(shown) if teach else {}
    return environment.from_string(source).render(
        title=facts.get("title") or "Attention of vision transformers",
        question=facts.get("question") or "",
        claims=_claims(facts),
        untested=[claim for claim in _claims(facts) if claim["verdict"] == "not tested"],
        notes=list(facts.get("notes") or ()),
        alerts=alerts(table, facts),
        models=_models(table, facts),
        seeds_joined=several_seeds(table),
        summary=_summary(table, facts),
        pairs=_pairs_of_models(table, facts),
        figures=[
            _section(figure, table, facts, (drawn or {}).get(figure)) | {"card": taught.get(figure)} for figure in shown
        ],
        glossary=glossary() if teach else [],
        method=_method(table, facts),
        seconds=_pairs(facts.get("seconds"), lambda value: f"{float(value):.1f}"),
        versions=_pairs(facts.get("versions"), str),
        weights=_weights(facts),
        command=facts.get("command") or "",
        limits=_limits(table, facts),
        metrics=[METRICS[name] for name in dict.fromkeys(table["metric"]) if name in METRICS],
        variables=_variables(),
        version=str((facts.get("versions") or {}).get("fdlab", "")),
        rows=len(table),
        digest=table_digest(table),
        inside=_embedded(table),
    )


def _claims(facts: Facts) -> list[dict[str, str]]:
    """The verdict strip: each claim with its sign, so that colour is never alone."""
    return [
        {
            **CLAIM,
            **{key: str(value) for key, value in claim.items()},
            "sign": VERDICTS.get(str(claim.get("verdict")), "–"),
        }
        for claim in (*(facts.get("premises") or ()), *(facts.get("claims") or ()))
    ]


def _models(table: pd.DataFrame, facts: Facts) -> list[dict[str, Any]]:
    """The models in the order of their colour variables, each with its family."""
    family = families(table)
    return [
        {
            "name": name,
            "family": FAMILY_NAMES.get(family.get(name, ""), family.get(name, "")),
            "base": variable(look.base or look.color),
        }
        for name, look in looks_of(table, facts).items()
    ]


def _pairs_of_models(table: pd.DataFrame, facts: Facts) -> dict[str, Any] | None:
    found = pairwise(table, facts)
    if found.empty:
        return None
    return {**_cells(found.head(MOST), table, facts), "more": max(0, len(found) - MOST)}


def _embedded(table: pd.DataFrame) -> str:
    """The table as a link that needs no file beside the page; empty where it would be too large."""
    packed = gzip.compress(table.to_csv(index=False, float_format="%.10g").encode(), mtime=0)
    return f"data:application/gzip;base64,{base64.b64encode(packed).decode()}" if len(packed) <= EMBED else ""


def _weights(facts: Facts) -> list[dict[str, str]]:
    """What is needed to get the same models again."""
    return [
        {"name": str(name), "source": "", "sha256": "", **{key: str(value) for key, value in known.items()}}
        for name, known in (facts.get("models") or {}).items()
    ]


def _variables() -> dict[str, dict[str, str]]:
    return {
        "light": {f"--c{color[1:]}": color for color in DARK},
        "dark": {f"--c{color[1:]}": dark for color, dark in DARK.items()},
    }


def _section(figure: str, table: pd.DataFrame, facts: Facts, svg: str | None) -> dict[str, Any]:
    module = figure_module(figure)
    svg = svg or _svg(figure, table, facts)
    caption = module.caption(table, facts)
    looks = list(looks_of(table, facts).values())
    return {
        "id": figure.replace("_", "-"),
        "file": figure,
        "title": module.TITLE,
        "pan": width_of(svg) > COLUMN,  # wider than a narrow screen: moved sideways there
        "svg": inline_svg(svg, figure, module.TITLE, caption[0], looks),
        "caption": caption,
        "table": _cells(module.numbers(table, facts), table, facts),
        "metrics": [METRICS[name] for name in getattr(module, "METRICS", ())],
    }


def _svg(figure: str, table: pd.DataFrame, facts: Facts) -> str:
    drawn, text = draw_figure(figure, table, facts), StringIO()
    with settings(), laid_out(drawn):
        drawn.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return text.getvalue()


def _cells(numbers: pd.DataFrame, table: pd.DataFrame, facts: Facts) -> dict[str, Any]:
    """A table of text; each row knows the place of its model, so that it can be hidden with it."""
    place = {name: number for number, name in enumerate(looks_of(table, facts))}
    names = numbers["model"] if "model" in numbers.columns else [""] * len(numbers)
    lines = numbers.astype(str).to_numpy().tolist()
    return {
        "head": list(numbers.columns),
        "rows": [{"model": place.get(name, ""), "cells": line} for name, line in zip(names, lines, strict=True)],
    }


def _summary(table: pd.DataFrame, facts: Facts) -> dict[str, Any] | None:
    """The table of models; None where the table has no model (a ruler alone)."""
    if not models(table, facts):
        return None
    text = readable(summary(table, facts))
    place = {name: number for number, name in enumerate(looks_of(table, facts))}
    return {
        "head": [HEADERS[column] for column in text.columns[2:]],
        "late": [column.startswith("late_") for column in text.columns[2:]],
        "rows": [
            {
                "model": name,
                "place": place[name],
                "family": FAMILY_NAMES.get(family, family or "unknown"),
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

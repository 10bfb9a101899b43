"""Several seeds of the demo as one report: what holds over the seeds, with the seeds as the unit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fdlab.compare.cohort import Cohort
from fdlab.experiments.digits import CELLS, FULL_MINUTES, study_of
from fdlab.experiments.digits_words import notes_over_seeds
from fdlab.experiments.words import claim_lines, figure_lines, limits_of, opening
from fdlab.records.atomic import writable_folder, write_text
from fdlab.records.store import Record
from fdlab.records.table import join, markdown_lines, read_table, write_table
from fdlab.report.figures import available
from fdlab.report.folder import read_report
from fdlab.report.numbers import readable
from fdlab.report.report import Report
from fdlab.study.publish import write_report
from fdlab.study.verdicts import claims


def write_gallery(out: str | Path, demos: Sequence[Path], command: str) -> Path:
    """Joins finished demos (one a seed) into ``out``: table, facts, figures and page; no weights.

    Args:
        demos: the folders that ``demo`` wrote, of equal length (``--minutes``).
    """
    folder = writable_folder(out)
    seeds = [json.loads((demo / "facts.json").read_text(encoding="utf-8")) for demo in demos]
    table = join(read_table(demo / "table.csv") for demo in demos)
    # Each seed shows other heads: no map is a mean over seeds. Differences over several trainings are taken anew.
    table = table[(table["probe"] != "attention_maps") & (table["reference"] == "")]
    models = [_models(demo, facts["seed"]) for demo, facts in zip(demos, seeds, strict=True)]
    facts: dict[str, Any] = {
        **{key: value for key, value in seeds[0].items() if key != "findings"},
        "seed": [facts["seed"] for facts in seeds],
        "command": command,
        "position_only_loss": float(np.mean([facts["position_only_loss"] for facts in seeds])),
        "distil_loss": _mean([facts["distil_loss"] for facts in seeds]),
        "seconds": {stage: round(value, 1) for stage, value in _mean([facts["seconds"] for facts in seeds]).items()},
        "notes": notes_over_seeds(models, _accuracies(table, [facts["seed"] for facts in seeds]), seeds),
    }
    write_table(folder / "table.csv", table)
    cohort = Cohort.model_validate({"model": facts["cohort"]})
    facts["claims"] = claims(folder / "table.csv", cohort=cohort)["facts"]
    report = Report(table, facts)
    page = write_report(folder, report)
    write_text(folder / "README.md", as_markdown(report))
    return page


def rewrite_gallery(out: str | Path) -> Path:
    """Page, figures, LaTeX and README once more from the table and the facts in ``out``: nothing is measured.

    Raises:
        FdlabError: code 3, there is no report.
    """
    report = read_report(out)
    page = write_report(Path(out), report, again=True)
    write_text(Path(out) / "README.md", as_markdown(report))
    return page


def _models(demo: Path, seed: int) -> dict[str, Record]:
    study = study_of(demo, seed, FULL_MINUTES)
    return {cell.label: Record.load(study.record(cell, seed, "model")) for cell in CELLS}


def _mean(seeds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([seed[name] for seed in seeds])) for name in seeds[0]}


def _accuracies(table: pd.DataFrame, seeds: Sequence[int]) -> dict[str, list[float]]:
    """Label -> the test accuracy at its best rate, by seed."""
    rows = table[(table["probe"] == "training") & (table["metric"] == "accuracy")].set_index(["model", "seed"])
    return {cell.label: [float(rows["value"][cell.label, seed]) for seed in seeds] for cell in CELLS}


def as_markdown(report: Report) -> str:
    """The gallery for those who read it without a browser: findings, figures, table, limits."""
    facts, numbers = report.facts.written, readable(report.summary())
    numbers.columns = [str(name).replace("late_", "").replace("_", " ") for name in numbers.columns]
    origin = "Made by `make reports`; the whole page is `index.html`, every number is in `table.csv`."
    lines = opening(facts, origin)
    if any(claim["verdict"] != "not tested" for claim in facts["claims"]):
        lines += [*claim_lines(facts["claims"]), ""]
    for figure in available(report):
        lines += [f"## {figure.replace('_', ' ')}", "", *figure_lines(figure, report)]
    lines += ["## Numbers", "", "Attention columns are means over the last half of the blocks.", ""]
    return "\n".join([*lines, *markdown_lines(numbers), "", *limits_of(facts)]) + "\n"

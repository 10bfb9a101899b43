"""Models that others trained, beside the study: their own accuracy and what the probes say, as a report of its own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from fdlab.experiments.words import figure_lines
from fdlab.records.table import join
from fdlab.report.report import Report

OTHERS = "others"  # the folder of this report inside that of the study
FIGURE = "attention_distance"


def write_others(out: str | Path, cohort: str | Path, data: str, command: str) -> dict[str, Any]:
    """Compares the models of a cohort file and adds the accuracy of each one's own classifier.

    Args:
        cohort: a file as for ``fdlab compare --cohort``. data: labelled images that none of them was trained on.

    Returns:
        ``page``, ``table``, ``facts``.
    """
    from fdlab.compare.cohort import read_cohort
    from fdlab.report.folder import read_report
    from fdlab.study.comparison import compare
    from fdlab.study.evaluate import classifier
    from fdlab.study.publish import write_report

    out, group = Path(out), read_cohort(Path(cohort))
    compare(group, data, out, probes=("attention", "features"), command=command)
    shutil.rmtree(out / "records")  # the store has them; this report is kept light
    report = read_report(out)
    table, facts = report.table, dict(report.facts.written)
    answers, _ = classifier([f"{member.label}={member.source}" for member in group.model], data, quiet=False)
    accuracy = answers[answers["metric"] == "accuracy"]
    families = dict(zip(table["model"], table["family"], strict=True))
    table = join([table, accuracy.assign(family=[families[label] for label in accuracy["model"]])])
    facts["notes"] = [*_accuracies(table), *facts["notes"]]
    return {"page": write_report(out, Report(table, facts)), "table": table, "facts": facts}


def _accuracies(table: pd.DataFrame) -> list[str]:
    rows = table[(table["probe"] == "training") & (table["metric"] == "accuracy")]
    values = [
        f"{row['model']} {100 * row['value']:.1f} % ({100 * row['low']:.1f} to {100 * row['high']:.1f})"
        for _, row in rows.iterrows()
    ]
    return [f"Accuracy of the models' own classifiers on {int(rows['n'].max())} images: {', '.join(values)}."]


def as_section(report: Report, folder: str) -> str:
    """The report in ``folder`` as a section of the study's README."""
    lines = ["## Models that others trained", ""]
    lines += ["They saw other copies of the images and another budget, so they are no part of the comparison above."]
    lines += ["", *_accuracies(report.table), "", *figure_lines(FIGURE, report, f"{folder}/")]
    return "\n".join([*lines, f"Everything else: `{folder}/index.html`.", ""])

"""A two-factor study as one report: the two-way table, the claims, every figure, a README."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fdlab.compare.two_way import two_way
from fdlab.errors import USAGE, FdlabError
from fdlab.experiments.others import OTHERS, as_section
from fdlab.experiments.two_factors import CELLS, FAMILIES, KINDS, Cell, Study
from fdlab.experiments.values import cohort_of, finetuned, lost, measured, shared_facts, unmeasured, values
from fdlab.experiments.words import as_markdown, limits_of, ranking, two_way_notes
from fdlab.records.atomic import writable_folder, write_text
from fdlab.records.table import OF_GROUPS, join, write_table
from fdlab.report.report import Report
from fdlab.study.publish import write_report

SUPERVISED = (
    "Supervised pre-training learnt from the labels of the training images that were not held out, and every model's "
    "learning rate was chosen with all labels: accuracies on few labels are no results of few labels alone."
)


def write_study(out: str | Path, study: Study, *, command: str, data: str, limits: Sequence[str]) -> dict[str, Any]:
    """Reads what is finished of a study and writes table, figures, LaTeX, claims and page to ``out``.

    Args:
        data: what the images are, in words. limits: what the study cannot show.

    Returns:
        ``page``, ``table``, ``facts``.
    """
    out = writable_folder(out)
    tuned, notes = finetuned(study)
    facts = facts_of(study) | {"command": command, "data": data, "limits": list(limits)}
    return _write(out, join([measured(study), tuned]), facts | {"lost": [*lost(study), *notes]}, study.cells)


def rewrite_study(out: str | Path) -> dict[str, Any]:
    """The same report once more from the table and the facts in ``out`` alone: nothing is measured or opened.

    Raises:
        FdlabError: code 3, there is no report of the study; code 2, the report is of something else.
    """
    from fdlab.report.folder import read_report

    report = read_report(out)
    table, facts = report.table, dict(report.facts.written)
    cells = tuple(cell for cell in CELLS if cell.label in facts.get("order", ()))
    if not cells or "lost" not in facts:
        raise FdlabError(
            f"{out} is no report of this study.",
            "Its facts name none of the study's models.",
            "Name the folder that the study wrote with --out.",
            code=USAGE,
        )
    known = table[~table["probe"].isin([*OF_GROUPS, "premise"])].reset_index(drop=True)
    kept = {key: value for key, value in facts.items() if key != "claims"} | cohort_of(cells).facts()
    return _write(Path(out), known, kept, cells, again=True)


def _write(
    out: Path, known: pd.DataFrame, facts: dict[str, Any], cells: Sequence[Cell], *, again: bool = False
) -> dict[str, Any]:
    """Everything that follows from what was measured; ``again``: drawn anew even where nothing has changed."""
    from fdlab.report.folder import read_report
    from fdlab.study.ranking import rank
    from fdlab.study.verdicts import claims

    single, cohort = values(known), cohort_of(cells)
    table = join([known, two_way(single, places(cells), FAMILIES)])
    facts["notes"] = [*two_way_notes(table), *facts["lost"], *unmeasured(single), SUPERVISED]
    write_table(out / "table.csv", table)
    verdicts = claims(out / "table.csv", cohort=cohort)
    facts["claims"] = verdicts["facts"]
    report = Report(table, facts)
    page = write_report(out, report, again=again)
    lines = [as_markdown(report)]
    if (table["metric"] == "best_accuracy").any():
        rank(out, cohort=cohort, command=facts["command"], again=again)
        lines.append(ranking(read_report(out / "rank")))
    if (out / OTHERS / "table.csv").is_file():
        others = read_report(out / OTHERS)
        if again:
            write_report(out / OTHERS, others, again=True)
        lines.append(as_section(others, OTHERS))
    write_text(out / "README.md", "\n".join([*lines, *limits_of(facts)]) + "\n")
    return {"page": page, "table": table, "facts": facts}


def places(cells: Sequence[Cell]) -> dict[str, tuple[str, str, bool]]:
    """Label -> kind of pre-training, design, distilled or not; of the models that have a kind."""
    return {cell.label: (cell.kind, cell.design, cell.distilled) for cell in cells if cell.kind in KINDS}


def facts_of(study: Study) -> dict[str, Any]:
    """What is known beside the table."""
    size = study.size
    steps = ", ".join(f"{name} {count}" for name, count in size.steps.items())
    return {
        "title": "Three kinds of pre-training in two designs, with and without distilling"
        f" (CIFAR-10, {size.name} size)",
        "question": "Is it the distillation, or the student's design?",
        **shared_facts(study, cohort_of(study.cells)),
        "compare": [Cell(KINDS[0], "plain").label, Cell(KINDS[0], "student", True).label],
        "seed": list(study.seeds),
        "images_by_probe": dict(size.images),
        "budget": f"{steps or 'the epochs of the recipes'}; rates {', '.join(f'{rate:g}' for rate in size.rates)}",
    }

"""The factorial study as one report: the premise, the two-way table, the claims, every figure, a README."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fdlab.compare.cohort import Cohort, Member
from fdlab.compare.two_way import paired_over_seeds, two_way
from fdlab.records.atomic import writable_folder, write_text
from fdlab.records.run_folder import RunFolder
from fdlab.records.table import join
from fdlab.study.demo_report import versions
from fdlab.study.factorial import CELLS, FAMILIES, KINDS, Cell, Size
from fdlab.study.factorial_values import finetuned, lost, measured, unmeasured, values
from fdlab.study.publish import rewrite_page, write_report

PREMISE = "premise"
# A teacher is called global or alike where one of these moved this way from its untrained start.
SIGNS = {"r2_absolute": 1, "nmi": -1, "head_similarity": 1}
WORDS = {
    "r2_absolute": "more key-only maps",
    "nmi": "less dependence on the query",
    "head_similarity": "heads more alike",
}
SUPERVISED = (
    "Supervised pre-training learnt from the labels of the training images that were not held out, and every model's "
    "learning rate was chosen with all labels: accuracies on few labels are no results of few labels alone."
)


def write_study(
    out: str | Path,
    folder: str | Path,
    size: Size,
    seeds: Sequence[int],
    *,
    command: str,
    data: str,
    limits: Sequence[str],
    cells: Sequence[Cell] = CELLS,
) -> dict[str, Any]:
    """Reads what is finished under ``folder`` and writes table, figures, LaTeX, claims and page to ``out``.

    Args:
        data: what the images are, in words. limits: what the study cannot show.

    Returns:
        ``page``, ``table``, ``facts``.
    """
    from fdlab.report.folder import read_report
    from fdlab.study.prediction import predict
    from fdlab.study.verdicts import claims

    folder, out = Path(folder), writable_folder(out)
    tuned, said = finetuned(folder, size, seeds, cells)
    known = join([measured(folder, seeds, cells), tuned])
    single = values(known)
    table = join([known, *effects(single, cells)])
    facts = facts_of(table, folder, size, seeds, cells) | {"command": command, "data": data, "limits": list(limits)}
    facts["notes"] = [*two_way_notes(table), *lost(folder, size, seeds, cells), *unmeasured(single), SUPERVISED, *said]
    write_report(out, table, facts)
    judged = claims(out, cohort=cohort_of(cells))
    facts["claims"] = [*premises(table), *judged["facts"]]
    page = rewrite_page(out, table, facts)
    lines = [as_markdown(table, facts)]
    if (table["metric"] == "best_accuracy").any():
        predict(out, cohort=cohort_of(cells), command=command)
        lines.append(ranking(*read_report(out / "predict")))
    write_text(out / "README.md", "\n".join([*lines, *limits_of(facts)]) + "\n")
    return {"page": page, "table": table, "facts": facts}


def effects(single: pd.DataFrame, cells: Sequence[Cell]) -> list[pd.DataFrame]:
    """The two-way table, and each teacher against the untrained start of its design."""
    places = {cell.label: (cell.kind, cell.design, cell.distilled) for cell in cells if cell.kind in KINDS}
    teachers = {Cell(kind, "plain").label: Cell("random", "plain").label for kind in KINDS}
    shown = single[single["metric"].isin(SIGNS)]
    return [two_way(single, places, FAMILIES), paired_over_seeds(shown, teachers, PREMISE)]


def cohort_of(cells: Sequence[Cell]) -> Cohort:
    """Who is whose teacher and control, for the claims; the seeds are in the table."""
    members = []
    for cell in cells:
        pair = cell.teacher.label if cell.teacher else ""
        control = cell.control.label if cell != cell.control else ""
        design = {"label": cell.label, "source": cell.name, "family": cell.family, "design": cell.design}
        members.append(Member(**design, pair_of=pair, control=control))
    return Cohort(model=members)


def facts_of(
    table: pd.DataFrame, folder: Path, size: Size, seeds: Sequence[int], cells: Sequence[Cell]
) -> dict[str, Any]:
    """What is known beside the table."""
    steps = ", ".join(f"{name} {count}" for name, count in size.steps.items())
    return {
        "title": f"Is it the distillation, or the student's design? (CIFAR-10, {size.name} size)",
        "question": "Three kinds of pre-training, each in the plain and in the student's design, with and without "
        "distillation: to which of the two does each difference belong?",
        "order": [cell.label for cell in cells],
        "controls": {cell.label: cell.control.label for cell in cells if cell != cell.control},
        "compare": [Cell(KINDS[0], "plain").label, Cell(KINDS[0], "student", True).label],
        "seed": list(seeds),
        "images_by_probe": dict(size.images),
        "budget": f"{steps or 'the epochs of the recipes'}; rates {', '.join(f'{rate:g}' for rate in size.rates)}",
        "seconds": seconds(folder),
        "versions": versions(),
        "cohort": [member.model_dump(exclude_defaults=True) for member in cohort_of(cells).model],
    }


def seconds(folder: Path) -> dict[str, float]:
    """Seconds of the trainings of each kind, summed; of one that was stopped only those after its last start."""
    kinds = {
        "pre-training and distilling": "seed-*/pretrained/*",
        "fine-tuning": "finetuned/*/*",
        "few labels": "few/*",
    }
    return {
        name: round(sum(float(RunFolder(run).facts().get("seconds", 0)) for run in sorted(folder.glob(pattern))), 1)
        for name, pattern in kinds.items()
    }


def premises(table: pd.DataFrame) -> list[dict[str, Any]]:
    """For the verdict strip: whether each teacher's deep maps are global or alike, against its untrained start."""
    own = table[table["probe"] == PREMISE]
    found = []
    for kind in KINDS:
        label = Cell(kind, "plain").label
        group = own[own["model"] == label]
        seen = [WORDS[row["metric"]] for _, row in group.iterrows() if _sign(row) == SIGNS[row["metric"]]]
        numbers = ", ".join(f"{row['metric']} {_signed(row)}" for _, row in group.iterrows())
        n = int(group["n"].max()) if len(group) else 0
        if group.empty or group["low"].isna().all():
            verdict, words = "not tested", f"{n} seed{'s' if n != 1 else ''}, no interval"
        elif seen:
            verdict, words = "supported", f"{numbers}, {n} seeds: {', '.join(seen)}"
        else:
            verdict, words = "undecided", f"{numbers}, {n} seeds: not seen in any of {len(group)} measures"
        statement = f"Premise: the deep maps of the {kind} teacher are the same for every query, or alike over heads."
        uncorrected = "three measures, none corrected for the others"
        found.append({"verdict": verdict, "statement": statement, "effect": words, "not_controlled": uncorrected})
    return found


def two_way_notes(table: pd.DataFrame) -> list[str]:
    """One sentence an effect: where it is seen."""
    from fdlab.report.figures.two_way import effects as of_groups
    from fdlab.report.figures.two_way import title_of

    own = of_groups(table)
    said = []
    for effect in ("design", "distillation", "interaction"):
        kept = own[(own["reference"] == effect) & own["low"].notna()]
        found = [f"{row['model']}: {title_of(row)} {_signed(row)}" for _, row in kept.iterrows() if _sign(row)]
        if len(kept):
            where = "; ".join(found) if found else "nowhere"
            said.append(f"Effect of the {effect}, seen in {len(found)} of {len(kept)}: {where}.")
    return said


def _sign(row: Mapping[str, Any] | pd.Series) -> int:
    """1 or -1 where the interval leaves out 0, else 0 (also without interval)."""
    if pd.isna(row["low"]):
        return 0
    return 1 if row["low"] > 0 else -1 if row["high"] < 0 else 0


def _signed(row: Mapping[str, Any] | pd.Series) -> str:
    bounds = "" if pd.isna(row["low"]) else f" ({row['low']:+.3g} to {row['high']:+.3g})"
    return f"{row['value']:+.3g}{bounds}"


def as_markdown(table: pd.DataFrame, facts: Mapping[str, Any]) -> str:
    """The report for those who read it without a browser."""
    from fdlab.report.figures import figure_module

    lines = [f"# {facts['title']}", "", facts["question"], ""]
    lines += [f"Made by `{facts['command']}`; what was decided before is in `plan.md`, the whole page is `index.html`."]
    lines += ["", *(f"- {note}" for note in facts["notes"]), ""]
    tested = [claim for claim in facts["claims"] if claim["verdict"] != "not tested"]
    lines += [f"## Claims ({len(facts['claims']) - len(tested)} more cannot be tested here: `claims.csv`)", ""]
    lines += [f"- {claim['statement']} **{claim['verdict'].capitalize()}**: {claim['effect']}." for claim in tested]
    for figure in ("two_way", "trainability"):
        module = figure_module(figure)
        if not module.present(table):
            continue
        numbers = module.numbers(table, facts)
        lines += ["", f"## {module.TITLE}", "", f"![{figure}](figures/{figure}.png)", ""]
        lines += [" ".join(module.caption(table, facts)), ""]
        lines += ["| " + " | ".join(numbers.columns) + " |", "|" + "---|" * len(numbers.columns)]
        lines += ["| " + " | ".join(map(str, row)) + " |" for row in numbers.itertuples(index=False)]
    lines += ["", "An interval is a 95 % t-interval over seeds; * leaves out 0.", ""]
    return "\n".join(lines)


def ranking(table: pd.DataFrame, facts: Mapping[str, Any]) -> str:
    """Which cheap measures order the models as their fine-tuning does: the report in ``predict/``, in short."""
    from fdlab.report.figures import figure_module

    module = figure_module("prediction")
    lines = [f"## {module.TITLE}", "", "![prediction](predict/figures/prediction.png)", ""]
    lines += [" ".join(module.caption(table, facts)), ""]
    return "\n".join(
        [*lines, "Models are means over seeds; students and teachers are related, not independent draws.", ""]
    )


def limits_of(facts: Mapping[str, Any]) -> list[str]:
    """What the study cannot show, as the end of its README."""
    return ["## What this cannot show", "", *(f"- {limit}" for limit in facts["limits"])]

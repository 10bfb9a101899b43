"""Several seeds of the demo as one report: what holds over the seeds, with the seeds as the unit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fdlab.compare.cohort import Cohort
from fdlab.experiments.digits import STARTS
from fdlab.experiments.digits_report import CONTRASTS, LOSS_GAP, NAMES, late_per_image, rate_note
from fdlab.records.atomic import writable_folder, write_text
from fdlab.records.intervals import t_interval
from fdlab.records.run_folder import slug
from fdlab.records.store import Record
from fdlab.records.table import join, read_table, write_table
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
    table = table[table["probe"] != "attention_maps"]  # each seed shows other heads: no map is a mean over seeds
    facts: dict[str, Any] = {
        **seeds[0],
        "seed": [facts["seed"] for facts in seeds],
        "command": command,
        "position_only_loss": float(np.mean([facts["position_only_loss"] for facts in seeds])),
        "distil_loss": {
            label: float(np.mean([facts["distil_loss"][label] for facts in seeds])) for label in seeds[0]["distil_loss"]
        },
        "seconds": {
            stage: round(float(np.mean([facts["seconds"][stage] for facts in seeds])), 1)
            for stage in seeds[0]["seconds"]
        },
        "notes": notes_over_seeds(demos, seeds),
    }
    cohort = Cohort.model_validate({"model": facts["cohort"]})
    write_table(folder / "table.csv", table)
    facts["claims"] = claims(folder / "table.csv", cohort=cohort)["facts"]
    report = Report(table, facts)
    page = write_report(folder, report)
    write_text(folder / "README.md", as_markdown(report))
    return page


def as_markdown(report: Report) -> str:
    """The gallery for those who read it without a browser: findings, figures, table, limits."""
    from fdlab.report.figures import available, figure_of
    from fdlab.report.numbers import readable

    facts, numbers = report.facts.written, readable(report.summary())
    columns = [str(name).replace("late_", "").replace("_", " ") for name in numbers.columns]
    lines = [f"# {facts['title']}", "", facts["question"], ""]
    lines += ["Made by `make reports`; the whole page is `index.html`, every number is in `table.csv`.", ""]
    lines += [f"- {note}" for note in facts["notes"]] + [""]
    tested = [claim for claim in facts.get("claims", ()) if claim["verdict"] != "not tested"]
    if tested:
        lines += [f"## Claims ({len(facts['claims']) - len(tested)} more cannot be tested here: `claims.csv`)", ""]
        lines += [f"- {claim['statement']} **{claim['verdict'].capitalize()}**: {claim['effect']}." for claim in tested]
        lines += [""]
    for figure in available(report):
        lines += [f"## {figure.replace('_', ' ')}", "", f"![{figure}](figures/{figure}.png)", ""]
        lines += [" ".join(figure_of(figure, report).caption()), ""]
    lines += ["## Numbers", "", "Attention columns are means over the last half of the blocks.", ""]
    lines += ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in numbers.itertuples(index=False)]
    lines += ["", "## What this cannot show", "", *(f"- {limit}" for limit in facts["limits"])]
    return "\n".join(lines) + "\n"


def notes_over_seeds(demos: Sequence[Path], seeds: Sequence[dict[str, Any]]) -> list[str]:
    """The sentences of the page: differences with t-intervals over the seeds."""
    said = [_contrast(demos, sentence, first, second) for sentence, first, second in CONTRASTS]
    said += [_accuracies(demos), _losses(seeds), rate_note([facts["learning_rates"] for facts in seeds])]
    weak = [
        f"{label} at seed {facts['seed']} ({accuracy:.0%})"
        for facts in seeds
        for label, accuracy in facts["ruler_accuracy"].items()
        if accuracy < 0.9
    ]
    if weak:
        said.append(f"The ruler's models have not learned their task everywhere: {', '.join(weak)}.")
    return said


def _contrast(demos: Sequence[Path], sentence: str, first: str, second: str) -> str:
    parts = []
    for metric, name in NAMES:
        change = t_interval([_late(demo, first, metric) - _late(demo, second, metric) for demo in demos])
        parts.append(f"{name} {_signed(change, 2)}")
    return f"{sentence}, mean of {len(demos)} seeds with the interval over seeds: {', '.join(parts)}."


def _late(demo: Path, label: str, metric: str) -> float:
    record = Record.load(demo / "records" / f"model-{slug(label)}")
    return float(late_per_image(record, metric).mean())


def _signed(change: Any, digits: int, scale: float = 1.0) -> str:
    value, low, high = (f"{scale * float(v):+.{digits}f}" for v in change)
    clear = float(change[1]) > 0 or float(change[2]) < 0
    return f"{value} ({low} to {high}{'' if clear else ', not separated from 0'})"


def _accuracies(demos: Sequence[Path]) -> str:
    values = {start.label: [_accuracy(demo, start.label) for demo in demos] for start in STARTS}
    shown = ", ".join(f"{label} {' / '.join(f'{100 * v:.1f}' for v in each)}" for label, each in values.items())
    trained = [start.label for start in STARTS if not start.random]
    gains = []
    for start in STARTS:
        if start.control:
            gain = t_interval(np.subtract(values[start.label], values[start.control]))
            gains.append(f"{start.label} {_signed(gain, 1, 100)}")
    apart = [
        f"{a} and {b}"
        for i, a in enumerate(trained)
        for b in trained[i + 1 :]
        if (change := t_interval(np.subtract(values[a], values[b])))[1] > 0 or change[2] < 0
    ]
    order = (
        f"separated over the seeds, uncorrected for {len(trained) * (len(trained) - 1) // 2} pairs: {'; '.join(apart)}"
        if apart
        else "no two of the trained starts are separated over the seeds"
    )
    return (
        f"Fine-tuned test accuracy in per cent, seed by seed: {shown}. Points above the random start of the same "
        f"design: {', '.join(gains)}; {order}."
    )


def _accuracy(demo: Path, label: str) -> float:
    table = read_table(demo / "table.csv")
    kept = table[(table["probe"] == "training") & (table["metric"] == "accuracy") & (table["model"] == label)]
    return float(kept["value"].iloc[0])


def _losses(seeds: Sequence[dict[str, Any]]) -> str:
    behind: dict[str, int] = {}
    for facts in seeds:
        best = min(facts["training_loss"].values())
        for label, loss in facts["training_loss"].items():
            behind[label] = behind.get(label, 0) + (loss > best + LOSS_GAP)
    named = [f"{label} (in {count} of {len(seeds)} seeds)" for label, count in behind.items() if count]
    if not named:
        return f"All fine-tunings end within {LOSS_GAP} of the lowest training loss of their seed."
    return (
        f"Training loss more than {LOSS_GAP} above the best of its seed: {', '.join(named)}; "
        "their accuracies also tell how far they were trained."
    )

"""From the records of several models to the differences and the findings that a report states."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fdlab.compare.cohort import Cohort
from fdlab.compare.findings import find
from fdlab.compare.paired import PAIRED_SHARES, UNPAIRED, paired_rows, paired_shares, unpaired_shares
from fdlab.compare.questions import Trained, fixed_pairs
from fdlab.records.estimate import Estimate
from fdlab.records.store import Record
from fdlab.records.table import CONTROL, frame, join

if TYPE_CHECKING:
    import pandas as pd

Records = Mapping[str, Record]  # of one probe: label -> record
SIZES = ("depth", "heads", "grid", "patch_size", "image_size", "prefix_tokens", "windows")


def changes(cohort: Cohort, records: Mapping[str, Records], seed: int) -> tuple[pd.DataFrame, list[str]]:
    """The differences of all probes as a table, and sentences on those that cannot be taken.

    Args:
        records: of each probe.
    """
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    for probe, of_probe in records.items():
        pairs = cohort.pairs()
        if CONTROL in of_probe:
            pairs += [(label, CONTROL) for label in cohort.labels()]
        pairs += [(one.model, one.reference) for trained in fixed_pairs(cohort, {}).values() for one in trained]
        measured = [pair for pair in dict.fromkeys(pairs) if of_probe.keys() >= set(pair)]  # others are left out, said
        found, sentences = paired_rows(of_probe, measured, seed=seed)
        rows += found
        notes += [f"{probe}: {sentence}" for sentence in sentences]
    return frame(rows), notes


def findings(
    table: pd.DataFrame, cohort: Cohort, records: Mapping[str, Records], uniform: Mapping[str, float]
) -> list[dict[str, Any]]:
    """What the comparison found, in words, as ``facts.json`` keeps it; the first of each question is its headline.

    Args:
        table: with the values and the differences.
        uniform: model -> the distance of uniform attention in pixels.
    """
    from fdlab.report.findings import worded

    return [finding.fact() for finding in worded(find(table, cohort, starts=starts(records), uniform=uniform))]


def starts(records: Mapping[str, Records]) -> dict[str, str]:
    """Model -> the untrained control that was added, where it has the model's own sizes in every probe."""
    of_control = [of_probe for of_probe in records.values() if CONTROL in of_probe]
    labels = [label for label in (of_control[0] if of_control else ()) if label != CONTROL]
    return {
        label: CONTROL
        for label in labels
        if all(label in one and _sizes(one[label]) == _sizes(one[CONTROL]) for one in of_control)
    }


def _sizes(record: Record) -> list[Any]:
    return [record.manifest.get(key) for key in SIZES]


def trainings(cohort: Cohort) -> Records:
    """The records that finished fine-tunings among the models left of themselves: accuracy and final loss."""
    found = {}
    for member in cohort.model:
        folder = Path(member.source) / "record"
        if (folder / "manifest.json").is_file() and (folder / "arrays.npz").is_file():
            record = Record.load(folder)
            rows = record.table[record.table["metric"].isin(("accuracy", "final_loss"))]
            if (rows["metric"] == "accuracy").any():
                found[member.label] = Record(rows.assign(model=member.label), record.arrays, record.manifest)
    return found


def accuracies(cohort: Cohort, found: Records) -> pd.DataFrame:
    """Accuracies of fine-tunings and their differences: image by image on the same test images, else unpaired."""
    pairs = [one for trained in fixed_pairs(cohort, {}).values() for one in trained]
    rows = [_accuracy(one, found) for one in pairs if one.model in found and one.reference in found]
    return join([*(record.table for record in found.values()), frame(rows)])


def _accuracy(pair: Trained, found: Records) -> dict[str, Any]:
    first, second = found[pair.model], found[pair.reference]
    same = {"model": pair.model, "reference": pair.reference, "probe": "training", "metric": "accuracy", "unit": ""}
    digests = [record.manifest.get("test_digest") for record in (first, second)]
    arrays: list[Any] = [record.arrays.get("accuracy") for record in (first, second)]
    known = digests[0] and digests[0] == digests[1] and arrays[0] is not None and arrays[1] is not None
    if known and len(arrays[0]) == len(arrays[1]):
        change = paired_shares(arrays[0], arrays[1])
        return {**same, "n": change.n, "objective": PAIRED_SHARES, **change.row}
    change = unpaired_shares(_own_accuracy(first), _own_accuracy(second))
    return {**same, "n": change.n, "objective": UNPAIRED, **change.row}


def _own_accuracy(record: Record) -> Estimate:
    row = record.table[record.table["metric"] == "accuracy"].iloc[0]
    return Estimate(float(row["value"]), float(row["low"]), float(row["high"]), int(row["n"]))

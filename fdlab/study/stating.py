"""From the records of several models to the differences and the findings that a report states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fdlab.compare.cohort import Cohort
from fdlab.compare.findings import find
from fdlab.compare.paired import paired_rows
from fdlab.compare.questions import fixed_pairs
from fdlab.records.store import Record
from fdlab.records.table import CONTROL, frame

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
        found, sentences = paired_rows(of_probe, list(dict.fromkeys(pairs)), seed=seed)
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

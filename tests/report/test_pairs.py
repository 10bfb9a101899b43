"""The pairwise table: what stands in it, and what is not given a verdict."""

from __future__ import annotations

from pathlib import Path

from fdlab.compare.paired import NOT_COMPARABLE
from fdlab.records.table import frame
from fdlab.report.latex import write_latex
from fdlab.report.page import page
from fdlab.report.pairs import pairwise
from fdlab.report.report import Report


def test_pixels_of_different_grids_have_no_verdict_on_the_page_or_in_latex(tmp_path: Path) -> None:
    row = {"probe": "attention", "metric": "distance", "reference": "B", "value": -8.5, "low": -9.6, "high": -7.4}
    pixels = {**row, "model": "A", "unit": "px", "objective": NOT_COMPARABLE}
    ratio = {**row, "model": "A", "metric": "distance_ratio", "value": -0.5, "low": -0.6, "high": -0.4}
    own = [{**row, "model": name, "reference": "", "value": 10.0} for name in "AB"]
    report = Report(frame([pixels, ratio, *own]))
    first, second = pairwise(report).to_dict("records")
    assert first["verdict"].startswith("not comparable") and first["difference"] == "–"
    assert second["verdict"] == "lower"
    text = page(report, []).split("Pair by pair")[-1].split("</table>")[0]
    assert "not comparable" in text and "8.5" not in text
    written = {path.name: path.read_text() for path in write_latex(tmp_path, report)}
    assert "not comparable" in written["tables.tex"] and "8.5" not in written["tables.tex"]
    assert r"{\fdAMinusBDistance}{--}" in written["numbers.tex"] and "8.5" not in written["numbers.tex"]

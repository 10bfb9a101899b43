"""A committed report is of one piece: its page, figures, captions and LaTeX belong to its table."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fdlab.report.figures import available, figure_of
from fdlab.report.folder import read_report
from fdlab.report.provenance import read_note

REPORTS = sorted(path.parent for path in (Path(__file__).parents[2] / "reports").glob("*/table.csv"))
COMMITTED = [folder for folder in REPORTS if (folder / "README.md").is_file()]  # others are a user's own


def test_there_is_one() -> None:
    assert COMMITTED


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_a_report_belongs_to_its_table(folder: Path) -> None:
    report = read_report(folder)
    digest = report.digest
    again = "The table has changed, or the code that draws it: `make reports` makes the report again."
    assert f"sha256 {digest}" in (folder / "index.html").read_text(encoding="utf-8"), again
    assert digest in (folder / "latex" / "numbers.tex").read_text(encoding="utf-8"), again
    figures = available(report)
    assert {path.stem for path in (folder / "figures").glob("*.svg")} == set(figures), again
    for figure in figures:
        caption = " ".join(figure_of(figure, report).caption())
        assert (folder / "figures" / f"{figure}.txt").read_text(encoding="utf-8").strip() == caption, again
        for kind in ("pdf", "svg", "png"):
            assert read_note(folder / "figures" / f"{figure}.{kind}")["table_sha256"] == digest, again
    assert (folder / "index.html").stat().st_size < 3_000_000


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_a_report_names_no_place_of_the_machine_that_made_it(folder: Path) -> None:
    for path in [file for kind in ("json", "html", "md", "csv", "svg", "tex") for file in folder.rglob(f"*.{kind}")]:
        assert not re.search(r"[\s\"'>](/tmp|/home|/root|/work|/Users)/", path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_the_gallery_names_it(folder: Path) -> None:
    assert f"({folder.name}/" in (folder.parent / "README.md").read_text(encoding="utf-8")

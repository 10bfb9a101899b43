"""Files for a venue: exact widths, embedded fonts, and a note that is read back from the file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from fdlab.errors import FdlabError
from fdlab.records.table import frame
from fdlab.report.figures import write_figures
from fdlab.report.folder import read_report
from fdlab.report.provenance import note, read_note
from fdlab.report.report import Report
from fdlab.report.style import save_figure
from fdlab.report.venues import VENUES

Facts = dict[str, Any]
WIDE_FIGURE, NARROW_FIGURE = "finetune", "ruler"


def points(path: Path) -> float:
    """The width of a file in points."""
    if path.suffix == ".png":
        with Image.open(path) as image:
            return image.width / 200 * 72
    text = path.read_bytes().decode("latin-1")
    found = re.search(r"/MediaBox\s*\[\s*0\s+0\s+([\d.]+)", text) or re.search(r'width="([\d.]+)pt"', text)
    assert found is not None
    return float(found.group(1))


@pytest.mark.parametrize("venue", VENUES)
def test_widths_are_exact(venue: str, table: pd.DataFrame, facts: Facts, tmp_path: Path) -> None:
    written = write_figures(tmp_path, Report(table, facts), [WIDE_FIGURE, NARROW_FIGURE], venue=venue)
    wanted = VENUES[venue]
    for figure, width in ((WIDE_FIGURE, wanted.wide), (NARROW_FIGURE, wanted.column)):
        for path in written[figure][:3]:
            slack = 0.36 if path.suffix == ".png" else 0.01  # a PNG has whole dots: 1/200 inch
            assert points(path) == pytest.approx(72 * width * wanted.zoom, abs=slack), path


def test_slides_enlarge_text_and_markers(table: pd.DataFrame, facts: Facts, tmp_path: Path) -> None:
    sizes = {}
    for venue in ("page", "slides"):
        (path, _) = write_figures(tmp_path / venue, Report(table, facts), [NARROW_FIGURE], venue=venue, kinds=["svg"])[
            NARROW_FIGURE
        ]
        sizes[venue] = sorted({float(size) for size in re.findall(r"font(?:-size)?: ?([\d.]+)px", path.read_text())})
    assert sizes["slides"] == pytest.approx([1.8 * size for size in sizes["page"]], rel=1e-3)


def test_fonts_are_type_42(table: pd.DataFrame, facts: Facts, tmp_path: Path) -> None:
    (path, _) = write_figures(tmp_path, Report(table, facts), [WIDE_FIGURE], kinds=["pdf"])[WIDE_FIGURE]
    text = path.read_bytes()
    assert b"/Type3" not in text
    assert b"/FontFile2" in text


@pytest.mark.parametrize("kind", ["pdf", "svg", "png"])
def test_a_figure_says_where_it_comes_from(kind: str, table: pd.DataFrame, facts: Facts, tmp_path: Path) -> None:
    (path, caption) = write_figures(tmp_path, Report(table, facts), [WIDE_FIGURE], kinds=[kind])[WIDE_FIGURE]
    found = read_note(path)
    assert found["figure"] == WIDE_FIGURE
    assert found["table_sha256"] == Report(table).digest
    assert found["caption"] == caption.read_text().strip()


@pytest.mark.parametrize("kind", ["pdf", "svg", "png"])
@settings(max_examples=15, deadline=None)
@given(command=st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_any_text_survives(kind: str, command: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    table = frame([{"model": "m", "probe": "attention"}])
    figure = Figure(figsize=(1, 1))
    folder = tmp_path_factory.mktemp("notes")
    (path,) = save_figure(figure, folder, "f", [kind], note("f", Report(table, {"command": command}), "A caption."))
    assert read_note(path)["command"] == command


def test_other_files_are_refused(tmp_path: Path) -> None:
    figure = plt.figure()
    for kind in ("pdf", "svg", "png"):
        figure.savefig(tmp_path / f"f.{kind}")
    plt.close(figure)
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("f.pdf", "f.svg", "f.png", "empty.png", "absent.pdf", "f.txt"):
        with pytest.raises(FdlabError, match="does not say where it comes from"):
            read_note(tmp_path / name)


def test_unknown_venues_and_kinds_are_named(table: pd.DataFrame, facts: Facts, tmp_path: Path) -> None:
    with pytest.raises(FdlabError, match="Did you mean 'neurips'"):
        write_figures(tmp_path, Report(table, facts), [WIDE_FIGURE], venue="nips")
    with pytest.raises(FdlabError, match="'gif' is no format"):
        write_figures(tmp_path, Report(table, facts), [WIDE_FIGURE], kinds=["gif"])
    assert not list(tmp_path.iterdir())


def test_what_is_no_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FdlabError, match="is no report"):
        read_report(tmp_path)
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    with pytest.raises(FdlabError, match="is not a table of fdlab"):
        read_report(tmp_path)

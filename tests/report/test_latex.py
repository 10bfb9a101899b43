"""LaTeX: valid macro names, every headline number, nothing that LaTeX would read as a command."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mock_study import STUDENT, TEACHER

from fdlab.records.table import frame, join
from fdlab.report.figures import available
from fdlab.report.latex import escape, macros, word, write_latex
from fdlab.report.report import Report

Facts = dict[str, Any]


def with_changes(table: pd.DataFrame) -> pd.DataFrame:
    same = {"model": STUDENT, "reference": TEACHER, "value": -0.25, "low": -0.3, "high": -0.2, "n": 256}
    late = [
        {**same, "probe": "attention", "metric": "nmi", "block": block, "depth": (block + 1) / 4} for block in range(4)
    ]
    whole = {**same, "probe": "training", "metric": "accuracy", "value": 0.012, "low": -0.004, "high": 0.028}
    return join([table, frame([*late, whole])])


@pytest.fixture
def written(table: pd.DataFrame, facts: Facts, tmp_path: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in write_latex(tmp_path, Report(with_changes(table), facts))}


def test_every_headline_number_is_a_macro(written: dict[str, str], table: pd.DataFrame, facts: Facts) -> None:
    found = dict(re.findall(r"\\newcommand\{\\(fd[A-Za-z]+)\}\{(.*)\}", written["numbers.tex"]))
    numbers = Report(table, facts).summary()
    columns = [c for c in numbers.columns[2:] if not c.endswith(("_low", "_high"))]
    assert len(columns) >= 8
    for model in numbers["model"]:
        for column in columns:
            assert f"fd{word(model)}{word(column)}" in found
    assert found["fdFDStudentAccuracy"] == "97.0"
    assert found["fdFDStudentAccuracyCi"] == "97.0 [95.5, 98.5]"
    assert found["fdSimCLRTeacherTeacherRTwo"] == "--"  # undefined


def test_differences_have_their_sign(written: dict[str, str]) -> None:
    found = dict(re.findall(r"\\newcommand\{\\(fd[A-Za-z]+)\}\{(.*)\}", written["numbers.tex"]))
    assert found["fdFDStudentMinusSimCLRTeacherAccuracyCi"] == r"+1.2 [\ensuremath{-}0.4, +2.8]"
    assert found["fdFDStudentMinusSimCLRTeacherLateNmi"] == r"\ensuremath{-}0.25"


def test_files_are_balanced_and_defined_once(written: dict[str, str]) -> None:
    for text in written.values():
        bare = re.sub(r"\\[{}%#$&_]", "", text)
        assert bare.count("{") == bare.count("}")
        assert not re.search(r"(?m)^[^%]*[#$^~]", bare)
    names = re.findall(r"\\newcommand\{(\\[^}]*)\}", written["numbers.tex"] + written["captions.tex"])
    assert len(names) == len(set(names)) > 100
    assert all(re.fullmatch(r"\\fd[A-Za-z]+", name) for name in names)


def test_tables_have_whole_rows(written: dict[str, str]) -> None:
    tabulars = re.findall(r"\\begin\{tabular\}\{(l+)\}(.*?)\\end\{tabular\}", written["tables.tex"], re.S)
    assert len(tabulars) == 4
    for columns, body in tabulars:
        lines = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert len(lines) > 2
        assert all(len(re.findall(r"(?<!\\)&", line)) == len(columns) - 1 for line in lines)


def test_every_figure_has_a_caption(written: dict[str, str], table: pd.DataFrame) -> None:
    for figure in available(Report(table)):
        assert rf"\newcommand{{\fdCaption{word(figure)}}}" in written["captions.tex"]


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_label_is_text(label: str) -> None:
    shown = escape(label)
    left = re.sub(r"\\(textbackslash|textasciitilde|textasciicircum|textless|textgreater|ldots)\{\}", "", shown)
    left = re.sub(r"\\[#$%&_{}]", "", left).replace("{[}", "")
    assert not set("#$%&_{}\\~^") & set(left)
    assert re.fullmatch(r"[A-Za-z]*", word(label))


def test_models_with_the_same_letters_are_numbered(table: pd.DataFrame, facts: Facts) -> None:
    same = table.assign(model=table["model"].replace({STUDENT: "SimCLR-teacher"}))
    names = dict(macros(Report(same, {"order": [TEACHER, "SimCLR-teacher"]})))
    assert names["\\fdSimCLRTeacherAccuracy"] == "94.8"
    assert names["\\fdSimCLRTeacherNoTwoAccuracy"] == "97.0"

"""The rules of the house that a test can hold: light imports, floors, sizes, docstrings."""

from __future__ import annotations

import ast
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from fdlab.probes.probe import PROBES

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "fdlab").rglob("*.py"))


def modules_after(code: str) -> set[str]:
    shown = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(' '.join(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return set(shown.stdout.split())


@pytest.mark.parametrize("module", ["fdlab", "fdlab.cli.app", "fdlab.experiments.demo", "fdlab.engine"])
def test_light_modules_load_neither_torch_nor_pandas_nor_matplotlib(module: str) -> None:
    heavy = {"torch", "timm", "matplotlib"} | ({"pandas"} if module != "fdlab.experiments.demo" else set())
    assert not heavy & modules_after(f"import {module}")


@pytest.mark.parametrize(
    "module",
    [
        "fdlab.records.table",
        "fdlab.records.store",
        "fdlab.records.intervals",
        "fdlab.report.page",
        "fdlab.report.report",
    ],
)
def test_rooms_without_torch(module: str) -> None:
    assert "torch" not in modules_after(f"import {module}")


def test_help_is_instant() -> None:
    """Processor seconds, not wall clock: what the code costs, whatever else the machine is doing."""
    taken = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "fdlab", "--help"], check=True, capture_output=True, cwd=ROOT)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(taken) < 0.5


def test_every_file_says_what_it_is_for_and_stays_readable() -> None:
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert ast.get_docstring(ast.parse(text)), f"{path} has no docstring"
        assert len(text.splitlines()) <= 400, f"{path} has more than one subject"


def test_functions_fit_a_screen() -> None:
    long = [
        f"{path.name}:{node.name} ({node.end_lineno - node.lineno + 1} lines)"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.end_lineno and node.end_lineno - node.lineno >= 80
    ]
    assert not long


def test_no_shelf_for_leftovers() -> None:
    assert not [p for p in FILES if p.stem in ("utils", "common", "helpers", "misc")]


def test_every_probe_says_when_not_to_read_it() -> None:
    for name in (*PROBES, "growth", "teacher"):
        assert "Do not" in (ROOT / "fdlab" / "probes" / f"{name}.py").read_text(encoding="utf-8"), name


def test_no_probe_imports_another() -> None:
    for name in PROBES:
        text = (ROOT / "fdlab" / "probes" / f"{name}.py").read_text(encoding="utf-8")
        assert not [other for other in (*PROBES, "measure") if f"from fdlab.probes.{other} " in text], name

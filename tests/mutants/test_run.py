"""The list of faults is itself tested, on a small tree: what is noticed, what lives and what is stale."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).with_name("run.py")
CODE = "def area(a, b):\n    return a * b\n\n\ndef edge(a, b):\n    return 2 * (a + b)\n"
TEST = "from fdlab.shapes import area\n\n\ndef test_area():\n    assert area(2, 3) == 6\n"


def entry(find: str, put: str, test: str = "tests/test_shapes.py::test_area") -> str:
    values = {"says": f"{find} is {put}", "file": "fdlab/shapes.py", "find": find, "put": put, "test": test}
    return "[[fault]]\n" + "".join(f"{key} = {value!r}\n" for key, value in values.items())


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in {
        "fdlab/__init__.py": "",
        "fdlab/shapes.py": CODE,
        "tests/test_shapes.py": TEST,
        "tests/mutants/good.toml": entry("a * b", "a + b"),
        "tests/mutants/bad.toml": entry("2 * (a", "3 * (a")
        + entry("(a, b)", "(b, a)")
        + entry("a / b", "b / a")
        + entry("a * b", "a * (b")
        + entry("a * b", "a - b", "tests/test_shapes.py::test_gone"),
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


def run(tree: Path, *arguments: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, RUN, "--root", tree, *arguments], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_a_fault_that_its_test_notices(tree: Path) -> None:
    code, shown = run(tree, "--only", "good")
    assert code == 0
    assert "noticed 1 of 1 (100.0%" in shown


def test_what_lives_and_what_is_stale_is_named_and_the_tree_stays_as_it_was(tree: Path) -> None:
    code, shown = run(tree)
    assert code == 1
    assert "noticed 1 of 6" in shown
    assert "lived: 2 * (a is 3 * (a" in shown
    assert "the text stands 2 times" in shown
    assert "the text stands 0 times" in shown
    assert "is not Python" in shown
    assert "without the fault its test did not run" in shown
    assert "at least 40 are wanted" in shown
    assert (tree / "fdlab/shapes.py").read_text(encoding="utf-8") == CODE

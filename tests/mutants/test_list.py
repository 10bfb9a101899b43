"""Every fault of the list can still be put into the code, and names a test that there is."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FAULTS = [
    (path.stem, fault)
    for path in sorted(HERE.glob("*.toml"))
    for fault in tomllib.loads(path.read_text(encoding="utf-8")).get("fault", [])
]


@pytest.mark.parametrize("fault", [fault for _, fault in FAULTS], ids=[f"{room}: {f['says']}" for room, f in FAULTS])
def test_a_fault_has_its_place_and_its_test(fault: dict[str, str]) -> None:
    assert (ROOT / fault["file"]).read_text(encoding="utf-8").count(fault["find"]) == 1
    file, _, name = fault["test"].partition("::")
    text = (ROOT / file).read_text(encoding="utf-8")
    assert not name or re.search(rf"^\s*def {re.escape(name.partition('[')[0])}\(", text, re.MULTILINE)

"""Words that readers stumbled over stay away, from what fdlab prints, its pages and its documentation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What a reader met, and what stands there now.
WORDS = {
    "told from 0": "differs clearly from zero",
    "told from chance": "better than chance",
    "told apart from": "differs from",
    "not separated": "no clear difference",
    "are separated": "differ clearly",
    "could not be had": "could not be downloaded",
    "leaves with": "exit code",
    "silently wrong": "loads without an error and gives wrong results",
    "tells no range": "cannot show whether heads look near or far",
    "hold the scatter between": "cover different images, not repeated trainings",
    "tell how far they were trained": "too low to compare",
    "lays a ruler": "checks the measure on images with a known answer",
    "images a dial": "images a setting",
    "by the files' layout": "guessed from the file format",
    "teacher a model holds": "teacher can be read out",
    "says: / not says:": "Tells you / Does not tell you",
    "Not converged as far": "Under-trained",
}
FILES = [
    *(ROOT / "fdlab").rglob("*.py"),
    *(ROOT / "fdlab").rglob("*.toml"),
    *(ROOT / "fdlab").rglob("*.j2"),
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "analyses").rglob("*.py"),
    *(ROOT / "analyses").rglob("*.md"),
    *(ROOT / "reports").rglob("README.md"),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
]
PLAIN = {"three things at once, not separated here"}  # the design's parts, where the word means what it says


@pytest.mark.parametrize("word", WORDS)
def test_a_word_that_readers_stumbled_over_is_gone(word: str) -> None:
    found = []
    for path in FILES:
        text = re.sub(r"\s+", " ", path.read_text(encoding="utf-8"))
        for plain in PLAIN:
            text = text.replace(plain, "")
        if word in text:
            found.append(str(path.relative_to(ROOT)))
    assert not found, f"say instead: {WORDS[word]}"

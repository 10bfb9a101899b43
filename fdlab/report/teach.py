"""The teaching layer of a page: a question before each figure, a glossary of the words used, exercises."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from importlib import resources
from typing import Any


def lessons() -> dict[str, Any]:
    """teach.toml as it is: ``predict`` by figure, ``glossary`` by word."""
    return tomllib.loads(resources.files("fdlab.report").joinpath("teach.toml").read_text(encoding="utf-8"))


def cards(figures: Iterable[str]) -> dict[str, dict[str, str]]:
    """Figure -> question, hint and exercise, for those that have a card."""
    written = lessons()["predict"]
    return {figure: written[figure] for figure in figures if figure in written}


def glossary() -> list[tuple[str, str]]:
    """Words and their meaning, by alphabet."""
    return sorted(lessons()["glossary"].items(), key=lambda pair: str(pair[0]).lower())

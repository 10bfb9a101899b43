"""Every page of the documentation: links lead somewhere; commands, options, Python names and arguments exist."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import fdlab
from fdlab.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
GENERATED = {"docs/reference/commands.md", "docs/reference/measures.md", "docs/reference/recipes.md", "docs/gallery.md"}
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, kinds: set[str]) -> Iterator[str]:
    for kind, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if kind in kinds:
            yield text


def test_there_are_pages() -> None:
    assert len(PAGES) > 18


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_somewhere(page: Path) -> None:
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        place = (page.parent / target).resolve()
        assert place.exists() or str(place.relative_to(ROOT)) in GENERATED, target


def command_lines(page: Path) -> Iterator[list[str]]:
    for text in blocks(page, {"", "sh", "bash"}):
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["fdlab"]:
                yield words[1:]


def found(words: list[str]) -> tuple[Any, list[str]]:
    command: Any = typer.main.get_command(app)
    rest = list(words)
    while hasattr(command, "commands") and rest:
        assert rest[0] in command.commands or rest[0].startswith("-"), f"no verb {rest[0]}"
        if rest[0].startswith("-"):
            break
        command = command.commands[rest.pop(0)]
    return command, rest


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_and_their_options_exist(page: Path) -> None:
    for words in command_lines(page):
        command, rest = found(words)
        known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)} | {"--help"}
        used = [word.split("=")[0] for word in rest if re.match(r"--?[a-zA-Z]", word)]
        assert set(used) <= known, f"fdlab {' '.join(words)}"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_python_names_and_arguments_exist(page: Path) -> None:
    for text in blocks(page, {"python"}):
        for node in ast.walk(ast.parse(text)):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            owner = node.func.value
            if isinstance(owner, ast.Name) and owner.id == "fdlab":
                called = getattr(fdlab, node.func.attr)
                named = {keyword.arg for keyword in node.keywords if keyword.arg}
                parameters = inspect.signature(called).parameters
                free = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
                assert free or named <= set(parameters), ast.unparse(node)


def test_the_checks_notice_what_is_not_there(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```\nfdlab compare a.pth --no-such-thing\n```\n```python\nfdlab.measure('x', modles=[])\n```\n")
    with pytest.raises(AssertionError):
        test_commands_and_their_options_exist(page)
    page.write_text("```python\nfdlab.open_model('x', haeds=2)\n```\n")
    with pytest.raises(AssertionError):
        test_python_names_and_arguments_exist(page)
    page.write_text("```\nfdlab compair a b\n```\n")
    with pytest.raises(AssertionError):
        test_commands_and_their_options_exist(page)


def test_every_measure_and_verb_has_its_entry() -> None:
    spec = importlib.util.spec_from_file_location("generated", ROOT / "docs/generated.py")
    assert spec is not None and spec.loader is not None
    generated = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generated)
    from fdlab.records.metrics import METRICS

    measures, commands = generated.measures(), generated.commands()
    assert all(f"## `{name}`\n" in measures for name in METRICS)
    top: Any = typer.main.get_command(app)
    assert all(f"## `fdlab {name}`\n" in commands for name in top.commands)
    assert "--max-mb" in commands and "## folder/finetune" in generated.recipes()


@pytest.mark.slow
def test_the_site_is_built_strictly(tmp_path: Path) -> None:
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("mkdocstrings") is None:
        pytest.skip("mkdocs is not installed: make docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    own = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "fdlab.open_model" in (tmp_path / "site/reference/python/index.html").read_text(encoding="utf-8")

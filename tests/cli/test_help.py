"""The help of every command: an example, a text for every option, and the options that all commands of a kind have."""

from __future__ import annotations

import re
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from fdlab.cli.app import app


def commands(command: Any, path: tuple[str, ...] = ()) -> dict[str, Any]:
    """Every command that does something, by its words: ``{"diagnose attention": command}``."""
    below = getattr(command, "commands", None)
    if below is None:
        return {" ".join(path): command}
    return {name: each for word, child in below.items() for name, each in commands(child, (*path, word)).items()}


COMMANDS = commands(typer.main.get_command(app))
TRAIN = {"pretrain", "distill", "finetune"}
MEASURE = {name for name in COMMANDS if name.startswith("diagnose ")} | {"compare", "trainability"}


def options(name: str) -> set[str]:
    return {word for parameter in COMMANDS[name].params for word in (*parameter.opts, *parameter.secondary_opts)}


def test_all_commands_are_here() -> None:
    assert len(COMMANDS) == 28
    assert len(MEASURE) == 8


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_that_it_understands(name: str) -> None:
    text = " ".join(COMMANDS[name].help.split())
    examples = re.findall(r"\[bold\](fdlab .*?)\[/bold\]", text)
    assert examples, f"fdlab {name} --help shows no example"
    for example in examples:
        assert example.startswith(f"fdlab {name}")
        used = set(re.findall(r"(?<= )(-o|--[a-z-]+)", example))
        assert used <= options(name), example


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_and_argument_has_a_help_text(name: str) -> None:
    for parameter in COMMANDS[name].params:
        assert parameter.help, f"fdlab {name}: {parameter.name}"


def test_every_help_page_is_printed() -> None:
    for name in COMMANDS:
        shown = CliRunner().invoke(app, [*name.split(), "--help"])
        assert shown.exit_code == 0
        assert "Example" in shown.output


@pytest.mark.parametrize("name", sorted(TRAIN | MEASURE | {"demo", "sweep"}))
def test_trainings_and_measurements_take_seed_and_out_and_can_be_quiet_or_json(name: str) -> None:
    assert {"--seed", "--out", "-o", "--quiet", "--json"} <= options(name)
    assert "--device" in options(name) or name in ("demo", "sweep")  # these two take it as a setting, or are for CPUs


@pytest.mark.parametrize("name", sorted(name for name in COMMANDS if name.startswith("evaluate ")))
def test_evaluations_take_seed_and_device(name: str) -> None:
    assert {"--seed", "--device", "--quiet", "--json"} <= options(name)


@pytest.mark.parametrize("name", sorted(TRAIN))
def test_trainings_take_the_same_options(name: str) -> None:
    shared = {"--data", "--test", "--set", "--config", "--dry-run", "--fork", "--probe-every"}
    assert shared <= options(name)
    assert options("pretrain") - {"recipe"} <= options(name)

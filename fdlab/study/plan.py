"""A training's settings before it starts: the recipe, what the user set, and what follows from images and model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fdlab.engine import recipe as recipes
from fdlab.engine.settings import Recipe
from fdlab.study.defaults import LAYER, PARTS, RECIPES, own_defaults, recipe_for
from fdlab.tasks.base import Task, find_task


@dataclass(frozen=True)
class Plan:
    """A resolved training that has not been started."""

    name: str  # of the recipe that it started from
    recipe: Recipe
    task: type[Task]
    layers: Mapping[str, Mapping[str, Any]]

    def describe(self) -> list[tuple[str, Any, str]]:
        """One triple a setting, for ``--dry-run``: its name, its value, and where the value came from."""
        return recipes.sources(self.recipe, self.layers)


def plan(
    recipe: str | None,
    *,
    task: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    config: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> Plan:
    """Resolves a recipe: defaults < recipe < ``config`` < ``overrides`` and ``options`` (dotted keys).

    Args:
        recipe: a packaged name or a TOML file; None: the one for digits or for the user's own images, by the data.
            What a recipe of ``folder/`` leaves open follows from the images and the model (``defaults.py``).
        task: the task of the verb; None: the recipe's.
        config: a TOML file.
        overrides: the settings of ``--set``.
        options: the settings that the verb has options for; None and "" leave a setting as it is.

    Raises:
        FdlabError: code 2, an unknown recipe, or settings that are unknown or wrong: all of them at once.
    """
    options = {key: value for key, value in (options or {}).items() if value not in (None, "")}
    if "data.source" in options and "data.test" not in {*options, *(overrides or {})}:
        options["data.test"] = ""  # the recipe's test images belong to the recipe's own data
    given = {
        **({"--config": recipes.read(str(config))} if config else {}),
        "--set": recipes.nested(overrides or {}),
        "command line": recipes.nested({k: str(v) if isinstance(v, Path) else v for k, v in options.items()}),
    }
    known = {key: value for layer in given.values() for key, value in recipes.flat(layer).items()}
    name = recipe or recipe_for(task or "contrastive", str(known.get("data.source", "")))
    layers: dict[str, Any] = {f"recipe {name}": recipes.read(name)}
    task = task or task_of(name)
    if name == RECIPES.get(task, ("", ""))[1]:
        own, parts = own_defaults(task, known)
        given = {LAYER: recipes.nested(own), **given, PARTS: recipes.nested(parts)}
    layers |= given
    kind = find_task(task)
    return Plan(name, recipes.resolve(layers, kind.Settings, task), kind, layers)


def task_of(recipe: str) -> str:
    """The name of a recipe's task; empty where the recipe names none."""
    return str(recipes.read(recipe).get("task", ""))

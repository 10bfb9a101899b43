"""Recipes: a training's settings as TOML, checked by pydantic, with the source of every value.

Order of precedence: defaults < recipe (which may ``extends`` another) < ``--config FILE`` < ``--set a.b=1``.
Each task declares a settings model of its own, which stands in the table of the task's name.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from fdlab.data.transforms import View
from fdlab.errors import USAGE, FdlabError, nearest


class Settings(BaseModel):
    """Base of every settings table: unknown keys are faults, nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSettings(Settings):
    """Which images. ``source`` and ``test`` follow the ``--data`` grammar."""

    source: str = Field("digits#train", description="training images")
    test: str = Field("", description="held-out images; empty: none")
    size: int = Field(0, ge=0, description="pixels a side; 0: the model's own size")
    per_class: int = Field(0, ge=0, description="labelled images a class; 0: all")
    validation: int = Field(0, ge=0, description="images held out of `source` for choosing settings")
    label_seed: int = Field(0, ge=0, description="which images are labelled and which validate")


class RunSettings(Settings):
    """How long, on what, and how it is logged."""

    steps: int = Field(0, ge=0, description="optimiser steps; 0: from epochs")
    epochs: int = Field(0, ge=0, description="passes over the images, where steps is 0")
    batch: int = Field(64, ge=1)
    seed: int = Field(0, ge=0)
    device: str = "cpu"
    workers: int = Field(0, ge=0, description="loader processes")
    log_every: int = Field(25, ge=1, description="steps a log line")
    evaluate_every: int = Field(0, ge=0, description="steps between evaluations; 0: at the end only")


class OptimSettings(Settings):
    """AdamW with a linear warm-up and a cosine or constant schedule."""

    lr: float = Field(2e-3, gt=0)
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = Field(0.05, ge=0)
    clip: float = Field(3.0, ge=0, description="largest gradient norm; 0: no clipping")
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: float = Field(0.1, ge=0, description="share of the steps, or steps where above 1")
    warmup_start: float = Field(0.0, ge=0, description="learning rate that the warm-up starts from")
    floor: float = Field(0.0, ge=0, description="last learning rate, at layer scale 1")
    layer_decay: float = Field(1.0, gt=0, le=1)


class SaveSettings(Settings):
    """When the state is written."""

    every: int = Field(100, ge=1, description="steps between checkpoints")
    snapshots: int = Field(0, ge=0, description="steps between kept encoders; 0: none")


class Recipe(Settings):
    """The settings every training has. The table of the task's own settings is added by ``resolve``."""

    task: str
    about: str = ""
    data: DataSettings = DataSettings()
    run: RunSettings = RunSettings()
    optim: OptimSettings = OptimSettings()
    save: SaveSettings = SaveSettings()
    view: View = View()

    @property
    def own(self) -> Any:
        """The task's own settings."""
        return getattr(self, self.task)

    def as_toml(self) -> str:
        """The resolved recipe; reading it again gives the same recipe."""
        return tomli_w.dumps(_without_none(self.model_dump(mode="json")))


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    return value


def names() -> list[str]:
    """The packaged recipes, as ``folder/name``."""
    found = []
    for folder in resources.files("fdlab.recipes").iterdir():
        if folder.is_dir():
            endings = (p.name for p in folder.iterdir() if p.name.endswith(".toml"))
            found += [f"{folder.name}/{name.removesuffix('.toml')}" for name in endings]
    return sorted(found)


def read(name: str, *, _chain: tuple[str, ...] = ()) -> dict[str, Any]:
    """A recipe's tables, by the name of a packaged one or a file's path; ``extends`` is followed.

    Raises:
        FdlabError: code 2, no such recipe or no valid TOML.
    """
    path = Path(name)
    if path.suffix == ".toml" or path.exists():
        text = _file_text(path)
    elif name in names():
        text = resources.files("fdlab.recipes").joinpath(f"{name}.toml").read_text(encoding="utf-8")
    else:
        raise FdlabError(
            f"There is no recipe {name!r}.{nearest(name, names())}",
            f"Packaged recipes: {', '.join(names())}.",
            "Give one of these, or the path of a .toml file.",
            code=USAGE,
        )
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise FdlabError(f"The recipe {name} is no valid TOML.", str(error), code=USAGE) from None
    base = tables.pop("extends", None)
    if not base:
        return tables
    if base in (*_chain, name):
        raise FdlabError(f"The recipe {name} extends itself, by way of {base}.", "", "Break the circle.", code=USAGE)
    beside = path.parent / base
    found = str(beside) if path.exists() and beside.suffix == ".toml" else base
    return merge(read(found, _chain=(*_chain, name)), tables)


def _file_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FdlabError(f"The recipe file {path} cannot be read.", str(error), "Check the path.", code=USAGE) from None


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` laid over ``below``, table by table."""
    result = dict(below)
    for key, value in above.items():
        if isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = merge(result[key], value)
        else:
            result[key] = value
    return result


def parse_overrides(pairs: list[str]) -> dict[str, Any]:
    """``["optim.lr=3e-4"]`` -> ``{"optim.lr": 0.0003}``; a value that is no TOML is a string."""
    result: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise FdlabError(f"--set {pair!r} is no key=value.", "", "Write --set optim.lr=3e-4.", code=USAGE)
        try:
            result[key.strip()] = tomllib.loads(f"v = {text}")["v"]
        except tomllib.TOMLDecodeError:
            result[key.strip()] = text
    return result


def nested(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """``{"a.b": 1}`` -> ``{"a": {"b": 1}}``."""
    result: dict[str, Any] = {}
    for key, value in dotted.items():
        *tables, last = key.split(".")
        place = result
        for table in tables:
            place = place.setdefault(table, {})
            if not isinstance(place, dict):
                raise FdlabError(f"{key} goes through a value that is no table.", code=USAGE)
        place[last] = value
    return result


def resolve(layers: Mapping[str, Mapping[str, Any]], own: type[BaseModel], task: str) -> Recipe:
    """Lays the layers over each other (lowest first) and checks the result against the task's model.

    Raises:
        FdlabError: code 2; every fault at once, unknown keys with the nearest known one.
    """
    tables: dict[str, Any] = {}
    for layer in layers.values():
        tables = merge(tables, layer)
    if tables.setdefault("task", task) != task:
        raise FdlabError(
            f"The recipe is for the task {tables['task']!r}, not {task!r}.",
            "",
            "Use the verb of that task, or another recipe.",
            code=USAGE,
        )
    model = create_model("TaskRecipe", __base__=Recipe, **{task: (own, Field(default_factory=own))})  # type: ignore[call-overload]
    try:
        return model.model_validate(tables)
    except ValidationError as error:
        faults = [_fault(item, model) for item in error.errors()]
        raise FdlabError(
            f"{len(faults)} setting{'s are' if len(faults) > 1 else ' is'} not right:",
            "\n".join(f"  {fault}" for fault in faults),
            "Change the recipe, --config or --set; --dry-run prints every setting with its source.",
            code=USAGE,
        ) from None


def _fault(item: Any, model: type[BaseModel]) -> str:
    place = ".".join(str(part) for part in item["loc"])
    if item["type"] != "extra_forbidden":
        return f"{place}: {item['msg']}"
    known = list(_field_paths(model))
    return f"{place}: no such setting.{nearest(place, known)}"


def _field_paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        candidates = [field.annotation, *get_args(field.annotation)]
        inner = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
        if inner is not None:
            yield from _field_paths(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def flat(tables: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` -> ``{"a.b": 1}``."""
    result: dict[str, Any] = {}
    for key, value in tables.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result


def sources(recipe: Recipe, layers: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Any, str]]:
    """(setting, value, name of the layer it came from) of every setting, for ``--dry-run``."""
    origin = {key: name for name, layer in layers.items() for key in flat(layer)}
    values = flat(recipe.model_dump(mode="json"))
    return [(key, value, origin.get(key, "default")) for key, value in values.items()]


# Where and how fast a run runs may change between two starts of it; its numbers do not depend on these.
FREE = frozenset({"about", "run.device", "run.workers", "save.every"})


def differences(old_toml: str, new: Recipe) -> list[str]:
    """What a run folder's recipe and a new one disagree on, as ``key: old, now new``."""
    old, now = flat(tomllib.loads(old_toml)), flat(tomllib.loads(new.as_toml()))
    return [
        f"{key}: {old.get(key)!r}, now {now.get(key)!r}"
        for key in sorted(old.keys() | now.keys())
        if key not in FREE and old.get(key) != now.get(key)
    ]

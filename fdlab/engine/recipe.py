"""Recipes: a training's settings as TOML, checked by pydantic, with the source of every value.

Order of precedence: defaults < recipe (which may ``extends`` another) < ``--config FILE`` < ``--set a.b=1``.
Each task declares a settings model of its own, which stands in the table of the task's name.
"""

from __future__ import annotations

import contextlib
import re
import tomllib
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, Field, ValidationError, create_model

from fdlab.engine.settings import Recipe, without_none
from fdlab.errors import USAGE, FdlabError, nearest


def names() -> list[str]:
    """The packaged recipes, as ``folder/name``."""
    packaged = []
    for folder in resources.files("fdlab.recipes").iterdir():
        if folder.is_dir():
            endings = (p.name for p in folder.iterdir() if p.name.endswith(".toml"))
            packaged += [f"{folder.name}/{name.removesuffix('.toml')}" for name in endings]
    return sorted(packaged)


def read(name: str) -> dict[str, Any]:
    """A recipe's tables, by the name of a packaged one or a file's path; ``extends`` is followed.

    Raises:
        FdlabError: code 2, no such recipe or no valid TOML.
    """
    tables: dict[str, Any] = {}
    for _, text in _chain(name):
        tables = merge(tables, {key: value for key, value in tomllib.loads(text).items() if key != "extends"})
    return tables


def origins(name: str) -> dict[str, str]:
    """{dotted setting: what its line's comment says of it}: "published", "corrected: ...", "ours: ...".

    A packaged recipe says so of each of its values; what says nothing is left out.
    """
    result: dict[str, str] = {}
    for _, text in _chain(name):
        table = ""
        for line in text.splitlines():
            if header := re.fullmatch(r"\[([\w.]+)\]", line.strip()):
                table = f"{header[1]}."
            elif comment := ORIGIN.fullmatch(line):
                result[f"{table}{comment['key']}"] = comment["origin"]
    return result


# A value's line: the key, the value without a comment sign in it, and where the value comes from.
ORIGIN = re.compile(r"(?P<key>\w+) = (?:\"[^\"]*\"|[^\"#])+ # (?P<origin>(?:published|corrected|ours)\b.*)")


def _chain(name: str, above: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """(name, TOML text) of a recipe and of those it extends, the lowest first."""
    path = Path(name)
    if path.suffix == ".toml" or path.exists():
        text = _file_text(path)
    elif name in names():
        text = resources.files("fdlab.recipes").joinpath(f"{name}.toml").read_text(encoding="utf-8")
    else:
        raise FdlabError(
            f"There is no recipe {name!r}.{nearest(name, names())}",
            why=f"Packaged recipes: {', '.join(names())}.",
            fix="Give one of these, or the path of a .toml file.",
            code=USAGE,
        )
    try:
        base = tomllib.loads(text).get("extends")
    except tomllib.TOMLDecodeError as error:
        raise FdlabError(f"The recipe {name} is no valid TOML.", why=str(error), code=USAGE) from None
    if not base:
        return [(name, text)]
    if base in (*above, name):
        raise FdlabError(f"The recipe {name} extends itself, by way of {base}.", fix="Break the circle.", code=USAGE)
    beside = path.parent / base
    extended = str(beside) if path.exists() and beside.suffix == ".toml" else base
    return [*_chain(extended, (*above, name)), (name, text)]


def _file_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FdlabError(
            f"The recipe file {path} cannot be read.", why=str(error), fix="Check the path.", code=USAGE
        ) from None


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` laid over ``below``, table by table.

    >>> merge({"optim": {"lr": 1, "clip": 3}}, {"optim": {"lr": 2}})
    {'optim': {'lr': 2, 'clip': 3}}
    """
    result = dict(below)
    for key, value in above.items():
        if isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = merge(result[key], value)
        else:
            result[key] = value
    return result


def parse_overrides(pairs: list[str]) -> dict[str, Any]:
    """The values of ``--set``; a value that is no TOML is a string.

    >>> parse_overrides(["optim.lr=3e-4", "run.device=cuda"])
    {'optim.lr': 0.0003, 'run.device': 'cuda'}
    """
    result: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise FdlabError(f"--set {pair!r} is no key=value.", fix="Write --set optim.lr=3e-4.", code=USAGE)
        try:
            result[key.strip()] = tomllib.loads(f"v = {text}")["v"]
        except tomllib.TOMLDecodeError:
            result[key.strip()] = text
    return result


def nested(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted settings as tables.

    >>> nested({"a.b": 1})
    {'a': {'b': 1}}
    """
    result: dict[str, Any] = {}
    for key, value in dotted.items():
        *tables, last = key.split(".")
        inner = result
        for table in tables:
            inner = inner.setdefault(table, {})
            if not isinstance(inner, dict):
                raise FdlabError(f"{key} goes through a value that is no table.", code=USAGE)
        inner[last] = value
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
            fix="Use the verb of that task, or another recipe.",
            code=USAGE,
        )
    model = create_model("TaskRecipe", __base__=Recipe, **{task: (own, Field(default_factory=own))})  # type: ignore[call-overload]
    try:
        return model.model_validate(tables)
    except ValidationError as error:
        faults = [_fault(item, model) for item in error.errors()]
        raise FdlabError(
            f"{len(faults)} setting{'s are' if len(faults) > 1 else ' is'} not right:",
            why="\n".join(f"  {fault}" for fault in faults),
            fix="Change the recipe, --config or --set; --dry-run prints every setting with its source.",
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
    """Tables as dotted settings.

    >>> flat({"a": {"b": 1}})
    {'a.b': 1}
    """
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


# Where, how fast and in how many parts a run runs may change between two starts: its numbers do not depend on it.
FREE = frozenset(
    {"about", "data.resident", "save.every"}
    | {f"run.{name}" for name in ("device", "workers", "accumulate", "checkpoint_blocks", "tensorboard")}
)


def differences(old_toml: str, new: Recipe) -> list[str]:
    """What a run folder's recipe and a new one disagree on, as ``key: old, now new``.

    A setting that the old one does not name yet has its default there.
    """
    tables = tomllib.loads(old_toml)
    with contextlib.suppress(ValidationError):  # a setting that is no more: compare what is written
        tables = type(new).model_validate(tables).model_dump(mode="json")
    old, now = (flat(without_none(values)) for values in (tables, new.model_dump(mode="json")))
    return [
        f"{key}: {old.get(key)!r}, now {now.get(key)!r}"
        for key in sorted(old.keys() | now.keys())
        if key not in FREE and old.get(key) != now.get(key)
    ]

"""Models that the user's own code builds: ``py:FILE.py:FUNCTION`` as a SOURCE, and modules that live in this process.

Code runs where a command line, a recipe, a cohort file or Python names it, and it is said that it runs; a SOURCE that
stands in a record, a run's folder, a card or a note is text and is never opened.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from fdlab.checkpoints.own_weights import OwnWeights
from fdlab.checkpoints.sources import code_and_weights, is_code
from fdlab.encoders.encoder import Encoder, Size
from fdlab.encoders.student import seeded
from fdlab.encoders.wrap import wrap
from fdlab.errors import NOT_UNDERSTOOD, USAGE, FdlabError, nearest
from fdlab.progress import say
from fdlab.randomness import seed_for

_SAID: set[str] = set()


def open_code(text: str, *, seed: int | None, image_size: Size | None = None, prefix: int | None = None) -> Encoder:
    """What FUNCTION of FILE returns, as an encoder: a module, (module, arguments of ``fdlab.wrap``) or an ``Encoder``.

    Args:
        text: ``py:FILE.py:FUNCTION`` or ``py:package.module:FUNCTION``, then ``#name=value&name=value`` or nothing,
            then ``@RUN`` or ``@FILE``: weights for what FUNCTION builds (``own_weights.py``), or nothing.
        seed: None: the trained model; else FUNCTION is called with ``trained=False`` under this seed.

    Raises:
        FdlabError: code 2, no such file or function, or no ``trained`` to call it with; code 3, it failed.
    """
    code, weights = code_and_weights(text)
    where, name, arguments = _parts(code)
    module, digest = _imported(where)
    function = getattr(module, name, None)
    if not callable(function):
        raise FdlabError(
            f"{where} has no function '{name}'.{nearest(name, vars(module))}",
            fix="Write py:FILE.py:FUNCTION.",
            code=USAGE,
        )
    if seed is not None:
        arguments = {**arguments, "trained": _untrained(function, where, name)}
    elif weights and "trained" in inspect.signature(function).parameters:
        arguments = {**arguments, "trained": False}  # its weights are replaced
    made = _called(function, arguments, where, name, seed)
    extra: dict[str, Any] = {}
    if isinstance(made, tuple) and len(made) == 2 and isinstance(made[1], Mapping):
        made, extra = made[0], dict(made[1])
    given = {"image_size": image_size, "prefix": prefix}
    extra |= {key: value for key, value in given.items() if value is not None}
    if not isinstance(made, (nn.Module, Encoder)):
        raise FdlabError(
            f"{name} of {where} returned {type(made).__name__}.",
            fix="Return a torch.nn.Module, (module, {arguments of fdlab.wrap}) or an Encoder.",
            code=NOT_UNDERSTOOD,
        )
    said: tuple[str, ...] = ()
    if weights:
        if isinstance(made, Encoder):
            raise FdlabError(
                f"{name} of {where} returns an Encoder, which has its weights already.",
                f"{weights} would be other ones.",
                "Return the module, or (module, {arguments of fdlab.wrap}).",
                code=USAGE,
            )
        trained = OwnWeights.read(weights)
        if seed is None:
            trained.fill(made)
            said = (trained.told,)
        if image_size is None and trained.image_size is not None:
            extra["image_size"] = trained.image_size
    encoder = made if isinstance(made, Encoder) else wrap(made, **{"name": name, **extra})
    told = f"{where} (sha256 {digest[:12]}), {name}({', '.join(f'{k}={v!r}' for k, v in arguments.items())})"
    info = replace(encoder.info, source=text if seed is None else f"random:{text}", container=told, taken="model")
    info = replace(info, assumed=(*said, *info.assumed))
    if seed is not None:
        info = replace(info, kind="random", taken=f"random weights, seed {seed}")
    return Encoder(encoder.module, info, encoder.call, replace(encoder.anatomy, live=False))


def _untrained(function: Callable[..., Any], where: str, name: str) -> bool:
    """False, the value of ``trained``, where the function takes it."""
    if "trained" not in inspect.signature(function).parameters:
        raise FdlabError(
            f"There is no untrained form of {name} of {where}.",
            "It takes no 'trained', and resetting parameters is not a model's own initialiser.",
            f"Give it a parameter: def {name}(trained=True); with False it returns the model before training.",
            code=USAGE,
        )
    return False


def _parts(text: str) -> tuple[str, str, dict[str, Any]]:
    """(file or module, function, arguments)."""
    body, _, behind = text.removeprefix("py:").partition("#")
    where, _, name = body.rpartition(":")
    if not where or not name.isidentifier():
        raise FdlabError(
            f"'{text}' names no function.",
            fix="Write py:FILE.py:FUNCTION, or py:package.module:FUNCTION#depth=6.",
            code=USAGE,
        )
    arguments: dict[str, Any] = {}
    for pair in filter(None, behind.split("&")):
        key, found, value = pair.partition("=")
        if not found or not key.isidentifier():
            raise FdlabError(f"'{pair}' is no argument.", fix="Write #name=value&name=value.", code=USAGE)
        try:
            arguments[key] = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            arguments[key] = value
    return where, name, arguments


def _imported(where: str) -> tuple[ModuleType, str]:
    """The file under a private name, or a module by its own; and the sha256 of its text."""
    if where.endswith(".py"):
        path = Path(where).resolve()
        if not path.is_file():
            raise FdlabError(f"{where} does not exist.", fix="Check the path of py:FILE.py:FUNCTION.", code=USAGE)
        return _file(path, path.stat().st_mtime_ns)
    with _failing(where, "import"):
        module = importlib.import_module(where)
    origin = getattr(module, "__file__", None)
    return module, hashlib.sha256(Path(origin).read_bytes()).hexdigest() if origin else ""


@lru_cache(maxsize=32)
def _file(path: Path, _changed: int) -> tuple[ModuleType, str]:
    spec = importlib.util.spec_from_file_location(f"_fdlab_own_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise FdlabError(f"{path} cannot be imported.", code=NOT_UNDERSTOOD)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    try:
        with _failing(str(path), "import"):
            spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module, hashlib.sha256(path.read_bytes()).hexdigest()


def _called(function: Callable[..., Any], arguments: dict[str, Any], where: str, name: str, seed: int | None) -> Any:
    if (line := f"Runs {name} of {where}.") not in _SAID:
        _SAID.add(line)
        say(line)
    folder = str(Path(where).resolve().parent)
    sys.path.insert(0, folder)
    try:
        with _failing(where, name), seeded(seed_for(seed or 0, "construct")):
            return function(**arguments)
    finally:
        sys.path.remove(folder)


class _failing:
    """Turns any error of the user's code into one line with its place; ``--debug`` shows everything."""

    def __init__(self, where: str, name: str) -> None:
        self.where, self.name = where, name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if not isinstance(error, Exception) or isinstance(error, FdlabError):
            return
        last = traceback.extract_tb(trace)[-1]
        line = (str(error).strip().splitlines() or [""])[0][:160]
        raise FdlabError(
            f"{self.name} of {self.where} failed.",
            f"{last.filename}:{last.lineno}: {type(error).__name__}: {line}",
            "--debug shows everything.",
            code=NOT_UNDERSTOOD,
        ) from error


# --- modules of this process -----------------------------------------------------------------------------

_LIVE: dict[str, Encoder] = {}


def live_source(encoder: Encoder) -> str:
    """A SOURCE that names this model for as long as the process lives: recipes hold text."""
    text = f"live:{type(encoder.module).__name__}-{encoder.info.sha256[:12]}"
    _LIVE[text] = encoder
    return text


def open_live(text: str) -> Encoder:
    """A copy of the module that ``live_source`` named; a training moves, freezes and changes its own copy alone.

    Raises:
        FdlabError: code 2, it was a module of another process.
    """
    if text not in _LIVE:
        raise FdlabError(
            f"{text} was a module of another process.",
            "A recipe holds its name alone.",
            "Give the module again (teacher=module in Python), or name its code: py:FILE.py:FUNCTION.",
            code=USAGE,
        )
    own = _LIVE[text]
    copied = Encoder(copy.deepcopy(own.module), own.info, own.call, replace(own.anatomy, live=False))
    copied.untrained = own.untrained
    return copied


__all__ = ["is_code", "live_source", "open_code", "open_live"]

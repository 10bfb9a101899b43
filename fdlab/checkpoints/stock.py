"""Which of timm's model names stands for an open encoder, and with which arguments.

A name is a list of arguments of a class; comparing those lists (not weights, not file names) finds the
name that needs the fewest changes. No model is built for it.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from fdlab.encoders.encoder import TimmCall, pair

# Arguments that change nothing in a network whose weights are loaded and which does not train.
_TRAINING_ONLY = frozenset(
    {"drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate"}
    | {"weight_init", "head_init_scale", "fix_init", "device", "dtype"}
)
# Arguments that any name takes freely: the same network with another size of input or another head.
_FREE = frozenset(("num_classes", "img_size", "global_pool", "fc_norm", "final_norm", "in_chans", "dynamic_img_size"))
# Arguments of which only "given or not" matters: the values are weights in the file.
_ONLY_PRESENCE = frozenset(("init_values",))
_ALSO_IN = {"timm.models.vision_transformer": ("deit",)}  # names for a class that live in another module


@dataclass(frozen=True)
class StockName:
    """``timm.create_model(name, **changes)`` makes the encoder's network."""

    name: str
    changes: Mapping[str, Any]

    @property
    def fits(self) -> bool:
        """The name's own architecture: only input size and head differ."""
        return set(self.changes) <= _FREE

    @property
    def plain(self) -> bool:
        """Whether the changes are plain values; None counts, as "the class's default"."""
        values = [each for value in self.changes.values() for each in (value if isinstance(value, tuple) else (value,))]
        return all(value is None or isinstance(value, bool | int | float | str | tuple) for value in values)

    def line(self, file: str) -> str:
        """The Python line that loads ``file`` with stock timm."""
        shown = "".join(f", {key}={_code(value)}" for key, value in sorted(self.changes.items()))
        return f'timm.create_model("{self.name}", checkpoint_path="{file}"{shown})'


def stock_name(call: TimmCall, *, plain: bool = False) -> StockName | None:
    """The nearest of timm's names for this class, or None where timm has none (a class of fdlab's own).

    ``plain``: only names whose changes are plain values, as a JSON file can hold them.
    """
    if call.path == "timm.create_model":
        kwargs = {key: value for key, value in call.kwargs.items() if key not in ("model_name", "pretrained")}
        return StockName(call.kwargs["model_name"], kwargs)
    module, _, name = call.path.rpartition(".")
    if not module.startswith("timm."):
        return None
    cls = getattr(importlib.import_module(module), name)
    found = [StockName(name, _changes(cls, kwargs, call.arguments())) for name, kwargs in _names_of(cls)]
    return min((one for one in found if not plain or one.plain), key=_cost, default=None)


def _cost(candidate: StockName) -> tuple[int, int, int, str]:
    structural = len(set(candidate.changes) - _FREE)
    return structural, len(candidate.changes), len(candidate.name), candidate.name


def _names_of(cls: type[nn.Module]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, arguments) of timm's names that make exactly this class."""
    import timm

    home = cls.__module__
    for module in (home.rpartition(".")[2], *_ALSO_IN.get(home, ())):
        for name in timm.list_models(module=module, exclude_filters="test_*"):
            with _recording(cls) as seen, suppress(_Stop):
                timm.create_model(name)
            if seen:
                yield name, seen


class _Stop(Exception):
    """Ends the making of a model as soon as its arguments are known."""


@contextmanager
def _recording(cls: type[nn.Module]) -> Iterator[dict[str, Any]]:
    """Inside, making a ``cls`` (or a timm class it derives from) only notes its arguments."""
    seen: dict[str, Any] = {}
    own = [base for base in cls.__mro__ if base.__module__.startswith("timm.") and "__init__" in vars(base)]
    kept = {base: base.__init__ for base in own}  # type: ignore[misc]

    def note(self: nn.Module, *_args: Any, **kwargs: Any) -> None:
        if type(self) is cls:
            seen.update(kwargs)
        raise _Stop

    try:
        for base in own:
            base.__init__ = note  # type: ignore[misc]
        yield seen
    finally:
        for base, init in kept.items():
            base.__init__ = init  # type: ignore[misc]


def _changes(cls: type[nn.Module], stock: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments to give beside the name, with the values that ``wanted`` or the class's default has."""
    defaults = {key: p.default for key, p in inspect.signature(cls).parameters.items() if p.default is not p.empty}
    changes = {}
    windows = _stage_windows(wanted) if "window_size" in wanted else ()
    if windows and windows == _stage_windows(
        {**wanted, "window_size": stock.get("window_size", defaults["window_size"])}
    ):
        wanted = {**wanted, "window_size": stock.get("window_size", defaults["window_size"])}
    for key in {*stock, *wanted} - _TRAINING_ONLY:
        ours, theirs = wanted.get(key, defaults.get(key)), stock.get(key, defaults.get(key))
        if _normal(key, ours, cls) != _normal(key, theirs, cls):
            changes[key] = ours
    return changes


def _stage_windows(call: Mapping[str, Any]) -> tuple[tuple[int, int], ...]:
    """Every stage's window, which is never larger than the stage's grid (timm and the authors cut it alike)."""
    stages, given = len(call["depths"]), call["window_size"]
    windows = [given] * stages if isinstance(given, int) or all(isinstance(side, int) for side in given[:1]) else given
    if isinstance(given, (tuple, list)) and len(given) == stages and all(isinstance(side, int) for side in given):
        windows = list(given)
    size, found = pair(call["img_size"]), []
    for stage, window in enumerate(windows):
        reduced = pair(call.get("patch_size", 4))[0] * 2**stage
        found.append(tuple(min(w, side // reduced) for w, side in zip(pair(window), size, strict=True)))
    return tuple(found)  # type: ignore[return-value]


def _normal(key: str, value: Any, cls: type[nn.Module]) -> Any:
    """Equal for equal meaning: pairs, norm layers as (kind, eps), activations by name."""
    if key in _ONLY_PRESENCE:
        return value is not None
    if key == "norm_layer":
        eps = value.keywords.get("eps") if isinstance(value, partial) else None
        kind = value.func if isinstance(value, partial) else value
        if kind is None or isinstance(kind, str):
            return "LayerNorm", 1e-6
        if eps is None and isinstance(kind, type):
            eps = (
                inspect.signature(kind).parameters["eps"].default if "eps" in inspect.signature(kind).parameters else 0
            )
        return getattr(kind, "__name__", str(kind)), eps
    if key == "act_layer":
        name = value if isinstance(value, str) else getattr(value, "__name__", "")
        return {"": "gelu", "none": "gelu", "quickgelu": "quick_gelu"}.get(name.lower(), name.lower())
    if key in ("img_size", "patch_size", "window_size", "ref_feat_shape") and isinstance(value, int):
        return value, value
    if key == "pretrained_window_sizes":
        return tuple(value) if isinstance(value, (tuple, list)) and any(value) else 0
    return tuple(value) if isinstance(value, list) else value


def _code(value: Any) -> str:
    if isinstance(value, partial):
        given = ", ".join(f"{key}={item!r}" for key, item in value.keywords.items())
        return f"functools.partial({value.func.__module__}.{value.func.__name__}, {given})"
    if isinstance(value, type):
        return f"{value.__module__}.{value.__name__}"
    return repr(value)

"""``fdlab.monitor``: hooks by which a training library calls ``fdlab.Monitor``; it is imported when a hook is made.

``lightning(...)`` and ``transformers(...)`` take the arguments of ``fdlab.Monitor``, or a monitor that is made already.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from fdlab.errors import USAGE, FdlabError, nearest

if TYPE_CHECKING:
    from torch import nn

    from fdlab.study.monitor import Monitor

__all__ = ["lightning", "transformers"]


def lightning(monitor: Monitor | None = None, *, module: str = "", **settings: Any) -> Any:
    """A callback for a Lightning ``Trainer``: measures behind the optimizer's steps, once a step.

    ``trainer.global_step`` counts optimizer steps and stays the same while gradients are accumulated. Step 0, the
    weights before training, is measured with ``at=(0,)``.

    Args:
        monitor: one that is made already; else it is made of ``settings``.
        module: the dotted name of the measured part of the LightningModule; by default its only part with parameters.
        settings: the arguments of ``fdlab.Monitor``, without its module.

    Raises:
        FdlabError: code 2, Lightning is not installed, or what ``fdlab.Monitor`` raises.

    Example:
        ``Trainer(callbacks=[fdlab.monitor.lightning(data="photos/", out="runs/monitor", module="net")])``
    """
    base = _base(("lightning.pytorch", "pytorch_lightning"), "Callback", "Lightning", "monitor-lightning")
    made = _made(monitor, settings)

    class MonitorCallback(base):  # type: ignore[misc, valid-type]
        """Measures a part of the LightningModule along its training."""

        def __init__(self) -> None:
            super().__init__()
            self.monitor = made

        def on_train_start(self, trainer: Any, pl_module: nn.Module) -> None:
            if trainer.is_global_zero:
                _start(made, part_of(pl_module, module), int(trainer.global_step))

        def on_train_batch_end(
            self, trainer: Any, pl_module: nn.Module, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            if trainer.is_global_zero and trainer.global_step > 0:  # 0: gradients of the first step are not whole yet
                made(part_of(pl_module, module), trainer.global_step)

        def state_dict(self) -> dict[str, Any]:
            return {"last": made.last}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            made.last = state_dict["last"]

    return MonitorCallback()


def transformers(monitor: Monitor | None = None, *, module: str = "", **settings: Any) -> Any:
    """A callback for a ``Trainer`` of transformers: measures behind the optimizer's steps.

    Args:
        monitor: one that is made already; else it is made of ``settings``.
        module: the dotted name of the measured part, ``"vit"``; by default the whole model.
        settings: the arguments of ``fdlab.Monitor``, without its module.

    Raises:
        FdlabError: code 2, transformers is not installed, or what ``fdlab.Monitor`` raises.

    Example:
        ``Trainer(model, callbacks=[fdlab.monitor.transformers(data="photos/", out="runs/monitor")])``
    """
    base = _base(("transformers",), "TrainerCallback", "transformers", "monitor-transformers")
    made = _made(monitor, settings)

    class MonitorCallback(base):  # type: ignore[misc, valid-type]
        """Measures the model along its training."""

        def __init__(self) -> None:
            super().__init__()
            self.monitor = made

        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if state.is_world_process_zero:
                _start(made, _named(model, module), int(state.global_step))

        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if state.is_world_process_zero:
                made(_named(model, module), state.global_step)

    return MonitorCallback()


def part_of(module: nn.Module, name: str = "") -> nn.Module:
    """The part of a LightningModule that is measured: by name, else its only part with parameters, else itself.

    Raises:
        FdlabError: code 2, it has several parts and no ``forward`` of its own, or none of that name.
    """
    if name:
        return _named(module, name)
    parts = {key: part for key, part in module.named_children() if any(True for _ in part.parameters())}
    if len(parts) == 1:
        return next(iter(parts.values()))
    raise FdlabError(
        f"{type(module).__name__} has {len(parts)} parts with parameters.",
        f"They are {', '.join(parts) or 'none'}; nothing says which one is the model.",
        "Name it: fdlab.monitor.lightning(..., module='net').",
        code=USAGE,
    )


def _named(module: nn.Module, name: str) -> nn.Module:
    try:
        return module.get_submodule(name) if name else module
    except AttributeError:
        known = [key for key, _ in module.named_modules() if key]
        raise FdlabError(
            f"{type(module).__name__} has no part {name!r}.{nearest(name, known)}",
            f"It has {', '.join(key for key, _ in module.named_children())}.",
            "Give module= as one of its dotted names.",
            code=USAGE,
        ) from None


def _start(monitor: Monitor, module: nn.Module, step: int) -> None:
    """Before the first step: what cannot be measured is an error now. The step of a resumed training is not new."""
    monitor.watch(module)
    if step == 0 and 0 in monitor.at:
        monitor(module, 0)


def _made(monitor: Monitor | None, settings: dict[str, Any]) -> Monitor:
    from fdlab.study.monitor import Monitor

    if monitor is not None and settings:
        raise FdlabError(
            "A monitor and settings were given.", f"Settings: {', '.join(settings)}.", "Give one of the two.", USAGE
        )
    return Monitor(**settings) if monitor is None else monitor


def _base(modules: tuple[str, ...], name: str, title: str, extra: str) -> type:
    """The library's own class of callbacks: of the module that the caller has imported, else of the first there is."""
    for module in sorted(modules, key=lambda module: module not in sys.modules):
        try:
            found: type = getattr(importlib.import_module(module), name)
        except ImportError:
            continue
        return found
    raise FdlabError(
        f"{title} is not installed.",
        f"Its callbacks are subclasses of its {name}.",
        f"Install it (pip install 'fdlab[{extra}]'), or call fdlab.Monitor in your own loop: monitor(step).",
        code=USAGE,
    )

"""Keeps ``torch._dynamo`` (1.2 of timm's 1.75 seconds of processor time) out of the first ``import timm``.

timm and torchvision touch torch's compiler in two places while they are imported: they ask whether compiling is
supported, and mark a few functions as not to be compiled. Both can wait: for the length of that import a small stand-in
answers, whose marks look the real compiler up when a marked function is called. Training and compiling load the real
one as before. Where it is loaded already, or torch is of a version that this was not tested with, nothing is done.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

TESTED = ("2.11", "2.12", "2.14")
_DYNAMO = ("torch._dynamo", "torch._dynamo.utils")


class _Finder(MetaPathFinder):
    """Stands in front for the first import of timm, once."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "timm":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None and _wanted():
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    """Loads timm while the stand-in answers for the compiler."""

    def __init__(self, own: Loader) -> None:
        self.own = own

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self.own
        module.__loader__ = self.own
        compiler, utils = _stand_in()
        sys.modules.update(zip(_DYNAMO, (compiler, utils), strict=True))
        try:
            self.own.exec_module(module)
        finally:
            for name, made in zip(_DYNAMO, (compiler, utils), strict=True):
                if sys.modules.get(name) is made:
                    del sys.modules[name]
            torch = sys.modules.get("torch")
            if torch is not None and vars(torch).get("_dynamo") is compiler:
                del torch._dynamo  # type: ignore[attr-defined]


def _wanted() -> bool:
    import torch

    version = ".".join(torch.__version__.split(".")[:2])
    return version in TESTED and "torch._dynamo" not in sys.modules


def _stand_in() -> tuple[ModuleType, ModuleType]:
    compiler, utils = (ModuleType(name) for name in _DYNAMO)
    compiler.__path__ = []  # a package
    compiler.utils = utils  # type: ignore[attr-defined]
    compiler.disable = _disable  # type: ignore[attr-defined]
    utils.is_compile_supported = _is_compile_supported  # type: ignore[attr-defined]
    return compiler, utils


def _disable(function: Callable[..., Any] | None = None, recursive: bool = True, **options: Any) -> Any:
    """``torch._dynamo.disable`` that is applied at the first call."""
    if function is None:
        return functools.partial(_disable, recursive=recursive, **options)

    @functools.wraps(function)
    def marked(*args: Any, **named: Any) -> Any:
        if "torch._dynamo" not in sys.modules:  # nothing compiles
            return function(*args, **named)
        import torch

        return torch._dynamo.disable(function, recursive=recursive, **options)(*args, **named)

    return marked


def _is_compile_supported(device: Any) -> Any:
    """The real answer, at the time when torchvision's operators ask."""
    from torch._dynamo.utils import is_compile_supported

    return is_compile_supported(device)


def install() -> None:
    """Called once, when fdlab is imported; timm that is there already stays as it is."""
    if "timm" not in sys.modules and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())

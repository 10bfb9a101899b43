"""Attributes of a package that are imported on first use (PEP 562), so that ``import fdlab`` is light."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any


def lazy_attributes(package: str, where: dict[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A module's ``__getattr__`` and ``__dir__``: ``name`` is imported from the module ``where[name]`` when asked for.

    Where ``where[name]`` is the package's own part of that name, it is that part itself.

    >>> get, names = lazy_attributes("fdlab", {"sqrt": "math"})
    >>> get("sqrt")(9.0), "sqrt" in names()
    (3.0, True)
    """

    def __getattr__(name: str) -> Any:
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(where[name])
        return module if where[name] == f"{package}.{name}" else getattr(module, name)

    def __dir__() -> list[str]:
        return sorted({*vars(sys.modules[package]), *where})

    return __getattr__, __dir__

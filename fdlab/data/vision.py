"""torchvision's functions on images, imported when the first of them is used.

The import costs as much as torch's own, and a look into the store only needs to know which images there are.
"""

from __future__ import annotations

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "torchvision.transforms.v2"
    function = getattr(importlib.import_module(module if name[0].isupper() else f"{module}.functional"), name)
    globals()[name] = function  # the next use is a plain look-up
    return function

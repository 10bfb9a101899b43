"""The version of fdlab, and of what its numbers depend on. Imports nothing of fdlab."""

from __future__ import annotations

__version__ = "0.1.0"


def versions() -> dict[str, str]:
    """The versions of fdlab, of Python and of the packages that numbers depend on: ``{name: version}``."""
    import platform  # here, since every command imports this file and few need these two
    from importlib.metadata import version

    packages = ("torch", "timm", "numpy", "scikit-learn", "pandas", "matplotlib")
    return {"fdlab": __version__, "python": platform.python_version(), **{name: version(name) for name in packages}}

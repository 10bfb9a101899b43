"""Fixtures for all tests: the shared test files, found by FDLAB_SHARED (default ../shared)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says nothing on a busy machine.
settings.register_profile("fdlab", deadline=None)
settings.load_profile("fdlab")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """``shared("data/cifar10")`` -> its path, or a skip that says what is missing."""
    base = Path(os.environ.get("FDLAB_SHARED", ROOT.parent / "shared"))

    def find(name: str) -> Path:
        path = base / name
        if not path.exists():
            if os.environ.get("FDLAB_REQUIRE_SHARED"):
                pytest.fail(f"shared test files are required here and absent: {path}")
            pytest.skip(f"shared test files are absent: {path} (set FDLAB_SHARED)")
        return path

    return find

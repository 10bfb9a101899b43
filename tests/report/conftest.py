"""The made-up study as fixtures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the tests of this room share mock_study.py

import mock_study


@pytest.fixture(scope="session")
def _table() -> pd.DataFrame:
    return mock_study.study_table()


@pytest.fixture
def table(_table: pd.DataFrame) -> pd.DataFrame:
    return _table.copy()


@pytest.fixture
def facts() -> dict[str, Any]:
    return mock_study.study_facts()

"""A published file is drawn in the colour of what it was trained on."""

from __future__ import annotations

import pytest

from fdlab.records.table import CONTROL
from fdlab.study.diagnosis import shown_family


@pytest.mark.parametrize(
    ("label", "kind", "shown"),
    [("a", "mim", "mim"), ("a", "unknown", "unknown"), ("a", "random", "random"), (CONTROL, "mim", "random")],
)
def test_the_family_shown(label, kind, shown):
    assert shown_family(label, kind) == shown

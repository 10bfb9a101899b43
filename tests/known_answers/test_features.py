"""The shipped known answers for features hold in both precisions, and a wrong measure is noticed."""

from __future__ import annotations

import pytest
import torch

from fdlab.known_answers import features as feature_cases
from fdlab.known_answers.features import CASES, run_case
from fdlab.measures import features as form


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", CASES)
def test_every_answer_is_right(name: str, dtype: torch.dtype) -> None:
    checks = run_case(name, dtype)
    assert checks
    assert not [check for check in checks if not check.right]


def test_a_wrong_measure_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = form.token_variance
    monkeypatch.setattr(feature_cases.form, "token_variance", lambda z: 1.001 * right(z))
    assert [check.what for check in run_case("tokens") if not check.right] == ["variance over tokens"]

"""``fdlab doctor --probes``: passes as shipped, and notices a measure that is wrong."""

from __future__ import annotations

import pytest
import torch
from typer.testing import CliRunner

from fdlab.cli.app import app
from fdlab.errors import CHECK_NOT_MET, FdlabError
from fdlab.known_answers import attention as attention_cases
from fdlab.known_answers import attribution as attribution_cases
from fdlab.known_answers import doctor
from fdlab.known_answers.check import Check


@pytest.fixture
def attention_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "CASES", {"attention": doctor.CASES["attention"]})


@pytest.mark.usefixtures("attention_only")
def test_all_answers_are_right() -> None:
    shown = CliRunner().invoke(app, ["doctor", "--probes"])
    assert shown.exit_code == 0, shown.output
    assert "All 46 cases right" in shown.output


@pytest.mark.usefixtures("attention_only")
def test_a_wrong_measure_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = attention_cases.uniform_distance
    monkeypatch.setattr(attention_cases, "uniform_distance", lambda *place: right(*place) * 1.001)
    with pytest.raises(FdlabError, match="wrong answer") as caught:
        CliRunner().invoke(app, ["doctor", "--probes"], catch_exceptions=False)
    assert caught.value.code == CHECK_NOT_MET
    assert "distance_ratio" in caught.value.why


def test_undefined_answers_are_right_only_together() -> None:
    nan = float("nan")
    assert Check("", nan, nan, 0.0).right
    assert not Check("", 0.0, nan, 1.0).right
    assert not Check("", nan, 0.0, 1.0).right


def test_every_registered_probe_has_cases() -> None:
    for names, run in doctor.CASES.values():
        first = next(iter(names()))
        assert all(check.right for check in run(first, torch.float64))


@pytest.mark.parametrize("dtype", doctor.DTYPES)
@pytest.mark.parametrize("case", attribution_cases.CASES)
def test_known_answers_of_attribution(case: str, dtype: torch.dtype) -> None:
    for check in attribution_cases.run_case(case, dtype):
        assert check.right, check


def test_a_wrong_attribution_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = attribution_cases.of_curves.area
    monkeypatch.setattr(attribution_cases.of_curves, "area", lambda curve, shares: 1.001 * right(curve, shares))
    assert not all(check.right for check in attribution_cases.run_case("every cell alike", torch.float32))

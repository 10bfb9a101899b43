"""loss-landscapes beside our line: it agrees where it has a value, and what is said of it is so."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from fdlab.cli.app import app
from fdlab.errors import CHECK_NOT_MET, FdlabError
from fdlab.known_answers import doctor, second_opinion
from fdlab.known_answers.second_opinion import two_layers


def test_both_lines_are_the_known_one() -> None:
    table = second_opinion.second_opinion(steps=4)
    assert table["way"].tolist() == [0, 0.25, 0.5, 0.75, 1]
    np.testing.assert_allclose(table["ours"], table["exact"], atol=1e-4)
    np.testing.assert_allclose(table["loss_landscapes"][1:], table["exact"][1:], atol=1e-4)
    assert np.isnan(table["loss_landscapes"][0])
    assert not table["wrong"].any()


def test_what_is_said_of_its_random_line_is_so() -> None:
    from loss_landscapes import random_line

    start, _, _, _ = two_layers()
    layer = nn.Linear(12, 5)
    layer.weight.data.copy_(start.weight.data)
    weights: list[torch.Tensor] = []

    def keep(model: Any) -> float:
        weights.append(torch.cat([p.detach().clone().flatten() for p in model.modules[0].parameters()]))
        return 0.0

    before = torch.cat([p.detach().flatten() for p in layer.parameters()])
    random_line(copy.deepcopy(layer), keep, distance=0.1, steps=3)
    moved = weights[-1] - before
    assert (moved >= 0).all()
    assert (moved[-5:] > 0).all()  # the bias
    assert float(moved.norm() / before.norm()) == pytest.approx(10, rel=1e-3)


def test_the_command_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "CASES", {"attention": doctor.CASES["attention"]})
    shown = CliRunner().invoke(app, ["doctor", "--probes", "--second-opinion"])
    assert shown.exit_code == 0, shown.output
    assert "random_line draws every number between 0 and 1" in " ".join(shown.output.split())
    asked = ["doctor", "--probes", "--second-opinion", "--json"]
    printed = json.loads(CliRunner().invoke(app, asked).stdout)
    assert len(printed["cases"]) == 46
    assert printed["second_opinion"][0]["loss_landscapes"] is None
    right = second_opinion.cosine_inputs
    monkeypatch.setattr(second_opinion, "cosine_inputs", lambda: 1.01 * right())
    with pytest.raises(FdlabError, match="line") as caught:
        CliRunner().invoke(app, ["doctor", "--probes", "--second-opinion"], catch_exceptions=False)
    assert caught.value.code == CHECK_NOT_MET

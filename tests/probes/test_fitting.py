"""A model that a probe cannot measure is left out with a sentence; it stops nobody else's measurement."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import fdlab
from fdlab.errors import FdlabError
from fdlab.probes.fitting import NotForModel
from fdlab.records.table import CONTROL
from tests.encoders.own_vits import OwnViT


def cnn() -> nn.Module:
    parts = [nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU()) for a, b in ((3, 8), (8, 16))]
    return nn.Sequential(nn.Sequential(*parts), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))


@pytest.fixture(scope="module")
def models() -> dict[str, fdlab.Encoder]:
    torch.manual_seed(0)
    return {"cnn": fdlab.wrap(cnn(), image_size=32), "vit": fdlab.wrap(OwnViT())}


def test_a_model_without_attention_is_left_out_and_said(models: dict[str, fdlab.Encoder]) -> None:
    with pytest.warns(UserWarning, match=r"^cnn is left out of attention: .*has no attention"):
        table = fdlab.measure("attention", models, "digits", images=16, fresh=True)
    assert set(table["model"]) == {"vit"}
    alone = fdlab.measure("attention", {"vit": models["vit"]}, "digits", images=16, fresh=True)
    assert table["value"].equals(alone["value"])


def test_where_no_model_fits_it_is_an_error(models: dict[str, fdlab.Encoder]) -> None:
    with pytest.raises(NotForModel, match="has no attention") as caught:
        fdlab.measure("attention", {"cnn": models["cnn"]}, "digits", images=16)
    assert caught.value.code == 3 and caught.value.left_out[0].startswith("cnn is left out")


@pytest.mark.filterwarnings("ignore:No untrained control")
def test_a_comparison_goes_on_without_it(models: dict[str, fdlab.Encoder], tmp_path: Path) -> None:
    from fdlab.study.comparison import compare

    found = compare(models, "digits", tmp_path, images=16, quiet=True)
    table = found["table"]
    values = table[table["reference"].isna() | (table["reference"] == "")]
    assert set(values[values["probe"] == "attention"]["model"]) - {CONTROL} == {"vit"}
    assert set(values[values["probe"] == "features"]["model"]) >= {"cnn", "vit"}
    assert sum("left out of attention" in note for note in found["notes"]) == 1
    assert not any("was not measured" in note for note in found["notes"])
    with pytest.raises(FdlabError, match="has no attention"):
        compare({"cnn": models["cnn"]}, "digits", tmp_path / "b", probes=("attention",), images=16, quiet=True)


@pytest.mark.parametrize(
    ("probe", "part", "words"), [("attribution", "heads", "no heads"), ("hessian", "balanced", "")]
)
def test_a_part_that_a_model_has_not_is_left_out(
    models: dict[str, fdlab.Encoder], probe: str, part: str, words: str
) -> None:
    from fdlab.probes.fitting import fitting
    from fdlab.probes.probe import find_probe

    timm = {"timm": fdlab.open_model("random:vit_tiny_patch16_224", image_size=32)}
    kept, said = fitting(probe, find_probe(probe), {**models, **timm}, {"part": part})
    assert "timm" in kept and "cnn" not in kept
    assert any(line.startswith(f"cnn is left out of {probe}, part {part}") and words in line for line in said)
    assert fitting(probe, find_probe(probe), models, {"part": "whole"})[1] == []

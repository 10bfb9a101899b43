"""The sharpness probe: invariances, restoration, the worst case against the average, complete rows, bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from fdlab.encoders.encoder import Encoder
from fdlab.encoders.stretch import reparametrised
from fdlab.errors import FdlabError
from fdlab.probes import sharpness
from fdlab.probes.objectives import build_objective
from fdlab.probes.sharpness import measure_sharpness
from fdlab.records.metrics import METRICS
from fdlab.records.metrics.names import MAPS
from fdlab.records.store import Record


def encoder(dtype: torch.dtype = torch.float32) -> Encoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        module = VisionTransformer(
            img_size=8, patch_size=4, embed_dim=8, depth=2, num_heads=2, mlp_ratio=1, num_classes=3
        )
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.3)
    return Encoder.wrap(module.to(dtype), family="small", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


IMAGES = torch.rand(36, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(36) % 3
QUICK: dict[str, Any] = {"objective": "classifier", "directions": 4, "steps": 4, "batch": 16}


def measured(model: Encoder, part: str, **settings: Any) -> Record:
    images = IMAGES.to(next(model.module.parameters()).dtype)
    return measure_sharpness(model, images, label="m", labels=LABELS, part=part, **{**QUICK, **settings})


def values(record: Record) -> dict[str, float]:
    table = record.table[record.table["metric"] != "noise_curve"]
    return dict(zip(table["metric"], table["value"], strict=True))


@pytest.mark.parametrize("name", ["queries_keys", "values_projection", "norms", "channels"])
def test_adaptive_measures_do_not_see_a_rescaling(name: str) -> None:
    model = encoder(torch.float64)
    copied = reparametrised(model, name)
    for part, plain, adaptive in (
        ("average", "sharpness_average", "sharpness_adaptive"),
        ("worst", "sharpness_worst", "sharpness_adaptive_worst"),
    ):
        first, second = values(measured(model, part)), values(measured(copied, part))
        assert second[adaptive] == pytest.approx(first[adaptive], rel=1e-10)
        assert abs(second[plain] / first[plain] - 1) > 1e-3
    if name != "channels":  # rows of a filter are scaled alike
        first, second = values(measured(model, "noise")), values(measured(copied, "noise"))
        assert second["noise_to_rise"] == pytest.approx(first["noise_to_rise"], rel=1e-10)


def test_a_map_inside_the_heads_is_seen() -> None:
    model = encoder(torch.float64)
    copied = reparametrised(model, "heads_mixed")
    first, second = values(measured(model, "average")), values(measured(copied, "average"))
    assert abs(second["sharpness_adaptive"] / first["sharpness_adaptive"] - 1) > 0.01


@pytest.mark.parametrize("part", ["average", "worst", "noise", "control"])
def test_rows_are_complete_and_the_model_is_untouched(part: str) -> None:
    model = encoder()
    before = {key: value.clone() for key, value in model.module.state_dict().items()}
    record = measured(model, part)
    table = record.table
    assert set(table["metric"]) <= set(METRICS)
    assert set(table["n"]) == {36}
    assert table["objective"].str.contains("eval mode").all()
    if part == "control":
        moved = table[table["metric"] == "moved_eigenvalue_1_balanced"]
        assert list(moved["x"]) == [1, 2, 3, 4, 5]
        np.testing.assert_allclose(moved["value"][:4], 1.0, rtol=0.02)
        assert (table[table["metric"] == "moved_function"]["value"] < 1e-5).all()
        assert len(MAPS) == 5
    else:
        rises = table[table["metric"] != "objective_loss"]  # the loss itself stands beside, as it is
        assert rises["low"].notna().all()
        assert ((rises["low"] <= rises["value"]) & (rises["value"] <= rises["high"])).all()
    assert all(torch.equal(value, before[key]) for key, value in model.module.state_dict().items())
    again = measured(encoder(), part)
    assert again.table.equals(table)


def test_the_control_measures_the_copies() -> None:
    """Plain measures move with the weights, the adaptive one does not where only their scale is another."""
    table = measured(encoder(), "control").table
    plain = table[table["metric"] == "moved_sharpness_average"]["value"]
    adaptive = table[table["metric"] == "moved_sharpness_adaptive"]["value"]
    assert ((plain[:4] - 1).abs() > 1e-3).all()
    np.testing.assert_allclose(adaptive[:4], 1.0, rtol=1e-3)


def test_the_worst_place_is_worse_than_a_random_one_as_far_away() -> None:
    model = encoder()
    record = measured(model, "worst", steps=12, radius_worst=0.3, radius_adaptive_worst=0.3)
    size = sum(p.numel() for p in model.module.parameters()) ** 0.5
    noise = measured(model, "average", radius=0.3 / size, radius_adaptive=0.3 / size)
    for worst, average in (
        ("sharpness_worst", "sharpness_average"),
        ("sharpness_adaptive_worst", "sharpness_adaptive"),
    ):
        assert values(record)[worst] > 3 * abs(values(noise)[average])
        assert record.arrays[worst].shape == (36,)
        assert record.arrays[worst].mean() == pytest.approx(values(record)[worst])


def test_the_gradient_is_that_of_the_mean_over_images() -> None:
    model = encoder()
    built = build_objective("classifier", model, IMAGES, LABELS, micro_batch=16)  # 16, 16 and 4 images
    gradient = sharpness._gradient(built)
    whole = build_objective("classifier", model, IMAGES, LABELS, micro_batch=36)
    expected = torch.autograd.grad(whole.loss(whole.batches[0]), list(whole.parameters.values()))
    for name, part in zip(whole.parameters, expected, strict=True):
        torch.testing.assert_close(gradient[name], part, rtol=1e-4, atol=1e-6)


def test_the_model_comes_back_after_ctrl_c(monkeypatch: Any) -> None:
    model = encoder()
    before = {key: value.clone() for key, value in model.module.state_dict().items()}
    calls = iter(range(100))

    def broken(made: Any) -> Any:
        if next(calls) == 3:
            raise KeyboardInterrupt
        with torch.no_grad():
            return torch.cat([made.losses(batch) for batch in made.batches])

    monkeypatch.setattr(sharpness, "losses_of", broken)
    with pytest.raises(KeyboardInterrupt):
        measured(model, "average")
    assert all(torch.equal(value, before[key]) for key, value in model.module.state_dict().items())


def test_losses_that_are_not_finite_are_counted_not_hidden() -> None:
    record = measured(encoder(), "average", radius=1e30)
    assert np.isnan(values(record)["sharpness_average"])
    assert np.isfinite(values(record)["sharpness_adaptive"])
    assert record.manifest["not_finite"] > 0


def test_bad_input_is_named() -> None:
    with pytest.raises(FdlabError, match=r"no part 'nois'. Did you mean 'noise'"):
        measured(encoder(), "nois")
    with pytest.raises(FdlabError, match="no labels"):
        measure_sharpness(encoder(), IMAGES, label="m", labels=None, **QUICK)
    broken = encoder()
    with torch.no_grad():
        next(broken.module.parameters()).fill_(float("nan"))
    with pytest.raises(FdlabError, match="not finite"):
        measure_sharpness(broken, IMAGES, label="m", labels=LABELS, **QUICK)


@pytest.mark.parametrize("part", ["average", "noise"])
def test_the_loss_stands_beside_its_rises(part: str) -> None:
    model = encoder()
    built = build_objective("classifier", model, IMAGES, LABELS)
    with torch.no_grad():
        logits = model.module(model.normalise(IMAGES))
    expected = float(torch.nn.functional.cross_entropy(logits, LABELS))
    assert built.images == len(IMAGES)
    assert values(measured(model, part))["objective_loss"] == pytest.approx(expected, rel=1e-5)

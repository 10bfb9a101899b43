"""The attention probe: its numbers are those of the maps, its rows are complete, the rest is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fdlab.encoders.encoder import Encoder
from fdlab.errors import FdlabError
from fdlab.measures.attention import ALL, PER_HEAD, attention_metrics, uniform_distance
from fdlab.probes.attention import SPREADS, measure_attention
from fdlab.records.intervals import mean_interval
from fdlab.records.store import Record
from fdlab.records.table import COLUMNS


def encoder(scale: float = 0.3, **changes: Any) -> Encoder:
    settings: dict[str, Any] = {
        "img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4, "num_classes": 0,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        module = VisionTransformer(**{**settings, **changes})
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=scale)
    return Encoder.wrap(module, family="small", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def images(n: int = 5, size: int = 32) -> Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def record() -> Record:
    return measure_attention(encoder(), images(), label="one")


def test_arrays_are_the_metrics_of_the_maps(record: Record) -> None:
    model = encoder()
    with torch.no_grad():
        maps = model.attention(model.normalise(images()), blocks=(0, 1, 2))
    for block, attention in maps.items():
        expected = attention_metrics(attention.double(), grid=(4, 4), patch_size=8, prefix_tokens=1)
        for name in ALL:
            found = torch.from_numpy(record.arrays[name][:, block]).double()
            torch.testing.assert_close(found, expected[name], rtol=1e-4, atol=1e-5, msg=name)


def test_shapes_and_rows(record: Record) -> None:
    assert set(record.arrays) == set(ALL)
    for name, values in record.arrays.items():
        assert values.shape == ((5, 3, 4) if name in PER_HEAD else (5, 3))
        assert values.dtype == np.float32
    table = record.table
    assert tuple(table.columns) == COLUMNS
    assert len(table) == 3 * 4 * len(PER_HEAD) + 3 * (len(ALL) - len(PER_HEAD) + len(SPREADS))
    assert set(table["probe"]) == {"attention"}
    assert set(table["family"]) == {"small"}
    assert set(table["model"]) == {"one"}
    row = table.query("metric == 'distance' and block == 1 and head == 2").iloc[0]
    expected = mean_interval(record.arrays["distance"])
    assert (row["value"], row["low"], row["high"]) == pytest.approx([part[1, 2] for part in expected[:3]], rel=1e-6)
    assert row["depth"] == pytest.approx(2 / 3)
    assert row["n"] == 5
    assert row["unit"] == "px"
    assert table.query("metric == 'head_similarity'")["head"].isna().all()


def test_spreads_are_of_expected_distances_so_below_those_of_image_averages(record: Record) -> None:
    means = record.arrays["distance"].astype(float).mean(0)
    for name, plain in (("distance_spread", np.ptp(means, -1)), ("distance_sd", means.std(-1, ddof=1))):
        rows = record.table[record.table["metric"] == name]
        assert (rows["value"].to_numpy() < plain).all()
        assert (rows["value"].to_numpy() > 0.5 * plain).all()
        assert (rows["low"] <= rows["value"]).all() and (rows["low"] >= 0).all()
        assert (rows["value"] < rows["high"]).all()


def test_one_head_has_no_spread() -> None:
    record = measure_attention(encoder(num_heads=1), images(), label="one", metrics=["distance_spread", "distance_sd"])
    assert len(record.table) == 6
    assert record.table[["value", "low", "high"]].isna().all(axis=None)


def test_heads_that_are_one_head_copied_have_a_spread_of_0() -> None:
    model = encoder()
    with torch.no_grad():
        for block in model.module.blocks:  # type: ignore[union-attr]
            weight, bias = (part.unflatten(0, (3, 4, -1)) for part in (block.attn.qkv.weight, block.attn.qkv.bias))
            weight[:, 1:], bias[:, 1:] = weight[:, :1].clone(), bias[:, :1].clone()
    rows = measure_attention(model, images(), label="alike", metrics=["distance_spread"]).table
    assert (rows["high"] < 1e-4).all()


def test_manifest_is_json_and_names_the_uniform_line(record: Record) -> None:
    manifest = json.loads(json.dumps(record.manifest))
    assert manifest["uniform_distance_px"] == pytest.approx(uniform_distance((4, 4), 8))
    assert manifest["images"] == 5
    assert manifest["grid"] == [4, 4]
    assert manifest["weights"] == encoder().info.sha256
    assert manifest["probe"] == "attention"
    assert manifest["version"] == 5
    assert manifest["label"] == "one"


def test_batch_and_slices_change_nothing(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    import fdlab.probes.attention as probe

    monkeypatch.setattr(probe, "_SLICE", {"cpu": 1, "cuda": 1})
    other = measure_attention(encoder(), images(), label="one", batch=2)
    for name in ALL:
        np.testing.assert_allclose(other.arrays[name], record.arrays[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_chosen_metrics_only(record: Record) -> None:
    some = measure_attention(encoder(), images(), label="one", metrics=["nmi", "distance_spread"])
    assert set(some.table["metric"]) == {"nmi", "distance_spread"}
    assert set(some.arrays) == {"nmi", "distance"}  # the spread is of the distances
    np.testing.assert_allclose(some.arrays["nmi"], record.arrays["nmi"], atol=1e-6)
    with pytest.raises(FdlabError, match="Did you mean 'distance_sd'"):
        measure_attention(encoder(), images(), label="one", metrics=["distance_sdd"])


def test_uniform_maps_are_counted_as_undefined() -> None:
    model = encoder()
    for block in model.module.blocks:  # type: ignore[union-attr]
        nn.init.zeros_(block.attn.qkv.weight)
        nn.init.zeros_(block.attn.qkv.bias)
    record = measure_attention(model, images(), label="flat")
    undefined = record.table.query("metric in ['r2_relative', 'r2_absolute', 'head_similarity_centred']")
    assert undefined["value"].isna().all()
    assert (undefined["n"] == 0).all()
    ratio = record.table.query("metric == 'distance_ratio'")
    np.testing.assert_allclose(ratio["value"], 1.0, rtol=1e-6)
    assert (record.table.query("metric == 'distance_sd'")["value"] < 1e-5).all()


def test_rectangular_grids_keep_their_order() -> None:
    model = encoder(img_size=(16, 32))
    record = measure_attention(model, torch.rand(2, 3, 16, 32), label="wide", metrics=["distance_ratio"])
    assert record.manifest["grid"] == [2, 4]


def test_progress_is_told() -> None:
    class Told:
        total = 0

        def advance(self, units: int = 1, note: str = "") -> None:
            self.total += units

    told = Told()
    measure_attention(encoder(), images(), label="one", batch=2, progress=told, metrics=["nmi"])
    assert told.total == 5


def test_no_images_are_refused() -> None:
    with pytest.raises(FdlabError, match="cannot be measured"):
        measure_attention(encoder(), torch.zeros(0, 3, 32, 32), label="one")

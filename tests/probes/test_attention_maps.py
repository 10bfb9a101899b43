"""Averaged maps: models whose attention is known give the known maps, numbers and biases."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.models.beit import Beit
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_relpos import VisionTransformerRelPos
from torch import Tensor, nn

import fdlab
from fdlab.encoders.encoder import Encoder
from fdlab.encoders.position_bias import position_biases
from fdlab.errors import FdlabError
from fdlab.measures.attention import attention_metrics
from fdlab.probes.attention import measure_attention
from fdlab.probes.attention_maps import GROUPS, cells, coarse, measure_attention_maps, memory
from fdlab.records.metrics import METRICS
from fdlab.records.metrics.names import OF_MEAN
from fdlab.records.store import Record, Store

SMALL: dict[str, Any] = {
    "img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 0,
}  # fmt: skip
WINDOW: dict[str, Any] = {
    "img_size": 32, "patch_size": 4, "window_size": 4, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4),
    "num_classes": 0,
}  # fmt: skip


def built(make: Any, std: float = 0.3, **settings: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        module = make(**settings).eval()
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=std)
    return module


def silent(module: nn.Module) -> nn.Module:
    """Queries and keys are 0: what is left of the logits is the bias."""
    for name, parameter in module.named_parameters():
        if ".qkv." in name or name.endswith(("q_bias", "v_bias")):
            nn.init.zeros_(parameter)
    return module


def images(n: int = 5, size: int = 32) -> Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))


def row(record: Record, metric: str, block: int = 0, head: int | None = None) -> Any:
    found = record.table[(record.table["metric"] == metric) & (record.table["block"] == block)]
    found = found if head is None else found[found["head"] == head]
    assert len(found) == 1
    return found.iloc[0]


def by_table(table: Tensor) -> nn.Module:
    """A BEiT whose attention is the softmax of a bias by offset, the same in all images; (heads, 7, 7) offsets."""
    module = silent(built(Beit, **SMALL, use_rel_pos_bias=True))
    for block in module.blocks:  # type: ignore[union-attr]
        attention = block.attn
        offsets = torch.cartesian_prod(torch.arange(4), torch.arange(4))
        down, across = (offsets[None, :] - offsets[:, None] + 3).unbind(-1)  # from query to key
        index = attention.relative_position_index[1:, 1:]
        with torch.no_grad():
            attention.relative_position_bias_table[index.flatten()] = table[:, down, across].flatten(1).T
    return module


def test_uniform_attention() -> None:
    record = measure_attention_maps(Encoder.wrap(silent(built(VisionTransformer, **SMALL))), images(), label="u")
    np.testing.assert_allclose(record.arrays["mean_map_1"], 1 / 16, rtol=1e-6)
    assert row(record, "entropy_of_mean", 1, 2)["value"] == pytest.approx(1.0)
    assert row(record, "nmi_of_mean", 0, 0)["value"] == pytest.approx(0.0, abs=1e-6)
    assert row(record, "head_similarity_of_mean")["value"] == pytest.approx(1.0)
    assert math.isnan(row(record, "r2_relative_of_mean", 0, 0)["value"])
    shown = record.table[record.table["metric"] == "attention_map"]
    np.testing.assert_allclose(shown[["value", "low", "high"]], 1.0, rtol=1e-6)
    assert not any(name.startswith("position_bias") for name in record.arrays)


def test_diagonal_attention() -> None:
    table = torch.zeros(4, 7, 7)
    table[:, 3, 3] = 50.0
    record = measure_attention_maps(Encoder.wrap(by_table(table)), images(), label="d")
    np.testing.assert_allclose(record.arrays["mean_map_0"], np.broadcast_to(np.eye(16), (4, 16, 16)), atol=1e-6)
    assert row(record, "nmi_of_mean", 0, 1)["value"] == pytest.approx(1.0, abs=1e-6)
    assert row(record, "r2_relative_of_mean", 1, 3)["value"] == pytest.approx(1.0)
    assert row(record, "entropy_of_mean", 1, 0)["value"] == pytest.approx(0.0, abs=1e-6)


def test_attention_by_offset_gives_its_bias_and_its_map() -> None:
    table = torch.randn(4, 7, 7, generator=torch.Generator().manual_seed(1))
    table[0, 3, 4] += 9.0  # one to the right
    module = by_table(table)
    record = measure_attention_maps(Encoder.wrap(module), images(), label="o")
    pairs = torch.tensor([4.0, 3, 2, 1])
    pairs = torch.cat([pairs.flip(0), pairs[1:]])
    weight = pairs[:, None] * pairs / 256
    expected = table - (table * weight).sum((-2, -1), keepdim=True)
    for block in (0, 1):
        np.testing.assert_allclose(record.arrays[f"position_bias_{block}"], expected, atol=1e-5)
    right = record.arrays["mean_map_0"][0]
    assert right[0, 1] > 0.9
    assert right[5, 6] > 0.9
    shown = record.table[(record.table["metric"] == "relative_bias") & (record.table["block"] == 1)]
    assert len(shown["head"].unique()) == 2
    assert len(shown) == 2 * 49
    for _, one in shown.iterrows():
        head, x, y = int(one["head"]), int(one["x"]), int(one["y"])
        assert one["value"] == pytest.approx(float(expected[head, y + 3, x + 3]), abs=1e-5)


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (Beit, {**SMALL, "use_rel_pos_bias": True}),
        (Beit, {**SMALL, "use_shared_rel_pos_bias": True}),
        (Beit, {**SMALL, "use_rel_pos_bias": True, "use_shared_rel_pos_bias": True}),
        (VisionTransformerRelPos, {**SMALL, "class_token": False}),
        (VisionTransformerRelPos, {**SMALL, "class_token": False, "rel_pos_type": "bias", "shared_rel_pos": True}),
        (SwinTransformer, WINDOW),
        (SwinTransformerV2, WINDOW),
    ],
    ids=["beit", "beit shared", "beit both", "relpos mlp", "relpos bias shared", "swin", "swin v2"],
)
def test_a_bias_is_what_the_softmax_sees(make: Any, settings: dict[str, Any]) -> None:
    """Where queries and keys say nothing, the map that the model computes is the softmax of the bias."""
    module = silent(built(make, **settings))
    encoder, found = Encoder.wrap(module), position_biases(module)
    assert len(found) == encoder.info.depth
    with torch.no_grad():
        maps = encoder.attention(encoder.normalise(images(1)), blocks=(0, -1))
    for block, attention in ((0, maps[0]), (encoder.info.depth - 1, maps[-1])):
        bias = found[block]
        assert bias.std() > 1e-3
        torch.testing.assert_close(attention[0], bias.softmax(-1), rtol=1e-4, atol=1e-6)


def test_models_without_a_bias_have_none() -> None:
    assert position_biases(built(VisionTransformer, **SMALL)) == {}
    assert position_biases(timm.create_model("vit_small_patch16_rope_224", depth=2, img_size=64).eval()) == {}


@pytest.fixture(scope="module")
def record() -> Record:
    return measure_attention_maps(Encoder.wrap(built(VisionTransformer, **SMALL)), images(11), label="one", batch=4)


def test_maps_and_numbers_are_those_of_the_maps_averaged(record: Record) -> None:
    encoder = Encoder.wrap(built(VisionTransformer, **SMALL))
    with torch.no_grad():
        maps = encoder.attention(encoder.normalise(images(11)), blocks=(0, 1))
    for block, attention in maps.items():
        patches = attention[..., 1:, 1:].double()
        mean = (patches / patches.sum(-1, keepdim=True)).mean(0)
        np.testing.assert_allclose(record.arrays[f"mean_map_{block}"], mean, rtol=1e-4, atol=1e-7)
        expected = attention_metrics(mean[None], grid=(4, 4), patch_size=8)
        for name in OF_MEAN:
            values = expected[name][0]
            for head in range(4) if values.dim() else (None,):
                found = row(record, f"{name}_of_mean", block, head)
                value = float(values if head is None else values[head])
                assert found["value"] == pytest.approx(value, rel=1e-4, abs=1e-6)
                assert found["low"] <= found["value"] <= found["high"]
                assert found["low"] < found["high"]
                assert found["n"] == 11


def test_the_distance_of_the_mean_map_is_the_mean_distance(record: Record) -> None:
    """Why it has no name of its own; the entropy of the mean is another, larger number than the mean entropy."""
    each = measure_attention(Encoder.wrap(built(VisionTransformer, **SMALL)), images(11), label="one")
    mean = torch.from_numpy(record.arrays["mean_map_1"]).double()[None]
    found = attention_metrics(mean, grid=(4, 4), patch_size=8)
    np.testing.assert_allclose(found["distance"][0], each.arrays["distance"][:, 1].mean(0), rtol=1e-5)
    np.testing.assert_allclose(found["diagonality"][0], each.arrays["diagonality"][:, 1].mean(0), rtol=1e-5)
    assert (found["entropy"][0].numpy() > each.arrays["entropy"][:, 1].mean(0)).all()


def test_jackknife_leaves_out_groups_of_images(record: Record) -> None:
    """The interval of one cell against a plain loop over the groups."""
    encoder = Encoder.wrap(built(VisionTransformer, **SMALL))
    with torch.no_grad():
        maps = encoder.attention(encoder.normalise(images(11)), blocks=(0,))[0][..., 1:, 1:].double()
    cell = record.table[(record.table["metric"] == "attention_map") & (record.table["block"] == 0)].iloc[5]
    one = (maps / maps.sum(-1, keepdim=True))[:, int(cell["head"]), int(cell["y"]), int(cell["x"])].numpy() * 16
    without = [one[np.arange(11) % GROUPS != group].mean() for group in range(GROUPS)]
    pseudo = GROUPS * one.mean() - (GROUPS - 1) * np.array(without)
    half = 2.364624 * pseudo.std(ddof=1) / math.sqrt(GROUPS)
    assert cell["high"] - cell["value"] == pytest.approx(half, rel=1e-3)


def test_windows_are_averaged() -> None:
    encoder = Encoder.wrap(built(SwinTransformer, **WINDOW))
    record = measure_attention_maps(encoder, images(3), label="swin")
    with torch.no_grad():
        maps = encoder.attention(encoder.normalise(images(3)), blocks=(0, -1))
    np.testing.assert_allclose(record.arrays["mean_map_0"], maps[0].mean(0), rtol=1e-4, atol=1e-6)
    assert record.arrays["mean_map_0"].shape == (2, 16, 16)
    assert record.arrays["mean_map_3"].shape == (4, 16, 16)
    assert record.arrays["position_bias_3"].shape == (4, 7, 7)


def test_cells_of_large_grids() -> None:
    assert cells((14, 14)).number == 49
    assert cells((16, 16)).number == 36
    assert cells((7, 14)).number == 49
    uniform = torch.full((2, 256, 256), 1 / 256, dtype=torch.float64)
    torch.testing.assert_close(coarse(uniform, (16, 16)), torch.ones(2, 36, 36, dtype=torch.float64))
    own = coarse(torch.eye(196, dtype=torch.float64)[None], (14, 14))[0]
    torch.testing.assert_close(own, 49 * torch.eye(49, dtype=torch.float64))


def test_memory_is_stated_and_bounded(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import fdlab.probes.attention_maps as probe

    encoder = Encoder.wrap(built(VisionTransformer, **SMALL))
    assert memory(encoder, (32, 32)) == 2 * GROUPS * 4 * 16 * 16 * 4
    some = measure_attention_maps(encoder, images(), label="one", blocks=(-1,))
    assert set(some.arrays) == {"mean_map_1"}
    with pytest.raises(FdlabError, match="No block 2"):
        measure_attention_maps(encoder, images(), label="one", blocks=(2,))
    monkeypatch.setattr(probe, "free_memory", lambda device: 1000)
    with pytest.raises(FdlabError, match=r"need 0\.0 GiB") as told:
        measure_attention_maps(encoder, images(), label="one")
    assert told.value.code == 4


def test_through_measure_and_the_store(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = Encoder.wrap(built(VisionTransformer, **SMALL))
    options = {"data": "photos", "images": 3, "store": Store(tmp_path)}
    first = fdlab.measure("attention_maps", {"one": encoder}, quiet=False, **options)
    said = capsys.readouterr().err
    assert "averaged maps keep 0.1 MiB of sums in memory" in said.splitlines()[0]
    again = fdlab.measure("attention_maps", {"one": encoder}, quiet=False, **options)
    assert "averaged maps" not in capsys.readouterr().err  # answered by the store
    np.testing.assert_allclose(again["value"], first["value"])
    assert set(again["metric"]) == {f"{name}_of_mean" for name in OF_MEAN} | {"attention_map"}
    assert set(again["metric"]) <= set(METRICS)

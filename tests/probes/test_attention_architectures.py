"""timm's architectures through the attention probe: the output is untouched, blocks are counted, grids are right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.layers import PatchEmbed
from torch import Tensor, nn

from fdlab.encoders.encoder import Encoder
from fdlab.encoders.tap import tap
from fdlab.errors import FdlabError
from fdlab.measures.attention import attention_metrics, uniform_distance
from fdlab.probes.attention import measure_attention

# name -> (prefix tokens, settings): small images and two blocks where the class lets us
PLAIN: dict[str, tuple[int, dict[str, Any]]] = {
    "vit_tiny_patch16_224": (1, {}),
    "vit_small_patch16_224": (1, {}),
    "vit_base_patch16_224": (1, {}),
    "vit_base_patch32_224": (1, {}),
    "vit_base_patch8_224": (1, {}),
    "vit_base_patch16_224_miil": (1, {}),
    "vit_base_patch16_clip_224": (1, {}),
    "vit_base_patch16_clip_quickgelu_224": (1, {}),
    "vit_base_patch16_siglip_224": (0, {}),
    "vit_base_patch16_gap_224": (0, {}),
    "vit_base_patch16_rpn_224": (0, {}),
    "vit_small_patch14_dinov2": (1, {}),
    "vit_small_patch14_reg4_dinov2": (5, {}),
    "vit_little_patch16_reg4_gap_256": (4, {}),
    "vit_medium_patch16_reg4_gap_256": (4, {}),
    "vit_relpos_small_patch16_224": (0, {}),
    "vit_relpos_medium_patch16_cls_224": (1, {}),
    "vit_small_patch16_rope_224": (1, {}),
    "vit_small_patch16_dinov3": (5, {}),
    "deit_tiny_patch16_224": (1, {}),
    "deit_tiny_distilled_patch16_224": (2, {}),
    "deit3_small_patch16_224": (1, {}),
    "flexivit_small": (1, {}),
    "beit_base_patch16_224": (1, {}),
    "beitv2_base_patch16_224": (1, {}),
    "eva02_tiny_patch14_224": (1, {}),
    "eva02_base_patch16_clip_224": (1, {}),
    "cait_xxs24_224": (0, {}),
}
WINDOWS: dict[str, dict[str, Any]] = {
    "swin_tiny_patch4_window7_224": {"img_size": 224},
    "swin_s3_tiny_224": {"img_size": 224},
    "swinv2_tiny_window8_256": {"img_size": 128, "window_size": 4},
}
REFUSED = {
    "mvitv2_tiny": {},
    "xcit_nano_12_p16_224": {"img_size": 64},
    "levit_128s": {},
    "pvt_v2_b0": {},
    "twins_svt_small": {},
    "pit_ti_224": {},
}


def built(name: str, **settings: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(name, pretrained=False, num_classes=0, **settings).eval()
        for key, parameter in model.named_parameters():  # biases and scales that start at 0 must count
            if parameter.dim() < 2 or "bias" in key or "token" in key:
                nn.init.normal_(parameter, mean=1.0 if key.endswith("norm.weight") else 0.0, std=0.2)
    return model


def pictures(model: nn.Module, n: int = 2) -> Tensor:
    size = Encoder.wrap(model).info.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(1))


def small(name: str, settings: dict[str, Any]) -> nn.Module:
    patch = next((int(p) for p in ("32", "14", "8") if f"patch{p}_" in name), 16)
    shallow = {"img_size": 4 * patch, "depth": 2, **settings}
    return built(name, **shallow)


def untouched(model: nn.Module, x: Tensor) -> bool:
    with torch.no_grad():
        before = model(x)
        with tap(model, lambda call: call.maps(), on_skip=lambda text: None):
            during = model(x)
    return torch.equal(before, during)


@pytest.mark.parametrize("name", PLAIN)
def test_plain(name: str) -> None:
    prefix, settings = PLAIN[name]
    model = small(name, settings)
    x = pictures(model)
    assert untouched(model, x)
    seen: list[tuple[int, ...]] = []
    with torch.no_grad(), tap(model, lambda call: seen.append(call.shape)):
        model(x)
    assert [shape[-1] for shape in seen] == [prefix + 16] * 2
    record = measure_attention(Encoder.wrap(model), x, label=name)
    assert record.arrays["distance"].shape[:2] == (2, 2)
    assert np.isfinite(record.arrays["distance"]).all()
    assert (record.arrays["prefix_mass"] > 0).all() == (prefix > 0)


def test_class_attention_is_named() -> None:
    model = small("cait_xxs24_224", {})
    record = measure_attention(Encoder.wrap(model), pictures(model), label="cait")
    said = record.manifest["not_measured"]
    assert len(said) == 3 and "its map is changed after the softmax" in said[0]  # its heads are mixed behind it
    assert all("blocks_token_only" in text and "1 queries" in text for text in said[1:])


@pytest.mark.parametrize("name", WINDOWS)
def test_windows(name: str) -> None:
    model = built(name, **WINDOWS[name])
    x = pictures(model, 1)
    assert untouched(model, x)
    record = measure_attention(Encoder.wrap(model), x, label=name)
    lines = record.manifest["uniform_by_block_px"]
    assert record.manifest["uniform_distance_px"] is None  # each stage has its own
    assert len(lines) == record.arrays["distance"].shape[1] == 12
    assert lines[0] == pytest.approx(uniform_distance(tuple(record.manifest["grid"]), 4))
    rows = record.table.query("metric == 'distance_ratio'")
    heads = rows.groupby("block")["head"].count().tolist()
    assert heads == [3, 3, 6, 6] + [12] * 6 + [24, 24]
    assert rows["value"].notna().all()
    assert (rows["value"] < 1.5).all()


def test_window_maps_give_the_windows_distance() -> None:
    """Zero queries in an unshifted block: uniform attention, so exactly the stage's own line."""
    model = built("swin_tiny_patch4_window7_224")
    for block in (model.layers[0].blocks[0], model.layers[3].blocks[1]):  # type: ignore[index,union-attr]
        nn.init.zeros_(block.attn.qkv.weight)
        nn.init.zeros_(block.attn.qkv.bias)
        nn.init.zeros_(block.attn.relative_position_bias_table)
    record = measure_attention(Encoder.wrap(model), pictures(model, 1), label="swin", metrics=["distance"])
    found = record.arrays["distance"][0]
    np.testing.assert_allclose(found[0, :3], 14.438, atol=1e-3)
    np.testing.assert_allclose(found[11], 115.503, atol=1e-3)
    assert np.isnan(found[0, 3:]).all()


def test_shifted_windows_do_not_join_opposite_edges() -> None:
    """Uniform attention in a shifted block stays inside each part: nearer than in whole windows."""
    model = built("swin_tiny_patch4_window7_224")
    block = model.layers[0].blocks[1]  # type: ignore[index,union-attr]
    nn.init.zeros_(block.attn.qkv.weight)
    nn.init.zeros_(block.attn.qkv.bias)
    nn.init.zeros_(block.attn.relative_position_bias_table)
    record = measure_attention(Encoder.wrap(model), pictures(model, 1), label="swin", metrics=["distance"])

    # 8 x 8 windows: the last row and column are cut 4 + 3 by the mask
    def part(rows: tuple[int, ...], columns: tuple[int, ...]) -> float:
        return sum(r * c * uniform_distance((r, c), 4) for r in rows for c in columns) / 49

    whole, cut = (7,), (4, 3)
    expected = (49 * part(whole, whole) + 7 * part(cut, whole) + 7 * part(whole, cut) + part(cut, cut)) / 64
    np.testing.assert_allclose(record.arrays["distance"][0, 1, :3], expected, rtol=1e-4)


def test_padded_windows_are_refused() -> None:
    model = built("swin_tiny_patch4_window7_224", img_size=(200, 216))
    with pytest.raises(FdlabError, match="pads its windows"):
        measure_attention(Encoder.wrap(model), torch.rand(1, 3, 200, 216), label="swin")


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_known_grid_is_refused(name: str) -> None:
    model = built(name, **REFUSED[name])
    with pytest.raises(
        FdlabError, match=f"{type(model).__name__} is not a vision transformer that fdlab reads"
    ) as told:
        Encoder.wrap(model)
    assert "no patch embedding of a known grid" in str(told.value)


def test_half_precision_statistics_are_float32() -> None:
    model = small("vit_tiny_patch16_224", {})
    x = pictures(model)
    exact = measure_attention(Encoder.wrap(model), x, label="one").arrays
    half = measure_attention(Encoder.wrap(model.to(torch.bfloat16)), x, label="one").arrays
    for name in ("distance_ratio", "entropy", "nmi"):
        assert half[name].dtype == np.float32
        np.testing.assert_allclose(half[name], exact[name], atol=0.02)


def test_prefix_kinds_of_class_token_and_registers() -> None:
    model = small("vit_small_patch14_reg4_dinov2", {})
    record = measure_attention(Encoder.wrap(model), pictures(model), label="reg", metrics=["prefix_mass"])
    kinds = [record.arrays[f"prefix_mass_{kind}"] for kind in ("cls", "register")]
    np.testing.assert_allclose(sum(kinds), record.arrays["prefix_mass"], rtol=1e-5)
    assert set(record.table["metric"]) == {"prefix_mass", "prefix_mass_cls", "prefix_mass_register"}


def test_without_renormalising_prefix_attention_shortens_distances() -> None:
    """Uniform attention over 1 + 16 tokens: the distance is 16/17 of the uniform line."""
    model = small("vit_tiny_patch16_224", {})
    for block in model.blocks:  # type: ignore[union-attr]
        nn.init.zeros_(block.attn.qkv.weight)
        nn.init.zeros_(block.attn.qkv.bias)
    found = {
        on: measure_attention(Encoder.wrap(model), pictures(model), label="u", metrics=["distance"], renormalise=on)
        for on in (True, False)
    }
    line = uniform_distance((4, 4), 16)
    np.testing.assert_allclose(found[True].arrays["distance"], line, rtol=1e-5)
    np.testing.assert_allclose(found[False].arrays["distance"], line * 16 / 17, rtol=1e-5)
    assert found[False].manifest["renormalise"] is False


class _Block(nn.Module):
    """A block around torch's own attention, which is asked for its weights as its default is."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attn = nn.LayerNorm(24), nn.MultiheadAttention(24, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.norm(x)
        return x + self.attn(seen, seen, seen)[0]


class _OwnModel(nn.Module):
    """Somebody's own model: timm's patch embedding, blocks of ``nn.MultiheadAttention``, no class token."""

    def __init__(self) -> None:
        super().__init__()
        self.num_features = 24
        self.patch_embed = PatchEmbed(img_size=(32, 64), patch_size=16, embed_dim=24)
        self.blocks = nn.ModuleList(_Block() for _ in range(2))

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        for block in self.blocks:
            x = block(x)
        return x


def test_a_model_of_torchs_own_attention_is_measured() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = Encoder.wrap(_OwnModel())
    assert (encoder.info.depth, encoder.info.heads, encoder.info.grid) == (2, 3, (2, 4))
    images = torch.rand(3, 3, 32, 64, generator=torch.Generator().manual_seed(1))
    found = measure_attention(encoder, images, label="own")
    with torch.no_grad():
        first = encoder.module.blocks[0]
        seen = first.norm(encoder.module.patch_embed(encoder.normalise(images)))
        maps = first.attn(seen, seen, seen, average_attn_weights=False)[1]
    expected = attention_metrics(maps, grid=(2, 4), patch_size=16, metrics=("distance", "entropy"))
    for metric, values in expected.items():
        np.testing.assert_allclose(found.arrays[metric][:, 0], values, rtol=1e-4)

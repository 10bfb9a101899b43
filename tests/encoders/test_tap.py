"""Reading attention: output untouched, maps right, everything put back, partial readings refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_relpos import VisionTransformerRelPos
from torch import Tensor, nn

from fdlab.encoders.tap import AttentionCall, capture_maps, count_blocks, tap
from fdlab.errors import FdlabError

SMALL: dict[str, Any] = {
    "img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4, "num_classes": 0,
}  # fmt: skip


def unfused(model: nn.Module) -> nn.Module:
    for part in model.modules():
        if hasattr(part, "fused_attn"):
            part.fused_attn = False  # type: ignore[assignment]
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {
    "vit": lambda: VisionTransformer(**SMALL),
    "vit unfused": lambda: unfused(VisionTransformer(**SMALL)),
    "registers, qk norm": lambda: VisionTransformer(**SMALL, reg_tokens=4, qk_norm=True),
    "no class token": lambda: VisionTransformer(**SMALL, class_token=False, global_pool="avg"),
    "beit shared bias": lambda: Beit(**SMALL, use_shared_rel_pos_bias=True, use_abs_pos_emb=False),
    "beit own bias": lambda: Beit(**SMALL, use_rel_pos_bias=True),
    "relpos": lambda: VisionTransformerRelPos(**SMALL, class_token=False),
    "eva rope": lambda: Eva(**SMALL, use_rot_pos_emb=True, use_abs_pos_emb=False),
    "map pooling": lambda: VisionTransformer(**SMALL, class_token=False, global_pool="map"),
}


def built(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = MODELS[name]().eval()
        for parameter in model.parameters():  # relative biases start at 0: make them count
            nn.init.normal_(parameter, std=0.3)
    return model


def images(n: int = 2, size: int = 32) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", MODELS)
def test_output_is_bit_equal_and_every_block_is_seen(name: str) -> None:
    model, x = built(name), images()
    calls: list[tuple[int, tuple[int, ...]]] = []
    with torch.no_grad():
        before = model(x)
        with tap(model, lambda call: calls.append((call.block, tuple(call.maps().shape)))):
            during = model(x)
    assert torch.equal(before, during)
    assert [block for block, _ in calls] == [0, 1, 2]
    assert all(shape[:2] == (2, 4) and shape[2] == shape[3] for _, shape in calls)


@pytest.mark.parametrize("name", MODELS)
def test_maps_are_those_the_model_used(name: str) -> None:
    """softmax @ v, computed from the captured map, is what the model's own attention returned."""
    model, x = built(name), images()
    seen: list[tuple[Tensor, Tensor]] = []
    original = F.scaled_dot_product_attention

    def spy(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        out = original(query, key, value, *args, **kwargs)
        if query.shape[-2] > 1:
            seen.append((value, out))
        return out

    maps: list[Tensor] = []
    F.scaled_dot_product_attention = spy
    try:
        with torch.no_grad(), tap(model, lambda call: maps.append(call.maps())):
            model(x)
    finally:
        F.scaled_dot_product_attention = original
    if "unfused" in name:
        assert not seen
        fused = built("vit")
        with torch.no_grad():
            expected = capture_maps(fused, lambda: fused(x), (0, 1, 2))
        for block, found in enumerate(maps):
            torch.testing.assert_close(found, expected[block])
        return
    assert len(seen) == len(maps) == 3
    for found, (value, out) in zip(maps, seen, strict=True):
        torch.testing.assert_close(found.sum(-1), torch.ones_like(found[..., 0]))
        torch.testing.assert_close(found @ value, out, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mask", ["bool", "float", "causal", "scale"])
def test_masks_and_scale_enter_the_logits(mask: str) -> None:
    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([nn.Identity()])

        def forward(self, q: Tensor) -> Tensor:
            seed = torch.Generator().manual_seed(1)
            options: dict[str, Any] = {
                "bool": {"attn_mask": torch.rand(1, 1, 5, 5, generator=seed) + torch.eye(5) > 0.5},
                "float": {"attn_mask": torch.randn(5, 5, generator=seed)},
                "causal": {"is_causal": True},
                "scale": {"scale": 0.7},
            }[mask]
            return F.scaled_dot_product_attention(q, q, torch.eye(5).expand(2, 3, 5, 5), **options)

    q = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(0))
    module, whole = One().eval(), []
    found = {}

    def keep(call: AttentionCall) -> None:
        whole.append(call.maps())
        found["part"] = call.maps(slice(1, 2), slice(2, None))

    with tap(module, keep):
        out = module(q)  # the values are the identity: the output is the map
    torch.testing.assert_close(whole[0], out)
    torch.testing.assert_close(found["part"], out[1:2, :, 2:])


def test_grouped_queries() -> None:
    module = nn.Module().eval()
    q = torch.randn(1, 4, 5, 8, generator=torch.Generator().manual_seed(0))
    k, found = q[:, :2] + 1, []
    with tap(module, lambda call: found.append(call.maps()), expected=1):
        out = F.scaled_dot_product_attention(q, k, torch.eye(5).expand(1, 2, 5, 5), enable_gqa=True)
    torch.testing.assert_close(found[0], out)


@pytest.mark.parametrize("form", ["torch.softmax", "Tensor.softmax", "F.softmax", "nn.Softmax"])
def test_every_softmax_is_seen_once(form: str) -> None:
    scores = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    found: list[Tensor] = []
    with tap(nn.Module().eval(), lambda call: found.append(call.maps()), expected=1):
        out = {
            "torch.softmax": lambda: torch.softmax(scores, -1),
            "Tensor.softmax": lambda: scores.softmax(dim=-1),
            "F.softmax": lambda: F.softmax(scores, dim=3),
            "nn.Softmax": lambda: nn.Softmax(dim=-1)(scores),
        }[form]()
        scores[0].softmax(-1), scores.softmax(1), scores[..., :4].softmax(-1)  # no self maps: not counted
    assert len(found) == 1
    assert torch.equal(found[0], out)


def test_windows_come_as_they_are() -> None:
    model = SwinTransformer(
        img_size=32, patch_size=4, window_size=4, embed_dim=16, depths=(2, 2), num_heads=(2, 4), num_classes=0
    ).eval()
    assert count_blocks(model) == 4
    with torch.no_grad():
        maps = capture_maps(model, lambda: model(images()), (0, -1))
    assert maps[0].shape == (2 * 4, 2, 16, 16)
    assert maps[-1].shape == (2, 4, 16, 16)


def test_capture_keys_as_given_and_gradients_follow() -> None:
    model, x = built("vit"), images().requires_grad_()
    maps = capture_maps(model, lambda: model(x), (0, -1, 2))
    assert list(maps) == [0, -1, 2]
    assert maps[-1] is maps[2]
    maps[-1][..., 0].sum().backward()
    assert x.grad is not None
    assert float(x.grad.abs().max()) > 0
    with torch.no_grad():
        assert not capture_maps(model, lambda: model(x), (0,))[0].requires_grad
    with pytest.raises(FdlabError, match="Block 3"):
        capture_maps(model, lambda: model(x), (3,))


def patched() -> tuple[Any, ...]:
    return (
        F.scaled_dot_product_attention, F.softmax, torch.softmax, torch.Tensor.softmax,
        "softmax" in vars(torch.Tensor), torch.backends.mha.get_fastpath_enabled(),
        F.multi_head_attention_forward,
    )  # fmt: skip


def test_everything_is_put_back_also_after_an_exception() -> None:
    before, model = patched(), built("vit")
    with tap(model, lambda call: None):
        assert F.scaled_dot_product_attention is not before[0]
        assert torch.softmax is not before[2]
        assert torch.backends.mha.get_fastpath_enabled() is False
        model(images())
    assert patched() == before

    def fail(call: AttentionCall) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), tap(model, fail):
        model(images())
    assert patched() == before


def test_multi_head_attention_module_is_seen_despite_its_fast_path() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
    model = nn.TransformerEncoder(layer, 2).eval()
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    shapes = []
    with torch.no_grad():
        before = model(x)
        with tap(model, lambda call: shapes.append(call.shape), expected=2):
            during = model(x)
    assert shapes == [(2, 2, 5, 5)] * 2
    torch.testing.assert_close(before, during)


@pytest.mark.parametrize("weights", [{"need_weights": False}, {}, {"average_attn_weights": False}])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("masked", [False, True])
def test_multi_head_attention_is_read_whether_or_not_it_gives_its_weights(
    weights: dict[str, bool], batch_first: bool, masked: bool
) -> None:
    model = nn.MultiheadAttention(16, 4, batch_first=batch_first).eval()
    x = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(0))
    inputs = x if batch_first else x.transpose(0, 1)
    mask = torch.randn(5, 5, generator=torch.Generator().manual_seed(1)) if masked else None
    _, expected = model(inputs, inputs, inputs, average_attn_weights=False, attn_mask=mask)
    before = model(inputs, inputs, inputs, attn_mask=mask, **weights)[0]
    maps = []
    with tap(model, lambda call: maps.append(call.maps()), expected=1):
        during = model(inputs, inputs, inputs, attn_mask=mask, **weights)[0]
    torch.testing.assert_close(maps[0], expected)
    assert torch.equal(before, during)


def test_a_partial_reading_is_an_error() -> None:
    model = built("vit")
    hidden = model.blocks[1].attn  # type: ignore[union-attr, index]
    hidden.forward = lambda x, **_: x  # type: ignore[union-attr, assignment]
    with pytest.raises(FdlabError, match="seen 2 of 3"), tap(model, lambda call: None):
        model(images())
    with pytest.raises(FdlabError, match="seen 0 of 3"), tap(built("vit"), lambda call: None):
        pass
    again, blocks = built("vit"), []
    with pytest.raises(FdlabError, match="seen 4 of 3"), tap(again, lambda call: blocks.append(call.block)):
        again(images()), again(images())
    assert blocks == [0, 1, 2]


def test_pooled_keys_are_refused() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([nn.Identity()])

        def forward(self, x: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(x, x[..., ::2, :], x[..., ::2, :])

    with pytest.raises(FdlabError, match="seen 0 of 1"):
        capture_maps(Pooled().eval(), lambda: Pooled()(torch.randn(1, 2, 8, 4)), (0,))


def test_train_mode_compiled_and_unknown_models_are_refused() -> None:
    with pytest.raises(FdlabError, match="eval mode"), tap(built("vit").train(), lambda call: None):
        pass
    half = built("vit")
    half.blocks[0].train()  # type: ignore[union-attr, index]
    with pytest.raises(FdlabError, match="eval mode"), tap(half, lambda call: None):
        pass
    with pytest.raises(FdlabError, match="compiled"), tap(torch.compile(built("vit")), lambda call: None):  # type: ignore[arg-type]
        pass
    inner = built("vit")
    inner.blocks[0].compile()  # type: ignore[union-attr, index]
    with pytest.raises(FdlabError, match="compiled"), tap(inner, lambda call: None):
        pass
    with pytest.raises(FdlabError, match="not known"), tap(nn.Linear(2, 2).eval(), lambda call: None):
        pass

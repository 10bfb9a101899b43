"""SwinV2-G's naming: extra norms and one bias network a stage, against a stock Swin V2 with hooks."""

from __future__ import annotations

import re

import pytest
import torch
from timm.models.swin_transformer_v2 import SwinTransformerV2
from torch import nn

from fdlab.checkpoints.export import export_model
from fdlab.checkpoints.open import open_model
from fdlab.errors import FdlabError

END, INSIDE = [(0, 1), (1, 0), (1, 2)], [(1, 0), (1, 1), (1, 2)]


def reference(width, heads, window):
    """(a stock Swin V2 that hooks turn into the giant's form, its file's entries in the authors' naming)."""
    torch.manual_seed(width)
    size = 4 * 2 * window
    model = SwinTransformerV2(
        img_size=size, window_size=window, embed_dim=width, depths=(2, 3), num_heads=heads, num_classes=0
    ).eval()
    extra = {}
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    for stage, number in {*END, *INSIDE}:
        block = model.layers[stage].blocks[number]
        if (stage, number) in END:
            norm = extra[f"layers.{stage}.blocks.{number}.enorm"] = nn.LayerNorm(width << stage)
            block.register_forward_hook(lambda _module, _inputs, output, norm=norm: norm(output))
        if (stage, number) in INSIDE:
            norm = extra[f"layers.{stage}.blocks.{number}.mlp.norm"] = nn.LayerNorm(4 * (width << stage))
            block.mlp.act.register_forward_pre_hook(lambda _module, inputs, norm=norm: (norm(inputs[0]),))
    for norm in extra.values():
        nn.init.normal_(norm.weight, 1.0, 0.3)
        nn.init.normal_(norm.bias, std=0.3)
    state = {}
    for stage in model.layers:  # one bias network a stage
        for block in stage.blocks[1:]:
            block.attn.cpb_mlp = stage.blocks[0].attn.cpb_mlp
    kept = {key: value for key, value in model.named_buffers() if not key.endswith("k_bias")}
    for key, value in {**model.state_dict(), **kept}.items():
        match = re.match(r"layers\.(\d+)\.blocks\.(\d+)\.attn\.(cpb_mlp\..*|relative_\w+)$", key)
        if match and match[2] == "0":
            state[f"layers.{match[1]}.rel_pos_bias.{match[3].replace('cpb_mlp', 'rpe_mlp')}"] = value.clone()
        elif not match:
            merging = re.match(r"layers\.(\d+)\.downsample\.(.*)", key)
            key = f"layers.{int(merging[1]) - 1}.downsample.{merging[2]}" if merging else key
            state[key] = value.clone()
    state |= {f"{name}.{part}": value for name, norm in extra.items() for part, value in norm.state_dict().items()}
    return model, state, torch.randn(2, 3, size, size)


@pytest.mark.parametrize(("width", "heads", "window"), [(16, (2, 4), 4), (24, (3, 3), 3)])
@pytest.mark.parametrize("prefix", ["", "encoder."])
def test_the_giants_norms_are_where_they_belong(width, heads, window, prefix, tmp_path):
    model, state, images = reference(width, heads, window)
    entries = {prefix + key: value for key, value in state.items()}
    if prefix:  # a distillation's file: the teacher beside it is not looked at
        entries |= {"decoder.0.weight": torch.zeros(5, 2 * width, 1), "decoder.0.bias": torch.zeros(5)}
        entries["feature_model.patch_embed.proj.weight"] = torch.zeros(2, 3, 4, 4)
    torch.save({"model": entries}, tmp_path / "x.pth")
    encoder = open_model(tmp_path / "x.pth", image_size=images.shape[-1])
    with torch.no_grad():
        expected = model.forward_features(images).flatten(1, 2)
        got = encoder.tokens(images)
    assert (got - expected).abs().max() < 1e-5 * expected.abs().max()
    assert any("giant" in sentence for sentence in encoder.info.assumed)
    with pytest.raises(FdlabError, match="timm has no class"):
        export_model(encoder, tmp_path / "y.safetensors", "timm")
    export_model(encoder, tmp_path / "z.safetensors", "safetensors")
    with torch.no_grad():
        assert torch.equal(open_model(tmp_path / "z.safetensors").tokens(images), got)

"""Own files in Hugging Face's spellings, a distilled ViT without class token, and two released small models."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode adds no folder by itself

from layouts import EPS5, LAYOUTS, SIZES, beit, renamed, vit

from fdlab.checkpoints.open import open_model
from fdlab.checkpoints.recognise import FAMILIES
from fdlab.errors import FdlabError

HF = (
    (r"^(cls_token)$", r"embeddings.\1"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^blocks\.", "encoder.layer."),
    (r"attn\.proj\.", "attention.output.dense."),
    (r"mlp\.fc1\.", "intermediate.dense."),
    (r"mlp\.fc2\.", "output.dense."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"^norm\.", "layernorm."),
    (r"gamma_([12])", r"lambda_\1"),
)


def parts(state, names=("attention.attention.query", "attention.attention.key", "attention.attention.value")):
    """Fused q, k, v as three layers; without a key bias where the biases stand apart."""
    out = {}
    for key, value in state.items():
        match = re.fullmatch(r"(.*)attn\.(qkv\.weight|qkv\.bias|q_bias|v_bias)", key)
        if not match:
            out[key] = value
        elif match[2].startswith("qkv"):
            kind = match[2].split(".")[1]
            pieces = zip(names, value.chunk(3), strict=True)
            out |= {f"{match[1]}{name}.{kind}": piece.contiguous() for name, piece in pieces}
        else:
            out[f"{match[1]}{names[0 if match[2] == 'q_bias' else 2]}.bias"] = value
    return out


def prefixed(state, prefix):
    return {prefix + key: value for key, value in state.items()}


def hf_vit(s):
    state = prefixed(parts(renamed(vit(s, num_classes=3, global_pool="token"), *HF)), "vit.")
    state = {key.replace("vit.head.", "classifier."): value for key, value in state.items()}
    return vit(s, num_classes=3, global_pool="token"), state, "vit", "hf_vit"


def hf_mae_5(s):
    state = prefixed(parts(renamed(vit(s), *HF)), "vit.")
    return vit(s), {**state, "decoder.decoder_encoder.layer.0.x": torch.zeros(2)}, "vit_mae", "hf_vitmae"


def hf_data2vec(s):
    module = beit(s, use_shared_rel_pos_bias=False, use_rel_pos_bias=True)
    state = parts(renamed(module, *HF))
    table, place = "attn.relative_position_bias_table", "attention.attention.relative_position_bias."
    state = {key.replace(table, place + "relative_position_bias_table"): value for key, value in state.items()}
    return module, state, "data2vec-vision", "hf_beit"


def hf_clip_5(s):
    """transformers 5: no ``vision_model.`` in front."""
    rules = (
        (r"^cls_token$", "embeddings.class_embedding"),
        (r"^pos_embed$", "embeddings.position_embedding.weight"),
        (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
        (r"^norm_pre\.", "pre_layrnorm."),
        (r"^norm\.", "post_layernorm."),
        (r"^blocks\.", "encoder.layers."),
        (r"attn\.proj\.", "self_attn.out_proj."),
        (r"\.norm([12])\.", r".layer_norm\1."),
    )
    module = vit(s, pre_norm=True, act_layer="quick_gelu", norm_layer=EPS5)
    state = parts(renamed(module, *rules), tuple(f"self_attn.{name}_proj" for name in "qkv"))
    state["embeddings.class_embedding"] = state["embeddings.class_embedding"][0, 0].clone()
    state["embeddings.position_embedding.weight"] = state["embeddings.position_embedding.weight"][0].clone()
    return module, state, "clip_vision_model", "hf_clip_vision"


def hf_dinov2_registers(s):
    """The class token's position stands in the table's first row; timm has none, so it goes into the token."""
    module = vit(s, init_values=1.0, reg_tokens=4, no_embed_class=True)
    names = tuple(rule for rule in HF if not re.search(r"mlp|norm[12]", rule[0]))
    scales = ((r"\.ls([12])\.gamma$", r".layer_scale\1.lambda1"), ("^reg_token$", "embeddings.register_tokens"))
    state = parts(renamed(module, *names, *scales))
    row = torch.randn(1, 1, s.width, generator=torch.Generator().manual_seed(2))
    table, token = "embeddings.position_embeddings", "embeddings.cls_token"
    state |= {table: torch.cat([row, state[table]], 1), token: state[token] - row}
    state["embeddings.mask_token"] = torch.zeros(1, s.width)
    return module, prefixed(state, "dinov2_with_registers."), "dinov2_with_registers", "hf_dinov2"


@pytest.mark.parametrize("sizes", SIZES[:2], ids=lambda s: f"{s.width}x{s.depth}")
@pytest.mark.parametrize("make", [hf_vit, hf_mae_5, hf_data2vec, hf_dinov2_registers, hf_clip_5])
def test_hub_folders_of_other_sizes(make, sizes, tmp_path):
    module, state, kind, family = make(sizes)
    eps = 1e-5 if kind.startswith("clip") else 1e-6
    config = {"model_type": kind, "num_attention_heads": sizes.heads, "layer_norm_eps": eps}
    config["hidden_act"] = "quick_gelu" if kind.startswith("clip") else "gelu"
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    encoder = open_model(tmp_path)
    images = torch.randn(2, 3, *module.patch_embed.img_size)
    with torch.no_grad():
        expected = module.forward_features(images)
        assert float((encoder.tokens(images) - expected).abs().max() / expected.abs().max()) < 1e-5
    info = encoder.info
    assert info.family == family and info.classes == getattr(module, "num_classes", 0)
    assert info.norm_eps == eps and info.activation == config["hidden_act"]
    assert not any("heads" in sentence for sentence in info.assumed)
    with pytest.raises(FdlabError, match="holds no 'ema'"):
        open_model(f"{tmp_path}@ema")


@pytest.mark.parametrize("quick", [False, True])
def test_open_clip_configuration_settles_the_activation(quick, tmp_path):
    """The sentence on QuickGELU stands only where neither the configuration nor the user says it."""
    module, content, given = LAYOUTS["open_clip"][0](SIZES[2])
    save_file({key: value.contiguous() for key, value in content(module)["state_dict"].items()}, tmp_path / "x")
    (tmp_path / "x").rename(tmp_path / "open_clip_model.safetensors")

    def warned(**more):
        info = open_model(tmp_path, **given, **more).info
        return any("QuickGELU cannot be seen" in sentence for sentence in info.assumed), info.activation

    assert warned() == (True, "gelu")
    assert warned(activation="quick_gelu") == (False, "quick_gelu")
    vision = {"head_width": SIZES[2].width // SIZES[2].heads}
    config = {"model_cfg": {"quick_gelu": quick, "vision_cfg": vision}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    assert warned() == (False, "quick_gelu" if quick else "gelu")


def distilled_without_class_token(grid=3, patch=4, width=24, heads=2):
    """(state of a one-block student without class token, its tokens by plain arithmetic)."""
    draw = torch.Generator().manual_seed(0)
    shapes = {
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
        "rel_pos_bias.relative_position_bias_table": ((2 * grid - 1) ** 2, heads),
        **{f"blocks.0.{name}": (width,) for name in ("gamma_1", "gamma_2", "attn.q_bias", "attn.v_bias")},
        **{
            f"{name}.{kind}": (width,)
            for name in ("norm", "blocks.0.norm1", "blocks.0.norm2")
            for kind in ("weight", "bias")
        },
        "blocks.0.attn.qkv.weight": (3 * width, width),
        "blocks.0.attn.proj.weight": (width, width),
        "blocks.0.attn.proj.bias": (width,),
        "blocks.0.mlp.fc1.weight": (2 * width, width),
        "blocks.0.mlp.fc1.bias": (2 * width,),
        "blocks.0.mlp.fc2.weight": (width, 2 * width),
        "blocks.0.mlp.fc2.bias": (width,),
    }
    w = {name: 0.5 * torch.randn(shape, generator=draw) for name, shape in shapes.items()}
    images = torch.randn(2, 3, grid * patch, grid * patch, generator=draw)

    def norm(x, name):
        return functional.layer_norm(x, (width,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)

    x = (
        functional.conv2d(images, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], patch)
        .flatten(2)
        .transpose(1, 2)
    )
    bias = torch.cat([w["blocks.0.attn.q_bias"], torch.zeros(width), w["blocks.0.attn.v_bias"]])
    qkv = functional.linear(norm(x, "blocks.0.norm1"), w["blocks.0.attn.qkv.weight"], bias)
    q, k, v = qkv.view(2, -1, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    place = torch.stack(torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")).flatten(1)
    offset = place[:, :, None] - place[:, None] + grid - 1  # query minus key
    table = w["rel_pos_bias.relative_position_bias_table"][offset[0] * (2 * grid - 1) + offset[1]].permute(2, 0, 1)
    attention = (q @ k.transpose(-1, -2) * (width // heads) ** -0.5 + table).softmax(-1)
    out = (attention @ v).transpose(1, 2).flatten(2)
    x = x + w["blocks.0.gamma_1"] * functional.linear(out, w["blocks.0.attn.proj.weight"], w["blocks.0.attn.proj.bias"])
    hidden = functional.gelu(
        functional.linear(norm(x, "blocks.0.norm2"), w["blocks.0.mlp.fc1.weight"], w["blocks.0.mlp.fc1.bias"])
    )
    x = x + w["blocks.0.gamma_2"] * functional.linear(hidden, w["blocks.0.mlp.fc2.weight"], w["blocks.0.mlp.fc2.bias"])
    return w, images, norm(x, "norm"), attention


def test_a_distilled_vit_without_class_token(tmp_path):
    state, images, tokens, attention = distilled_without_class_token()
    content = {
        **prefixed(state, "encoder."),
        "decoder.0.weight": torch.zeros(4, 24, 1),
        "decoder.0.bias": torch.zeros(4),
    }
    torch.save({"model": content}, tmp_path / "x.pth")
    encoder = open_model(tmp_path / "x.pth")
    with torch.no_grad():
        assert torch.allclose(encoder.tokens(images), tokens, atol=1e-5)
        assert torch.allclose(encoder.attention(images)[0], attention, atol=1e-6)
    assert encoder.info.family == "fd_vit_distilled" and encoder.info.prefix_tokens == 0


@pytest.mark.slow
def test_released_small_models_classify_as_their_notes_say(shared):
    """73.0 and 81.0 percent on 1,017 lossless images; here the first 120, so a wide band."""
    import io

    import numpy as np
    from PIL import Image

    parquet = pytest.importorskip("pyarrow.parquet")
    found = sorted(shared("data").rglob("test_lossless_1017.parquet"))
    if not found:
        pytest.skip("the lossless test images are not there")
    table = parquet.read_table(found[0]).slice(0, 120).to_pydict()
    key = "img" if "img" in table else "image"
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(entry["bytes"])).convert("RGB")) for entry in table[key]])
    labels = torch.tensor(table["label"])
    for name, floor in (("scratch.safetensors", 0.6), ("mae_finetuned.pth", 0.7)):
        encoder = open_model(shared(f"data/trained/vit_d12_w72_p2_cifar10_{name}"))
        images = encoder.normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)
        with torch.no_grad():
            correct = encoder.logits(images).argmax(1) == labels
        assert encoder.info.family == "mae_small" and encoder.info.heads == 3
        assert float(correct.float().mean()) > floor


@pytest.mark.slow
def test_stock_names_have_the_sizes_that_they_stand_for():
    import timm

    for family in FAMILIES:
        for (width, depth, patch), name in family.timm_names.items():
            assert timm.is_model(name.split(".")[0]), name
            with torch.device("meta"):
                module = timm.create_model(name, pretrained=False)
            stages = (
                [len(stage.blocks) for stage in module.layers] if hasattr(module, "layers") else [len(module.blocks)]
            )
            assert (module.patch_embed.proj.weight.shape[0], sum(stages), module.patch_embed.patch_size[0]) == (
                width,
                depth,
                patch,
            )

"""transformers 5 names its modules in memory otherwise than its files: a ``torch.save`` of them is the same network."""

from __future__ import annotations

import re

import pytest
import torch
from safetensors.torch import load_file

from fdlab.checkpoints.open import open_model

_COMMON = (
    (r"\.attention\.(attention|self)\.(query|key|value)\.", lambda m: f".attention.{m[2][0]}_proj."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
)
_VIT = (*_COMMON, (r"encoder\.layer\.", "layers."))
_BEIT = (
    (r"encoder\.relative_position_bias\.", "shared_position_bias."),
    (r"\.attention\.attention\.relative_position_bias\.", ".relative_position_bias."),
    *_VIT,
)
_SWIN = (
    (r"\.attention\.self\.(relative_position_bias)_table", r".attention.\1.relative_position_bias_table"),
    *_COMMON,
)


@pytest.mark.parametrize("outer", ["", "model."])
@pytest.mark.parametrize(
    ("name", "rules"),
    [
        ("hf_vit", _VIT),
        ("hf_beit", _BEIT),
        ("hf_beit_segmentation", _BEIT),
        ("hf_swin", _SWIN),
        ("hf_deit_classifier", _VIT),
    ],
)
def test_a_table_of_modules_in_memory_is_the_same_network(shared, tmp_path, name, rules, outer):
    folder = shared(f"fixtures/{name}")
    saved = open_model(folder)
    table = {}
    for key, value in load_file(folder / "model.safetensors").items():
        for pattern, new in rules:
            key = re.sub(pattern, new, key)
        table[f"{outer}{key}"] = value
    torch.save({"state_dict": table} if outer else table, tmp_path / "x.pth")
    heads = {} if saved.info.windows or "beit" in name else {"heads": saved.info.heads}
    opened = open_model(tmp_path / "x.pth", image_size=saved.info.image_size, **heads)
    weights, expected = opened.module.state_dict(), saved.module.state_dict()
    assert set(weights) == set(expected) and all(torch.equal(weights[key], expected[key]) for key in weights)

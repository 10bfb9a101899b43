"""The layer behind a block's heads is found by what flows into it, whatever it is called."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fdlab
from fdlab.encoders.head_outputs import heads_refusal, projections, without_head
from fdlab.errors import FdlabError
from tests.encoders.own_vits import HEADS, SIDE, WIDTH, OwnViT


@pytest.mark.parametrize("kind", ["sdpa", "early sdpa", "manual", "flat sdpa"])
def test_the_projection_of_own_code_is_found_by_value(kind: str) -> None:
    encoder = fdlab.wrap(OwnViT(kind))
    names = encoder.anatomy.projections
    assert names is not None and len(names) == encoder.info.depth
    assert all(name.endswith(".out") for name in names)
    found = projections(encoder)
    assert [one.heads for one in found] == [HEADS] * encoder.info.depth
    images = torch.randn(1, 3, SIDE, SIDE)
    before = encoder.tokens(images)
    with without_head(found[0], 1):
        assert not torch.equal(encoder.tokens(images), before)
    assert torch.equal(encoder.tokens(images), before)


def test_a_layer_that_sees_mixed_heads_is_no_projection() -> None:
    module = OwnViT("sdpa")
    for block in module.modules():
        if hasattr(block, "qkv") and hasattr(block, "out"):
            block.out = nn.Sequential(nn.LayerNorm(WIDTH), block.out)  # type: ignore[assignment]
    encoder = fdlab.wrap(module)
    assert encoder.info.attention == "complete" and encoder.anatomy.projections == ()
    why = heads_refusal(encoder)
    assert why is not None and "side by side" in why.why and why.code == 3


def test_a_network_without_attention_has_no_heads() -> None:
    encoder = fdlab.wrap(nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.ReLU()), image_size=32)
    with pytest.raises(FdlabError, match="has no heads"):
        projections(encoder)

"""Layer decay and the units of sharing in networks of other names, against tables written by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import fdlab
from fdlab.encoders.anatomy import anatomy_of
from fdlab.encoders.encoder import blocks_of
from fdlab.engine.optim import optimizer_groups
from fdlab.engine.settings import OptimSettings


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln, self.mix, self.ff = nn.LayerNorm(8), nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln(x)
        return x + self.mix(y, y, y, need_weights=False)[0] + self.ff(y)


class Trunk(nn.Module):
    """The table of positions belongs to the module around the blocks; a norm stands between two of them."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(0.02 * torch.randn(1, 17, 8))
        self.layers = nn.ModuleList(Layer() for _ in range(3))
        self.between, self.last = nn.LayerNorm(8), nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.places
        for number, layer in enumerate(self.layers):
            x = layer(self.between(x) if number == 2 else x)
        return self.last(x)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.cls, self.trunk = nn.Conv2d(3, 8, 8, 8), nn.Parameter(torch.randn(1, 1, 8)), Trunk()
        self.answer = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images).flatten(2).transpose(1, 2)
        return self.answer(self.trunk(torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1))[:, 0])


# parameter -> levels below the head of three blocks: the stem 4, blocks 3, 2, 1, what is between with the block before
HAND = {
    "stem.weight": 4,
    "cls": 4,
    "trunk.places": 4,
    "trunk.layers.0.ln.weight": 3,
    "trunk.layers.0.mix.in_proj_weight": 3,
    "trunk.layers.1.ff.weight": 2,
    "trunk.between.weight": 2,
    "trunk.layers.2.mix.out_proj.weight": 1,
    "trunk.last.bias": 1,
}


def scales(module: nn.Module) -> dict[str, float]:
    parts = nn.ModuleDict({"encoder": module, "head": nn.Linear(8, 2)})
    groups = optimizer_groups(parts, OptimSettings(layer_decay=0.5, weight_decay=0.1))
    of = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    assert of[id(parts["head"].get_parameter("weight"))] == 1
    return {name: of[id(parameter)] for name, parameter in module.named_parameters()}


def test_an_own_vit_has_the_levels_of_the_table() -> None:
    module = fdlab.wrap(Net(), image_size=32).module
    found = scales(module)
    assert {name: found[name] for name in HAND} == {name: 0.5**level for name, level in HAND.items()}


@pytest.mark.parametrize(
    ("name", "options", "blocks", "table"),
    [
        (
            "resnet18",
            {"image_size": 64},
            8,
            {"conv1.weight": 9, "bn1.bias": 9, "layer1.0.conv1.weight": 8, "layer2.0.downsample.0.weight": 6,
             "layer3.1.conv2.weight": 3, "layer4.1.bn2.weight": 1},
        ),
        (
            "convnext_tiny",
            {"image_size": 64},
            18,
            {"features.0.0.weight": 19, "features.1.0.block.0.weight": 18, "features.2.1.weight": 16,
             "features.3.0.block.0.weight": 15, "features.7.2.layer_scale": 1},
        ),
    ],
)  # fmt: skip
def test_convolutional_networks_have_the_levels_of_the_table(
    name: str, options: dict[str, int], blocks: int, table: dict[str, int]
) -> None:
    models = pytest.importorskip("torchvision.models")
    encoder = fdlab.wrap(getattr(models, name)(), **options)
    assert encoder.info.depth == blocks
    found = scales(encoder.module)
    assert {key: found[key] for key in table} == {key: pytest.approx(0.5**level) for key, level in table.items()}


def test_units_of_sharing_are_the_blocks_and_a_copy_keeps_its_anatomy(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch.distributed.fsdp as fsdp

    from fdlab.checkpoints.own_code import live_source, open_live
    from fdlab.engine.strategy import _shard

    encoder = open_live(live_source(fdlab.wrap(Net(), image_size=32)))
    shared: list[nn.Module] = []
    monkeypatch.setattr(fsdp, "fully_shard", shared.append)
    monkeypatch.setattr(fsdp, "register_fsdp_forward_method", lambda *_: None)
    root = nn.Module()
    root.module = nn.ModuleDict({"encoder": encoder.module})
    _shard(root)  # type: ignore[arg-type]
    assert shared == [*encoder.module.get_submodule("trunk.layers"), root]
    copied = copy.deepcopy(encoder.module)
    assert anatomy_of(copied) == encoder.anatomy
    assert [type(block) for block in blocks_of(copied)] == [Layer] * 3
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(anatomy_of(copied).read_tokens(copied, images), encoder.tokens(images))


def test_a_module_of_the_callers_own_gets_nothing_attached() -> None:
    module = Net()
    before = set(vars(module))
    fdlab.wrap(module, image_size=32)
    assert set(vars(module)) == before

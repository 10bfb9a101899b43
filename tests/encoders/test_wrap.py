"""Any module: what is inferred, what is refused and why, and that the caller's module stays as it was."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fdlab
from fdlab.errors import FdlabError
from tests.encoders.own_vits import HEADS, PATCH, SIDE, WIDTH, OwnViT, own, split

COMPLETE = "complete"
# (options of the network, arguments of wrap, the verdict on attention, prefix tokens)
ZOO: dict[str, tuple[dict[str, Any], dict[str, Any], str, int]] = {
    "sdpa": ({}, {}, COMPLETE, 1),
    "sdpa imported by name": ({"kind": "early sdpa"}, {}, COMPLETE, 1),
    "images and heads joined": ({"kind": "flat sdpa"}, {}, COMPLETE, 1),
    "softmax": ({"kind": "manual"}, {}, COMPLETE, 1),
    "softmax imported by name": ({"kind": "early softmax"}, {}, COMPLETE, 1),
    "einsum": ({"kind": "einsum"}, {}, COMPLETE, 1),
    "MultiheadAttention": ({"kind": "mha"}, {}, COMPLETE, 1),
    "MultiheadAttention, sequence first": ({"kind": "mha sequence first"}, {}, COMPLETE, 1),
    "MultiheadAttention, weights": ({"kind": "mha weights"}, {}, COMPLETE, 1),
    "TransformerEncoder": ({"kind": "encoder"}, {}, COMPLETE, 1),
    "TransformerEncoder, sequence first": ({"kind": "encoder sequence first"}, {}, COMPLETE, 1),
    "class token last": ({"last": True}, {}, COMPLETE, 1),
    "no prefix": ({"prefix": 0}, {}, COMPLETE, 0),
    "five prefix tokens": ({"prefix": 5}, {}, COMPLETE, 5),
    "linear patches": ({"linear": True}, {}, COMPLETE, 1),
    "head on all tokens": ({"head": "all"}, {}, COMPLETE, 1),
    "dict": ({"head": "dict"}, {}, COMPLETE, 1),
    "not square": ({"size": (64, 48)}, {"image_size": (64, 48)}, COMPLETE, 1),
    "mixed heads": ({"kind": "talking"}, {}, "refused: layers.0.mixer: its map is changed after the softmax", 1),
    "sigmoid": ({"kind": "sigmoid"}, {}, "refused: ", 1),
    "exp and sum": ({"kind": "by hand"}, {}, "refused: ", 1),
    "softmax over queries": ({"kind": "columns"}, {}, "refused: ", 1),
    "linear attention": ({"kind": "linear"}, {}, "refused: ", 1),
    "channels": ({"kind": "channel"}, {}, "refused: layers.0.mixer attends between channels (8 x 8)", 1),
    "pooled keys": ({"kind": "pooled"}, {}, "refused: layers.0.mixer: keys are pooled (17 queries, 9 keys)", 1),
    "foreign kernel": ({"kind": "kernel"}, {}, "refused: ", 1),
}  # fmt: skip


def noise(n: int = 2, size: tuple[int, int] = (SIDE, SIDE)) -> Tensor:
    return torch.randn(n, 3, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ZOO)
def test_own_networks_get_their_verdict(name: str) -> None:
    options, arguments, verdict, prefix = ZOO[name]
    module = own(**options)
    encoder = fdlab.wrap(module, **arguments)
    info, size = encoder.info, options.get("size", (SIDE, SIDE))
    assert info.attention.startswith(verdict), info.attention
    assert (info.prefix_tokens, info.depth, info.patch_size) == (prefix, 3, PATCH)
    assert info.grid == (size[0] // PATCH, size[1] // PATCH)
    tokens = encoder.tokens(noise(size=size))
    assert tokens.shape == (2, prefix + math.prod(info.grid), WIDTH)
    seen: list[Tensor] = []
    handle = module.final.register_forward_hook(lambda _m, _i, out: seen.append(out))
    with torch.no_grad():
        module.eval()(noise(size=size))
    handle.remove()
    assert torch.allclose(tokens, seen[0].roll(prefix, 1) if options.get("last") else seen[0], atol=1e-6)
    if verdict is not COMPLETE:
        with pytest.raises(FdlabError) as error:
            encoder.attention(noise(size=size))
        assert info.attention.removeprefix("refused: ") in str(error.value)
        return
    assert info.heads == HEADS
    maps = encoder.attention(noise(size=size), (0, 2))
    assert maps[0].shape == (2, HEADS, tokens.shape[1], tokens.shape[1])


@pytest.mark.parametrize("kind", [options["kind"] for options, _, verdict, _ in ZOO.values()
                                  if verdict == COMPLETE and "kind" in options])  # fmt: skip
def test_maps_are_those_of_queries_and_keys(kind: str) -> None:
    module = own(kind).eval()
    found = fdlab.wrap(module).attention(noise(), (0,))[0]
    inputs: list[Tensor] = []
    first = module.layers.layers[0] if kind.startswith("encoder") else module.layers[0]
    norm = first.norm1 if kind.startswith("encoder") else first.one
    handle = norm.register_forward_hook(lambda _m, _i, out: inputs.append(out))
    with torch.no_grad():
        module(noise())
    handle.remove()
    x = inputs[0].transpose(0, 1) if kind == "encoder sequence first" else inputs[0]
    mha = first.self_attn if kind.startswith("encoder") else getattr(first.mixer, "mha", None)
    qkv = x @ mha.in_proj_weight.T + mha.in_proj_bias if mha is not None else first.mixer.qkv(x)
    q, k, _ = split(qkv)
    wanted = (q @ k.transpose(-2, -1) / math.sqrt(WIDTH / HEADS)).softmax(-1)
    assert (found - wanted).abs().max() < 1e-6


# --- the caller's module -------------------------------------------------------------------------------------


def test_the_module_is_left_as_it_was() -> None:
    inner = own("mha")
    module = nn.Sequential(inner, nn.Dropout(0.5))
    inner.layers[1].eval()  # a part that is frozen in eval mode
    inner.pos.requires_grad_(False)
    inner.classifier.weight.grad = torch.ones(5, WIDTH)
    before = copy.deepcopy(module.state_dict())
    modes = [part.training for part in module.modules()]
    attributes = [sorted(vars(part)) for part in module.modules()]
    hooks = [(len(part._forward_hooks), len(part._forward_pre_hooks)) for part in module.modules()]
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    encoder = fdlab.wrap(module, name="mine")
    encoder.tokens(noise())
    encoder.attention(noise())
    fdlab.measure("attention", {"mine": encoder}, "digits", images=4)
    assert encoder.module is module
    assert [part.training for part in module.modules()] == modes
    assert [sorted(vars(part)) for part in module.modules()] == attributes
    assert [(len(part._forward_hooks), len(part._forward_pre_hooks)) for part in module.modules()] == hooks
    assert torch.backends.mha.get_fastpath_enabled() == fused
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert not inner.pos.requires_grad and inner.pos.grad is None
    assert torch.equal(inner.classifier.weight.grad, torch.ones(5, WIDTH))


def test_identity_is_more_than_the_tensors() -> None:
    def sha(module: nn.Module) -> str:
        return fdlab.wrap(module).info.sha256

    first = own()
    assert sha(copy.deepcopy(first).eval()) == sha(first)
    heads = own()
    for layer in heads.layers:
        layer.mixer.sdpa = lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=0.1)
    eps, activation, buffer = own(), own(), own()
    eps.final.eps = 1e-3
    activation.layers[0].mlp[1] = nn.GELU(approximate="tanh")
    buffer.final.register_buffer("beside", torch.ones(3), persistent=False)
    changed = [sha(module) for module in (first, heads, eps, activation, buffer)]
    assert len(set(changed)) == len(changed)


def test_measure_takes_modules_and_sources_together() -> None:
    table = fdlab.measure("attention", {"mine": own(), "other": "random:vit_tiny_patch16_224"}, images=2)
    assert set(table["model"]) == {"mine", "other"}
    assert set(fdlab.measure("attention", own(), "digits", images=4)["model"]) == {"OwnViT"}


# --- what is asked for and what is refused -------------------------------------------------------------------------


class Noisy(OwnViT):
    def forward(self, images: Tensor) -> Any:
        return super().forward(images + 0.1 * torch.randn_like(images))


class AnySize(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.stem(images).mean((2, 3)))


def test_what_is_ambiguous_is_asked_for() -> None:
    with pytest.raises(FdlabError, match=r"several image sizes(.|\n)*Give image_size="):
        fdlab.wrap(AnySize())
    encoder = fdlab.wrap(AnySize(), image_size=32)
    assert encoder.info.attention == "none: no attention in it" and encoder.info.grid == (16, 16)
    with pytest.raises(FdlabError, match="has no attention"):
        encoder.attention(noise())
    with pytest.raises(FdlabError, match="Two passes of Noisy differ"):
        fdlab.wrap(Noisy())
    with pytest.raises(FdlabError, match="depends on its batch"):
        fdlab.wrap(nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), own()))
    with pytest.raises(FdlabError, match="on meta"):
        fdlab.wrap(own().to("meta"))
    with pytest.raises(FdlabError, match="not in row order"):
        fdlab.wrap(own(order="columns"))
    with pytest.raises(FdlabError, match=r"no torch\.nn.Module"):
        fdlab.wrap("file.pth")  # type: ignore[arg-type]
    with pytest.raises(FdlabError, match="belong together"):
        fdlab.wrap(own(), mean=(0.5, 0.5, 0.5))


def test_what_is_given_wins_and_is_said() -> None:
    encoder = fdlab.wrap(own(), tokens="layers.1", mean=(0.5,) * 3, std=(0.25,) * 3, prefix=("cls",), name="mine")
    assert encoder.info.prefix_kinds == ("cls",) and encoder.info.mean == (0.5,) * 3
    said = encoder.explain()
    assert "tokens: layers.1, given" in said and "image size 32x32: from pos" in said and "ImageNet" not in said
    assert "attention: complete" in said and "ImageNet" in fdlab.wrap(own()).explain()
    with pytest.raises(FdlabError, match=r"no tokens at 'layers\.9'"):
        fdlab.wrap(own(), tokens="layers.9")


def test_weights_that_train_on_are_not_measured_as_the_old_ones() -> None:
    module = own()
    encoder = fdlab.wrap(module)
    with torch.no_grad():
        module.pos.add_(0.1)
    with pytest.raises(FdlabError, match="changed since it was wrapped"):
        fdlab.measure("attention", {"mine": encoder}, "digits", images=4)
    assert fdlab.wrap(module).info.sha256 != encoder.info.sha256


def test_the_untrained_control_is_what_the_owner_builds() -> None:
    encoder = fdlab.wrap(own(), untrained=lambda seed: own(seed=seed + 1))
    table = fdlab.measure("attention", {"mine": encoder}, "digits", images=4, random_control=True)
    assert set(table[table["model"] == "random start"]["family"]) == {"random"}
    with pytest.warns(UserWarning, match="no untrained form of OwnViT"):
        fdlab.measure("attention", {"mine": own()}, "digits", images=4, random_control=True)


def test_curvature_of_every_kind_and_not_behind_a_foreign_kernel() -> None:
    from fdlab.measures.products import exact_kernels
    from fdlab.probes.objectives import build_objective

    images = torch.rand(8, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(8) % 2
    for kind in ("early sdpa", "mha", "encoder", "sigmoid"):
        module = own(kind)
        objective = build_objective("linear-probe", fdlab.wrap(module), images, labels)
        found = set(objective.parameters)
        missing = {name for name, _ in module.named_parameters()} - found
        unused = ("classifier.", *(f"layers.{n}.mixer.{part}." for n in range(3) for part in ("qkv", "out")))
        assert all(name.startswith(unused if kind == "mha" else "classifier.") for name in missing)
        weights = list(objective.parameters.values())
        with exact_kernels():
            first = torch.autograd.grad(objective.loss(objective.batches[0]), weights, create_graph=True)
            second = torch.autograd.grad(sum(g.square().sum() for g in first), weights)  # type: ignore[arg-type]
        assert all(torch.isfinite(g).all() for g in second)
    with pytest.raises(FdlabError, match="get no gradient"):
        build_objective("linear-probe", fdlab.wrap(own("kernel")), images, labels)

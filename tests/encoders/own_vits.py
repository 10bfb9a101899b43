"""Small vision transformers as people write them: each reads its attention, tokens and prefix in another way."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, softmax

WIDTH, HEADS, SIDE, PATCH = 24, 3, 32, 8
ROWS = SIDE // PATCH


def split(qkv: Tensor) -> Any:
    """(B, N, 3C) -> three of (B, heads, N, d)."""
    return qkv.unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)


def joined(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


class Mixer(nn.Module):
    """The attention of a block: its kind is a name."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        if kind.startswith("mha"):
            self.mha = nn.MultiheadAttention(WIDTH, HEADS, batch_first=kind != "mha sequence first")
        if kind == "talking":
            self.talk = nn.Linear(HEADS, HEADS)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind.startswith("mha"):
            y = x.transpose(0, 1) if self.kind == "mha sequence first" else x
            y = self.mha(y, y, y, need_weights=self.kind == "mha weights")[0]
            return y.transpose(0, 1) if self.kind == "mha sequence first" else y
        q, k, v = split(self.qkv(x))
        return self.out(joined(getattr(self, self.kind.replace(" ", "_"))(q, k, v)))

    def sdpa(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)

    def early_sdpa(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return scaled_dot_product_attention(q, k, v)

    def flat_sdpa(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        flat = [part.flatten(0, 1) for part in (q, k, v)]  # (images x heads, N, d)
        return scaled_dot_product_attention(*flat).unflatten(0, (len(q), HEADS))

    def manual(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1) @ v

    def early_softmax(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return softmax(q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]), dim=-1) @ v

    def einsum(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        logits = torch.einsum("bhid,bhjd->bhij", q, k) / math.sqrt(q.shape[-1])
        return torch.einsum("bhij,bhjd->bhid", torch.softmax(logits, -1), v)

    def talking(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        maps = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1)
        return self.talk(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) @ v

    def sigmoid(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.transpose(-2, -1)).sigmoid() @ v

    def by_hand(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weight = (q @ k.transpose(-2, -1)).exp()
        return weight / weight.sum(-1, keepdim=True) @ v

    def columns(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Softmax over queries: not the map that the other probes mean."""
        return (k @ q.transpose(-2, -1)).softmax(-2).transpose(-2, -1) @ v

    def linear(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return q.softmax(-1) @ (k.softmax(-2).transpose(-2, -1) @ v)

    def channel(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (part.transpose(-2, -1) for part in (q, k, v))
        return ((q @ k.transpose(-2, -1)).softmax(-1) @ v).transpose(-2, -1)

    def pooled(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k[:, :, ::2], v[:, :, ::2])

    def kernel(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """A kernel that writes through a pointer: torch sees an empty tensor that suddenly has values."""
        out = torch.empty(q.shape)
        out.detach().numpy()[:] = _hidden(q, k, v)
        return out


def _hidden(q: Tensor, k: Tensor, v: Tensor) -> Any:
    import numpy as np

    arrays = [part.detach().numpy() for part in (q, k, v)]
    logits = np.einsum("bhid,bhjd->bhij", *arrays[:2]) / math.sqrt(q.shape[-1])
    weight = np.exp(logits)
    return np.einsum("bhij,bhjd->bhid", weight / weight.sum(-1, keepdims=True), arrays[2])


class Layer(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.one, self.two = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.mixer = Mixer(kind)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mixer(self.one(x))
        return x + self.mlp(self.two(x))


class OwnViT(nn.Module):
    """``prefix`` tokens first (``last``: behind the patches); ``order``: how the patches are flattened."""

    def __init__(
        self, kind: str = "sdpa", *, prefix: int = 1, last: bool = False, order: str = "rows", head: str = "first",
        linear: bool = False, size: tuple[int, int] = (SIDE, SIDE),
    ) -> None:  # fmt: skip
        super().__init__()
        self.kind, self.prefix, self.last, self.order, self.head = kind, prefix, last, order, head
        self.patches = nn.Linear(3 * PATCH**2, WIDTH) if linear else nn.Conv2d(3, WIDTH, PATCH, PATCH)
        count = size[0] // PATCH * (size[1] // PATCH)
        self.extra = nn.Parameter(0.02 * torch.randn(1, max(prefix, 1), WIDTH))
        self.pos = nn.Parameter(0.02 * torch.randn(1, count + prefix, WIDTH))
        if kind.startswith("encoder"):
            layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 48, batch_first=kind == "encoder", norm_first=True)
            self.layers: Any = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        else:
            self.layers = nn.ModuleList([Layer(kind) for _ in range(3)])
        self.final = nn.LayerNorm(WIDTH)
        self.classifier = nn.Linear(WIDTH, 5)

    def forward(self, images: Tensor) -> Any:
        if isinstance(self.patches, nn.Linear):
            tiles = images.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH).permute(0, 2, 3, 1, 4, 5)
            x = self.patches(tiles.flatten(3)).flatten(1, 2)
        else:
            x = self.patches(images)
            x = (x.transpose(2, 3) if self.order == "columns" else x).flatten(2).transpose(1, 2)
        extra = self.extra.expand(len(x), -1, -1)
        x = torch.cat([x, extra] if self.last else [extra, x], 1) if self.prefix else x
        x = x + self.pos
        if self.kind == "encoder sequence first":
            x = self.layers(x.transpose(0, 1)).transpose(0, 1)
        elif self.kind == "encoder":
            x = self.layers(x)
        else:
            for layer in self.layers:
                x = layer(x)
        x = self.final(x)
        if self.head == "dict":
            return {"logits": self.classifier(x.mean(1)), "features": x}
        return self.classifier(x if self.head == "all" else x[:, 0])


def own(kind: str = "sdpa", seed: int = 0, **options: Any) -> OwnViT:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = OwnViT(kind, **options)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.2)
    return model

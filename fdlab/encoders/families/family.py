"""What an entry in this folder says: where the network lies, how its keys map, what the file omits."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fdlab.encoders.encoder import IMAGENET_MEAN, IMAGENET_STD, Floats3
from fdlab.encoders.positions import Method

VIT = "timm.models.vision_transformer.VisionTransformer"


@dataclass(frozen=True)
class Contents:
    """A weight file seen by structure: its top keys and its tables of tensors without ``module.``.

    ``tables[""]`` holds tensors that lie at the top; ``arch`` is what the training arguments name.
    """

    top: frozenset[str]
    tables: Mapping[str, Mapping[str, Tensor]]
    arch: str | None = None

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Contents:
        tables = {"": _tensors(content)}
        tables |= {str(name): _tensors(value) for name, value in content.items() if isinstance(value, Mapping)}
        args = content.get("args")
        named = vars(args) if isinstance(args, argparse.Namespace) else args if isinstance(args, Mapping) else {}
        arch = named.get("arch", content.get("arch"))
        return cls(
            frozenset(map(str, content)),
            {name: table for name, table in tables.items() if table},
            arch if isinstance(arch, str) else None,
        )


@dataclass(frozen=True)
class Place:
    """A network's place in a file: the table, and the prefixes its keys may have (first fit wins)."""

    table: str
    prefixes: tuple[str, ...] = ("",)

    def prefix_in(self, contents: Contents) -> str | None:
        """The prefix under which a patch embedding lies here, or None."""
        table = contents.tables.get(self.table, {})
        return next((p for p in self.prefixes if f"{p}patch_embed.proj.weight" in table), None)

    def network(self, contents: Contents) -> dict[str, Tensor]:
        """The tensors under the prefix, prefix removed; empty where the place is absent."""
        prefix = self.prefix_in(contents)
        if prefix is None:
            return {}
        table = contents.tables[self.table]
        return {key.removeprefix(prefix): value for key, value in table.items() if key.startswith(prefix)}


@dataclass(frozen=True)
class Family:
    """One checkpoint layout.

    Attributes:
        encoders: {name for ``@name``: the places where it may lie}.
        default: names in the order of preference.
        matches: the signature, over the whole file; families are asked in order, the first wins.
        leftovers: patterns (full match) of keys that are known and not part of the encoder.
        renames: (pattern, replacement) from the file's keys to the timm class's.
        heads: {width: heads} of the published models, used where the file says nothing.
        arches: values of ``args.arch`` that promise 64 channels a head.
        resize: the authors' way to bring the absolute table to another grid.
        fixed_positions: the table is a formula, not learned, so a random control keeps it.
        assumed: sentences about what the file does not hold.
    """

    name: str
    title: str
    encoders: Mapping[str, tuple[Place, ...]]
    default: tuple[str, ...]
    matches: Callable[[Contents], bool]
    leftovers: tuple[str, ...] = ()
    renames: tuple[tuple[str, str], ...] = ()
    timm_class: str = VIT
    heads: Mapping[int, int] = field(default_factory=dict)
    arches: tuple[str, ...] = ()
    mean: Floats3 = IMAGENET_MEAN
    std: Floats3 = IMAGENET_STD
    norm_eps: float = 1e-6
    interpolation: str = "bicubic"
    resize: Method = "offset"
    fixed_positions: bool = False
    assumed: tuple[str, ...] = ()

    def networks(self, contents: Contents) -> dict[str, Place]:
        """{name: place} of the networks that this file holds."""
        found = {}
        for name, places in self.encoders.items():
            place = next((place for place in places if place.prefix_in(contents) is not None), None)
            if place is not None:
                found[name] = place
        return found


def is_plain_vit(network: Mapping[str, Tensor]) -> bool:
    """A pre-norm ViT with a class token, an absolute table and a final norm."""
    needed = ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "norm.weight")
    return all(key in network for key in needed) and network["pos_embed"].ndim == 3


def class_row_is_zero(network: Mapping[str, Tensor]) -> bool:
    """Fixed sin-cos tables (MAE, MoCo v3) give the class token a row of exact zeros."""
    return not network["pos_embed"][:, :1].any()


def _tensors(content: Mapping[str, Any]) -> dict[str, Tensor]:
    return {str(key).removeprefix("module."): value for key, value in content.items() if isinstance(value, Tensor)}

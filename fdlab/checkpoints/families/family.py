"""What an entry in this folder says: where the network lies, how its keys map, what the file omits."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from fdlab.checkpoints.contents import Contents
from fdlab.encoders.encoder import IMAGENET_MEAN, IMAGENET_STD, Floats3, Kind
from fdlab.encoders.positions import Method, RelativeMethod

Network = Mapping[str, Tensor]
Builder = Literal["vit", "beit", "eva", "dinov3", "swin", "swin_v2", "sam", "vit_pytorch", "timm"]
Matches = Callable[[Mapping[str, Tensor], Contents], bool]
PATCHES = "patch_embed.proj.weight"
HALF = (0.5, 0.5, 0.5)  # mean and std where images come in [-1, 1]


@dataclass(frozen=True)
class Place:
    """A network's place in a file: the table, and the prefixes its keys may have (first fit wins)."""

    table: str
    prefixes: tuple[str, ...] = ("",)

    def prefix_in(self, contents: Contents, marker: str = PATCHES) -> str | None:
        """The prefix under which the patch embedding ``marker`` lies here, or None."""
        table = contents.tables.get(self.table, {})
        return next((p for p in self.prefixes if p + marker in table), None)


# Where most authors put a network; ``module`` is DeepSpeed's, "" a bare table.
MODEL = (Place("model"), Place("module"), Place("state_dict"), Place(""))
EMA = (Place("model_ema"), Place("state_dict_ema"), Place("ema"), Place("ema_state_dict"))


def under(*prefixes: str, tables: tuple[str, ...] = ("model", "module", "state_dict", "")) -> tuple[Place, ...]:
    """The usual places, with keys under one of these prefixes."""
    return tuple(Place(table, prefixes) for table in tables)


@dataclass(frozen=True)
class Family:
    """One checkpoint layout.

    Attributes:
        kind: what its authors pre-trained it on, by which reports colour it. "unknown": several methods have this
            layout, so that a file of it does not tell.
        proof: the sign, over the network, that a file of a shared layout is of that kind (a decoder, a mask token);
            without it the kind of such a file is "unknown". None: the layout alone is proof.
        encoders: {name for ``@name``: the places where it may lie}.
        default: names in the order of preference (what the authors publish or evaluate).
        matches: the signature, over the default network (prefix removed) and the whole file; families
            are asked in order, the first that answers yes wins.
        builder: which builder of ``fdlab/checkpoints/builders`` turns the tensors into a timm class.
        marker: the key of the patch embedding, by which a place is found.
        leftovers: patterns (full match) of keys that are known and not part of the encoder. Keys that
            do not lie under the network's prefix are written with a leading "/".
        renames: (pattern, replacement) from the file's keys to the timm class's, applied in order.
        convert: what renaming cannot do (joining q, k, v).
        heads: {width: heads} of the published models, used where the file says nothing.
        arches: {name in ``arch``: channels per head} that the authors' code gives it.
        resize, resize_relative: the authors' way to bring a position table to another grid.
        resize_is_ours: the authors' code has no resizing, so the way is this project's choice (and it is said).
        image_size: {largest window: pixels} of the published models, for layouts without a table of positions.
        fixed_positions: the table is a formula, not learned, so a random control keeps it.
        timm_names: {(width, depth, patch): stock name} that fit.
        notes: sentences for ``assumed`` that always hold.
        unknown_activation: a sentence for ``assumed`` where neither file nor user says the activation.
        exact: only its authors' own layout is this family's; with other prefixes or heads, the tensors do not tell it
            from a plain network of anybody.
        heads_whose: whose models ``heads`` are taken from, where not the family's published ones.
        whose: whose defaults stand in for what the file does not hold.
    """

    name: str
    title: str
    kind: Kind
    encoders: Mapping[str, tuple[Place, ...]]
    default: tuple[str, ...]
    matches: Matches
    proof: Callable[[Network], bool] | None = None
    builder: Builder = "vit"
    marker: str = PATCHES
    leftovers: tuple[str, ...] = ()
    renames: tuple[tuple[str, str], ...] = ()
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None
    heads: Mapping[int, int] = field(default_factory=dict)
    arches: Mapping[str, int] = field(default_factory=dict)
    mean: Floats3 = IMAGENET_MEAN
    std: Floats3 = IMAGENET_STD
    norm_eps: float = 1e-6
    activation: str = "gelu"
    interpolation: str = "bicubic"
    resize: Method = "size"
    resize_relative: RelativeMethod = "geometric"
    resize_is_ours: bool = False
    image_size: Mapping[int, int] = field(default_factory=dict)
    fixed_positions: bool = False
    timm_names: Mapping[tuple[int, int, int], str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    unknown_activation: str = ""
    exact: bool = False
    heads_whose: str = ""
    whose: str = "from the authors' code"

    def networks(self, contents: Contents) -> dict[str, Place]:
        """{name: place} of the networks that this file holds."""
        found = {}
        for name, places in self.encoders.items():
            place = next((place for place in places if place.prefix_in(contents, self.marker) is not None), None)
            if place is not None:
                found[name] = place
        return found

    def tensors(self, contents: Contents, place: Place) -> dict[str, Tensor]:
        """The place's table: the prefix removed, and "/" before keys that lie beside it."""
        prefix = place.prefix_in(contents, self.marker) or ""
        table = contents.tables[place.table]
        return {
            key.removeprefix(prefix) if key.startswith(prefix) else f"/{key}": value for key, value in table.items()
        }

    def kind_of(self, network: Network) -> Kind:
        """What this network was pre-trained on, as far as its file proves it."""
        return self.kind if self.proof is None or self.proof(network) else "unknown"

    def recognises(self, contents: Contents) -> bool:
        """Whether the default network has this family's signature."""
        networks = self.networks(contents)
        name = next((name for name in self.default if name in networks), None)
        return name is not None and self.fits(contents, networks[name])

    def fits(self, contents: Contents, place: Place) -> bool:
        """Whether the network at this place has the family's signature."""
        try:
            return self.matches(self.tensors(contents, place), contents)
        except (IndexError, RuntimeError, ValueError):  # a tensor of an impossible shape: not this family's
            return False


def all_of(*signs: Callable[[Network], bool]) -> Matches:
    """The signature that holds where every sign holds of the default network."""
    return lambda network, contents: all(sign(network) for sign in signs)


def is_plain_vit(network: Network) -> bool:
    """A pre-norm ViT with a class token and an absolute table."""
    needed = ("cls_token", "pos_embed", PATCHES, "blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight")
    return all(key in network for key in needed) and network["pos_embed"].ndim == 3


def class_row_is_zero(network: Network) -> bool:
    """Fixed sin-cos tables (MAE, MoCo v3) give the class token a row of exact zeros."""
    return not network["pos_embed"][:, :1].any()


def is_masked(network: Network) -> bool:
    """Masked image modelling leaves its token or its prediction head; fine-tuning drops both."""
    return any(re.match(r"(embeddings\.)?mask_token|/?lm_head\.", key) for key in network)


def is_square(number: int) -> bool:
    """Whether the rows can be a square grid."""
    return number > 0 and round(number**0.5) ** 2 == number

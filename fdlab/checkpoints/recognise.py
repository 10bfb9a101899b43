"""From a weight file to a stock timm module: which family, which network, which arguments.

Recognition is by structure, never by file name or size. Every key is used or known to be left over;
anything else is an error that names it. A new family is added to ``FAMILIES``, the most specific first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fdlab.checkpoints.blank import blank
from fdlab.checkpoints.builders.beit import build_beit
from fdlab.checkpoints.builders.built import Ask, Built, key_error
from fdlab.checkpoints.builders.eva import build_dinov3, build_eva02
from fdlab.checkpoints.builders.swin import build_swin, build_swin_v2
from fdlab.checkpoints.builders.timm_name import build_timm
from fdlab.checkpoints.builders.vit import build_vit
from fdlab.checkpoints.contents import Contents
from fdlab.checkpoints.families import (
    beit,
    clip,
    deit,
    dino,
    dinov2,
    eva02,
    feature_distillation,
    huggingface,
    mae,
    moco,
    simmim,
    swin,
    timm_files,
    torchvision_vit,
)
from fdlab.checkpoints.families.family import Family, Place
from fdlab.checkpoints.families.refusals import refuse_known
from fdlab.checkpoints.unpickle import WeightFile, refusal
from fdlab.encoders.encoder import Size, TimmCall
from fdlab.encoders.student import seeded
from fdlab.errors import NOT_UNDERSTOOD, USAGE, FdlabError, nearest
from fdlab.randomness import seed_for

FAMILIES: tuple[Family, ...] = (
    *timm_files.FAMILIES,
    *feature_distillation.FAMILIES,
    *simmim.FAMILIES,
    *moco.FAMILIES,
    *clip.FAMILIES,
    *huggingface.FAMILIES,
    *torchvision_vit.FAMILIES,
    *swin.FAMILIES,
    *eva02.FAMILIES,
    *dinov2.FAMILIES,
    *beit.FAMILIES,
    *mae.FAMILIES,
    *deit.FAMILIES,
    *dino.FAMILIES,
)
BUILDERS: Mapping[str, Callable[[Ask, dict[str, Tensor]], Built]] = {
    "vit": build_vit,
    "beit": build_beit,
    "eva": build_eva02,
    "dinov3": build_dinov3,
    "swin": build_swin,
    "swin_v2": build_swin_v2,
    "timm": build_timm,
}


@dataclass(frozen=True)
class Recognised:
    """A network taken out of a file, under the timm class's keys, with how to make that class."""

    family: Family
    taken: str
    others: tuple[str, ...]
    container: str
    state: Mapping[str, Tensor]
    call: TimmCall
    assumed: tuple[str, ...]
    known: Mapping[str, Any] = field(default_factory=dict)  # further fields of EncoderInfo

    def module(self, *, random_seed: int | None = None) -> nn.Module:
        """The stock module with the file's weights, or with fresh ones where a seed is given."""
        with seeded(seed_for(random_seed or 0, "construct")):
            module = blank(self.call.make) if random_seed is None else self.call.make()
        state = dict(self.state)
        if random_seed is not None:
            fresh = module.state_dict()
            state = {**fresh, **({"pos_embed": state["pos_embed"]} if self.family.fixed_positions else {})}
        module.load_state_dict(state, strict=True)
        return module


def find_family(file: WeightFile) -> tuple[Family, Contents]:
    """The first family whose signature fits, or an error with the nearest ones and the first keys."""
    contents = Contents.of(file.content, file.configs)
    refuse_known(file.path, contents)
    for family in FAMILIES:
        if family.recognises(contents):
            return family, contents
    tables = "; ".join(
        f"{name or 'top level'}: {', '.join(list(table)[:6])}" for name, table in list(contents.tables.items())[:4]
    )
    near = [family.name for family in FAMILIES if family.networks(contents)]
    nearest_ones = f"Nearest, by the place of the patch embedding: {', '.join(near[:6])}. " if near else ""
    tried = ", ".join(dict.fromkeys(family.name for family in FAMILIES))
    why = f"{nearest_ones}Tried: fdlab, {tried}. First keys: {tables or 'no tensors at all'}."
    raise refusal(
        file.path,
        "has no layout that fdlab knows.",
        why,
        "Give a file of a known family, or its name to timm: timm:NAME.",
    )


def recognise(
    file: WeightFile,
    *,
    encoder: str | None = None,
    heads: int | None = None,
    image_size: Size | None = None,
    activation: str | None = None,
) -> Recognised:
    """The network named ``encoder`` (default: the family's) of a foreign file.

    Raises:
        FdlabError: code 3 for an unknown layout, key or head count; code 2 for a wrong argument.
    """
    family, contents = find_family(file)
    networks = family.networks(contents)
    taken = encoder or next(name for name in family.default if name in networks)
    if taken not in networks:
        raise FdlabError(
            f"{file.path} holds no '{taken}'.",
            f"It is {family.name} and holds {', '.join(networks)}.",
            f"Use @NAME or encoder= with one of them.{nearest(taken, networks)}",
            code=USAGE,
        )
    place = networks[taken]
    others = tuple(name for name in networks if name != taken)
    prefixes = tuple(networks[name].prefix_in(contents, family.marker) or "" for name in others)
    ask = Ask(file.path, family, contents, heads, image_size, activation)
    try:
        state, left_over = _state(family, contents, place, prefixes)
        built = BUILDERS[family.builder](ask, state)
    except (KeyError, IndexError, ValueError, RuntimeError, TypeError, ZeroDivisionError) as error:
        # A changed file can lack any tensor that a rule reads, or hold it in another shape.
        if isinstance(error, KeyError):
            raise key_error(file.path, family, (), [str(error).strip("'")]) from error
        why = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}"
        what = f"{file.path} has tensors that do not fit {family.name}."
        raise FdlabError(what, why, "The file was changed.", code=NOT_UNDERSTOOD) from error
    built = Built(**{**vars(built), "state": _fitting(ask, built)})
    words = _preprocessing(ask)
    prefix = (place.prefix_in(contents, family.marker) or "").rstrip(".")
    return Recognised(
        family,
        taken,
        others,
        ".".join(part for part in (place.table, prefix) if part) or "top level",
        built.state,
        built.call,
        (*built.said, *_defaults(ask), *family.notes),
        {
            **words,
            "title": family.title,
            "kind": family.kind_of(family.tensors(contents, place)),
            "heads_from": built.heads_from,
            "positions": built.positions,
            "left_over": left_over,
            **_stock_name(family, built),
            **built.known,
        },
    )


def _state(family: Family, contents: Contents, place: Place, others: tuple[str, ...]) -> tuple[dict[str, Tensor], int]:
    """(the network's tensors under timm's keys, float32; how many known keys were left over)."""
    leftovers = [re.compile(pattern) for pattern in family.leftovers]
    beside = tuple(f"/{prefix}" for prefix in others if prefix)
    state: dict[str, Tensor] = {}
    left_over = 0
    for key, tensor in family.tensors(contents, place).items():
        if any(pattern.fullmatch(key) for pattern in leftovers) or (beside and key.startswith(beside)):
            left_over += 1
            continue
        name = key
        for pattern, replacement in family.renames:
            name = re.sub(pattern, replacement, name)
        state[name] = tensor.float() if tensor.is_floating_point() else tensor
    return (family.convert(state) if family.convert else state), left_over


def _fitting(ask: Ask, built: Built) -> dict[str, Tensor]:
    """The state, once every key is used and every parameter found with its shape, before anything is loaded."""
    try:
        with torch.device("meta"):
            wanted = blank(built.call.make).state_dict()
    except (AssertionError, RuntimeError, TypeError, ValueError, ZeroDivisionError) as error:
        why = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}"
        raise FdlabError(
            f"{ask.path}: its timm class could not be made.", why, "Check heads= and image_size=.", code=NOT_UNDERSTOOD
        ) from error
    state = dict(built.state)
    extra, missing = set(state) - set(wanted), set(wanted) - set(state)
    if extra or missing:
        raise key_error(ask.path, ask.family, [key.removeprefix("/") for key in extra], missing)
    wrong = [
        f"{key} {tuple(state[key].shape)} for {tuple(wanted[key].shape)}"
        for key in wanted
        if state[key].shape != wanted[key].shape
    ]
    if wrong:
        why = "; ".join(wrong[:4]) + "."
        raise refusal(ask.path, "has tensors of unfitting shapes.", why)
    return state


def _preprocessing(ask: Ask) -> dict[str, Any]:
    """Mean, std and interpolation: the words of the file, else the family's."""
    family = ask.family
    return {
        name: ask.fact(name, default)
        for name, default in (("mean", family.mean), ("std", family.std), ("interpolation", family.interpolation))
    }


def _defaults(ask: Ask) -> tuple[str, ...]:
    """Sentences on what is the family's default because the file does not hold it."""
    family, known = ask.family, ask.contents.said
    items = []
    if "norm_eps" not in known and family.builder != "timm":
        items.append(f"norm eps {family.norm_eps:g}")
    if ask.activation is not None:
        given: tuple[str, ...] = (f"activation {ask.activation}: given by the user",)
    else:
        given = ()
        if "activation" not in known and family.builder in ("vit", "beit", "swin", "swin_v2"):
            items.append({"gelu": "exact GELU", "quick_gelu": "QuickGELU"}.get(family.activation, family.activation))
    if "mean" not in known and family.builder != "timm":
        items.append(f"mean {family.mean}, std {family.std}")
    unseen = ask.activation is None and "activation" not in known and family.unknown_activation
    defaults = (f"{', '.join(items)}: not in the file, from the authors' code",) if items else ()
    return (*given, *defaults, *((family.unknown_activation,) if unseen else ()))


def _stock_name(family: Family, built: Built) -> dict[str, Any]:
    """The stock timm name of these sizes, unless the heads or the window are other ones."""
    kwargs = built.call.kwargs
    width, patch = kwargs.get("embed_dim"), kwargs.get("patch_size")
    depth = kwargs.get("depth", sum(kwargs.get("depths", ())))
    name = family.timm_names.get((width, depth, patch)) if width and patch else None
    if name is None or kwargs["num_heads"] != family.heads.get(width or 0, kwargs["num_heads"]):
        return {}
    window = re.search(r"window(\d+)", name)
    if window and kwargs["window_size"][0] != (int(window[1]), int(window[1])):
        return {}
    return {"timm_name": name}

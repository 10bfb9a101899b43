"""From a weight file to a stock timm module: which family, which network, which arguments.

Recognition is by structure, never by file name or size. Every key is used or known to be left over;
anything else is an error that names it. A new family is added to ``FAMILIES``, the most specific first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from fdlab.checkpoints.blank import blank, fill, no_larger_than
from fdlab.checkpoints.builders.beit import build_beit
from fdlab.checkpoints.builders.built import Ask, Built, key_error
from fdlab.checkpoints.builders.eva import build_dinov3, build_eva02
from fdlab.checkpoints.builders.sam import build_sam
from fdlab.checkpoints.builders.swin import build_swin, build_swin_v2
from fdlab.checkpoints.builders.timm_name import agrees, build_timm, is_stock
from fdlab.checkpoints.builders.vit import build_vit
from fdlab.checkpoints.builders.vit_pytorch import build_vit_pytorch
from fdlab.checkpoints.closest import closest
from fdlab.checkpoints.contents import Contents
from fdlab.checkpoints.families.family import Family
from fdlab.checkpoints.families.refusals import refuse_known
from fdlab.checkpoints.find import FAMILIES as FAMILIES
from fdlab.checkpoints.find import Found, find
from fdlab.checkpoints.leftovers import is_beside, said
from fdlab.checkpoints.soundness import check_words, not_finite, refuse_not_finite
from fdlab.checkpoints.unpickle import WeightFile, refusal
from fdlab.encoders.encoder import Size, TimmCall
from fdlab.encoders.student import seeded
from fdlab.errors import NOT_UNDERSTOOD, FdlabError
from fdlab.randomness import seed_for

BUILDERS: Mapping[str, Callable[[Ask, dict[str, Tensor]], Built]] = {
    "vit": build_vit,
    "beit": build_beit,
    "eva": build_eva02,
    "dinov3": build_dinov3,
    "swin": build_swin,
    "swin_v2": build_swin_v2,
    "sam": build_sam,
    "vit_pytorch": build_vit_pytorch,
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
        if random_seed is None:
            return fill(module, self.state)
        fixed = {"pos_embed": self.state["pos_embed"]} if self.family.fixed_positions else {}
        module.load_state_dict({**module.state_dict(), **fixed}, strict=True)
        return module


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
    contents = Contents.of(file.content, file.configs)
    refuse_known(file.path, contents)
    check_words(file.path, contents)
    found = find(contents, file.path, encoder)
    if found is None:
        raise _unknown(file, contents)
    family = found.family
    ask = Ask(file.path, family, found.contents, heads, image_size, activation)
    try:
        network = found.network()
        if broken := not_finite(network.used.items()):
            raise refuse_not_finite(file.path, broken, network.used)
        built = BUILDERS[family.builder](ask, network.state)
    except (KeyError, IndexError, ValueError, RuntimeError, TypeError, ZeroDivisionError) as error:
        # A changed file can lack any tensor that a rule reads, or hold it in another shape.
        if isinstance(error, KeyError):
            raise key_error(file.path, family, (), [str(error).strip("'")]) from error
        why = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}"
        what = f"{file.path} has tensors that do not fit {family.name}."
        raise FdlabError(what, why, "The file was changed.", code=NOT_UNDERSTOOD) from error
    state, heads_left = _fitting(ask, built)
    left = (*heads_left, *network.beside)
    return _recognised(found, ask, replace(built, state=state), left, network.known)


def _recognised(found: Found, ask: Ask, built: Built, left: tuple[str, ...], known: int) -> Recognised:
    family = found.family
    return Recognised(
        family,
        found.taken,
        found.others,
        found.container,
        built.state,
        built.call,
        (*built.said, *_contradicted(ask, built), *_order_of_norms(found), *_defaults(ask), *family.notes, *said(left)),
        {
            **_preprocessing(ask),
            "title": family.title,
            "kind": family.kind_of(family.tensors(found.contents, found.place)),
            "heads_from": built.heads_from,
            "positions": built.positions,
            "left_over": known + len(left),
            **_stock_name(family, built),
            **built.known,
        },
    )


def _order_of_norms(found: Found) -> tuple[str, ...]:
    """A sentence where a plain ViT's modules were made in a post-norm block's order, which is all that shows it."""
    keys = [key for key in found.network().used if key.startswith("blocks.0.")]
    names = ("blocks.0.attn.qkv.weight", "blocks.0.norm1.weight", "blocks.0.mlp.fc1.weight", "blocks.0.norm2.weight")
    if (
        keys == sorted(keys)
        or not set(names) <= set(keys)
        or [*map(keys.index, names)] != sorted(map(keys.index, names))
    ):
        return ()
    text = (
        "its blocks list attention and MLP before their norms, as post-norm networks do (timm's vit_..._rpn): read as"
    )
    return (f"{text} a pre-norm network; if it is none, open it by its name",)


def _contradicted(ask: Ask, built: Built) -> tuple[str, ...]:
    """A sentence where the file's words are of another network than its tensors: the tensors count."""
    contents, kwargs = ask.contents, built.call.kwargs
    arch = (contents.arch or "").split("/")[-1].split(".")[0]
    if ask.family.builder != "timm" and is_stock(arch) and not agrees(arch, contents.value("arguments"), built.state):
        return (f"the file's architecture {arch} is not that of its tensors: the tensors count",)
    wrong = [
        f"{fact} {contents.value(fact)} for {kwargs[name]}"
        for fact, name in (("hidden_size", "embed_dim"), ("num_hidden_layers", "depth"), ("patch_size", "patch_size"))
        if isinstance(contents.value(fact), int)
        and name in kwargs
        and contents.value(fact) != kwargs[name]
        and "depths" not in kwargs
    ]
    return (f"config.json is of another network ({', '.join(wrong)}): the tensors count",) if wrong else ()


def _unknown(file: WeightFile, contents: Contents) -> FdlabError:
    """A layout that no family has: the nearest one with the keys that differ, else the first keys."""

    def build(found: Found) -> None:
        ask = Ask(file.path, found.family, found.contents, heads=1, image_size=None)
        _fitting(ask, BUILDERS[found.family.builder](ask, found.network().state))

    near = closest(contents, build)
    tables = "; ".join(
        f"{name or 'top level'}: {', '.join(list(table)[:6])}" for name, table in list(contents.tables.items())[:4]
    )
    return refusal(
        file.path,
        "has no layout that fdlab knows.",
        f"{near.said() + ' ' if near else ''}First keys: {tables or 'no tensors at all'}.",
        "Give a file of a known family, or its name to timm: timm:NAME.",
    )


def _fitting(ask: Ask, built: Built) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """(the state, keys of heads that the class has no place for), once all others are used and each shape fits."""
    try:
        with torch.device("meta"), no_larger_than(built.state, built.call.kwargs):
            wanted = blank(built.call.make).state_dict()
    except (AssertionError, RuntimeError, TypeError, ValueError, ZeroDivisionError) as error:
        why = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}"
        raise FdlabError(
            f"{ask.path}: its timm class could not be made.", why, "Check heads= and image_size=.", code=NOT_UNDERSTOOD
        ) from error
    state = dict(built.state)
    left = tuple(key for key in state if key not in wanted and is_beside(key))
    state = {key: value for key, value in state.items() if key not in left}
    extra, missing = set(state) - set(wanted), set(wanted) - set(state)
    if extra or missing:
        raise key_error(ask.path, ask.family, [key.removeprefix("/") for key in extra], missing, whole=True)
    wrong = [
        f"{key} {tuple(state[key].shape)} for {tuple(wanted[key].shape)}"
        for key in wanted
        if state[key].shape != wanted[key].shape
    ]
    if wrong:
        why = "; ".join(wrong[:4]) + "."
        raise refusal(ask.path, "has tensors of unfitting shapes.", why)
    return state, left


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
    defaults = (f"{', '.join(items)}: not in the file, {family.whose}",) if items else ()
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

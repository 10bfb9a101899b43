"""What a module shows of itself: size, blocks, final tokens, prefix. Where two answers fit, the user is asked."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fdlab.encoders.anatomy import Order
from fdlab.encoders.witness import Pass
from fdlab.errors import NOT_UNDERSTOOD, FdlabError

Pair = tuple[int, int]
USUAL = (32, 64, 96, 128, 160, 192, 224, 256, 336, 384, 448)
PREFIXES = range(9)
_LISTS = (nn.ModuleList, nn.Sequential)


# --- size ------------------------------------------------------------------------------------------------


def stated_size(module: nn.Module) -> tuple[Pair, str] | None:
    """(height, width) that an attribute of the module or of a part of it states, and which."""
    for name, part in sorted(module.named_modules(), key=lambda pair: pair[0].count(".") + bool(pair[0])):
        config = getattr(part, "config", None)
        for owner, label in (
            (part, ""),
            (config, "config."),
            (getattr(config, "vision_config", None), "vision_config."),
        ):
            for field in ("img_size", "image_size"):
                if (size := _as_size(getattr(owner, field, None))) is not None:
                    return size, f"{name + '.' if name else ''}{label}{field}"
        settings = getattr(part, "pretrained_cfg", None)
        if isinstance(settings, dict) and len(settings.get("input_size") or ()) == 3:
            return _as_size(settings["input_size"][1:]) or (0, 0), "pretrained_cfg"
    return None


def _as_size(value: Any) -> Pair | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int) and value >= 4:
        return value, value
    if isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(v, int) and v >= 4 for v in value):
        return int(value[0]), int(value[1])
    return None


def size_of_table(module: nn.Module, channels: int = 3) -> tuple[Pair, str] | None:
    """The square size that a position table and a patch embedding leave, where exactly a grid fits."""
    patch, width = patch_embedding(module, channels)
    if not patch or patch[0] != patch[1]:
        return None
    for name, table in _tensors(module):
        if "pos" not in name.lower() or table.ndim < 2 or table.shape[-1] != width:
            continue
        rows = table.numel() // width
        for prefix in PREFIXES:
            side = math.isqrt(max(rows - prefix, 0))
            if side > 1 and side * side == rows - prefix:
                return (side * patch[0],) * 2, f"{name} ({rows} positions) and patches of {patch[0]} pixels"
    return None


def patch_embedding(module: nn.Module, channels: int = 3) -> tuple[Pair | None, int]:
    """Sides of a patch and the width of its embedding: a convolution that steps by its kernel, or a linear layer."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d) and part.in_channels == channels:
            tall, wide = int(part.kernel_size[0]), int(part.kernel_size[1])
            return ((tall, wide), part.out_channels) if tuple(part.stride) == (tall, wide) != (1, 1) else (None, 0)
        if isinstance(part, nn.Linear):
            side = math.isqrt(part.in_features // channels)
            if side > 1 and side * side * channels == part.in_features:
                return (side, side), part.out_features
            return None, 0
    return None, 0


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters, buffers and plain attributes."""
    found = [*module.named_parameters(), *module.named_buffers()]
    for name, part in module.named_modules():
        found += [
            (f"{name}.{key}".lstrip("."), value) for key, value in vars(part).items() if isinstance(value, Tensor)
        ]
    return found


def in_channels(module: nn.Module) -> int:
    """The channels of the first convolution that is no part of a group; 3 where there is none."""
    first = next((part for part in module.modules() if isinstance(part, nn.Conv2d)), None)
    return first.in_channels if first is not None else 3


def size_that_runs(module: nn.Module, runs: Callable[[Pair], bool]) -> Pair:
    """The only usual size that the module runs at.

    Raises:
        FdlabError: code 3, two run, or none.
    """
    found: list[int] = []
    for side in USUAL:
        if runs((side, side)):
            found.append(side)
        if len(found) == 2:
            raise FdlabError(
                f"{type(module).__name__} runs at several image sizes.",
                f"{found[0]}, {found[1]} and perhaps more; nothing in it says which it was trained at.",
                "Give image_size=, on the command line SOURCE?image_size=N.",
                code=NOT_UNDERSTOOD,
            )
    if not found:
        raise FdlabError(
            f"{type(module).__name__} does not run on images of a usual size.",
            f"Tried {', '.join(map(str, USUAL))} pixels, square, {in_channels(module)} channels.",
            "Give image_size= (SOURCE?image_size=N), or forward=(module, images) -> output.",
            code=NOT_UNDERSTOOD,
        )
    return found[0], found[0]


# --- blocks ----------------------------------------------------------------------------------------------


def attention_blocks(module: nn.Module, done: Pass) -> list[str]:
    """The block of each self attention: the largest module around it alone that is an element of a list."""
    calls = [call for call in done.calls if call.square]
    around = Counter(name for call in calls for name in set(call.stack))
    blocks = []
    for call in calls:
        alone = [name for name in call.stack if name and around[name] == 1]
        element = next((name for name in alone if _in_list(module, name)), None)
        blocks.append(element or next(iter(alone), call.owner))
    return blocks


def plain_blocks(module: nn.Module, done: Pass) -> list[str]:
    """The blocks of a network without attention: repeated parts, elements of lists, that give maps or tokens."""
    shapes = {name: first_shape(output) for name, output in done.ended}

    def ran(name: str) -> bool:
        shape = shapes.get(name)
        return shape is not None and (len(shape) == 3 or (len(shape) == 4 and max(shape[2:]) > 1))

    def is_block(name: str) -> bool:
        part = module.get_submodule(name)
        return not isinstance(part, _LISTS) and len(list(part.children())) > 0 and _in_list(module, name)

    def holds_blocks(name: str) -> bool:
        lists = [(key, part) for key, part in module.get_submodule(name).named_modules() if isinstance(part, _LISTS)]
        return any(
            len(part) > 0 and all(is_block(f"{name}.{key}.{child}") for child, _ in part.named_children())
            for key, part in lists
            if key
        )

    found: list[str] = []
    for name, _ in module.named_modules():
        inside = any(name.startswith(f"{block}.") for block in found)
        if name and not inside and is_block(name) and ran(name) and not holds_blocks(name):
            found.append(name)
    if not found:  # a plain chain: its largest parts
        found = [name for name, _ in module.named_children() if ran(name)]
        while len(found) == 1 and isinstance(chain := module.get_submodule(found[0]), _LISTS):
            inner = [f"{found[0]}.{name}" for name, part in chain.named_children() if len(list(part.children())) > 0]
            if not (inner := [name for name in inner if ran(name)]):
                break
            found = inner
    order = [name for name, _ in done.ended]
    return sorted(found, key=order.index)


def order_of_parts(module: nn.Module, done: Pass, blocks: Sequence[str]) -> tuple[tuple[str, int], ...]:
    """(module, blocks that had ended when it first ended) of each module with parameters that holds no block.

    A module around blocks is left out: what it owns itself (tables, class tokens) enters before them.
    """
    finished, seen, ahead = 0, dict[str, int](), list(blocks)
    for name, _ in done.ended:
        if ahead and name == ahead[0]:
            ahead.pop(0)
            finished += 1
        elif name and not any(f"{name}.".startswith(f"{b}.") or b.startswith(f"{name}.") for b in blocks):  # noqa: SIM102
            if next(module.get_submodule(name).parameters(recurse=False), None) is not None:
                seen.setdefault(name, finished)
    return tuple(seen.items())


def named_blocks(module: nn.Module, given: str | Sequence[str]) -> list[str]:
    """The blocks that the user names, by dotted names or a pattern such as ``layers.*``.

    Raises:
        FdlabError: code 3, no module has such a name.
    """
    names = [name for name, _ in module.named_modules() if name]
    if not isinstance(given, str):
        found = [name for name in given if name in names]
        missing = [name for name in given if name not in names]
    else:
        pattern = re.compile(re.escape(given).replace(r"\*", r"[^.]+"))
        found = [name for name in names if pattern.fullmatch(name)]
        missing = [] if found else [given]
    if missing:
        raise FdlabError(
            f"{type(module).__name__} has no module '{missing[0]}'.",
            f"It has {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}.",
            "Give blocks= as dotted names or a pattern such as 'layers.*'.",
            code=NOT_UNDERSTOOD,
        )
    return found


def _in_list(module: nn.Module, name: str) -> bool:
    above = name.rpartition(".")[0]
    return isinstance(module.get_submodule(above), _LISTS) if above or isinstance(module, _LISTS) else False


def first_shape(output: Any) -> tuple[int, ...] | None:
    """The shape of the first tensor in what ``witness`` kept of an output."""
    while isinstance(output, list) and output and not isinstance(output, torch.Size):
        output = output[0]
    return tuple(output) if isinstance(output, torch.Size) else None


# --- tokens ----------------------------------------------------------------------------------------------


def tokens_place(done: Pass, blocks: list[str], attends: bool, root: Any) -> tuple[str, tuple[int, ...]] | None:
    """(where the final tokens come from, the shape of that tensor): NAME, NAME#KEY, ``output`` or ``output#KEY``."""
    ended = dict(done.ended)
    if isinstance(root, dict) and root.get("last_hidden_state") is not None:
        return "output#last_hidden_state", tuple(root["last_hidden_state"])
    for name, output in reversed(done.ended):
        if isinstance(output, dict) and isinstance(output.get("last_hidden_state"), torch.Size):
            return f"{name}#last_hidden_state" if name else "output#last_hidden_state", tuple(
                output["last_hidden_state"]
            )
    order = [name for name, _ in done.ended]
    last = max((place for place, name in enumerate(order) if name in set(blocks)), default=0) if blocks else 0
    wanted = first_shape(ended.get(blocks[-1])) if blocks else None
    for name, output in reversed(done.ended[last:]):
        options: list[tuple[str, Any]] = [("", output)]
        if isinstance(output, dict):
            options = list(output.items())
        for key, value in options:
            shape = first_shape(value)
            if shape is not None and _may_be_tokens(shape, wanted, attends):
                return f"{name or 'output'}{'#' + key if key else ''}", shape
    return None


def _may_be_tokens(shape: tuple[int, ...], block: tuple[int, ...] | None, attends: bool) -> bool:
    if len(shape) not in (3, 4):
        return False
    if not attends:
        return (len(shape) == 4 and max(shape[2:]) > 1 and max(shape[1:3]) > 1) or (len(shape) == 3 and shape[1] > 3)
    if block is None:
        return True
    width = set(block[1:]) & set(shape[1:])
    same = len(block) == len(shape) and sorted(block) == sorted(shape)
    return same or (bool(width) and len(block) != len(shape) and math.prod(shape) >= math.prod(block))


def order_of(shape: tuple[int, ...], size: Pair, width: int | None, images: int) -> Order:
    """The axes of the tensor that holds the tokens.

    Raises:
        FdlabError: code 3, a map whose sides equal its channels.
    """
    if len(shape) == 3:
        return "NBC" if shape[1] == images != shape[0] else "BNC"
    _, first, second, third = shape
    if width is not None and (first == width) != (third == width):
        return "BCHW" if first == width else "BHWC"
    last, front = first * size[1] == second * size[0], second * size[1] == third * size[0]
    if last != front:
        return "BHWC" if last else "BCHW"
    raise FdlabError(
        f"The axes of the tokens are not known: a map of {first} x {second} x {third}.",
        "Its channels could be any of them.",
        "Give tokens=(module, images) -> (images, tokens, channels).",
        code=NOT_UNDERSTOOD,
    )


def grid_for(count: int, size: Pair, prefix: int | None, hint: Pair | None) -> tuple[int, Pair] | None:
    """(prefix, grid) that fill ``count`` tokens: of the patches' own grid, else of the image's proportion."""
    if hint is not None and prefix in (None, count - hint[0] * hint[1]) and count >= hint[0] * hint[1]:
        return count - hint[0] * hint[1], hint
    for tokens in PREFIXES if prefix is None else (prefix,):
        rest = count - tokens
        rows = math.isqrt(rest * size[0] // size[1]) if rest > 0 else 0
        for tall in (rows, rows + 1):
            if tall and rest % tall == 0 and tall * size[1] == (rest // tall) * size[0]:
                return tokens, (tall, rest // tall)
    return None


def side_of(pixels: int, rows: int) -> int:
    """Pixels of a token: where convolutions pad, the power of 2 that leaves so many rows, else the next whole number.

    >>> side_of(224, 7), side_of(176, 6), side_of(196, 14)
    (32, 32, 14)
    """
    if pixels % rows == 0:
        return pixels // rows
    return next((2**bit for bit in range(11) if -(-pixels // 2**bit) == rows), -(-pixels // rows))


def prefix_kinds(module: nn.Module, count: int) -> tuple[str, ...]:
    """What the prefix tokens are, by the names of their tensors; ``prefix`` where the names do not add up."""
    kinds: list[str] = []
    for name, tensor in module.named_parameters():
        last = name.rpartition(".")[2].lower()
        rows = tensor.numel() // tensor.shape[-1] if tensor.ndim > 1 else 1
        if last in ("cls_token", "class_token", "cls", "class_embedding", "class_tokens"):
            kinds.insert(0, "cls")
        elif last.startswith("dist"):
            kinds += ["dist"] if "token" in last else []
        elif last.startswith(("reg_token", "register")) or last in ("reg", "regs"):
            kinds += ["register"] * rows
    return tuple(kinds) if len(kinds) == count else ("prefix",) * count

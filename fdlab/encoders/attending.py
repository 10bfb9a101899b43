"""One forward pass of an encoder whose attention is read: complete by its anatomy, or an error that says why not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fdlab.encoders.anatomy import COMPLETE
from fdlab.encoders.knockout import remixed
from fdlab.encoders.local import NOWHERE, Local
from fdlab.encoders.tap import AttentionCall, OnCall, OnSkip, count_blocks, tap
from fdlab.encoders.witness import same_randomness
from fdlab.errors import NOT_UNDERSTOOD, FdlabError

if TYPE_CHECKING:
    from fdlab.encoders.encoder import Encoder


def check_attention(encoder: Encoder) -> None:
    """Refuses a model whose attention cannot be read completely, or that has none.

    Raises:
        FdlabError: code 3.
    """
    said = encoder.info.attention
    if said == COMPLETE and encoder.anatomy.calls is None and (why := _judged(encoder)[0]):
        said = f"refused: {why}"
    kind, _, why = said.partition(": ")
    name = encoder.info.title or type(encoder.module).__name__
    works = "features, hessian, landscape, sharpness and attribution work as it is."
    if kind == "none":
        raise FdlabError(
            f"{name} has no attention.", "Nothing in it attends from token to token.", f"Use another probe: {works}",
            code=NOT_UNDERSTOOD,
        )  # fmt: skip
    if kind == "refused":
        raise FdlabError(
            f"Attention of {name} cannot be read completely.",
            f"{why}.",
            f"Switch it to scaled_dot_product_attention between all tokens for measuring; {works}",
            code=NOT_UNDERSTOOD,
        )


def attention_refusal(encoder: Encoder) -> FdlabError | None:
    """Why the attention of this model cannot be read, or None."""
    try:
        check_attention(encoder)
    except FdlabError as error:
        return error
    return None


_JUDGED: dict[str, tuple[str, str]] = {}


def _judged(encoder: Encoder) -> tuple[str, str]:
    """(why attention is refused, what is to be said of it) of a network that timm's names describe; once a network.

    The knock-out of every block: what its names promise is proved, as it is for any other module.
    """
    key = encoder.info.sha256
    if key not in _JUDGED:
        with encoder.reading(), same_randomness(encoder.device), torch.no_grad():
            _JUDGED[key] = _verdict(encoder)
    return _JUDGED[key]


def _verdict(encoder: Encoder) -> tuple[str, str]:
    size, weight = pair_of(encoder.info.image_size), next(encoder.module.parameters())
    noise = torch.randn(1, len(encoder.info.mean), *size, generator=torch.Generator().manual_seed(0)).to(weight)
    prefix = encoder.info.prefix_tokens
    local = Local(encoder.module, lambda image: encoder.anatomy.forward(encoder.module, image), noise, prefix)
    if note := remixed(local.calls):
        return "", f"{note}: what is measured is the softmax's own"
    for call in local.calls:
        why, _ = local.place(call, size, scan=False)
        if why and NOWHERE not in why:
            return why, ""
    return "", ""


def pair_of(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width)."""
    return (size, size) if isinstance(size, int) else size


@contextlib.contextmanager
def attending(encoder: Encoder, on_call: OnCall, on_skip: OnSkip | None = None) -> Iterator[None]:
    """``tap`` on one forward pass of this model, by its anatomy: complete or an error, prefix tokens first.

    Raises:
        FdlabError: code 3, the model's attention is refused or it has none; and the errors of ``tap``.
    """
    check_attention(encoder)
    anatomy = encoder.anatomy
    expected = count_blocks(encoder.module) if anatomy.calls is None else anatomy.calls
    shift = anatomy.prefix_last
    if on_skip is not None and anatomy.calls is None and (note := _judged(encoder)[1]):
        on_skip(note)

    def moved(call: AttentionCall) -> None:
        on_call(replace(call, _logits=_rolled(call, shift)))

    with encoder.reading(), tap(encoder.module, moved if shift else on_call, expected=expected, on_skip=on_skip):
        yield


def _rolled(call: AttentionCall, shift: int) -> Any:
    """The call's logits with the last ``shift`` tokens moved to the front."""

    def logits(images: slice, queries: slice) -> Tensor:
        return call.logits(images).roll((shift, shift), (-2, -1))[:, :, queries]

    return logits


def maps_of(encoder: Encoder, images: Tensor, places: tuple[int, ...]) -> dict[int, Tensor]:
    """{block: (B, heads, T, T)} after softmax of one forward pass on normalised images; gradients follow the caller."""
    found: dict[int, Tensor] = {}

    def keep(call: AttentionCall) -> None:
        if call.block in places:
            found[call.block] = call.maps()

    with attending(encoder, keep):
        encoder.anatomy.forward(encoder.module, images)
    return found

"""One forward pass of an encoder whose attention is read: complete by its anatomy, or an error that says why not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fdlab.encoders.tap import AttentionCall, OnCall, OnSkip, count_blocks, tap
from fdlab.errors import NOT_UNDERSTOOD, FdlabError

if TYPE_CHECKING:
    from fdlab.encoders.encoder import Encoder


def check_attention(encoder: Encoder) -> None:
    """Refuses a model whose attention cannot be read completely, or that has none.

    Raises:
        FdlabError: code 3.
    """
    kind, _, why = encoder.info.attention.partition(": ")
    name = encoder.info.title or type(encoder.module).__name__
    works = "features, hessian, landscape, sharpness and attribution work as it is."
    if kind == "none":
        raise FdlabError(
            f"{name} has no attention.", f"{why.capitalize()}: nothing here attends.", f"Use another probe: {works}",
            code=NOT_UNDERSTOOD,
        )  # fmt: skip
    if kind == "refused":
        raise FdlabError(
            f"Attention of {name} cannot be read completely.",
            f"{why}.",
            f"Switch it to scaled_dot_product_attention between all tokens for measuring; {works}",
            code=NOT_UNDERSTOOD,
        )


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

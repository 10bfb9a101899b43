"""Masks over patches: how they are drawn, and how a stock encoder sees a mask token in their place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fdlab.engine.shares import drawn
from fdlab.errors import USAGE, FdlabError


def draw_mask(batch: int, patches: int, ratio: float) -> Tensor:
    """(B, N) bool, the same number of masked patches in each image; from the step's generator."""
    count = round(ratio * patches)
    order = drawn(batch, lambda total: torch.rand(total, patches)).argsort(1)
    return torch.zeros(batch, patches, dtype=torch.bool).scatter_(1, order[:, :count], True)


def visible_places(mask: Tensor, ratio: float) -> Tensor:
    """The mask (B, N) of ``draw_mask`` -> (B, visible) places that are not masked, ascending.

    By sorting: to count what is masked, the host would have to wait for the device.
    """
    visible = mask.shape[1] - round(ratio * mask.shape[1])
    return mask.to(torch.uint8).sort(dim=1, stable=True).indices[:, :visible]


class hidden:
    """``with hidden(encoder, token, mask):`` the embeddings of masked patches are ``token``."""

    def __init__(self, encoder: nn.Module, token: Tensor, mask: Tensor) -> None:
        self.encoder, self.token, self.mask = encoder, token, mask

    def __enter__(self) -> None:
        # Behind the patch embedding and before the position is added, whatever the timm class.
        def replace(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            return torch.where(self.mask.unsqueeze(-1), self.token, output)

        if not isinstance(getattr(self.encoder, "patch_embed", None), nn.Module):
            raise FdlabError(
                f"{type(self.encoder).__name__} cannot be masked.",
                "Where its patches are embedded is not known: it has no patch_embed.",
                "Train without a mask (--set distill.mask=0), or call that module patch_embed: (B, N, C) out of it.",
                code=USAGE,
            )
        self._hook = self.encoder.get_submodule("patch_embed").register_forward_hook(replace)

    def __exit__(self, *_: object) -> None:
        self._hook.remove()


def new_mask_token(width: int) -> nn.ParameterDict:
    """A token to be learnt, normal with sd 0.02; drawn from the global generator."""
    return nn.ParameterDict({"mask_token": nn.Parameter(0.02 * torch.randn(width))})

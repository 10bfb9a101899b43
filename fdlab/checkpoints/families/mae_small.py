"""The small MAE of IcarusWizard's code: packed tokens, a table of patches only, qkv without bias."""

from __future__ import annotations

from torch import Tensor

from fdlab.checkpoints.contents import Contents
from fdlab.checkpoints.families.family import MODEL, Family, Network, Place


def _packed(network: Network, contents: Contents) -> bool:
    return "pos_embedding" in network and "transformer.0.attn.qkv.weight" in network


def _unpack(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A table (rows, 1, C) for patches only, as (1, rows, C)."""
    return {**state, "pos_embed": state["pos_embed"].transpose(0, 1)}


FAMILIES = (
    Family(
        name="mae_small",
        title="the small MAE of IcarusWizard's code",
        kind="mim",
        encoders={"encoder": tuple(Place(place.table, ("encoder.", "")) for place in MODEL)},
        default=("encoder",),
        matches=_packed,
        marker="patchify.weight",
        leftovers=(r"/decoder\..*", r"mask_token"),
        renames=(
            (r"^patchify\.", "patch_embed.proj."),
            (r"^pos_embedding$", "pos_embed"),
            (r"^transformer\.", "blocks."),
            (r"^layer_norm\.", "norm."),
        ),
        convert=_unpack,
        heads={72: 3, 192: 3},
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        norm_eps=1e-5,
        resize_is_ours=True,
    ),
)

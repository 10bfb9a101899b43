"""MAE: ``{model: ...}``, the encoder alone or with its decoder, on a fixed sin-cos table."""

from __future__ import annotations

from torch import Tensor

from fdlab.encoders.families.family import Contents, Family, Place, class_row_is_zero, is_plain_vit
from fdlab.encoders.positions import sincos_table


def _matches(contents: Contents) -> bool:
    networks = [place.network(contents) for place in FAMILY.networks(contents).values()]
    return bool(networks) and all(
        is_plain_vit(net) and class_row_is_zero(net) and _column_first(net["pos_embed"][0, 1:]) for net in networks
    )


def _column_first(table: Tensor) -> bool:
    """MAE's table starts with the column's channels, MoCo v3's (otherwise the same) with the row's."""
    rows, width = table.shape
    side = round(rows**0.5)
    if side * side != rows or width % 4:
        return True  # the order cannot be told
    own = sincos_table((side, side), width)
    other = own.view(side, side, width).transpose(0, 1).reshape(rows, width)
    return bool((table.float() - own).square().sum() <= (table.float() - other).square().sum())


FAMILY = Family(
    name="mae",
    title="MAE (plain ViT with a fixed sin-cos table)",
    encoders={"encoder": (Place("model"), Place(""))},
    default=("encoder",),
    matches=_matches,
    leftovers=(r"mask_token", r"decoder_.*"),
    heads={768: 12, 1024: 16, 1280: 16},
    resize="size",
    fixed_positions=True,
    assumed=("norm eps 1e-6, exact GELU and ImageNet mean and std are not in the file: from the authors' code",),
)

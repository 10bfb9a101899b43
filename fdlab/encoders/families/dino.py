"""DINO: flat backbone files, and full training files with a student and a teacher."""

from __future__ import annotations

from fdlab.encoders.families.family import Contents, Family, Place, class_row_is_zero, is_plain_vit

# Early full files have no ``backbone.``; ``module.`` is gone by the time places are looked up.
_PREFIXES = ("backbone.", "")


def _matches(contents: Contents) -> bool:
    if "ibot_loss" in contents.top:  # same layout, another training
        return False
    networks = [place.network(contents) for place in FAMILY.networks(contents).values()]
    return bool(networks) and all(is_plain_vit(net) and not class_row_is_zero(net) for net in networks)


FAMILY = Family(
    name="dino",
    title="DINO (plain ViT with a learned table; iBOT and DeiT without a head look the same)",
    encoders={
        "teacher": (Place("teacher", _PREFIXES),),
        "student": (Place("student", _PREFIXES),),
        "backbone": (Place("", _PREFIXES),),
    },
    default=("teacher", "backbone", "student"),
    matches=_matches,
    leftovers=(r"head\.(mlp|last_layer)\..*",),
    heads={192: 3, 384: 6, 768: 12, 1024: 16},
    arches=("vit_tiny", "vit_small", "vit_base", "vit_large", "deit_tiny", "deit_small", "deit_base"),
    resize="offset",
    assumed=("norm eps 1e-6, exact GELU and ImageNet mean and std are not in the file: from the authors' code",),
)

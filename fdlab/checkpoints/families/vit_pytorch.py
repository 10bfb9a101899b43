"""lucidrains' vit-pytorch ViT: present names, and those of early releases (``PreNorm``'s ``.norm`` and ``.fn``)."""

from __future__ import annotations

from torch import Tensor

from fdlab.checkpoints.families.family import Family, Network, all_of, under

_LAYER = r"^transformer\.layers\.(\d+)\."


def _is_vit_pytorch(network: Network) -> bool:
    return any(f"transformer.layers.0.0.{part}to_qkv.weight" in network for part in ("", "fn."))


def _add_axes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The class token (1, C) and the table (rows, C) as (1, 1, C) and (1, rows, C)."""
    moved = dict(state)
    for key in ("cls_token", "pos_embed"):
        if key in moved:
            moved[key] = moved[key].reshape(1, -1, moved[key].shape[-1])
    return moved


FAMILIES = (
    Family(
        name="vit_pytorch",
        title="vit-pytorch's ViT",
        kind="unknown",
        encoders={"model": under("")},
        default=("model",),
        matches=all_of(_is_vit_pytorch),
        builder="vit_pytorch",
        marker="to_patch_embedding.1.weight",
        renames=(
            (r"^pos_embedding$", "pos_embed"),
            (_LAYER + r"0\.norm\.", r"blocks.\1.norm1."),
            (_LAYER + r"0\.(fn\.)?to_qkv\.", r"blocks.\1.attn.qkv."),
            (_LAYER + r"0\.(fn\.)?to_out\.0\.", r"blocks.\1.attn.proj."),
            (_LAYER + r"1\.net\.0\.", r"blocks.\1.norm2."),
            (_LAYER + r"1\.net\.1\.", r"blocks.\1.mlp.fc1."),
            (_LAYER + r"1\.net\.4\.", r"blocks.\1.mlp.fc2."),
            (_LAYER + r"1\.norm\.", r"blocks.\1.norm2."),
            (_LAYER + r"1\.fn\.net\.0\.", r"blocks.\1.mlp.fc1."),
            (_LAYER + r"1\.fn\.net\.3\.", r"blocks.\1.mlp.fc2."),
            (r"^transformer\.norm\.", "norm."),
            (r"^mlp_head\.0\.", "fc_norm."),  # old: a norm of the pooled token, then the classifier
            (r"^mlp_head\.1\.", "head."),
            (r"^mlp_head\.", "head."),
        ),
        convert=_add_axes,
        norm_eps=1e-5,
        resize_is_ours=True,
        notes=("the class token is read, vit-pytorch's default (pool='cls'): the file does not hold it",),
    ),
)

"""Averaged attention maps, metrics of them, learnt biases: fields of ``Metric``, registered by ``metrics.py``."""

from __future__ import annotations

Fields = tuple[str, str, str, str, float | None, float | None, str, str, str]

_M = "M = mean over images of y, y as for the metric without the suffix"
_SHARPER = (
    "The mean of many maps is flatter than each of them, and flatter with more images: compare equal counts only."
)

# name -> (label, unit, low, high, what it says): of non-linear metrics alone, as the distance and the diagonal of
# the mean map are the means over images themselves
_OF_MEAN: dict[str, tuple[str, str, float | None, float | None, str]] = {
    "entropy": ("entropy / ln N", "", 0.0, 1.0, "How broad the average map of a head is."),
    "nmi": ("normalised mutual information", "", 0.0, 1.0, "How much of a head's query dependence all images share."),
    "column_concentration": (
        "column concentration",
        "",
        1.0,
        None,
        "Whether the same key positions win in all images.",
    ),
    "r2_relative": (
        "share explained by relative position",
        "",
        0.0,
        1.0,
        "How much of what images share in a head is one pattern moved along with the query.",
    ),
    "r2_absolute": (
        "share explained by the key's position",
        "",
        0.0,
        1.0,
        "How much of what images share in a head is the same for every query.",
    ),
    "head_similarity": ("cosine between heads", "", 0.0, 1.0, "How alike the average maps of a block's heads are."),
    "head_similarity_centred": (
        "cosine between heads, centred",
        "",
        -1.0,
        1.0,
        "How alike the heads' average maps are beyond what both share with uniform attention.",
    ),
    "head_divergence": ("KL between heads", "nats", 0.0, None, "How differently the heads attend on average."),
}
OF_MEAN = tuple(_OF_MEAN)

MAPS: list[Fields] = [
    *(
        (
            f"{name}_of_mean",
            f"{label} of the mean map",
            unit,
            f"{name} of M, {_M}",
            low,
            high,
            says,
            _SHARPER,
            f"{name} on averaged maps, as published figures take it; delete-a-group jackknife over images",
        )
        for name, (label, unit, low, high, says) in _OF_MEAN.items()
    ),
    (
        "attention_map",
        "attention / uniform",
        "",
        "N mean over images, queries of cell y and keys of cell x of y_ij; cells: at most 7 x 7 parts of the grid",
        0.0,
        None,
        "Where a head looks from where, on average over the images; 1 is uniform attention.",
        "What differs between images is averaged away: a flat mean map may hide sharp maps.",
        "averaged maps as in Wei et al. 2022 (feature distillation); head of smallest and largest distance",
    ),
    (
        "relative_bias",
        "learnt relative-position bias",
        "",
        "b(offset) less its mean over all pairs of patches; x and y: patches from query to key, across and down",
        None,
        None,
        "What a head adds to its logits for a key at this offset, whatever the image.",
        "It is not the attention: queries and keys add to it, and a large bias can be outweighed by them.",
        "Bao et al. 2022 (BEiT), Liu et al. 2021 (Swin): the model's own weights, without an interval",
    ),
]

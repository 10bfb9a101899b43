"""Names that the entries and the code share: what is ranked, reparametrised or averaged, in which order."""

from __future__ import annotations

from fdlab.records.metrics.metric import METRICS

# How the cells of an image are ranked: the suffix of a metric's name -> in words.
ORDERS = {"gradients": "integrated gradients", "rollout": "attention rollout", "random": "random order"}

# The maps of ``fdlab.encoders.reparametrise``, in the order that ``x`` counts from 1 in the rows of the control.
MAPS = {
    "queries_keys": "queries x 4, keys / 4",
    "values_projection": "values x 4, projection / 4",
    "norms": "LayerNorms x 4, next layer / 4",
    "channels": "the same, channel by channel",
    "heads_mixed": "a matrix inside each head",
}

# The metrics that are also taken of the mean map, as ``NAME_of_mean``.
OF_MEAN = tuple(name.removesuffix("_of_mean") for name in METRICS if name.endswith("_of_mean"))

# Shares of images that are named rightly: shown in per cent, their differences in points.
ACCURACIES = ("accuracy", "best_accuracy", "validation_accuracy", "class_accuracy", "knn", "linear_probe")

# The objective of rows whose seeds are those of one checkpoint's fine-tunings, not of its pre-training.
OF_FINETUNING = "seeds of fine-tuning alone"

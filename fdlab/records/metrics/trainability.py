"""The entries of trainability, as plain fields of ``Metric``: ``metrics.py`` registers them."""

from __future__ import annotations

Fields = tuple[str, str, str, str, float | None, float | None, str, str, str]

# The objective of rows whose seeds are of one checkpoint's fine-tunings, not of its pre-training.
OF_FINETUNING = "seeds of fine-tuning alone"
_OURS = "ours; one budget for all models, a grid of learning rates, several seeds"

TRAINABILITY: list[Fields] = [
    (
        "validation_accuracy",
        "validation accuracy",
        "",
        "correct / all of the training images that were held out for choosing settings",
        0.0,
        1.0,
        "By which settings are chosen, so that the test images choose nothing.",
        "Of the chosen setting it is too high: report the test accuracy.",
        "the run's own evaluation",
    ),
    (
        "best_accuracy",
        "accuracy at the model's own best learning rate",
        "",
        "test accuracy of the rate with the highest validation accuracy (ties: the lower final loss)",
        0.0,
        1.0,
        "How well a model fine-tunes when its learning rate is searched for.",
        "Within one budget: a longer or otherwise regularised fine-tuning can order the models differently.",
        _OURS,
    ),
    (
        "best_rate",
        "the model's best learning rate",
        "",
        "the rate of the grid with the highest validation accuracy",
        0.0,
        None,
        "Where the model's search ended.",
        "At the edge of the grid the true best lies beyond it.",
        _OURS,
    ),
    (
        "lr_width",
        "width of the good learning rates",
        "decades",
        "decades of the rate around the best at which test accuracy is within 0.01 of the best, linear between rates",
        0.0,
        None,
        "How little the learning rate matters: a wide range is easy to hit.",
        "It is a lower bound where it reaches the grid's edge, and scatter of the accuracies narrows it.",
        _OURS,
    ),
    (
        "steps_to_loss",
        "steps to a common training loss",
        "steps",
        "first step at which the smoothed training loss is at most the highest final loss of all models, each at its "
        "best rate",
        0.0,
        None,
        "How fast a model reaches what the slowest model reaches at its end.",
        "It depends on which models are compared: the slowest one sets the mark.",
        _OURS,
    ),
]

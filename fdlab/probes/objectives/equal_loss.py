"""Models at one loss: ``classifier@0.5`` is the classifier whose logits are scaled until its mean loss is 0.5.

The curvature of a cross-entropy falls with the loss: a classifier that is sure of its images is flat whatever its
weights are. A model and the same model with other logits, s * z, have other curvatures and are the same classifier.
At one loss they have one value: ``loss(s) = mean_i -log softmax(s z_i)[y_i]`` is convex in s, log(classes) at 0, and
the scale is the smallest s > 0 at which it is the wanted one (temperature 1 / s; Guo et al. 2017 fit it to held-out
images, here it is set for the loss).
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from fdlab.errors import NOT_UNDERSTOOD, USAGE, FdlabError
from fdlab.probes.objectives.objective import Objective

WITH_LOGITS = ("linear-probe", "classifier")
_FIRST, _LAST, _STEP = 1e-6, 1e6, 1.05  # scales that are tried until the loss is reached
_HALVINGS = 60


def parted(name: str) -> tuple[str, float | None]:
    """The objective's own name and the loss that its logits are scaled to, None where they are left alone.

    >>> parted("classifier@0.5"), parted("mim")
    (('classifier', 0.5), ('mim', None))

    Raises:
        FdlabError: what follows the ``@`` is no loss, or the objective has no logits.
    """
    plain, at, number = name.partition("@")
    if not at:
        return name, None
    try:
        loss = float(number)
    except ValueError:
        loss = math.nan
    if not (0 < loss < math.inf and plain in WITH_LOGITS):
        raise FdlabError(
            f"The objective '{name}' is not understood.",
            "Only the logits of a classifier can be scaled to a loss, which is a number above 0.",
            "Use --objective linear-probe@0.5 or classifier@0.5.",
            USAGE,
        )
    return plain, loss


def at_loss(objective: Objective, loss: float) -> Objective:
    """The objective with its logits scaled so that its mean loss over all its images is ``loss``.

    Raises:
        FdlabError: no scale gives this loss: it is that of a guess or above, or below the lowest.
    """
    with torch.no_grad():
        logits = torch.cat([objective.output(inputs).double() for inputs, _ in objective.batches])
    targets = torch.cat([labels for _, labels in objective.batches])
    scale = _scale(logits, targets, loss)
    plain = objective.criterion

    def criterion(output: Tensor, labels: Tensor) -> Tensor:
        return plain(scale * output, labels)

    return replace(
        objective,
        criterion=criterion,
        description=f"{objective.description}; logits scaled to a mean loss of {loss:g}",
        facts={**objective.facts, "logit_scale": scale},
    )


def _scale(logits: Tensor, targets: Tensor, wanted: float) -> float:
    def loss(scale: float) -> float:
        return float(F.cross_entropy(scale * logits, targets))

    guess = math.log(logits.shape[1])
    scale, seen, lowest = _FIRST, loss(_FIRST), guess
    while seen > wanted and seen <= lowest and scale < _LAST:
        lowest, scale = seen, scale * _STEP
        seen = loss(scale)
    if seen > wanted or wanted >= guess:
        raise FdlabError(
            f"No scale of this model's logits gives a loss of {wanted:g}.",
            f"On these images it can be anything between {min(lowest, seen):.3g} and {guess:.3g}, that of a guess.",
            "Name another loss after the @ of --objective, between these for every model.",
            NOT_UNDERSTOOD,
        )
    below, above = scale / _STEP, scale
    for _ in range(_HALVINGS):
        middle = (below + above) / 2
        below, above = (middle, above) if loss(middle) > wanted else (below, middle)
    return above

"""Which loss is measured: curvature, landscapes and sharpness mean nothing without it.

An ``Objective`` is a mean loss of one module over fixed images, in eval mode. Nothing is augmented or smoothed, but
for ``fine-tuning``, which has the views of the model's own recipe.
Do not compare numbers of two objectives: their scales have nothing in common.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from fdlab.errors import NOT_UNDERSTOOD, USAGE, FdlabError
from fdlab.measures.products import check_module
from fdlab.probes.objectives.classifiers import classifier, linear_probe
from fdlab.probes.objectives.equal_loss import at_loss, parted
from fdlab.probes.objectives.fine_tuning import fine_tuning
from fdlab.probes.objectives.heads import heads_identity
from fdlab.probes.objectives.objective import Batch, Objective
from fdlab.probes.objectives.targets import distill, mim
from fdlab.probes.probe import check_name
from fdlab.records.store import Store

if TYPE_CHECKING:
    from fdlab.encoders.encoder import Encoder

__all__ = ["OBJECTIVES", "Batch", "Objective", "build_objective", "check_module", "heads_identity"]

OBJECTIVES = ("linear-probe", "classifier", "fine-tuning", "distill", "mim")


def build_objective(
    name: str,
    encoder: Encoder,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    teacher: Encoder | str | None = None,
    micro_batch: int = 16,
    seed: int = 0,
    parameters: Literal["encoder", "all"] = "encoder",
    pool: Literal["patches", "class"] = "patches",
    l2: float = 1e-4,
    store: Store | None = None,
) -> Objective:
    """A named objective of one model on these images.

    Args:
        name: ``linear-probe`` (a converged, penalised classifier on frozen features, then frozen itself),
            ``classifier`` (the model's own), ``fine-tuning`` (the same on augmented images, as the run's recipe has
            them), ``distill`` (whitened teacher features) or ``mim`` (masked pixels). The first two may end in
            ``@LOSS``: the logits are then scaled to this mean loss (``equal_loss``).
        images: (n, 3, H, W) in [0, 1] at the model's size.
        labels: (n,) for the first three.
        teacher: an Encoder or its SOURCE, for ``distill``.
        micro_batch: images in one product: memory, not the result.
        seed: of the masks of ``mim`` and of the views of ``fine-tuning``.
        parameters: the encoder's, or the head's too.
        pool: what the linear probe reads: the mean patch token or the class token, under a LayerNorm.
        l2: the linear probe's penalty, in units of the mean loss.
        store: where fitted probes are kept.

    Raises:
        FdlabError: an unknown name, no classifier, no labels, one class, no teacher, no decoder, weights that
            are not finite, or a model with active BatchNorm or dropout.
    """
    name, wanted = parted(name)
    check_name("There is no objective", name, OBJECTIVES, "Use one of")
    encoder.module.eval()
    check_module(encoder.module)
    inputs = encoder.normalise(images)
    if name == "linear-probe":
        objective = linear_probe(encoder, inputs, labels, micro_batch, pool, l2, store)
    elif name == "classifier":
        objective = classifier(encoder, inputs, labels, micro_batch)
    elif name == "fine-tuning":
        objective = fine_tuning(encoder, images, labels, micro_batch, seed)
    elif name == "distill":
        objective = distill(encoder, images, inputs, teacher, micro_batch)
    else:
        objective = mim(encoder, inputs, micro_batch, seed)
    objective.module.eval()
    if wanted is not None:
        objective = at_loss(objective, wanted)
    objective.parameters = _reached(objective, encoder, parameters)
    return objective


def _reached(objective: Objective, encoder: Encoder, which: str) -> dict[str, Tensor]:
    """The parameters that the loss depends on, by the encoder's own names; the others have no curvature."""
    of_encoder = {id(p) for p in encoder.module.parameters()}
    classifier_of = getattr(encoder.module, "get_classifier", None)
    if callable(classifier_of):  # the encoder's file may hold a classifier: it is no part of the encoder
        of_encoder -= {id(p) for p in classifier_of().parameters()}
    named = {
        name.removeprefix("encoder."): parameter
        for name, parameter in objective.module.named_parameters()
        if parameter.requires_grad and (which == "all" or id(parameter) in of_encoder)
    }
    if not named:
        raise FdlabError("No parameter of this model can move.", "All are frozen.", "Set requires_grad.", USAGE)
    gradients = torch.autograd.grad(objective.loss(objective.batches[0]), list(named.values()), allow_unused=True)
    if any(gradient is not None and not torch.isfinite(gradient).all() for gradient in gradients):
        raise FdlabError(
            "The gradient of the loss is not finite.", fix="Check the images and weights.", code=NOT_UNDERSTOOD
        )
    _check_reached(encoder, [(name, p) for (name, p), g in zip(named.items(), gradients, strict=True) if g is None])
    return {name: p for (name, p), gradient in zip(named.items(), gradients, strict=True) if gradient is not None}


def _check_reached(encoder: Encoder, without: list[tuple[str, Tensor]]) -> None:
    """Refuses a network with a kernel that torch does not know where no gradient reaches parameters of its blocks.

    A parameter that is not used at all has no gradient either, and is no reason to refuse.
    """
    if " op " not in encoder.info.attention:
        return
    inside = {id(p) for part in encoder.anatomy.parts(encoder.module) for p in part.parameters()}
    hidden = [name for name, parameter in without if id(parameter) in inside]
    if hidden:
        raise FdlabError(
            f"{len(hidden)} parameters in the blocks of {encoder.info.title} get no gradient.",
            f"{hidden[0]}: a kernel without a derivative stands behind it.",
            "Switch to torch's own functions for measuring.",
            code=NOT_UNDERSTOOD,
        )

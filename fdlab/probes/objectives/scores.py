"""One number an image that attributions explain: the logit of a class, or the likeness to the image's own feature."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from fdlab.errors import NOT_UNDERSTOOD, USAGE, FdlabError
from fdlab.probes.probe import check_name

if TYPE_CHECKING:
    from fdlab.encoders.encoder import Encoder

TARGETS = ("auto", "label", "prediction", "feature")
WORDS = {
    "label": "logit of the image's label",
    "prediction": "logit of the model's first answer for the whole image",
    "feature": "cosine to the image's own feature (mean of its final patch tokens)",
}


class ClassOrFeature:
    """A score of normalised images (B, 3, H, W) towards aims: classes (B,) or features (B, C); differentiable.

    Raises:
        FdlabError: code 2, an unknown target, or labels asked for where there are none; code 3, a class asked for
            where the model holds no classifier.
    """

    def __init__(self, encoder: Encoder, target: str, labelled: bool) -> None:
        check_name("No target is", target, TARGETS)
        classes = encoder.info.classes
        if target in ("label", "prediction") and not classes:
            raise FdlabError(
                f"{encoder.info.source or 'This model'} holds no classifier.",
                f"The target '{target}' is the logit of a class.",
                "Use --target feature, or a model with its classifier.",
                NOT_UNDERSTOOD,
            )
        if target == "label" and not labelled:
            raise FdlabError(
                "The images have no labels.", fix="Use --target prediction, or labelled images.", code=USAGE
            )
        if target == "auto":
            target = "feature" if not classes else "label" if labelled else "prediction"
        self.encoder, self.target = encoder, target

    @property
    def words(self) -> str:
        """What is scored, for the column ``objective``."""
        return WORDS[self.target]

    @property
    def row(self) -> int | None:
        """The token that the score reads, or None where it reads the patch tokens' mean."""
        token = getattr(self.encoder.module, "global_pool", "") == "token" and bool(self.encoder.info.prefix_tokens)
        return 0 if self.target != "feature" and token else None

    def aims(self, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What each whole image is scored for, and whether the label is the first answer (None without labels).

        Raises:
            FdlabError: code 2, a label that the classifier does not have.
        """
        with torch.no_grad():
            if self.target == "feature":
                return self._feature(images), None
            first = self.encoder.logits(images).argmax(1)
        if self.target == "prediction" or labels is None:
            return first, None
        aims, classes = labels.to(first.device, torch.int64), self.encoder.info.classes
        if int(aims.min()) < 0 or int(aims.max()) >= classes:
            raise FdlabError(
                f"The images have a label {int(aims.max() if aims.min() >= 0 else aims.min())}.",
                f"The classifier knows classes 0 to {classes - 1}: these are other classes.",
                "Use --target prediction, or images of the classes that the model was trained on.",
                USAGE,
            )
        return aims, first == aims

    def __call__(self, images: Tensor, aims: Tensor) -> Tensor:
        if self.target == "feature":
            return F.cosine_similarity(self._feature(images), aims, dim=1)
        logits = self.encoder.logits(images)
        return (logits if logits.dtype == torch.float64 else logits.float()).gather(1, aims[:, None])[:, 0]

    def _feature(self, images: Tensor) -> Tensor:
        """(B, C) float32, or float64 where the model is."""
        feature = self.encoder.tokens(images)[:, self.encoder.info.prefix_tokens :].mean(1)
        return feature if feature.dtype == torch.float64 else feature.float()

"""Classification: fine-tuning of an opened encoder, or the training of a head alone."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fdlab.checkpoints.open import open_model
from fdlab.checkpoints.sources import code_and_weights, is_code, split_facts
from fdlab.data.evaluation import stacked
from fdlab.data.images import ImageSource
from fdlab.data.loader import Batch
from fdlab.encoders.anatomy import anatomy_of
from fdlab.encoders.channels import check_colour
from fdlab.encoders.cost import Cost, dense
from fdlab.encoders.encoder import blocks_of
from fdlab.encoders.position_bias import untie_bias
from fdlab.encoders.student import build, scale_bias, seeded
from fdlab.engine.distributed import current
from fdlab.engine.gathering import gathered, own_rows
from fdlab.engine.mixing import MixSettings, erase, mix, soft_cross_entropy
from fdlab.errors import NOT_UNDERSTOOD, USAGE, FdlabError
from fdlab.randomness import seed_for
from fdlab.tasks.base import ModelSettings, Task, TaskSettings


class ClassifySettings(TaskSettings):
    """Which start (an opened model, or a new one of ``design``), which head."""

    model: str = Field("", description="SOURCE of the start: a file, a run folder, random:RUN, timm:NAME")
    design: ModelSettings = Field(ModelSettings(), description="where there is no model: train from scratch")
    head_norm: Literal["standardise", "layernorm", "batchnorm", "none"] = Field(
        "layernorm",
        description="the pooled token's norm: a new LayerNorm, fixed statistics, or BatchNorm without scale",
    )
    head_init: float = Field(2e-5, ge=0, description="sd of the head's weights (the paper's 0.02 x 0.001)")
    smoothing: float = Field(0.1, ge=0, lt=1)
    drop_path: float = Field(0.0, ge=0, lt=1)
    bias_scale: float = Field(1.0, gt=0, description="relative bias = this x table while training")
    freeze: bool = Field(False, description="train the head alone; the encoder stays in evaluation mode")
    final_norm: bool = Field(True, description="the encoder's own final norm stands before the pooling")
    untie_bias: bool = Field(False, description="a shared bias table becomes one table a block")
    mix: MixSettings = MixSettings()


class Standardise(nn.Module):
    """``(x - mean) / sd`` with fixed statistics."""

    mean: Tensor
    sd: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("sd", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.sd


class Classify(Task):
    """Fine-tunes an encoder: mean patch token -> norm -> linear head, cross-entropy with label smoothing.

    By default the encoder's own final norm and a shared bias table stay; the paper drops the one
    (``final_norm = false``) and unties the other (``untie_bias = true``).
    """

    name = "classify"
    Settings = ClassifySettings
    family = "supervised"

    def build(self) -> None:
        settings: ClassifySettings = self.settings
        labels = self.data.subset(range(1024)).labels() if self.data.endless else self.data.labels()
        if len(labels) == 0 or labels.min() < 0:
            raise FdlabError(
                f"The images of {self.data.spec} have no labels.",
                f"{self.data.unlabelled}."
                if self.data.unlabelled
                else "Fine-tuning needs class folders or a label column.",
                "Arrange the images in one folder a class.",
                code=NOT_UNDERSTOOD,
            )
        self.classes = classes = len(self.data.classes) if self.data.classes else int(labels.max()) + 1
        self._check_held_out()
        self.couples_images = settings.head_norm == "batchnorm"
        encoder, width = self._opened(settings) if settings.model else self._fresh(settings)
        scale_bias(encoder, settings.bias_scale)
        if not set_drop_path(encoder, settings.drop_path) and settings.drop_path:
            self.notes.append("No block has a drop path of timm's names: classify.drop_path was not used.")
        with seeded(seed_for(self.seed, "head")):
            head = nn.Linear(width, classes)
            nn.init.normal_(head.weight, std=settings.head_init)
            nn.init.zeros_(head.bias)
        norm = head_norm(settings.head_norm, width)
        self.module = nn.ModuleDict({"encoder": encoder, "norm": norm, "head": head})
        if settings.freeze:
            encoder.requires_grad_(False)
        if not settings.final_norm:
            self._own_norm(encoder).requires_grad_(False)
            self.notes.append("The encoder's own final norm was not used in training; the file holds its start.")
        self.module.to(self.device)
        if isinstance(norm, Standardise):
            self._measure_statistics(norm)

    def _own_norm(self, encoder: nn.Module) -> nn.Module:
        """The encoder's final norm, which ``final_norm = false`` leaves out."""
        name = anatomy_of(encoder).norm
        if not name or not isinstance(getattr(encoder, name.partition(".")[0], None), nn.Module):
            raise FdlabError(
                f"{self.settings.model} has no final norm that could be left out.",
                "classify.final_norm is false.",
                "Leave it at true: --set classify.final_norm=true.",
                code=USAGE,
            )
        return encoder.get_submodule(name)

    def _check_held_out(self) -> None:
        """The head has as many outputs as the training images have classes; held-out labels must be among them."""
        for held in (self.test, self.validation):
            if held is None:
                continue
            labels = held.labels()
            if len(labels) and (labels.min() < 0 or labels.max() >= self.classes):
                none = labels.min() < 0
                raise FdlabError(
                    f"The held-out images of {held.spec} cannot be judged.",
                    "Some have no label."
                    if none
                    else f"They have a class {labels.max()}; the training images, and so the head, have classes 0 to "
                    f"{self.classes - 1}.",
                    "Give held-out images with labels of the same classes, or leave data.test empty.",
                    code=NOT_UNDERSTOOD if none else USAGE,
                )

    def _opened(self, settings: ClassifySettings) -> tuple[nn.Module, int]:
        start = check_colour(open_model(settings.model, device=self.device, seed=self.seed))
        if start.info.image_size not in (self.size, (self.size, self.size)):
            start = open_model(settings.model, device=self.device, seed=self.seed, image_size=self.size)
        base = split_facts(settings.model)[0]
        if is_code(base):
            self.code = code_and_weights(base.removeprefix("random:"))[0]
        elif start.call is None:
            raise FdlabError(
                f"{start.info.title} cannot be fine-tuned here.",
                "It lives in this process alone: its result could not be opened again.",
                "Name the code that builds it (model='py:FILE.py:FUNCTION'), or train it in your own loop.",
                code=USAGE,
            )
        if settings.untie_bias and self.code:
            raise FdlabError(
                f"The biases of {start.info.title} cannot be untied.",
                "Where a network of your own code keeps its biases is not known.",
                "Leave it out: --set classify.untie_bias=false.",
                code=USAGE,
            )
        self.mean, self.std = start.info.mean, start.info.std
        self.call, self.options = start.call, start.info.options
        self.notes = list(start.info.assumed)
        if self.code:
            self.notes.append(f"The run holds weights alone; it opens beside its code: {self.code}@RUN.")
        self.inputs = {"model": start.info.sha256}
        if settings.untie_bias:
            start.module, self.call = untie_bias(start.module, start.call)
        return start.module, start.info.width

    def _fresh(self, settings: ClassifySettings) -> tuple[nn.Module, int]:
        if not settings.design.width:
            raise FdlabError(
                "There is no model to fine-tune.",
                "classify.model is empty and classify.design describes none.",
                "Give MODEL (a checkpoint file, a run folder, random:RUN or timm:NAME).",
                code=USAGE,
            )
        self.design = settings.design.design(self.size)
        return build(self.design, seed=seed_for(self.seed, "classify")), self.design.token_width

    def _measure_statistics(self, norm: Standardise) -> None:
        # From the labelled images themselves, before the first step, unaugmented.
        images, _ = self.data.stack(range(min(len(self.data), 1024)), self.size)
        self.module.eval()
        with torch.no_grad():
            pooled = torch.cat([self.pooled(self.tokens(part)) for part in images.split(256)])
        norm.mean.copy_(pooled.mean(0))
        norm.sd.copy_(pooled.std(0).clamp_min(1e-6))

    def train_mode(self, on: bool) -> None:
        """A frozen encoder stays in evaluation mode: no drop path, no statistics that move."""
        super().train_mode(on)
        if self.settings.freeze:
            self.encoder.eval()

    def prepare(self, batch: Batch, step: int) -> Batch:
        """Erases and mixes, as ``classify.mix`` says."""
        settings: MixSettings = self.settings.mix
        if not (settings.mixup or settings.cutmix or settings.erase):
            return batch
        ranks = current()
        whole = erase(ranks.together(batch), settings.erase, self.seed, self.mean, self.std)
        return ranks.mine(mix(whole, settings, self.classes, self.seed))

    def tokens(self, images: Tensor) -> Tensor:
        images = self.normalise(images.to(self.device))
        return anatomy_of(self.encoder).read_tokens(self.encoder, images, norm=self.settings.final_norm)

    def logits(self, images: Tensor) -> Tensor:
        """(B, classes) of raw images."""
        return self.module["head"](self.module["norm"](self.features(images)))

    def _coupled(self, images: Tensor) -> Tensor:
        """The logits in training with a batch norm, whose statistics are the whole batch's, on all ranks."""
        return self.module["head"](own_rows(self.module["norm"](gathered(self.features(images)))))

    def features(self, images: Tensor) -> Tensor:
        """(B, C) mean patch tokens; of a frozen encoder without gradient and in pieces that fit."""
        if not self.settings.freeze:
            return self.pooled(self.tokens(images))
        with torch.no_grad():
            return torch.cat([self.pooled(self.tokens(part)) for part in images.split(256)])

    def _flops(self, cost: Cost) -> float:
        encoder = cost.forward if self.settings.freeze else cost.training()
        return encoder + (2 if self.settings.freeze else 3) * dense(self.module["head"])

    def step(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        labels = batch.labels.to(self.device)
        logits = self._coupled(batch.images[0]) if self.couples_images else self.logits(batch.images[0])
        if batch.targets is not None:
            targets = batch.targets.to(self.device)
            loss = soft_cross_entropy(logits, targets, self.settings.smoothing)
            return loss, {"train_accuracy": targets.gather(1, logits.argmax(-1, keepdim=True)).mean()}
        loss = F.cross_entropy(logits, labels, label_smoothing=self.settings.smoothing)
        return loss, {"train_accuracy": (logits.argmax(-1) == labels).float().mean()}

    @property
    def evaluated(self) -> list[str]:
        held = {"accuracy": self.test, "validation_accuracy": self.validation}
        return [name for name, images in held.items() if images is not None]

    def evaluate(self) -> dict[str, float]:
        """Accuracy on the test and on the validation images, each counted once."""
        result = {}
        if self.test is not None:
            correct, count = self._count(self.test, keep=True)
            result = {"accuracy": correct / max(count, 1), "correct": float(correct), "count": float(count)}
        if self.validation is not None:
            correct, count = self._count(self.validation)
            result["validation_accuracy"] = correct / max(count, 1)
        return result

    def _count(self, images: ImageSource, *, keep: bool = False) -> tuple[int, int]:
        """Right answers and images; ``keep`` leaves those of each image as ``right``, on a single process."""
        correct = count = 0
        answers: list[Tensor] = []
        ranks = current()
        turns = ranks.turns(len(images), 256)
        for part, labels in stacked(images, turns, self.size, workers=self.workers, device=self.device):
            # Shared weights need every rank's forward pass: a rank without images makes one that is not counted.
            shown = part if len(part) else part.new_zeros(1, 3, self.size, self.size)
            answers.append(self.logits(shown).argmax(-1).cpu()[: len(labels)] == labels)
            correct += int(answers[-1].sum())
            count += len(labels)
        if keep:
            self.right = torch.cat(answers).numpy() if ranks.alone and answers else None
        correct, count = (int(number) for number in ranks.total(correct, count))
        return correct, count


def head_norm(kind: str, width: int) -> nn.Module:
    """The norm of the pooled token, as ``classify.head_norm`` names it."""
    if kind == "standardise":
        return Standardise(width)
    if kind == "none":
        return nn.Identity()
    # MAE's and the official code's linear probe: no scale, no shift.
    return nn.BatchNorm1d(width, eps=1e-6, affine=False) if kind == "batchnorm" else nn.LayerNorm(width, 1e-6)


def set_drop_path(encoder: nn.Module, rate: float) -> bool:
    """Stochastic depth, rising linearly with depth to ``rate`` (Huang et al. 2016; the paper's choice).

    Returns whether any block has a place for it; where none has, nothing is changed.
    """
    from timm.layers import DropPath

    blocks, places = blocks_of(encoder), 0
    for index, block in enumerate(blocks):
        drop = rate * index / max(len(blocks) - 1, 1)
        for name in ("drop_path1", "drop_path2", "drop_path"):
            if hasattr(block, name):
                setattr(block, name, DropPath(drop) if drop else nn.Identity())
                places += 1
    return places > 0

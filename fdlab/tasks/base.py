"""What every task has, the settings of a model to be built, and the registry of tasks."""

from __future__ import annotations

import importlib
import math
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from fdlab.data.loader import Batch
from fdlab.data.sources import ImageSource
from fdlab.encoders.anatomy import anatomy_of
from fdlab.encoders.cost import Cost, cost_of
from fdlab.encoders.devices import channels
from fdlab.encoders.encoder import EncoderInfo, TimmCall
from fdlab.encoders.student import Design, Init, Position
from fdlab.errors import USAGE, FdlabError, nearest


class TaskSettings(BaseModel):
    """Base of the settings of one task: unknown names are refused, values cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSettings(TaskSettings):
    """The part of a ``Design`` that a recipe may set. 0 means: as the teacher (distillation), where there is one."""

    image_size: int = Field(0, ge=0, description="pixels a side; 0: data.size, or the teacher's")
    patch_size: int = Field(0, ge=0)
    width: int = Field(0, ge=0)
    depth: int = Field(0, ge=0)
    heads: int = Field(0, ge=0)
    mlp_ratio: float = Field(4.0, gt=0)
    position: Position = "sincos"
    class_token: bool | None = Field(None, description="absent: as the teacher; without one: false")
    layer_scale: float = Field(0.0, ge=0, description="start value; 0: none")
    drop_path: float = Field(0.0, ge=0, lt=1, description="rate of the last block, linear over depth")
    bias_scale: float = Field(1.0, gt=0, description="relative bias = this x table; the paper's is 1")
    init: Init = "xavier"
    stages: tuple[int, ...] = Field((), description="blocks a stage of a SwinV2; empty: a plain ViT")
    window: int = Field(0, ge=0, description="side of a SwinV2's windows, in tokens")

    def design(self, image_size: int, like: EncoderInfo | None = None) -> Design:
        """The complete design: sizes that are 0 come from ``image_size`` (the views') or from the model ``like``.

        Raises:
            FdlabError: code 2, a size is given neither here nor by ``like``, or no such model can be built.
        """
        side = like.image_size if like else 0
        known = {
            "image_size": self.image_size or image_size or (side if isinstance(side, int) else side[0]),
            "patch_size": self.patch_size or (like.patch_size if like else 0),
            "width": self.width or (like.width if like and not self.stages else 0),
            "depth": sum(self.stages) or self.depth or (like.depth if like else 0),
            "heads": self.heads or (like.heads if like and not self.stages else 0),
        }
        if like and not known["heads"] and not self.stages:  # a convolutional teacher has none
            known["heads"] = usual_heads(known["width"])
        missing = [name for name, value in known.items() if not value]
        if missing:
            raise FdlabError(
                f"The model to be built has no {', '.join(missing)}.",
                "Without a teacher these must be given.",
                f"Give {missing[0]} in the model's table (--dry-run shows its name) or use a recipe that has it.",
                code=USAGE,
            )
        token = False if self.stages else self.class_token
        if token is None:
            token = like is not None and bool({"cls", "class"} & set(like.prefix_kinds))
        settings = {**self.model_dump(), **known, "class_token": token, "layer_scale": self.layer_scale or None}
        try:
            return Design(**settings)
        except FdlabError as error:
            fix = "Change data.size, or the model's table (--dry-run shows the names)."
            raise FdlabError(error.what, error.why, fix, code=USAGE) from None


def usual_heads(width: int) -> int:
    """Heads of a model of this width where nobody says: about 64 channels each, at least 3 heads where they divide it.

    >>> usual_heads(768), usual_heads(512), usual_heads(64), usual_heads(48)
    (12, 8, 4, 3)
    """
    divisors = [heads for heads in range(1, width + 1) if width % heads == 0]
    several = [heads for heads in divisors if heads >= 3 and width // heads >= 8] or divisors
    return min(several, key=lambda heads: abs(math.log(width / heads / 64)))


class Task:
    """One training objective. Subclasses set ``name``, ``Settings``, ``family`` and fill ``module``.

    Args:
        settings: the task's own table of the recipe.
        data: the training images; their constants are the new model's normalisation.
        size: pixels a side of the views.
        seed: of everything that is drawn while building.
        low: the step runs in bfloat16; networks that are not trained may then be held in it.
        workers: processes that decode images for evaluations.
        test: held-out images for ``evaluate``, where the task has one.
        validation: images that are neither trained on nor in ``test``, for choosing settings.
    """

    name: ClassVar[str]
    Settings: ClassVar[type[TaskSettings]]
    family: ClassVar[str]
    views: ClassVar[int] = 1
    slow_copy: ClassVar[bool] = False  # a copy follows the trained weights, which must be whole for it
    result: ClassVar[str] = "encoder.safetensors"
    couples_images: bool = False  # by a loss or batch norm: ranks gather, no parts in time; settings may decide

    def __init__(
        self,
        settings: Any,
        data: ImageSource,
        *,
        size: int,
        seed: int,
        device: str = "cpu",
        low: bool = False,
        workers: int = 0,
        test: ImageSource | None = None,
        validation: ImageSource | None = None,
    ) -> None:
        self.settings, self.data, self.test, self.validation = settings, data, test, validation
        self.size, self.seed, self.device, self.low, self.workers = size, seed, device, low, workers
        self.mean, self.std = tuple(data.mean), tuple(data.std)
        self.design: Design | None = None
        self.call: TimmCall | None = None
        self.code = ""  # SOURCE of the user's own code that builds the encoder, where it is neither
        self.options: tuple[str, ...] = ()
        self.module = nn.ModuleDict()
        self.notes: list[str] = []
        self.steps = 0  # of the whole run; known before the first one
        self.inputs: dict[str, str] = {}  # sha256 of the models that the run starts from
        self.build()
        self.module.to(device)

    @property
    def encoder(self) -> nn.Module:
        """The network that is trained."""
        return self.module["encoder"]

    @property
    def kept_encoder(self) -> nn.Module:
        """The network that the run leaves; the trained one, unless a slow copy of it is the result."""
        return self.encoder

    @property
    def frozen(self) -> list[nn.Module]:
        """Networks that a step runs beside the trained one: teachers, slow copies."""
        return []

    @property
    def steady(self) -> bool:
        """Whether every step uses the same parameters."""
        return True

    @property
    def prefix_tokens(self) -> int:
        """How many tokens stand before the patches."""
        known = anatomy_of(self.encoder).prefix
        return int(getattr(self.encoder, "num_prefix_tokens", 0)) if known is None else known  # type: ignore[arg-type]

    @property
    def flops(self) -> float:
        """FLOPs a training image, by formula: of all networks, forward and backward; 0 where it is not known."""
        cost = cost_of(self.encoder)
        return self._flops(cost) if cost else 0.0

    def _flops(self, cost: Cost) -> float:
        """``cost``: of the encoder on one image. Here the encoder alone is trained, on every view."""
        return self.views * cost.training()

    def build(self) -> None:
        """Fills ``module`` ("encoder" and what is trained beside it) and, for a new model, ``design``."""
        raise NotImplementedError

    def prepare(self, batch: Batch, step: int) -> Batch:
        """The batch with what is drawn for all of it (mixing, erasing), before it is computed in parts."""
        return batch

    def train_mode(self, on: bool) -> None:
        """Training or evaluation mode; frozen parts stay in evaluation mode."""
        self.module.train(on)

    def step(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of this batch, a scalar with its gradient, and further scalars for the log."""
        raise NotImplementedError

    def after_step(self, step: int) -> None:
        """Called after the optimiser's step: slow copies and running statistics follow here."""

    def evaluate(self) -> dict[str, float]:
        """{name: number} on held-out images."""
        return {}

    @property
    def evaluated(self) -> list[str]:
        """The names of ``evaluate``'s numbers, known before the first step."""
        return []

    def agreement(self, images: Tensor) -> float | None:
        """Mean cosine between predictions and targets of raw images; None where there is no such target."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes while training, except the optimiser's state."""
        return {"module": self.module.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        self.module.load_state_dict(state["module"])

    def normalise(self, images: Tensor) -> Tensor:
        """Images in [0, 1] as the trained network expects them."""
        mean, std = (channels(values, images.device, images.dtype) for values in (self.mean, self.std))
        return (images - mean) / std

    def tokens(self, images: Tensor) -> Tensor:
        """(B, N, C) tokens of the trained network after its final norm."""
        return self.tokens_of(self.encoder, images)

    def tokens_of(self, encoder: nn.Module, images: Tensor) -> Tensor:
        """(B, N, C) tokens of another network with the same constants."""
        return anatomy_of(encoder).read_tokens(encoder, self.normalise(images.to(self.device)))

    def kept_features(self, images: Tensor) -> Tensor:
        """(B, C) mean patch tokens of the network that the run leaves, for raw images."""
        trained = self.kept_encoder is self.encoder
        return self.pooled(self.tokens(images) if trained else self.tokens_of(self.kept_encoder, images))

    def pooled(self, tokens: Tensor) -> Tensor:
        """(B, C): mean of the patch tokens."""
        return tokens[:, self.prefix_tokens :].mean(1)


TASKS = {
    "distill": "fdlab.tasks.distill:Distill",
    "contrastive": "fdlab.tasks.contrastive:Contrastive",
    "masked": "fdlab.tasks.masked:Masked",
    "mae": "fdlab.tasks.mae:Mae",
    "dino": "fdlab.tasks.dino:Dino",
    "moco": "fdlab.tasks.moco:Moco",
    "classify": "fdlab.tasks.classify:Classify",
}


def find_task(name: str) -> type[Task]:
    """The class of a registered task.

    Raises:
        FdlabError: code 2, there is none of this name.
    """
    if name not in TASKS:
        raise FdlabError(
            f"There is no task {name!r}.{nearest(name, TASKS)}",
            f"Tasks: {', '.join(TASKS)}.",
            "Correct `task` in the recipe.",
            code=USAGE,
        )
    module, _, attribute = TASKS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)

"""The settings that every training has, as pydantic models. A task's own table is added by ``recipe.resolve``."""

from __future__ import annotations

from typing import Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field

from fdlab.data.view import View


class Settings(BaseModel):
    """Base of every settings table: unknown keys are faults, nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSettings(Settings):
    """Which images. ``source`` and ``test`` follow the ``--data`` grammar."""

    source: str = Field("digits#train", description="training images")
    test: str = Field("", description="held-out images; empty: none")
    size: int = Field(0, ge=0, description="pixels a side; 0: the model's own size")
    per_class: int = Field(0, ge=0, description="labelled images a class; 0: all")
    validation: int = Field(0, ge=0, description="images held out of `source` for choosing settings")
    resident: Literal["auto", "on", "off"] = Field(
        "auto", description="small images live on the device; auto: on a GPU where they fit. Changes no number"
    )
    label_seed: int = Field(0, ge=0, description="which images are labelled and which validate")


class RunSettings(Settings):
    """How long, on what, and how it is logged."""

    steps: int = Field(0, ge=0, description="optimiser steps; 0: from epochs")
    epochs: int = Field(0, ge=0, description="passes over the images, where steps is 0")
    batch: int = Field(64, ge=1)
    seed: int = Field(0, ge=0)
    device: str = "cpu"
    workers: int = Field(0, ge=0, description="loader processes")
    accumulate: int = Field(1, ge=1, description="parts that a batch is computed in; the numbers stay the same")
    precision: Literal["float32", "bf16"] = Field(
        "float32",
        description="bf16: matrix products in bfloat16; trained weights, norms and losses stay float32, a frozen "
        "teacher is held in bfloat16",
    )
    compile: bool = Field(False, description="torch.compile of each block: faster on a GPU, slower to start")
    deterministic: bool = Field(False, description="the same bits each time on a GPU too: slower; a CPU needs it not")
    strategy: Literal["ddp", "fsdp"] = Field("ddp", description="under torchrun: whole weights a rank, or shared ones")
    checkpoint_blocks: bool = Field(False, description="recompute each block in the backward pass: less memory")
    tensorboard: bool = Field(True, description="events beside metrics.jsonl, where tensorboard is installed")
    log_every: int = Field(25, ge=1, description="steps a log line")
    evaluate_every: int = Field(0, ge=0, description="steps between evaluations; 0: at the end only")


class OptimSettings(Settings):
    """AdamW or LARS with a linear warm-up and a cosine or constant schedule."""

    kind: Literal["adamw", "lars"] = "adamw"
    lr: float = Field(2e-3, gt=0)
    betas: tuple[float, float] = (0.9, 0.98)
    momentum: float = Field(0.9, ge=0, lt=1, description="of LARS")
    trust: float = Field(0.001, gt=0, description="of LARS: its trust coefficient")
    weight_decay: float = Field(0.05, ge=0)
    decay_tables: bool = Field(False, description="weight decay on relative bias tables (the official ViT code)")
    clip: float = Field(3.0, ge=0, description="largest gradient norm; 0: no clipping")
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: float = Field(0.1, ge=0, description="share of the steps, or steps where above 1")
    warmup_start: float = Field(0.0, ge=0, description="learning rate that the warm-up starts from")
    floor: float = Field(0.0, ge=0, description="last learning rate, at layer scale 1")
    layer_decay: float = Field(1.0, gt=0, le=1)
    ema: float = Field(0.0, ge=0, lt=1, description="decay of the averaged weights that are judged and kept; 0: none")


class SaveSettings(Settings):
    """When the state is written."""

    every: int = Field(100, ge=1, description="steps between checkpoints")
    snapshots: int = Field(0, ge=0, description="steps between kept encoders; 0: none")
    best: str = Field("", description="evaluated number whose best state is kept too, e.g. validation_accuracy")
    export: Literal["last", "best"] = Field("last", description="which state becomes the run's result")


class WatchSettings(Settings):
    """What is measured along the way, beside the task's own evaluation."""

    every: int = Field(
        0, ge=0, description="epochs between k-NN accuracy, cosine to the target and effective rank; 0: never"
    )
    images: int = Field(512, ge=8, description="images that are judged: of validation, else of test, else of training")
    labelled: int = Field(2000, ge=1, description="training images whose labels the k-NN has")
    probe_every: int = Field(0, ge=0, description="epochs between attention probes, kept in the run; 0: never")
    probe_images: int = Field(64, ge=1, description="images of a probe")


class Recipe(Settings):
    """The settings every training has. The table of the task's own settings is added by ``resolve``."""

    task: str
    about: str = ""
    data: DataSettings = DataSettings()
    run: RunSettings = RunSettings()
    optim: OptimSettings = OptimSettings()
    save: SaveSettings = SaveSettings()
    watch: WatchSettings = WatchSettings()
    view: View = View()

    @property
    def own(self) -> Any:
        """The task's own settings."""
        return getattr(self, self.task)

    def as_toml(self) -> str:
        """The resolved recipe; reading it again gives the same recipe."""
        return tomli_w.dumps(without_none(self.model_dump(mode="json")))


def without_none(value: Any) -> Any:
    """The tables without the settings that are None, which TOML cannot say."""
    if isinstance(value, dict):
        return {k: without_none(v) for k, v in value.items() if v is not None}
    return value

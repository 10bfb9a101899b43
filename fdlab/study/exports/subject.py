"""What is exported: a model with or without its classifier, its preprocessing, and what its outputs must be."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fdlab.checkpoints.open import open_model
from fdlab.checkpoints.sources import parse_label, split_facts
from fdlab.encoders.encoder import Encoder, Floats3, pair
from fdlab.encoders.student import seeded
from fdlab.engine.recipe import read
from fdlab.errors import CHECK_NOT_MET, USAGE, FdlabError
from fdlab.randomness import seed_for
from fdlab.records.atomic import read_json
from fdlab.records.run_folder import RunFolder
from fdlab.study.classifier import Classifier, classifier_of, load_classifier, own_classifier, run_of, run_with_heads

TOLERANCE = 1e-5  # of the largest output: rounding of float32 lies a factor of ten below it


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the model's input: ``fdlab.data.transforms.fit``, then mean and std.

    ``size`` is (height, width) in pixels, ``short_side`` what the picture's short side is resized to before the centre
    is cut out; ``stated`` is False where the training did not note it.
    """

    size: tuple[int, int]
    short_side: int
    mean: Floats3
    std: Floats3
    stated: bool
    interpolation: str = "bilinear"

    @property
    def crop_share(self) -> float:
        """timm's ``crop_pct``: ``floor(size / crop_pct)`` is ``short_side``, also after rounding."""
        share = self.size[0] / self.short_side
        return share if math.floor(self.size[0] / share) == self.short_side else math.nextafter(share, 0)

    @property
    def words(self) -> str:
        """The steps as a sentence."""
        height, width = self.size
        cut = f" and the centre ({height}x{width}) is cut out" if self.short_side > min(height, width) else ""
        return (
            f"The short side of a picture is resized to {self.short_side} pixels ({self.interpolation}, antialias)"
            f"{cut}; then (value - mean) / std of values 0 to 1 with mean {_short(self.mean)} and std "
            f"{_short(self.std)}."
        )


def _short(values: Floats3) -> str:
    return f"({', '.join(f'{value:.6g}' for value in values)})"


@dataclass(frozen=True)
class Origin:
    """The run that a model comes from: its run.json, its settings, and the digests of what it started from."""

    facts: Mapping[str, Any]
    settings: Mapping[str, Any]
    inputs: Mapping[str, Any]

    @classmethod
    def of(cls, run: RunFolder, facts: Mapping[str, Any]) -> Origin:
        settings = read(str(run.recipe)) if run.recipe.is_file() else {}
        return cls({"label": run.path.resolve().name, **facts}, settings, read_json(run.path / "inputs.json"))

    @property
    def task(self) -> str:
        return str(self.settings.get("task", ""))


@dataclass(frozen=True)
class Subject:
    """A model to be exported. ``classifier`` is None for an encoder alone; ``origin`` the run that it comes from."""

    encoder: Encoder
    classifier: Classifier | None
    preprocessing: Preprocessing
    origin: Origin | None
    name: str

    @property
    def classes(self) -> tuple[str, ...]:
        return self.classifier.classes if self.classifier else ()

    @property
    def encoder_alone(self) -> str:
        """What an error adds where it may be the classifier that a form cannot hold."""
        stock = type(self.encoder.module).__module__.startswith("timm.")
        return "; with --no-head its encoder alone may fit" if self.classifier and stock else ""

    @property
    def output(self) -> str:
        """What comes out, in words with its axes."""
        if self.classifier:
            return f"logits (batch, {len(self.classes)})"
        info = self.encoder.info
        count = info.prefix_tokens + info.grid[0] * info.grid[1]
        before = f", the first {info.prefix_tokens} of them before the patches" if info.prefix_tokens else ""
        return f"tokens (batch, {count}, {info.width}){before}"

    @property
    def one_eps(self) -> tuple[str, ...]:
        """A note for forms with one eps for all norms, where the head's norm was trained with another."""
        norm, eps = (
            self.classifier and self.classifier.pooled and self.classifier.pooled.norm,
            self.encoder.info.norm_eps,
        )
        if not isinstance(norm, nn.LayerNorm) or norm.eps == eps:
            return ()
        return (f"The norm after the mean has eps {eps:g} here as all others; it was trained with {norm.eps:g}.",)

    def expected(self, images: Tensor) -> Tensor:
        """What fdlab computes of images (B, 3, H, W) in [0, 1]: logits, or tokens after the final norm."""
        with torch.no_grad():
            if self.classifier:
                return self.classifier.logits(images)
            return self.encoder.tokens(self.encoder.normalise(images)).float().cpu()

    def module(self) -> nn.Module:
        """A module of its own: normalised images -> ``output``; without gradients."""
        return Answering(self.encoder, self.classifier).eval().requires_grad_(False)

    def images(self) -> Tensor:
        """(4, C, H, W) in [0, 1] on which outputs are compared: two of noise, two that change slowly."""
        height, width = self.preprocessing.size
        with seeded(seed_for(0, "export")):
            noise = torch.rand(2, len(self.preprocessing.mean), height, width)
            slow = torch.rand(2, len(self.preprocessing.mean), 4, 4)
        return torch.cat([noise, nn.functional.interpolate(slow, (height, width), mode="bilinear")])

    def difference(self, other: Callable[[Tensor], Tensor], tolerance: float = TOLERANCE) -> float:
        """The largest difference of ``other`` (of normalised images) from ``expected``, as a share of the largest.

        Batches of one and of three images are tried.

        Raises:
            FdlabError: code 5, it is ``tolerance`` or more, or the shapes differ.
        """
        images = self.images()
        ours = self.expected(images)
        with torch.no_grad():
            given = self.encoder.normalise(images).cpu()
            theirs = torch.cat([other(part).float().cpu() for part in (given[:1], given[1:])])
        same = ours.shape == theirs.shape
        worst = float((ours - theirs).abs().max() / ours.abs().max().clamp_min(1e-12)) if same else math.inf
        if not worst < tolerance:
            raise FdlabError(
                f"What was written of {self.name} computes something else.",
                f"Its outputs differ by {worst:.1e} of the largest from fdlab's."
                if same
                else f"Its outputs have shape {tuple(theirs.shape)}, fdlab's {tuple(ours.shape)}.",
                "Nothing was kept.",
                code=CHECK_NOT_MET,
            )
        return worst


class Answering(nn.Module):
    """Normalised images (B, C, H, W) -> logits (B, classes), or final tokens (B, N, C) of an encoder alone."""

    def __init__(self, encoder: Encoder, classifier: Classifier | None) -> None:
        super().__init__()
        self.network = copy.deepcopy(encoder.module).cpu()
        self.anatomy, self.prefix = encoder.anatomy, encoder.info.prefix_tokens
        self.own_head = classifier is not None and classifier.pooled is None
        pooled = classifier.pooled if classifier else None
        self.final_norm = pooled.final_norm if pooled else True
        self.norm = copy.deepcopy(pooled.norm).cpu() if pooled else None
        self.linear = copy.deepcopy(pooled.linear).cpu() if pooled else None

    def forward(self, images: Tensor) -> Tensor:
        if self.own_head:
            return self.anatomy.read_logits(self.network, images)
        tokens = self.anatomy.read_tokens(self.network, images, norm=self.final_norm)
        if self.norm is None or self.linear is None:
            return tokens
        return self.linear(self.norm(tokens[:, self.prefix :].mean(1)))


def subject(source: str | Path | Encoder, *, head: bool = True) -> Subject:
    """Opens what is to be exported.

    Args:
        source: a finished run's folder, SOURCE as everywhere, or an open ``Encoder``.
        head: with the classifier, where there is one.

    Raises:
        FdlabError: code 3, the source is not understood; code 2, facts are given of a run that states them itself.
    """
    if isinstance(source, Encoder):
        own = own_classifier(source) if head and source.info.classes else None
        return Subject(source, own, _preprocessing(source, None), None, source.info.title or source.info.family)
    base, facts = split_facts(str(source))
    run = run_of(base)
    origin = Origin.of(run, run.facts()) if run else None
    tuned = head and origin is not None and origin.task == "classify" and run_with_heads(base) is not None
    if tuned and facts:
        raise FdlabError(
            f"{base} is a finished fine-tuning, which says by itself what its model is.",
            f"'{facts}' would make another model of it, without the trained classifier.",
            "Leave those options out, or give --no-head for its encoder alone.",
            code=USAGE,
        )
    found: Classifier | None = None
    if tuned:
        found = load_classifier(base)
        encoder = found.encoder
    else:
        encoder = open_model(source)
        if head and encoder.info.classes:
            found = own_classifier(encoder, base if Path(base).is_dir() else "")
    name = str(origin.facts["label"]) if origin else parse_label(base)[0]
    return Subject(encoder, found, _preprocessing(encoder, origin), origin, name)


def ending(run: RunFolder, facts: Mapping[str, Any], source: str = "") -> Subject:
    """The classifier of a fine-tuning that is just ending: its weights are written, its run.json is not.

    ``source`` opens its encoder, where the user's own code builds that; else the run's folder does.
    """
    found, origin = classifier_of(run, facts, source=source), Origin.of(run, facts)
    return Subject(found.encoder, found, _preprocessing(found.encoder, origin), origin, str(origin.facts["label"]))


def _preprocessing(encoder: Encoder, origin: Origin | None) -> Preprocessing:
    """As fdlab itself prepares images for this model: straight to its size where its training did so."""
    size = pair(encoder.info.image_size)
    direct = origin.facts.get("direct") if origin else None
    short = min(size) if direct else round(min(size) * 256 / 224)
    return Preprocessing(size, short, encoder.info.mean, encoder.info.std, direct is not None)

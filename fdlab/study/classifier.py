"""A classifier that is ready for use: an encoder with its head, its class names and its preprocessing.

It is a finished run of ``fdlab finetune`` (``heads.safetensors`` beside the encoder) or a file that holds a classifier
of its own, as its authors trained it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from fdlab.checkpoints.open import open_model
from fdlab.checkpoints.save import read_heads
from fdlab.checkpoints.sources import code_and_weights, is_code, split_facts
from fdlab.data.files import Files
from fdlab.data.images import ImageSource
from fdlab.encoders.encoder import Encoder
from fdlab.engine.recipe import read
from fdlab.errors import NOT_UNDERSTOOD, USAGE, FdlabError
from fdlab.records.atomic import read_json
from fdlab.records.run_folder import RunFolder
from fdlab.tasks.classify import head_norm

if TYPE_CHECKING:
    from PIL.Image import Image


class Guess(NamedTuple):
    """One class that a classifier names for an image, and the share that its softmax gives it (no calibrated odds)."""

    name: str
    share: float


@dataclass(frozen=True)
class PooledHead:
    """What a fine-tuning puts behind its encoder: mean of the patch tokens -> ``norm`` -> ``linear``.

    ``final_norm`` says whether the encoder's own final norm stands before the mean.
    """

    final_norm: bool
    norm: nn.Module
    linear: nn.Linear


@dataclass(frozen=True)
class Classifier:
    """``logits`` of images, and ``predict`` of image files.

    ``classes`` are the names of the outputs, in order; ``named`` is False where the file states none, and they are
    numbers. ``head`` takes normalised images (B, 3, H, W) to (B, classes); ``pooled`` is its parts where a fine-tuning
    made it. ``direct`` says how its training images were brought to its size (``ImageSource.direct``); None: not
    known, and each set of images decides for itself.
    """

    encoder: Encoder
    classes: tuple[str, ...]
    named: bool
    head: Callable[[Tensor], Tensor]
    pooled: PooledHead | None = None
    direct: bool | None = None

    @property
    def size(self) -> int:
        """Pixels a side of the images that it takes."""
        side = self.encoder.info.image_size
        return side if isinstance(side, int) else side[0]

    def logits(self, images: Tensor) -> Tensor:
        """(B, classes) of images (B, 3, H, W) in [0, 1] at the model's size; no gradient."""
        with torch.no_grad():
            return self.head(self.encoder.normalise(images.to(self.encoder.device))).float().cpu()

    def scores(self, images: ImageSource, batch: int = 64) -> Iterator[tuple[Tensor, Tensor, range]]:
        """(B, classes) logits, (B,) labels and positions, batch by batch; unreadable images are left out."""
        for start in range(0, len(images), batch):
            part = range(start, min(start + batch, len(images)))
            pixels, labels = images.stack(part, self.size, direct=self.direct)
            yield (self.logits(pixels) if len(pixels) else torch.zeros(0, len(self.classes))), labels, part

    def predict(
        self, images: Sequence[str | Path | Image] | str | Path | Image, top: int = 5, batch: int = 64
    ) -> dict[str, list[Guess]]:
        """Image file, or ``image 1`` of an open image of Pillow -> its ``top`` likeliest classes, the likeliest first.

        Files of a folder that cannot be read are left out with a warning each.

        Args:
            images: files, folders of which every image is taken, or open images of Pillow; one or several.

        Raises:
            FdlabError: code 3, there is no image, most of them cannot be read, or a file that was named cannot.

        Example:
            ``fdlab.load_classifier("runs/tuned").predict("holiday.jpg")``
        """
        given: list[Any] = list(images) if isinstance(images, (list, tuple)) else [images]
        files = Files(given)
        answers: dict[str, list[Guess]] = {}
        named = {str(image) for image in given if isinstance(image, (str, Path))}
        for logits, _, part in self.scores(ImageSource(files, files.name), batch):
            readable = [files.paths[position] for position in part if position not in files.unreadable]
            for name, row in zip(readable, logits.softmax(-1), strict=True):
                values, places = row.topk(min(top, len(row)))
                answers[name] = [Guess(self.classes[int(i)], float(v)) for v, i in zip(values, places, strict=True)]
        self._refuse_or_say({files.paths[place]: reason for place, reason in files.unreadable.items()}, named)
        return answers

    def _refuse_or_say(self, unreadable: Mapping[str, str], named: set[str]) -> None:
        """Pictures that cannot be read: an error where one was named itself, else a note for each."""
        for file, reason in unreadable.items():
            if file in named:
                raise FdlabError(
                    f"{file} cannot be read.",
                    reason.removeprefix(f"{file}: "),
                    "Check that it is a whole picture, or leave it out.",
                    code=NOT_UNDERSTOOD,
                )
            warnings.warn(f"{file} was left out: {reason.removeprefix(f'{file}: ')}", stacklevel=3)


def load_classifier(source: str | Path | nn.Module | Encoder, *, device: str = "cpu", seed: int = 0) -> Classifier:
    """Opens a finished fine-tuning, or any model whose file holds a classifier.

    Args:
        source: the run's folder, SOURCE as everywhere, or a module of your own that ends in a classifier.
        seed: of ``random:``.

    Raises:
        FdlabError: code 3, it holds no classifier, or is not finished; code 2, the run trained something else.
    """
    if isinstance(source, (str, Path)) and (folder := run_with_heads(source)) is not None:
        return classifier_of(folder, folder.facts(), device, source=source)
    encoder = open_model(source, device=device, seed=seed)
    source = source if isinstance(source, (str, Path)) else encoder.info.title
    if not encoder.info.classes:
        raise FdlabError(
            f"{source} holds no classifier.",
            "It is an encoder only.",
            "Train one: fdlab finetune MODEL --data FOLDER -o RUN, and give RUN.",
            code=NOT_UNDERSTOOD,
        )
    return own_classifier(encoder, source if Path(source).is_dir() else "")


def own_classifier(encoder: Encoder, folder: str | Path = "") -> Classifier:
    """The classifier that the model's own file holds.

    Its classes are numbers, unless it lies in a ``folder`` whose ``config.json`` names them, as timm (``label_names``)
    and transformers (``id2label``) write it. timm's ``crop_pct`` of 1 says that nothing is cut off.
    """
    count, said = encoder.info.classes, read_json(Path(folder) / "config.json") if folder else {}
    listed, numbered = said.get("label_names"), said.get("id2label")
    if isinstance(numbered, dict) and set(numbered) == {str(number) for number in range(count)}:
        listed = [numbered[str(number)] for number in range(count)]
    named = isinstance(listed, list) and len(listed) == count
    settings = said.get("pretrained_cfg")
    whole = isinstance(settings, dict) and settings.get("crop_pct") == 1
    classes = tuple(map(str, listed if named and isinstance(listed, list) else range(count)))
    return Classifier(encoder, classes, named, encoder.logits, direct=True if whole else None)


def run_of(source: str | Path) -> RunFolder | None:
    """The finished run that SOURCE names, by its folder or behind the code that builds its encoder."""
    folder = _folder(source)
    return folder if (folder.path / "run.json").is_file() else None


def _folder(source: str | Path) -> RunFolder:
    text = str(source)
    return RunFolder(code_and_weights(split_facts(text)[0])[1] or text if is_code(text) else text)


def run_with_heads(source: str | Path) -> RunFolder | None:
    """The run that SOURCE names, where it is finished and kept what it trained beside its encoder."""
    folder = _folder(source)
    return folder if (folder.path / "heads.safetensors").is_file() and folder.recipe.is_file() else None


def classifier_of(
    folder: RunFolder, facts: Mapping[str, Any], device: str = "cpu", source: str | Path = ""
) -> Classifier:
    """The encoder, norm and head of a run of the task classify, as the task itself puts them together.

    ``source`` opens the encoder; empty: the run's folder. ``facts`` are those of run.json, which a run that is just
    ending has not written yet.
    """
    settings: dict[str, Any] = read(str(folder.recipe))
    if settings.get("task") != "classify":
        raise FdlabError(
            f"{folder.path} holds no classifier.",
            f"It is a run of {settings.get('task')}, which trains none.",
            f"Train one: fdlab finetune {folder.path} --data FOLDER -o RUN, and give RUN.",
            code=USAGE,
        )
    encoder, own = open_model(source or folder.path, device=device), settings["classify"]
    state = read_heads(folder.path / "heads.safetensors")
    outputs, width = state["head.weight"].shape
    norm, head = head_norm(own["head_norm"], width), nn.Linear(width, outputs)
    for name, part in (("norm", norm), ("head", head)):
        part.load_state_dict(
            {key.removeprefix(f"{name}."): v for key, v in state.items() if key.startswith(f"{name}.")}
        )
        part.eval().to(encoder.device)
    prefix = encoder.info.prefix_tokens

    def logits(images: Tensor) -> Tensor:
        tokens = encoder.tokens(images, norm=own["final_norm"])
        return head(norm(tokens[:, prefix:].mean(1)))

    names = tuple(map(str, facts.get("classes") or ()))
    named = len(names) == outputs
    classes = names if named else tuple(map(str, range(outputs)))
    return Classifier(encoder, classes, named, logits, PooledHead(own["final_norm"], norm, head), facts.get("direct"))

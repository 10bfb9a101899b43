"""Settings of a training on the user's own images, by written rules from the images and the model.

They fill the recipes ``folder/*`` below what the user sets; docs/own_images.md has the same rules in words. Sizes come
from the model (of a new one: from the images), batch and length from the number of images, the rate from the batch.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

from fdlab.checkpoints.open import open_model
from fdlab.data.images import ImageSource
from fdlab.data.sources import open_data, parse_spec, with_split
from fdlab.encoders.devices import pick_device
from fdlab.errors import USAGE, FdlabError
from fdlab.study.labelled import check_classes, check_divisible, check_pixels, held_out, median_side

# task -> the recipe of the built-in digits, and that of the user's own images
RECIPES = {
    task: (f"digits/{name}", f"folder/{name}")
    for task, name in (
        ("classify", "finetune"), ("distill", "distill"), ("contrastive", "contrastive"), ("masked", "masked")
    )
}  # fmt: skip
LAYER = "your images and model"  # the name of these settings' layer in --dry-run
PARTS = "the parts of the folder"  # the layer above all others: train/ and test/ (or val/) inside the named folder

FROM_SCRATCH = ("contrastive", "masked")
BATCHES = {"classify": (8, 64), "contrastive": (32, 256)}  # the smallest, the largest; others: 8 to 256, on a CPU 64
FEWEST_STEPS = {"classify": 150}  # others: 300
EPOCHS = {"classify": (10, 30), "distill": (10, 100)}  # on a CPU, on a GPU; from scratch: 20, 200
# The paper's rates at its batch of 2,048 (from scratch: ours), scaled by the square root of the batch (ours; the paper
# scales linearly).
RATES = {"classify": 5e-3, "distill": 1.2e-3, "contrastive": 1.4e-3, "masked": 1.4e-3}
LARGEST = {"cpu": 128, "cuda": 224}  # pixels a side of a model from scratch
PATCHES = ((160, 16), (64, 8), (24, 4), (0, 2))  # from so many pixels a side on, its patches


def recipe_for(task: str, data: str) -> str:
    """The recipe of a verb that was given none: the digits' only for digits (also where no data is named)."""
    digits, own = RECIPES[task]
    return digits if not data or parse_spec(data).base == "digits" else own


def own_defaults(task: str, known: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings that the images and the model decide, by dotted key; and those that the folder's own parts decide.

    Args:
        task: one of ``RECIPES``.
        known: what the user set, by dotted key; ``data.source`` and the model or teacher, if any, among it. Rules that
            depend on one of these (the epochs on the batch) follow it.

    Raises:
        FdlabError: code 2, no model or no data; code 3, images of one class, classes of one image, images smaller than
            a patch; what opening either raises.
    """
    data, parts = _parts(str(known.get("data.source", "")), str(known.get("data.test") or ""))
    gpu = pick_device(str(known.get("run.device", "auto"))).type == "cuda"
    own = _new_sizes(data, task, known, gpu) if task in FROM_SCRATCH else _opened_sizes(data, task, known)
    count = len(data)
    if task == "classify":
        check_classes(data)
        if not (known.get("data.test") or parts or "data.validation" in known):
            check_divisible(data)
            own["data.validation"] = held_out(data)
    count -= int(known.get("data.validation", own.get("data.validation", 0)))
    low, high = BATCHES.get(task, (8, 256))
    high = high if gpu else min(high, 64)
    own["run.batch"] = int(known.get("run.batch") or min(high, max(low, 2 ** int(math.log2(max(count, 16) / 16)))))
    batch = min(own["run.batch"], count)
    own["run.batch"] = batch
    fewest = FEWEST_STEPS.get(task, 300)
    if data.endless:
        own["run.steps"] = fewest
    elif not known.get("run.steps"):
        own["run.epochs"] = max(EPOCHS.get(task, (20, 200))[gpu], math.ceil(fewest / max(count // batch, 1)))
    own["optim.lr"] = float(f"{RATES[task] * math.sqrt(batch / 2048):.2g}")
    own["run.workers"] = min((os.cpu_count() or 2) - 1, 8) if count > 512 else 0
    own["run.precision"] = "bf16" if gpu else "float32"
    own["run.log_every"] = 5
    return {name: value for name, value in own.items() if name not in known}, parts


def _opened_sizes(data: ImageSource, task: str, known: Mapping[str, Any]) -> dict[str, Any]:
    """The size of the images: that of the model, or of the teacher."""
    key = "classify.model" if task == "classify" else "distill.teacher"
    if not known.get(key):
        option = "MODEL" if task == "classify" else "--teacher SOURCE"
        raise FdlabError(
            "No model was given to start from." if task == "classify" else "There is no teacher to distil.",
            "The settings for your own images follow from it.",
            f"Give {option}: a checkpoint file, a run's folder or timm:NAME.",
            code=USAGE,
        )
    info = open_model(str(known[key])).info
    check_pixels(data, info.patch_size)
    return {"data.size": info.image_size if isinstance(info.image_size, int) else info.image_size[0]}


def _new_sizes(data: ImageSource, task: str, known: Mapping[str, Any], gpu: bool) -> dict[str, Any]:
    """Size and patch of a model from scratch: the images' median short side within a bound, in whole patches."""
    side = int(known.get("data.size") or min(median_side(data), LARGEST["cuda" if gpu else "cpu"]))
    patch = int(known.get(f"{task}.model.patch_size") or next(patch for least, patch in PATCHES if side >= least))
    check_pixels(data, patch)
    return {"data.size": max(side - side % patch, patch), f"{task}.model.patch_size": patch}


def _parts(source: str, test: str) -> tuple[ImageSource, dict[str, Any]]:
    """The training images, and ``data.source`` and ``data.test`` where the folder itself has both parts."""
    data = open_data(source)
    own_parts = data.own_parts and not test and parse_spec(source).split is None
    if not own_parts:
        return data, {}
    train, held = (with_split(source, part) for part in ("train", "test"))
    return open_data(train), {"data.source": train, "data.test": held}

"""A folder that transformers opens: ``config.json``, ``model.safetensors``, ``preprocessor_config.json``."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from fdlab.checkpoints.open import open_model
from fdlab.checkpoints.save import write_safetensors
from fdlab.records.atomic import write_json
from fdlab.study.exports.hf_classes import HfModel, fitting
from fdlab.study.exports.subject import Subject
from fdlab.study.exports.written import Written

FILES = ("config.json", "model.safetensors", "preprocessor_config.json")


def write(subject: Subject, folder: Path) -> Written:
    """Writes the folder, and opens it with transformers where that is installed, else with fdlab.

    Raises:
        FdlabError: code 2, no class of transformers fits.
    """
    model = fitting(subject)
    write_json(folder / FILES[0], config(subject, model))
    # The tensors are parts of larger ones, and safetensors wants memory of their own.
    state = {key: value.detach().cpu().float().clone() for key, value in model.state.items()}
    write_safetensors(folder / FILES[1], state, {"format": "pt"})
    write_json(folder / FILES[2], processor(subject))
    if find_spec("transformers") is not None:
        difference = subject.difference(_by_transformers(subject, model, folder))
        return Written(FILES, code(subject, model), difference, subject.one_eps)
    difference, ran = _by_fdlab(subject, folder)
    note = f"It was read back by fdlab ({ran}), not by transformers, which was not installed where it was written."
    return Written(FILES, code(subject, model), difference, (*subject.one_eps, note))


def config(subject: Subject, model: HfModel) -> dict[str, Any]:
    """transformers' ``config.json``."""
    named = dict(enumerate(subject.classes))
    labels = (
        {"id2label": {str(k): v for k, v in named.items()}, "label2id": {v: k for k, v in named.items()}}
        if subject.classifier
        else {}
    )
    return {"architectures": [model.name], **model.config, **labels, "dtype": "float32"}


def processor(subject: Subject) -> dict[str, Any]:
    """transformers' image processor that resizes the short side and cuts out the centre (CLIP's and BiT's)."""
    done = subject.preprocessing
    height, width = done.size
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": done.short_side},
        "resample": 2,
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(done.mean),
        "image_std": list(done.std),
    }


def code(subject: Subject, model: HfModel) -> str:
    """The Python lines that use the folder."""
    auto = "AutoModelForImageClassification" if subject.classifier else "AutoModel"
    given = "".join(f", {key}={value!r}" for key, value in model.arguments.items())
    last = (
        "logits = model(**pixels).logits\nprint(model.config.id2label[int(logits.argmax())])"
        if subject.classifier
        else f"tokens = model(**pixels).last_hidden_state  # {subject.output}"
    )
    return (
        f"from PIL import Image\nfrom transformers import AutoImageProcessor, {auto}\n\n"
        f'model = {auto}.from_pretrained("FOLDER"{given})\n'
        'prepare = AutoImageProcessor.from_pretrained("FOLDER")\n'
        f'pixels = prepare(Image.open("photo.jpg"), return_tensors="pt")\n{last}'
    )


def _by_transformers(subject: Subject, model: HfModel, folder: Path) -> Any:
    import transformers

    transformers.utils.logging.disable_progress_bar()
    before = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()
    try:
        opened: Any = getattr(transformers, model.name).from_pretrained(folder, **model.arguments).eval()
    finally:
        transformers.utils.logging.set_verbosity(before)

    def outputs(images: Tensor) -> Tensor:
        said = opened(pixel_values=images)
        return said.logits if subject.classifier else said.last_hidden_state

    return outputs


def _by_fdlab(subject: Subject, folder: Path) -> tuple[float, str]:
    """(largest difference, what was run) of the folder as fdlab opens files of transformers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = open_model(folder)
    if subject.classifier and again.info.classes == len(subject.classes):
        return subject.difference(again.logits), "with its classifier"
    alone = Subject(subject.encoder, None, subject.preprocessing, subject.origin, subject.name)
    return alone.difference(again.tokens), "its encoder alone"

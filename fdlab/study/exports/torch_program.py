"""A program of ``torch.export`` that torch alone runs, for any number of images."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from fdlab.errors import USAGE, FdlabError
from fdlab.records.atomic import as_json, replacing, write_json
from fdlab.study.exports.subject import Subject
from fdlab.study.exports.written import Written


def write(subject: Subject, folder: Path) -> Written:
    """Writes ``model.pt2`` with ``preprocessing.json`` beside and in it, and runs what it wrote.

    Raises:
        FdlabError: code 2, torch.export cannot follow this model.
    """
    facts = stated(subject)
    with replacing(folder / "model.pt2") as draft:
        # torch.export wants the ending.
        file = draft.with_name(f"{draft.name}.pt2")
        torch.export.save(program(subject), file, extra_files={"preprocessing.json": as_json(facts)})
        file.replace(draft)
    write_json(folder / "preprocessing.json", facts)
    difference = subject.difference(torch.export.load(folder / "model.pt2").module())
    return Written(("model.pt2", "preprocessing.json"), code(subject), difference)


def program(subject: Subject) -> Any:
    """The model as ``torch.export`` follows it, with a free number of images.

    Raises:
        FdlabError: code 2, it cannot.
    """
    count = torch.export.Dim("batch", min=1)
    example = subject.encoder.normalise(subject.images()).cpu()[:2]
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            return torch.export.export(subject.module(), (example,), dynamic_shapes=({0: count},), strict=False)
    except Exception as error:  # a model of the user's own code can fail here in any way
        fix = "Use --to timm where timm has its class, or keep the run and use fdlab.load_classifier."
        if "Constraints violated (batch)" in str(error):  # its message names no line of the model's code
            fix = "Its code fixes the number of images: write x.shape[0] where it has len(x) or a number."
        raise FdlabError(
            f"torch.export cannot follow {subject.name}.",
            f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}",
            fix,
            code=USAGE,
        ) from error


def stated(subject: Subject) -> dict[str, Any]:
    """What a user of a program without a config must know, as plain values."""
    done = subject.preprocessing
    return {
        "input": {
            "name": "images",
            "shape": ["batch", len(done.mean), *done.size],
            "channels": "RGB" if len(done.mean) == 3 else f"{len(done.mean)}",
            "values": "(value - mean) / std of values in [0, 1]",
        },
        "resize_short_side": done.short_side,
        "interpolation": f"{done.interpolation}, antialias",
        "centre_crop": list(done.size),
        "mean": list(done.mean),
        "std": list(done.std),
        "output": {"name": "logits" if subject.classifier else "tokens", "axes": subject.output},
        "class_names": list(subject.classes) if subject.classifier and subject.classifier.named else None,
    }


def code(subject: Subject, loading: str = "", call: str = "model(pixels)") -> str:
    """The Python lines that use the folder, with torch, torchvision and Pillow alone."""
    loading = loading or 'model = torch.export.load("FOLDER/model.pt2").module()'
    last = (
        'print(facts["class_names"][int(logits.argmax())])'
        if subject.classifier and subject.classifier.named
        else "print(logits.shape)"
    )
    return (
        "import json, torch\nfrom PIL import Image\nfrom torchvision.transforms import v2\n\n"
        f'{loading}\nfacts = json.load(open("FOLDER/preprocessing.json"))\n'
        "prepare = v2.Compose([\n"
        '    v2.PILToTensor(), v2.Resize(facts["resize_short_side"], antialias=True),\n'
        '    v2.CenterCrop(facts["centre_crop"]), v2.ToDtype(torch.float32, scale=True),\n'
        '    v2.Normalize(facts["mean"], facts["std"]),\n])\n'
        'pixels = prepare(Image.open("photo.jpg").convert("RGB"))[None]\n'
        f"logits = {call}\n{last}"
    )

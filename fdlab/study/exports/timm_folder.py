"""A folder that stock timm reads: ``timm.create_model("local-dir:FOLDER", pretrained=True)``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from fdlab.checkpoints.save import write_safetensors
from fdlab.checkpoints.stock import StockName, stock_name
from fdlab.encoders.anatomy import as_tokens
from fdlab.encoders.encoder import TimmCall
from fdlab.errors import FdlabError
from fdlab.records.atomic import write_json
from fdlab.study.exports.subject import Subject
from fdlab.study.exports.timm_classes import forms, refused
from fdlab.study.exports.written import Written

# Arguments that the config's own fields say, or that belong to a training alone.
_SAID_ELSEWHERE = ("num_classes", "pretrained", "drop_path_rate")


def write(subject: Subject, folder: Path) -> Written:
    """Writes ``config.json`` and ``model.safetensors`` and opens them with timm.

    Raises:
        FdlabError: code 2, no class of timm computes this model.
    """
    why = ""
    for call, state in forms(subject):
        name, notes = _named(call)
        if name is None:
            why = "Its arguments are none that a config file can hold."
            continue
        write_json(folder / "config.json", config(subject, name, call.kwargs.get("num_classes", 0), state))
        # transformers reads the same file, and asks for the format.
        write_safetensors(folder / "model.safetensors", state, {"format": "pt"})
        try:
            difference = subject.difference(opened(subject, folder))
            return Written(("config.json", "model.safetensors"), code(subject), difference, (*notes, *subject.one_eps))
        except (FdlabError, RuntimeError, TypeError, ValueError, AssertionError) as error:
            why = f"As {name.name}: {error.why if isinstance(error, FdlabError) else str(error).splitlines()[0][:160]}"
    raise refused(subject, why)


def _named(call: TimmCall) -> tuple[StockName | None, tuple[str, ...]]:
    """timm's name for the call; where none has its norms' eps, the name with timm's usual one, and a note."""
    if (name := stock_name(call, plain=True)) is not None or "norm_layer" in call.kwargs:
        own = f"This architecture has no name in timm: config.json describes it as {name and name.name} with changes."
        return name, () if name is None or name.fits else (own,)
    usual = 1e-5 if call.path.rpartition(".")[2].startswith("Swin") else 1e-6
    name = stock_name(replace(call, norm_eps=usual), plain=True)
    return name, (f"The layer norms have eps {usual:g}; the model was made with {call.norm_eps:g}.",)


def opened(subject: Subject, folder: Path) -> Any:
    """The folder as timm opens it: normalised images -> what ``Subject.expected`` is compared with."""
    import timm

    model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    if subject.classifier:
        return model

    def tokens(images: Tensor) -> Tensor:
        return as_tokens(model.forward_features(images), model)

    return tokens


def config(subject: Subject, name: StockName, classes: int, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """timm's ``config.json``: the name with what differs from it, and how images are prepared."""
    done, kwargs = subject.preprocessing, dict(name.changes)
    last = next((key for key in ("head.fc", "head") if f"{key}.weight" in state), "head")
    size = [len(done.mean), *done.size]
    found: dict[str, Any] = {"architecture": name.name, "num_classes": classes}
    found["num_features"] = subject.encoder.info.width
    if subject.classifier and subject.classifier.named:
        found["label_names"] = list(subject.classes)
    arguments = {key: value for key, value in kwargs.items() if key not in _SAID_ELSEWHERE}
    if arguments:
        found["model_args"] = json.loads(json.dumps(arguments))
    found["pretrained_cfg"] = {
        "custom_load": False,
        "input_size": size,
        "fixed_input_size": True,
        "interpolation": done.interpolation,
        "crop_pct": done.crop_share,
        "crop_mode": "center",
        "mean": list(done.mean),
        "std": list(done.std),
        "num_classes": classes,
        "pool_size": None,
        "first_conv": "patch_embed.proj",
        "classifier": last,
    }
    return found


def code(subject: Subject) -> str:
    """The Python lines that use the folder, where it is called FOLDER."""
    after = (
        "    shares = model(pixels).softmax(-1)[0]\n"
        'names = model.pretrained_cfg["label_names"]\nprint(names[int(shares.argmax())], float(shares.max()))'
        if subject.classifier and subject.classifier.named
        else "    logits = model(pixels)"
        if subject.classifier
        else f"    tokens = model.forward_features(pixels)  # {subject.output}"
    )
    return (
        "import timm, torch\nfrom PIL import Image\n\n"
        'model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()\n'
        "settings = timm.data.resolve_data_config({}, model=model)\n"
        "prepare = timm.data.create_transform(**settings)\n"
        'pixels = prepare(Image.open("photo.jpg").convert("RGB"))[None]\n'
        f"with torch.no_grad():\n{after}"
    )

"""An ONNX file for any number of images, written by torch's exporter and run by ONNX Runtime where that is there."""

from __future__ import annotations

import json
import logging
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fdlab.errors import USAGE, FdlabError
from fdlab.records.atomic import write_json
from fdlab.study.exports import torch_program
from fdlab.study.exports.subject import Subject
from fdlab.study.exports.written import Written

TOLERANCE = 1e-4  # ONNX Runtime's kernels add in another order than torch's
LOADING = (
    "import onnxruntime\n"
    'session = onnxruntime.InferenceSession("FOLDER/model.onnx", providers=["CPUExecutionProvider"])'
)


def check_installed() -> None:
    """Refuses before any work where torch's exporter lacks what it writes with.

    Raises:
        FdlabError: code 2.
    """
    if missing := [name for name in ("onnx", "onnxscript") if find_spec(name) is None]:
        raise FdlabError(
            "An ONNX file cannot be written here.",
            f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} not installed.",
            'pip install "fdlab[onnx]", or use --to torch, which needs nothing more.',
            code=USAGE,
        )


def write(subject: Subject, folder: Path) -> Written:
    """Writes ``model.onnx`` with its preprocessing and class names as metadata and beside it.

    Raises:
        FdlabError: code 2, the exporter cannot follow this model.
    """
    facts, file = torch_program.stated(subject), folder / "model.onnx"
    made = _program(subject)
    for key, value in facts.items():
        made.model.metadata_props[f"fdlab.{key}"] = json.dumps(value, ensure_ascii=False)
    made.save(str(file), external_data=_too_large(subject))
    write_json(folder / "preprocessing.json", facts)
    files = tuple(sorted(path.name for path in folder.iterdir()))
    call = 'torch.from_numpy(session.run(None, {"images": pixels.numpy()})[0])'
    code = torch_program.code(subject, LOADING, call)
    if find_spec("onnxruntime") is None:
        note = "The file was not run: onnxruntime was not installed where it was written."
        return Written(files, code, None, (note,))
    return Written(files, code, subject.difference(_running(file), TOLERANCE))


def _program(subject: Subject) -> Any:
    example = subject.encoder.normalise(subject.images()).cpu()[:2]
    quiet, level = logging.getLogger("torch.onnx"), logging.getLogger("torch.onnx").level
    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            return torch.onnx.export(
                subject.module(),
                (example,),
                dynamo=True,
                verbose=False,
                input_names=["images"],
                output_names=["logits" if subject.classifier else "tokens"],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            )
    except Exception as error:  # a model of the user's own code can fail here in any way
        raise FdlabError(
            f"torch's ONNX exporter cannot follow {subject.name}.",
            f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}",
            "Use --to torch, or --to timm where timm has its class.",
            code=USAGE,
        ) from error
    finally:
        quiet.setLevel(level)


def _too_large(subject: Subject) -> bool:
    """Whether the weights need a file of their own: a protobuf holds at most 2 GiB."""
    return sum(p.numel() for p in subject.encoder.module.parameters()) * 4 > 1.8e9


def _running(file: Path) -> Any:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])

    def outputs(images: Tensor) -> Tensor:
        try:
            return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
        except Exception as error:  # ONNX Runtime has no common type for what it refuses
            raise FdlabError(
                f"The ONNX file does not run on {len(images)} images.",
                f"It was followed with 2: {(str(error).splitlines() or [''])[0][:160]}",
                "Write x.shape[0] in place of len(x) in the model's code, or use --to torch.",
                code=USAGE,
            ) from error

    return outputs

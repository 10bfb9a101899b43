"""fdlab's own weight files: safetensors with stock keys and a description under ``fdlab``.

The description holds the design, the timm class with its arguments and the preprocessing, so that the
file can be opened here without guessing and rebuilt elsewhere without fdlab.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fdlab.checkpoints.blank import blank, fill, unfitting
from fdlab.checkpoints.sources import RUN_FILES
from fdlab.checkpoints.unpickle import WeightFile, fdlab_metadata, read_weights, refusal
from fdlab.encoders.encoder import Floats3, Size, TimmCall
from fdlab.encoders.positions import METHODS, resize_absolute, resize_relative, sincos_table
from fdlab.encoders.student import TABLE, Design, build, seeded, stock_state, timm_call
from fdlab.errors import OUT_OF_SPACE, USAGE, FdlabError
from fdlab.randomness import seed_for
from fdlab.records.atomic import replacing

FORMAT = 1


def save_encoder(
    path: str | Path,
    module: nn.Module,
    *,
    design: Design | None,
    mean: Sequence[float],
    std: Sequence[float],
    family: str,
    seed: int,
    extra: Mapping[str, str] | None = None,
    call: TimmCall | None = None,
    options: Sequence[str] = (),
) -> Path:
    """Writes the module's weights with their description, whole or not at all.

    Args:
        design: of modules from ``build``; None for others, which need ``call`` (``Encoder.call``).
        options: what captions must say; the design's own options are added.
        extra: further text entries of the description, e.g. the recipe's name.
    """
    call = timm_call(design) if design else call
    if call is None:
        raise FdlabError(
            f"{path} was not written.",
            "Neither the design nor the timm call of the model is known.",
            "Give design= or call=.",
            code=USAGE,
        )
    # drop_path belongs to the training, not to the network, yet random:RUN needs the design as it was.
    entry = {
        "format": FORMAT,
        "family": family,
        "seed": int(seed),
        "design": asdict(design) if design else None,
        "timm": call.to_json(),
        "mean": [float(v) for v in mean],
        "std": [float(v) for v in std],
        "options": list(dict.fromkeys([*(design.options if design else ()), *options])),
        "parameters": sum(p.numel() for p in module.parameters()),
        "extra": dict(extra or {}),
    }
    return write_safetensors(Path(path), stock_state(module), {"fdlab": json.dumps(entry, sort_keys=True)})


def write_safetensors(path: Path, state: Mapping[str, Tensor], metadata: dict[str, str]) -> Path:
    """Beside the target, synced, then renamed: a reader sees the old file or the new one."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        with replacing(path) as draft:
            save_file({key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}, draft, metadata)
    except (OSError, SafetensorError) as error:  # safetensors wraps a full disk in its own type
        raise FdlabError(
            f"{path} was not written.", str(error), "Free some space or choose another folder.", code=OUT_OF_SPACE
        ) from error
    return path


def save_heads(path: Path, heads: Mapping[str, nn.Module]) -> Path:
    """Writes what a run keeps beside its encoder (projector, decoder, classifier) under ``name.key``."""
    state: dict[str, Tensor] = {}
    for name, head in heads.items():
        state |= {f"{name}.{key}": tensor.detach().clone() for key, tensor in head.state_dict().items()}
    return write_safetensors(path, state, {"fdlab_heads": ",".join(heads)})


def read_heads(path: Path) -> dict[str, Tensor]:
    """What ``save_heads`` wrote: ``name.key`` -> tensor.

    Raises:
        FdlabError: code 3, the file is absent or damaged.
    """
    return dict(read_weights(path).content)


@dataclass(frozen=True)
class OwnFile:
    """A file of ours, opened: how to make its network, and what it says about itself."""

    file: WeightFile
    entry: Mapping[str, Any]
    design: Design | None
    call: TimmCall

    @property
    def mean(self) -> Floats3:
        return tuple(self.entry["mean"])  # type: ignore[return-value]

    @property
    def card(self) -> Mapping[str, Any]:
        """The model card of an exported file, else empty."""
        try:
            found = json.loads(self.entry["extra"].get("card", "{}"))
        except (ValueError, RecursionError, AttributeError):
            found = {}
        return found if isinstance(found, dict) else {}

    @property
    def std(self) -> Floats3:
        return tuple(self.entry["std"])  # type: ignore[return-value]

    def module(self, *, image_size: Size | None = None) -> tuple[nn.Module, TimmCall, tuple[str, ...]]:
        """(module with the file's weights, its timm call, sentences on resized tables)."""
        state, design = dict(self.file.content), self.design
        said: tuple[str, ...] = ()
        if design is None:
            if image_size is not None:
                raise FdlabError(
                    f"{self.file.path} has one image size.",
                    "It was not built from a design.",
                    "Open the original file with image_size=.",
                    code=USAGE,
                )
            call, make = self.call, self.call.make
        else:
            if image_size is not None:
                new = replace(design, image_size=image_size)
                state, said = _resized(state, design, new)
                design = new
            # The tables in the file are the effective ones.
            call, make = timm_call(design), partial(build, replace(design, bias_scale=1.0), seed=0)
        try:
            faults = unfitting(call.make, state, call.kwargs)
        except Exception as error:  # arguments of a changed description can fail anywhere in timm
            faults = [f"{type(error).__name__}: {str(error)[:160]}"]
        if faults:
            raise refusal(
                self.file.path,
                "does not fit its own description.",
                f"{'; '.join(faults[:4])}.",
                "The file was changed after fdlab wrote it.",
            )
        with seeded(seed_for(0, "construct")):
            module = blank(make)
        return fill(module, state), call, said


def own_file(file: WeightFile) -> OwnFile | None:
    """The file as fdlab's own, or None for a foreign one."""
    entry = fdlab_metadata(file)
    if entry is None:
        return None
    if entry.get("format") != FORMAT:
        raise refusal(
            file.path,
            f"has fdlab format {str(entry.get('format'))[:20]}.",
            f"This fdlab reads format {FORMAT}.",
            "Use the version of fdlab that wrote it.",
        )
    if "code" in entry:
        raise refusal(
            file.path,
            "holds weights of a network that your own code builds.",
            "A file or a run's folder never runs code.",
            f"Name the code too: py:FILE.py:FUNCTION@{file.path.parent if file.path.name in RUN_FILES else file.path}"
            f" (it was {str(entry['code'])[:160]}).",
        )
    try:
        design = Design(**entry["design"]) if entry["design"] else None
        call = _safe_call(entry["timm"], file)
        if not (isinstance(entry["family"], str) and isinstance(entry["extra"], dict)):
            raise TypeError("family and extra must be text and a table")
        for name in ("mean", "std"):
            entry[name] = [float(value) for value in entry[name]]
            if not all(map(math.isfinite, entry[name])) or (name == "std" and not min(entry[name]) > 0):
                raise ValueError(f"its {name} cannot be right")
        entry["options"] = [str(option) for option in entry["options"]]
        return OwnFile(file, entry, design, call)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError, FdlabError) as error:
        why = error.why if isinstance(error, FdlabError) else f"{type(error).__name__}: {error}"
        raise refusal(file.path, "has a damaged description.", why) from error


def _is_network(module: str, name: str) -> bool:
    """Whether it is the class of a network that timm or fdlab itself defines: nothing else is ever called."""
    if not module.startswith(("timm.models.", "fdlab.encoders.")) or not name.isidentifier():
        return False
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return False
    defined = str(getattr(found, "__module__", ""))
    return isinstance(found, type) and issubclass(found, nn.Module) and defined.startswith(("timm.", "fdlab."))


def _impossible(value: Any) -> bool:
    numbers = value if isinstance(value, list | tuple) else [value]
    return any(isinstance(number, int | float) and not 0 <= number < 2**31 for number in numbers)


def _only_size(key: str, value: Any) -> bool:
    """Whether these settings say an image size and nothing else: networks of any size have no other place for it."""
    size = value.get("input_size") if isinstance(value, dict) and len(value) == 1 else None
    sides = isinstance(size, list | tuple) and len(size) == 3 and all(type(n) is int and 0 < n < 8192 for n in size)
    return key == "pretrained_cfg_overlay" and sides


def _safe_call(entry: Mapping[str, Any], file: WeightFile) -> TimmCall:
    """The timm call of a file, which may come from anyone: only timm's classes, only of the file's size."""
    call = TimmCall(str(entry["path"]), dict(entry["kwargs"]), float(entry["norm_eps"]))
    module, _, name = call.path.rpartition(".")
    kwargs = call.kwargs
    if call.path == "timm.create_model":
        import timm

        asks = {key for key, value in kwargs.items() if value and key in _FETCHES and not _only_size(key, value)}
        if asks or not timm.is_model(str(kwargs["model_name"])):
            raise ValueError("its timm call asks for more than a known model without weights")
    elif not _is_network(module, name):
        raise ValueError(f"its class {call.path[:80]} is none of timm's networks")
    if any(_impossible(value) for value in kwargs.values()) or not 0 <= call.norm_eps < 1:
        raise ValueError("it names a size or an eps that no network has")
    if any((kwargs.get(key) or "LayerNorm") not in _NORMS for key in ("norm_layer", "embed_norm_layer")):
        raise ValueError("its norm is none of timm's")
    if kwargs.get("mlp_layer", "Mlp") not in ("Mlp", "GluMlp", "SwiGLU", "SwiGLUPacked"):
        raise ValueError("its MLP is none of timm's")
    depths = kwargs.get("depths") or [kwargs.get("depth") or 0]
    if sum(int(depth) for depth in depths) > len(file.content):
        raise ValueError("it names more blocks than the file has tensors")
    return call


_NORMS = ("LayerNorm", "LayerNorm2d", "LayerNormFp32", "LayerNormAct", "RmsNorm", "RmsNorm2d", "GroupNorm1")
# Arguments with which timm would read other files.
_FETCHES = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir")


def _resized(state: dict[str, Any], old: Design, new: Design) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The position tables at the new design's grid: sin-cos by its formula, the others bicubic."""
    if old.grid == new.grid or old.position == "none":
        return state, ()
    prefix, how = int(old.class_token), METHODS["size"]
    if old.position == "sincos":
        how = "recomputed from its formula"
        table = state["pos_embed"].new_zeros(1, prefix + new.grid[0] * new.grid[1], new.width)
        table[:, prefix:] = sincos_table(new.grid, new.width)
        state = {**state, "pos_embed": table}
    elif old.position == "learned":
        table = resize_absolute(state["pos_embed"], old.grid, new.grid, prefix=prefix, method="size")
        state = {**state, "pos_embed": table}
    else:
        state = {
            key: resize_relative(value, old.grid, new.grid) if key.endswith(TABLE) else value
            for key, value in state.items()
        }
    return state, (f"{old.position} table {old.grid[0]}x{old.grid[1]} -> {new.grid[0]}x{new.grid[1]}: {how}",)

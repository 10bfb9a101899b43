"""An encoder as one file: for stock timm, which loads it strictly without fdlab, or for fdlab itself."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fdlab.checkpoints.save import save_encoder, write_safetensors
from fdlab.checkpoints.sources import parse_label
from fdlab.checkpoints.stock import StockName, stock_name
from fdlab.checkpoints.unpickle import refusal
from fdlab.encoders.encoder import Encoder, TimmCall
from fdlab.encoders.student import seeded, stock_state
from fdlab.errors import CHECK_NOT_MET, USAGE, FdlabError
from fdlab.randomness import seed_for


def export_model(encoder: Encoder, path: str | Path, to: str) -> tuple[Path, str]:
    """Writes the encoder to ``path``; returns it with the Python line that opens it.

    Args:
        to: ``timm`` (stock keys, opened by ``timm.create_model``) or ``safetensors`` (``fdlab.open_model``).

    Raises:
        FdlabError: code 2 for an unknown ``to``; code 3 where timm has no such class; code 5 where the
            file does not give the same tokens.
    """
    forms: dict[str, Callable[[Encoder, Path], str]] = {"timm": _to_timm, "safetensors": _to_own}
    path = Path(path)
    if to not in forms:
        raise FdlabError(f"Unknown form '{to}'.", fix=f"Use one of {', '.join(forms)}.", code=USAGE)
    if path.suffix != ".safetensors":
        raise FdlabError(
            f"{path} is no safetensors name.", "timm reads a file by its ending.", "End it in .safetensors.", code=USAGE
        )
    return path, forms[to](encoder, path)


def export_timm(encoder: Encoder, path: str | Path) -> Path:
    """``export_model`` to timm, for callers that need the file only."""
    return export_model(encoder, path, "timm")[0]


def card(encoder: Encoder, line: str) -> dict[str, Any]:
    """What a reader of the file must know: where the weights come from, what was assumed, how to open it."""
    info = encoder.info
    return {
        "source": parse_label(info.source)[0] if info.source else "",  # a name, not the path that leads to it
        "family": info.family,
        "kind": info.kind,
        "network": info.taken,
        "sha256": info.sha256,
        "assumed": info.assumed,
        "mean": info.mean,
        "std": info.std,
        "interpolation": info.interpolation,
        "image_size": info.image_size,
        "title": info.title,
        "heads_from": info.heads_from,
        "positions": info.positions,
        "licence": "unknown: the licence of the source's publisher applies",
        "open": line,
    }


def _to_timm(encoder: Encoder, path: Path) -> str:
    call = full_call(encoder, path)
    name = stock_name(call)
    if name is None or not type(encoder.module).__module__.startswith("timm."):
        raise refusal(
            path,
            "was not written.",
            f"timm has no class that computes what {type(encoder.module).__name__} does.",
            "Use --to safetensors.",
        )
    line = name.line(path.name)
    entry = {**call.to_json(), "name": name.name}
    metadata = {"format": "pt", "timm": _json(entry), "card": _json(card(encoder, line))}
    state = stock_state(encoder.module)
    with tempfile.TemporaryDirectory(dir=path.parent if path.parent.is_dir() else None) as folder:
        draft = write_safetensors(Path(folder) / "draft.safetensors", state, metadata)
        _check(encoder, lambda: _through_timm(name, draft), path)
    write_safetensors(path, state, metadata)
    return line


def _through_timm(name: StockName, file: Path) -> torch.nn.Module:
    import timm

    return timm.create_model(name.name, checkpoint_path=str(file), **name.changes)


def _to_own(encoder: Encoder, path: Path) -> str:
    line = f'fdlab.open_model("{path.name}")'
    info = encoder.info
    save_encoder(
        path,
        encoder.module,
        design=None,
        call=full_call(encoder, path),
        mean=info.mean,
        std=info.std,
        family=info.family,
        seed=0,
        options=info.options,
        extra={"card": _json(card(encoder, line))},
    )
    return line


def full_call(encoder: Encoder, path: Path | str) -> TimmCall:
    """The call with what was changed on the open module (an activation given by the user)."""
    if encoder.call is None:
        raise FdlabError(
            f"{path} was not written.",
            "Your own code builds this model, and a file of fdlab's runs none.",
            "Use --to torch or --to onnx, which write any model, or save its state dict beside your code.",
            code=USAGE,
        )
    if any("activation" in text and "given by the user" in text for text in encoder.info.assumed):
        return replace(encoder.call, kwargs={**encoder.call.kwargs, "act_layer": encoder.info.activation})
    return encoder.call


def _check(encoder: Encoder, make: Callable[[], torch.nn.Module], path: Path) -> None:
    """The written weights, opened the other way, give the same tokens on noise."""
    size = encoder.info.image_size
    height, width = (size, size) if isinstance(size, int) else size
    channels = next(m for m in encoder.module.modules() if isinstance(m, torch.nn.Conv2d)).in_channels
    with seeded(seed_for(0, "construct")), torch.no_grad():
        images = torch.randn(1, channels, height, width)
        other = make().eval()
        ours = encoder.module.forward_features(images.to(encoder.device))  # type: ignore[operator]
        theirs = other.to(encoder.device).forward_features(images.to(encoder.device))  # type: ignore[operator]
    worst = float((ours - theirs).abs().max() / ours.abs().max()) if ours.shape == theirs.shape else float("inf")
    if not worst < 1e-5:
        raise FdlabError(
            f"{path} was not written.",
            f"timm computes other tokens from it (relative difference {worst:.1e}).",
            "Use --to safetensors.",
            code=CHECK_NOT_MET,
        )


_json = functools.partial(json.dumps, sort_keys=True)

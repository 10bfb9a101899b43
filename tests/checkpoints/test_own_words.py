"""A description in a file comes from anyone: what cannot be right is refused, and only networks are called."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fdlab.checkpoints.open import open_model
from fdlab.checkpoints.save import save_encoder
from fdlab.encoders.student import Design, build
from fdlab.errors import NOT_UNDERSTOOD, FdlabError

DESIGN = Design(8, 4, 16, 1, 2, position="learned", class_token=True)


def own(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A file that fdlab wrote, its description changed."""
    save_encoder(path, build(DESIGN, seed=0), design=DESIGN, mean=(0.5,) * 3, std=(0.5,) * 3, family="x", seed=0)
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    entry = json.loads(header["__metadata__"]["fdlab"])
    change(entry)
    header["__metadata__"]["fdlab"] = json.dumps(entry)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    return path


WRONG: dict[str, Callable[[dict[str, Any]], object]] = {
    "std 0": lambda entry: entry.update(std=[0, 0, 0]),
    "std negative": lambda entry: entry.update(std=[0.5, -0.5, 0.5]),
    "mean NaN": lambda entry: entry.update(mean=[float("nan")] * 3),
    "mean infinite": lambda entry: entry.update(mean=[1e400] * 3),
    "mean of 400 digits": lambda entry: entry.update(mean=[10**400] * 3),
    "eps of 400 digits": lambda entry: entry["timm"].update(norm_eps=10**400),
    "eps NaN": lambda entry: entry["timm"].update(norm_eps=float("nan")),
    "eps negative": lambda entry: entry["timm"].update(norm_eps=-1e-6),
    "heads negative": lambda entry: entry["timm"]["kwargs"].update(num_heads=-2),
    "width of 2^70": lambda entry: entry["timm"]["kwargs"].update(embed_dim=2**70),
    "depth infinite": lambda entry: entry["timm"]["kwargs"].update(depth=float("inf")),
    "a list": lambda entry: entry.update(timm=[1, 2]),
}


@pytest.mark.parametrize("name", WRONG)
def test_words_that_cannot_be_right_are_refused(name: str, tmp_path: Path) -> None:
    assert open_model(own(tmp_path / "right.safetensors", lambda _entry: None)).info.heads == 2
    with pytest.raises(FdlabError) as caught:
        open_model(own(tmp_path / "x.safetensors", WRONG[name]))
    assert caught.value.code == NOT_UNDERSTOOD


@pytest.mark.parametrize(
    "path",
    [
        "timm.models._hub.TemporaryDirectory",
        "timm.models._hub.HfApi",
        "timm.models._builder.Path",
        "timm.models._features.OrderedDict",
        "timm.models.vision_transformer.Callable",
        "fdlab.encoders.student.Design",
        "fdlab.encoders.encoder.FdlabError",
        "timm.models.vision_transformer.vit_tiny_patch16_224",
        "timm.models.no_such_file.VisionTransformer",
        "subprocess.Popen",
    ],
)
def test_nothing_but_networks_is_called(path: str, tmp_path: Path) -> None:
    change = lambda entry: entry["timm"].update(path=path, kwargs={"dir": str(tmp_path), "prefix": "made"})  # noqa: E731
    with pytest.raises(FdlabError) as caught:
        open_model(own(tmp_path / "x.safetensors", change))
    assert caught.value.code == NOT_UNDERSTOOD
    assert [each.name for each in tmp_path.iterdir()] == ["x.safetensors"]

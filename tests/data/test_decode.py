"""Which decoder is installed changes no pixel."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from fdlab.data import decode as module
from fdlab.data.decode import Unreadable, decode


def jpeg(mode: str = "RGB", **settings: object) -> bytes:
    chance = np.random.default_rng(3)
    coarse = Image.fromarray(chance.integers(0, 256, (9, 13, 3), dtype=np.uint8))
    out = io.BytesIO()
    coarse.resize((131, 90), Image.Resampling.BICUBIC).convert(mode).save(out, "JPEG", **settings)
    return out.getvalue()


def turned() -> bytes:
    image = Image.open(io.BytesIO(jpeg()))
    tags = image.getexif()
    tags[0x112] = 6
    out = io.BytesIO()
    image.save(out, "JPEG", exif=tags)
    return out.getvalue()


def files() -> dict[str, bytes]:
    return {
        "plain": jpeg(),
        "coarse colours": jpeg(subsampling=2, quality=60),
        "full colours": jpeg(subsampling=0, quality=98),
        "progressive": jpeg(progressive=True),
        "grey": jpeg("L"),
        "CMYK": jpeg("CMYK"),
        "with an orientation": turned(),
    }


def by_pillow(data: bytes, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    with monkeypatch.context() as patch:
        patch.setattr(module, "_jpeg_decoder", lambda: None)
        return decode(data)


@pytest.mark.parametrize("name", files())
def test_both_decoders_give_the_same_pixels(name, monkeypatch):
    pytest.importorskip("torchcodec", reason="extra decode")
    assert module._jpeg_decoder() is not None
    assert torch.equal(decode(files()[name]), by_pillow(files()[name], monkeypatch))


def test_a_fast_decoder_that_refuses_leaves_the_file_to_pillow(monkeypatch):
    def refuses(data: bytes) -> torch.Tensor:
        raise RuntimeError("no")

    wanted = by_pillow(jpeg(), monkeypatch)
    monkeypatch.setattr(module, "_jpeg_decoder", lambda: refuses)
    assert torch.equal(decode(jpeg()), wanted)
    with pytest.raises(Unreadable):
        decode(jpeg()[:300])


def test_only_jpegs_without_tags_go_to_the_fast_decoder(monkeypatch):
    seen = []
    monkeypatch.setattr(module, "_jpeg_decoder", lambda: lambda data: seen.append(data) or torch.zeros(3, 1, 1))
    png = io.BytesIO()
    Image.new("RGB", (4, 4)).save(png, "PNG")
    assert decode(png.getvalue()).shape == (3, 4, 4)
    assert decode(turned()).shape == (3, 90, 131)
    assert not seen
    assert decode(jpeg()).shape == (3, 1, 1)

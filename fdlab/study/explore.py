"""``fdlab explore``: a few images, one to four models, and the attention of every query, drawn by a page itself."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor, nn

from fdlab.checkpoints.open import open_model, open_module
from fdlab.checkpoints.sources import parse_label
from fdlab.data.images import ImageSource
from fdlab.data.sources import open_data
from fdlab.data.streamed import Streamed
from fdlab.encoders.attending import check_attention
from fdlab.encoders.channels import check_colour
from fdlab.encoders.devices import pick_device
from fdlab.encoders.encoder import Encoder
from fdlab.errors import NOT_UNDERSTOOD, USAGE, FdlabError
from fdlab.measures.stored_attention import EXACT, Limits
from fdlab.progress import Progress, say
from fdlab.report.explorer import SLOTS, Exhibit, data_uri, write_explorer
from fdlab.study.stored_model import BASE64, StoredModel

PHOTO, SMALL = 384, 128  # pixels of a photo; inputs below are also shown as the model has them
CODE = 70_000  # bytes of a page without images


@dataclass
class Explorer:
    """A written page: ``path``, ``notes``, and ``errors``, the largest of what is drawn. A notebook shows it inline."""

    path: Path
    notes: list[str]
    errors: dict[str, float] = field(default_factory=dict)
    height: int = 900

    def _repr_html_(self) -> str:
        page = html.escape(self.path.read_text(encoding="utf-8"), quote=True)
        return f'<iframe srcdoc="{page}" width="100%" height="{self.height}" style="border:0"></iframe>'


def explore(
    models: Any,
    data: str = "photos",
    out: str | Path = "reports/explore",
    *,
    images: int = 4,
    blocks: Sequence[int] | None = None,
    max_mb: float = 10.0,
    exact: bool = False,
    seed: int = 0,
    device: str = "cpu",
    teach: bool = False,
    quiet: bool = False,
    command: str = "",
) -> Explorer:
    """Writes the attention explorer of one to four models.

    Args:
        models: SOURCE, label=SOURCE, an ``Encoder`` or a module, one or several; or {label: any of these}.
        data: the images, in the grammar of ``--data``.
        out: a folder (its ``explore.html``), or a file that ends in .html.
        images: how many, drawn by the seed.
        blocks: which blocks of each model, counted from 1; all by default.
        max_mb: of the page. Where more would be needed, blocks are left out evenly, then images, and the page says so.
        exact: half the errors of what is drawn, for about 1.3 times the bytes.
        teach: three questions to predict first.
        command: what the page shows as the command that made it.

    Raises:
        FdlabError: code 2, no or more than four models, a block that a model does not have, a page that one image does
            not fit into; code 3, a model whose attention cannot be read, or whose windows are of an unknown kind.
    """
    stored = [StoredModel(label, encoder, blocks) for label, encoder in _opened(models, device, seed).items()]
    pictures = [_Pictures(data, one, images, seed) for one in stored]
    places = [place for place in range(len(pictures[0].source)) if all(own.readable(place) for own in pictures)]
    if not places:
        fix = "Name images with --data."
        raise FdlabError(f"{data} holds no image that can be read.", fix=fix, code=NOT_UNDERSTOOD)
    limits, notes = EXACT if exact else Limits(), []
    each = sum(one.expected_bytes() for one in stored) * BASE64 / 1e6
    say(
        f"explorer: at most about {each:.1f} MB an image for {len(stored)} models; the page has {max_mb:g} MB",
        quiet=quiet,
    )
    kept = 0
    with Progress("storing attention", len(places) * len(stored), quiet=quiet) as progress:
        used = 0.0
        for place in places:
            for number, one in enumerate(stored):
                one.store(number, kept, pictures[number].raw(place), limits)
                progress.advance()
            if not kept:
                notes += _thinned(stored, len(places), max_mb, pictures[0].weight(place))
                used = CODE + sum(one.bytes_of_biases() for one in stored)
            used += sum(one.bytes_of(kept) for one in stored) + pictures[0].weight(place)
            if used > max_mb * 1e6 and kept:
                for one in stored:
                    one.forget(kept)
                break
            kept += 1
    if kept < images:
        why = f"fit into {max_mb:g} MB" if kept < len(places) else "can be read"
        notes.append(f"{kept} of {images} images {why}.")
    worst = {name: max(one.errors[name] for one in stored) for name in stored[0].errors}
    exhibit = Exhibit(
        title="Attention explorer" if len(stored) > 1 else f"Attention of {stored[0].label}",
        models=[one.shown for one in stored],
        images=[pictures[0].shown(place) for place in places[:kept]],
        chunks={key: data for one in stored for key, data in one.chunks.items()},
        facts={key: facts for one in stored for key, facts in one.facts.items()},
        notes=notes,
        stored=_said(worst),
        command=command or "fdlab.explore(...)",
    )
    target = Path(out)
    target = target if target.suffix.lower() in (".html", ".htm") else target / "explore.html"
    return Explorer(write_explorer(target, exhibit, teach=teach), notes, worst)


def _opened(models: Any, device: str, seed: int) -> dict[str, Encoder]:
    """{label: a model whose attention can be read}."""
    if isinstance(models, Mapping):
        pairs = list(models.items())
    else:
        several = models if isinstance(models, (list, tuple)) else [models]
        pairs = [parse_label(str(one)) if isinstance(one, (str, Path)) else ("", one) for one in several]
    if not 1 <= len(pairs) <= SLOTS:
        raise FdlabError(
            f"{len(pairs)} models are asked for; a page shows 1 to {SLOTS} side by side.",
            fix="Name the most telling ones.",
            code=USAGE,
        )
    encoders: dict[str, Encoder] = {}
    for label, model in pairs:
        if isinstance(model, nn.Module):
            encoder = open_module(model, name=label, device=pick_device(device))
        else:
            encoder = model if isinstance(model, Encoder) else open_model(str(model), device=device, seed=seed)
        check_attention(check_colour(encoder))
        name = label or encoder.info.title or type(encoder.module).__name__
        if name in encoders:
            fix = "Name them: first=SOURCE second=SOURCE."
            raise FdlabError(f"Two models have the label '{name}'.", fix=fix, code=USAGE)
        encoders[name] = encoder
    return encoders


def _thinned(stored: Sequence[StoredModel], images: int, max_mb: float, photo: int) -> list[str]:
    """Leaves out blocks where all images do not fit with all of them; at least a quarter stays. Says so."""
    room = max_mb * 1e6 - CODE - photo * images
    one = sum(model.bytes_of(0) for model in stored)
    share = room / max(one * images, 1)
    if share >= 1:
        return []
    if max_mb * 1e6 < CODE + photo + one / 4:
        raise FdlabError(
            f"One image needs {(CODE + photo + one / 4) / 1e6:.1f} MB, with a quarter of the blocks.",
            f"The page may have {max_mb:g} MB.",
            "Give a larger --max-mb, fewer --blocks, or fewer models.",
            USAGE,
        )
    said = []
    for model in stored:
        last = len(model.wanted) - 1
        count = max(1, min(last + 1, int(max(share, 0.25) * (last + 1))))
        places = {round(n * last / max(count - 1, 1)) for n in range(count)}  # the first and the last among them
        if len(places) <= last:
            many = f"{len(places)} of {last + 1} blocks of {model.label}"
            said.append(f"{many} are stored: all need more than {max_mb:g} MB.")
            model.keep([model.wanted[place] for place in places])
    return said


def _said(errors: Mapping[str, float]) -> str:
    return (
        "Queries and keys are stored as small integers, windows as 8-bit logarithms. Of what is drawn, no patch is off"
        f" by more than {errors['map_most']:.0%} of its row's maximum, no head's distance by more than"
        f" {errors['distance']:.1%}, no entropy by more than {errors['entropy']:.4f}. Numbers at temperature 1 are"
        " fdlab's own, of this image."
    )


class _Pictures:
    """The images of one model, and the photos that the page shows of them."""

    def __init__(self, data: str, model: StoredModel, images: int, seed: int) -> None:
        self.size = model.size
        self.source: ImageSource = open_data(data, size=max(self.size), seed=seed).sample(images, seed)
        self._shown: dict[int, dict[str, str]] = {}

    def raw(self, place: int) -> Tensor:
        """(1, 3, H, W) in [0, 1] at the model's size."""
        return Streamed(self.source, self.size)[place : place + 1]

    def readable(self, place: int) -> bool:
        """Whether the image can be read."""
        return len(self.raw(place)) == 1

    def weight(self, place: int) -> int:
        """Bytes of its photos in the page."""
        return sum(map(len, self.shown(place).values()))

    def shown(self, place: int) -> dict[str, str]:
        """The image as the model's crop, at 384 px; small inputs also pixel for pixel."""
        if place not in self._shown:
            scale = max(1.0, PHOTO / max(self.size))
            large = (round(self.size[0] * scale), round(self.size[1] * scale))
            photo = _encoded(Streamed(self.source, large)[place : place + 1], "JPEG", quality=80)
            shown = {"name": f"image {place + 1}", "photo": data_uri(photo, "jpeg")}
            if max(self.size) < SMALL:
                shown["seen"] = data_uri(_encoded(self.raw(place), "PNG"), "png")
            self._shown[place] = shown
        return self._shown[place]


def _encoded(images: Tensor, kind: str, **options: Any) -> bytes:
    pixels = (images[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()

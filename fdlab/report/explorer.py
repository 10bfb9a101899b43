"""The attention explorer: one HTML file that draws the map of every query, block and head of a few images.

It works from a file and without a network: the stored blocks stand in it as deflated bytes (``Exhibit.chunks``), the
script (explorer.js) makes the rows of a query from them when they are asked for.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from fdlab.records.atomic import write_text
from fdlab.version import __version__

NATS = 12.0  # as in measures/stored_attention.py
SLOTS = 4  # models that have a colour


@dataclass
class ShownBlock:
    """One block of a model that is stored.

    Args:
        number: counted from 1.
        grid: patches (down, across), of one window where there are windows.
        patch: (height, width) of a patch in pixels.
        prefix: tokens before the patches.
        heads: how many.
        uniform: distance of uniform attention in pixels.
        windows: ``image`` (patches of the image) and ``shift`` (down, across); None without windows.
        bias: the number of the chunk that holds its bias; None without one.
        steps: of the bias, one a head.
    """

    number: int
    grid: tuple[int, int]
    patch: tuple[int, int]
    prefix: int
    heads: int
    uniform: float
    windows: dict[str, list[int]] | None = None
    bias: int | None = None
    steps: list[float] = field(default_factory=list)


@dataclass
class ShownModel:
    """One model: its label, the kinds of its prefix tokens, its depth and the blocks that are stored."""

    label: str
    prefix: list[str]
    depth: int
    blocks: list[ShownBlock]
    control: bool = False


@dataclass
class Exhibit:
    """What one page holds.

    Args:
        title: of the page.
        models: one to four.
        images: ``name``, ``photo`` (a data URI) and, for small inputs, ``seen``.
        chunks: {``c-MODEL-IMAGE-BLOCK`` or ``b-MODEL-BLOCK``: deflated bytes}; all three from 0.
        facts: {``c-MODEL-IMAGE-BLOCK``: ``kind``, ``heads`` ([rank, wide, step] each) and ``numbers``}.
        notes: sentences above the maps: what was left out, what is assumed.
        stored: how well the stored maps are the model's, a sentence.
        command: that made it.
    """

    title: str
    models: list[ShownModel]
    images: list[dict[str, str]]
    chunks: dict[str, bytes]
    facts: dict[str, dict[str, Any]]
    notes: Sequence[str] = ()
    stored: str = ""
    command: str = ""


def deflated(data: bytes) -> bytes:
    """The bytes as a browser's ``deflate-raw`` unpacks them."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def data_uri(content: bytes, kind: str) -> str:
    """An image inside the page."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def write_explorer(path: Path | str, exhibit: Exhibit, *, teach: bool = False) -> Path:
    """Writes the page; with ``teach``, three questions to predict first."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    images, blocks = len(exhibit.images), max(len(model.blocks) for model in exhibit.models)
    many = f"{len(exhibit.models)} model{'s' * (len(exhibit.models) > 1)}, {images} image{'s' * (images > 1)}"
    page = environment.from_string(_text("explorer.html.j2")).render(
        title=exhibit.title,
        version=__version__,
        meta=f"{many}, {blocks} block{'s' * (blocks > 1)}",
        models=exhibit.models,
        images=exhibit.images,
        notes=list(exhibit.notes),
        stored=exhibit.stored,
        command=exhibit.command,
        teach=teach,
        css=Markup(_text("explorer.css")),
        script=Markup(_text("explorer.js")),
        facts=Markup(_script_safe(_facts(exhibit))),
        chunks={key: base64.b64encode(data).decode() for key, data in exhibit.chunks.items()},
    )
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, page)
    return target


def _facts(exhibit: Exhibit) -> dict[str, Any]:
    trained = iter(range(SLOTS))
    models = [{**asdict(model), "slot": SLOTS if model.control else next(trained, 0)} for model in exhibit.models]
    # the photos stand in the page once, as the thumbs
    images = [{name: text for name, text in image.items() if name != "photo"} for image in exhibit.images]
    start = _most_different(exhibit)
    return {"models": models, "images": images, "chunks": exhibit.facts, "nats": NATS, "start": start}


def _most_different(exhibit: Exhibit) -> int:
    """Where the page opens: the place of the first model's block whose heads differ most in distance."""

    def spread(block: int) -> float:
        number = exhibit.models[0].blocks[block].number
        known = [far for far in exhibit.facts[f"c-0-0-{number - 1}"]["numbers"]["distance"] if far is not None]
        return max(known) - min(known) if known else 0.0

    longest = max(len(model.blocks) for model in exhibit.models)
    own = max(range(len(exhibit.models[0].blocks)), key=spread)
    return round(own * (longest - 1) / max(len(exhibit.models[0].blocks) - 1, 1))


def _script_safe(facts: dict[str, Any]) -> str:
    """JSON that no label can end the script element with."""
    return json.dumps(facts, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _text(name: str) -> str:
    return resources.files("fdlab.report").joinpath(name).read_text(encoding="utf-8")

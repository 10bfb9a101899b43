"""What the text of a SOURCE names: a label, a weight file, a run's folder. No torch, no file is read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fdlab.errors import NOT_UNDERSTOOD, USAGE, FdlabError, nearest

# What can be told of a model behind its SOURCE, as ``open_model`` takes it.
FACTS = ("heads", "image_size", "activation", "prefix_tokens", "channels")
_FACTS = re.compile(r"\?[a-z_]+=[^&?=/\\]*(?:&[a-z_]+=[^&?=/\\]*)*$")
RUN_FILES = ("student.safetensors", "encoder.safetensors")


def parse_label(text: str) -> tuple[str, str]:
    """``label=SOURCE`` -> (label, SOURCE); without a label, a short one made from the source.

    Raises:
        FdlabError: code 2, nothing stands after the label.
    """
    text, behind = split_facts(text)
    label, source = _label_and_source(text)
    return label, source + behind


def _label_and_source(text: str) -> tuple[str, str]:
    label, found, source = text.partition("=")
    if is_code(text):
        found = ""  # what stands before the first = is no label, but an argument of the function
    if found and label.strip() and "/" not in label and not Path(text).exists():
        if not source:
            raise FdlabError(f"'{text}' names no model.", "Nothing stands after '='.", "Use label=SOURCE.", code=USAGE)
        return label.strip(), source
    if is_code(text):
        code, weights = code_and_weights(text)
        name = Path(weights).name or code.partition("#")[0].rpartition(":")[2]
        return (f"random {name}" if text.startswith("random:") else name), text
    kind, _, rest = text.partition(":") if text.startswith(("random:", "timm:")) else ("", "", text)
    if is_hub(text):
        repo, revision = hub_parts(text)
        name = repo.rpartition("/")[2] + ("" if revision == "main" else f"@{revision[:12]}")
        return (f"random {name}" if kind == "random" else name), text
    path = Path(rest)
    name = path.parent.name if path.name in RUN_FILES and path.parent.name else path.name
    name = name.split("@")[0] + (f"@{name.split('@')[1]}" if "@" in name else "")
    for ending in (".pth.tar", ".safetensors", ".pth", ".pt", ".bin", ".ckpt"):
        name = name.replace(ending, "")
    return (f"random {name}" if kind == "random" else name) or text, text


def is_code(text: str) -> bool:
    """Whether a SOURCE names the user's own code.

    >>> is_code("py:nets.py:build#depth=2"), is_code("random:py:nets.py:build"), is_code("a.pth")
    (True, True, False)
    """
    return text.removeprefix("random:").startswith("py:")


HUB = ("hf:", "hf-hub:")
_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9][\w.+-]*(?:/[A-Za-z0-9][\w.+-]*)*")


def is_hub(text: str) -> bool:
    """Whether a SOURCE names a repository of the Hugging Face Hub.

    >>> is_hub("hf:facebook/dinov2-small"), is_hub("random:hf-hub:timm/vit"), is_hub("hfds:beans")
    (True, True, False)
    """
    return text.removeprefix("random:").startswith(HUB)


def hub_parts(text: str) -> tuple[str, str]:
    """(OWNER/NAME, revision) of ``hf:OWNER/NAME[@REVISION]``; without a revision, ``main``.

    >>> hub_parts("hf:facebook/dinov2-small@refs/pr/1")
    ('facebook/dinov2-small', 'refs/pr/1')

    Raises:
        FdlabError: code 2, it is none.
    """
    repo, at, revision = text.removeprefix("random:").partition(":")[2].partition("@")
    if not _REPO.fullmatch(repo) or ".." in repo or "--" in repo or (at and not _REVISION.fullmatch(revision)):
        raise FdlabError(
            f"'{text[:120]}' names no repository of the Hugging Face Hub.",
            "A name has an owner, a slash and a name; behind @ stands a branch, a tag or a commit.",
            "Write hf:OWNER/NAME or hf:OWNER/NAME@REVISION.",
            code=USAGE,
        )
    return repo, revision if at else "main"


def code_and_weights(text: str) -> tuple[str, str]:
    """``py:FILE.py:FUNCTION@RUN`` -> (what builds the model, what its weights are read from); the rest is empty.

    >>> code_and_weights("py:nets.py:build#depth=2@runs/tuned"), code_and_weights("py:nets.py:build")
    (('py:nets.py:build#depth=2', 'runs/tuned'), ('py:nets.py:build', ''))
    """
    head, colon, tail = text.rpartition(":")
    name, _, weights = tail.partition("@")
    return f"{head}{colon}{name}", weights


def split_facts(text: str) -> tuple[str, str]:
    """``SOURCE?heads=2&image_size=64`` -> (SOURCE, the rest from ``?`` on); the rest is empty where there is none.

    >>> split_facts("a=m.pth@teacher?heads=2")
    ('a=m.pth@teacher', '?heads=2')
    """
    found = _FACTS.search(text)
    if found is None or Path(text).exists():
        return text, ""
    return text[: found.start()], found[0]


def read_facts(behind: str) -> dict[str, Any]:
    """What stands behind ``?`` as arguments of ``open_model``.

    >>> read_facts("?heads=2&image_size=32x64")
    {'heads': 2, 'image_size': (32, 64)}

    Raises:
        FdlabError: code 2, an unknown name or a value that cannot be.
    """
    facts: dict[str, Any] = {}
    for pair in filter(None, behind.removeprefix("?").split("&")):
        name, _, value = pair.partition("=")
        if name not in FACTS:
            raise FdlabError(
                f"'{name}' is nothing that can be told of a model.{nearest(name, FACTS)}",
                f"Known: {', '.join(FACTS)}.",
                "Write SOURCE?heads=2&image_size=224, or with an option, --heads 2.",
                code=USAGE,
            )
        facts[name] = value if name == "activation" else _size(value) if name == "image_size" else _count(name, value)
    return facts


def with_facts(source: str, facts: Mapping[str, Any]) -> str:
    """The SOURCE with these facts behind it; what it says itself stays.

    >>> with_facts("a=m.pth?heads=2", {"heads": 3, "image_size": "64", "activation": None})
    'a=m.pth?heads=2&image_size=64'
    """
    base, behind = split_facts(source)
    said = [pair for pair in behind.removeprefix("?").split("&") if pair]
    names = {pair.partition("=")[0] for pair in said}
    said += [f"{name}={value}" for name, value in facts.items() if value is not None and name not in names]
    read_facts("&".join(said))
    return f"{base}?{'&'.join(said)}" if said else base


def _count(name: str, value: str) -> int:
    least = 0 if name == "prefix_tokens" else 1
    if not (value.isdigit() and value.isascii() and len(value) < 7 and int(value) >= least):
        raise FdlabError(f"{name}={value[:40]} is no whole number from {least} on.", fix=f"Write {name}=2.", code=USAGE)
    return int(value)


def _size(value: str) -> int | tuple[int, int]:
    sides = value.lower().split("x")
    if len(sides) > 2 or not all(side.isdigit() and side.isascii() and 0 < len(side) < 6 for side in sides):
        raise FdlabError(
            f"'{value[:40]}' is no size of an image.", fix="Write 224, or HEIGHTxWIDTH: 32x64.", code=USAGE
        )
    numbers = [int(side) for side in sides]
    if min(numbers) < 1:
        raise FdlabError("An image has at least one pixel.", fix="Write --image-size 224 or 32x64.", code=USAGE)
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])


WEIGHTS = (".pth", ".pt", ".bin", ".safetensors", ".tar", ".ckpt", ".npz")  # endings that no name of timm has


def refuse_absent(text: str) -> None:
    """Refuses a SOURCE that is a path by its looks and is not there; decided without torch, before anything is loaded.

    Raises:
        FdlabError: code 3, it does not exist.
    """
    base = split_facts(text)[0].removeprefix("random:")
    if is_hub(base) and on_disk(base) is None:
        hub_parts(base)
        return
    if is_code(base) or base.startswith(("timm:", "live:")) or on_disk(base) is not None:
        return
    place, at, _ = base.rpartition("@")
    place = place if at else base
    if place.endswith(WEIGHTS) or place.startswith(("/", "./", "../", "~")) or place.count("/") > 1:
        raise FdlabError(
            f"{place} does not exist.", "No file or folder has this name.", "Check the path.", code=NOT_UNDERSTOOD
        )


def on_disk(text: str) -> tuple[Path, str | None] | None:
    """(path, suffix after @) where the text names what is on disk, whatever it is called; else None."""
    if text and Path(text).exists():
        return Path(text), None
    base, at, suffix = text.rpartition("@")
    if at and not text.startswith("timm:") and Path(base).exists():
        return Path(base), suffix
    return None


def run_file(folder: Path) -> Path:
    """The finished encoder of a run folder; other folders as they are (Hugging Face, timm, DeepSpeed).

    Raises:
        FdlabError: code 3, the run is not finished.
    """
    for name in RUN_FILES:
        if (folder / name).is_file():
            return folder / name
    if (folder / "recipe.toml").exists() or (folder / "checkpoint").exists():
        raise FdlabError(
            f"The run {folder} is not finished.",
            f"It holds no {' or '.join(RUN_FILES)} yet.",
            "Give the same training command again: it continues where it stopped.",
            code=NOT_UNDERSTOOD,
        )
    return folder

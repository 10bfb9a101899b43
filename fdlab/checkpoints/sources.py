"""What the text of a SOURCE names: a label, a weight file, a run's folder. No torch, no file is read."""

from __future__ import annotations

from pathlib import Path

from fdlab.errors import NOT_UNDERSTOOD, USAGE, FdlabError

RUN_FILES = ("student.safetensors", "encoder.safetensors")


def parse_label(text: str) -> tuple[str, str]:
    """``label=SOURCE`` -> (label, SOURCE); without a label, a short one made from the source.

    Raises:
        FdlabError: code 2, nothing stands after the label.
    """
    label, found, source = text.partition("=")
    if found and label.strip() and "/" not in label and not Path(text).exists():
        if not source:
            raise FdlabError(f"'{text}' names no model.", "Nothing stands after '='.", "Use label=SOURCE.", code=USAGE)
        return label.strip(), source
    kind, _, rest = text.partition(":") if text.startswith(("random:", "timm:")) else ("", "", text)
    path = Path(rest)
    name = path.parent.name if path.name in RUN_FILES and path.parent.name else path.name
    name = name.split("@")[0] + (f"@{name.split('@')[1]}" if "@" in name else "")
    for ending in (".pth.tar", ".safetensors", ".pth", ".pt", ".bin", ".ckpt"):
        name = name.replace(ending, "")
    return (f"random {name}" if kind == "random" else name) or text, text


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

"""``fdlab.export``: a finished run or any model as a folder that others use without fdlab."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fdlab.encoders.encoder import Encoder
from fdlab.errors import OUT_OF_SPACE, USAGE, FdlabError, nearest
from fdlab.records.atomic import read_json, writable_folder, write_json, write_text
from fdlab.study.exports.card import model_card
from fdlab.study.exports.subject import Subject, subject
from fdlab.study.exports.written import Written
from fdlab.version import __version__

# What each form is for, and the file that writes it.
FORMS = {
    "timm": ("fdlab.study.exports.timm_folder", "stock timm"),
    "torch": ("fdlab.study.exports.torch_program", "torch alone (torch.export)"),
    "onnx": ("fdlab.study.exports.onnx_file", "ONNX Runtime and others"),
    "hf": ("fdlab.study.exports.hf_folder", "transformers"),
}
MARK = "export.json"  # written last: a folder with it is a whole export of ours


@dataclass(frozen=True)
class Exported:
    """A folder that was written and read back. ``upload`` is the line that would publish it; nothing is uploaded."""

    folder: Path
    to: str
    written: Written
    output: str
    upload: str


def export(
    source: str | Path | Encoder, *, out: str | Path, to: str = "timm", head: bool = True, force: bool = False
) -> Exported:
    """Writes a model as a folder that others use without fdlab, and checks it by reading it back.

    Args:
        source: a finished run's folder (a fine-tuning goes with its classifier), SOURCE as everywhere, or an open
            ``Encoder``.
        out: the folder; it must be absent or empty, or hold an earlier export and ``force`` be given.
        to: "timm" (stock timm opens it), "torch" (a program of ``torch.export``), "onnx", or "hf" (transformers).
        head: with the classifier, where there is one; False: the encoder alone.
        force: replace the files of an earlier export; others in the folder stay.

    Raises:
        FdlabError: code 2, an unknown form, a folder that is not empty, or a model that the form cannot hold; code 3,
            a source that is not understood; code 4, no space; code 5, what was written computes something else.

    Example:
        ``fdlab.export("runs/tuned", out="tuned-timm", to="timm")``
    """
    if to not in FORMS:
        raise FdlabError(f"Unknown form '{to}'.", fix=f"Use one of {', '.join(FORMS)}.{nearest(to, FORMS)}", code=USAGE)
    form, folder = importlib.import_module(FORMS[to][0]), Path(out)
    if hasattr(form, "check_installed"):
        form.check_installed()
    _check_free(folder, force)
    what = subject(source, head=head)
    with _drafted(folder) as draft:
        written: Written = form.write(what, draft)
        _describe(what, to, written, draft)
    return Exported(folder, to, written, what.output, f"hf upload YOUR_NAME/{folder.resolve().name} {folder}")


def _describe(what: Subject, to: str, written: Written, draft: Path) -> None:
    """Adds the card, and last the mark of a whole export."""
    write_text(draft / "README.md", model_card(what, to, written))
    write_json(
        draft / MARK,
        {
            "form": to,
            "files": [*written.files, "README.md", MARK],
            "largest_difference": written.difference,
            "notes": list(written.notes),
            "weights": what.encoder.info.sha256,
            "fdlab": __version__,
        },
    )


def _check_free(folder: Path, force: bool) -> None:
    """Refuses a folder whose files would be mixed with ours or be lost."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FdlabError(f"{folder} is a file.", "A folder is written.", "Name a folder with -o/--out.", code=USAGE)
    there = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    if not there or (force and (folder / MARK).is_file()):
        return
    ours = (folder / MARK).is_file()
    raise FdlabError(
        f"{folder} is not empty.",
        "It holds an earlier export." if ours else f"It holds {', '.join(there[:3])}, and no export of fdlab.",
        "Give --force to replace that export, or name another folder with -o/--out."
        if ours
        else "Name another folder with -o/--out; nothing there was touched.",
        code=USAGE,
    )


@contextlib.contextmanager
def _drafted(folder: Path) -> Iterator[Path]:
    """A folder beside the wanted one; when all is written and checked, its files take their place."""
    writable_folder(folder.resolve().parent)
    draft = folder.resolve().with_name(f".{folder.resolve().name}.{os.getpid()}.part")
    try:
        draft.mkdir()
        yield draft
        _put(draft, folder)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        fix = "Free some space, then give the command again."
        raise FdlabError(f"No space left while writing {folder}.", str(error), fix, OUT_OF_SPACE) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _put(draft: Path, folder: Path) -> None:
    """A new folder appears at once; in an old one the files of the earlier export give way, the mark last."""
    if not folder.exists():
        draft.rename(folder)
        return
    earlier = {str(name) for name in read_json(folder / MARK).get("files", [])}
    (folder / MARK).unlink(missing_ok=True)
    new = sorted((path for path in draft.iterdir()), key=lambda path: path.name == MARK)
    for path in new:
        path.replace(folder / path.name)
    for name in earlier - {path.name for path in new}:
        if Path(name).name == name:  # the list comes from a file that anybody may have written
            (folder / name).unlink(missing_ok=True)

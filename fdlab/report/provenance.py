"""What a figure file says about itself: which figure of which table, made by which command; read back from the file.

The note is ASCII JSON in the file's own metadata (PDF: Keywords, SVG and PNG: Description), so that it survives
copying, and is found again without the report's folder.
"""

from __future__ import annotations

import json
import re
import struct
from html import unescape
from pathlib import Path
from typing import Any

from fdlab.errors import NOT_UNDERSTOOD, FdlabError
from fdlab.report.report import Report
from fdlab.version import __version__

_MARK = "fdlab"


def note(figure: str, report: Report, caption: str) -> str:
    """The note of one figure as one line of ASCII."""
    content = {
        _MARK: __version__,
        "figure": figure,
        "models": report.models,
        **{key: report.facts.written.get(key) for key in ("data", "images", "seed", "command")},
        "table_sha256": report.digest,
        "caption": caption,
    }
    return json.dumps({key: value for key, value in content.items() if value is not None}, sort_keys=True)


def read_note(path: Path | str) -> dict[str, Any]:
    """What a figure file (PDF, SVG, PNG) says about itself.

    Raises:
        FdlabError: code 3, the file cannot be read or holds no note of fdlab.
    """
    path = Path(path)
    readers = {".pdf": _in_pdf, ".svg": _in_svg, ".png": _in_png}
    try:
        content = json.loads(readers[path.suffix.lower()](path.read_bytes()))
        if _MARK in content:
            return dict(content)
        why = "Its description was written by something else."
    except KeyError:
        why = f"Notes are kept in {', '.join(readers)} files."
    except OSError as error:
        why = error.strerror or str(error)
    except (ValueError, TypeError, IndexError, struct.error):
        why = "It holds no description that fdlab wrote."
    raise FdlabError(
        f"{path} does not say where it comes from.",
        why,
        "Figures of `fdlab figures`, `fdlab report` and `fdlab diagnose` do; some editors remove the note.",
        code=NOT_UNDERSTOOD,
    )


def _in_svg(data: bytes) -> str:
    return unescape(re.findall(r"<dc:description>(.*?)</dc:description>", data.decode(), re.S)[0])


def _in_png(data: bytes) -> str:
    """The text of the Description chunk (PNG 1.2, section 4.2.3)."""
    place = 8
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        kind, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        key, _, value = body.partition(b"\0")
        if key == b"Description" and kind == b"tEXt":
            return value.decode("latin-1")
        if key == b"Description" and kind == b"iTXt":
            return value.lstrip(b"\0").decode()
        place += 12 + length
    raise ValueError("no description")


def _in_pdf(data: bytes) -> str:
    """The literal string after /Keywords (PDF 1.7, section 7.3.4.2): backslashes escape brackets and themselves."""
    start = data.index(b"/Keywords (") + len(b"/Keywords (")
    text, place = bytearray(), start
    while data[place : place + 1] != b")":
        if data[place : place + 1] == b"\\":
            place += 1
            if data[place : place + 1] == b"\n":  # a line continued
                place += 1
                continue
        text += data[place : place + 1]
        place += 1
    return text.decode("latin-1")

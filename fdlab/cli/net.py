"""The last net of the command line: an exception that nothing has named becomes three lines and an exit code."""

from __future__ import annotations

import contextlib
import errno
import platform
import sys
import tempfile
import traceback
from pathlib import Path

from fdlab.errors import FAILED, OUT_OF_SPACE, USAGE, FdlabError

REPORT = "fdlab-error.txt"
LONGEST = 300  # characters of a foreign message that are shown
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Words of libraries that report a full disk or short memory by another type than OSError and MemoryError.
DISK_WORDS = ("No space left on device", "PytorchStreamWriter failed writing", "inline_container.cc", "os error 28")
MEMORY_WORDS = ("can't allocate memory", "not enough memory", "out of memory", "Cannot allocate memory", "bad alloc")
MEMORY_FIX = "Use fewer --images, a smaller --batch or smaller images, or a machine with more memory."


def caught(error: Exception) -> FdlabError:
    """The three lines for any exception: memory and disk have code 4, files that cannot be reached say so."""
    text = str(error)
    if isinstance(error, MemoryError) or any(word in text for word in MEMORY_WORDS):
        return FdlabError("Memory ran out.", harmless(text), MEMORY_FIX, code=OUT_OF_SPACE)
    full = isinstance(error, OSError) and error.errno in FULL
    if full or any(word in text for word in DISK_WORDS):
        return FdlabError(
            "The disk is full, or a limit on file sizes was met.",
            harmless(text),
            "Free some space and give the same command again: it continues with what is whole.",
            code=OUT_OF_SPACE,
        )
    if isinstance(error, OSError) and error.filename is not None:
        return _file(error)
    if isinstance(error, RecursionError):
        text = "Something was nested too deep."
    return FdlabError(
        f"fdlab met an error that it has no words for: {type(error).__name__} in {_place(error)}.",
        harmless(text),
        f"{_written(error)}; `fdlab --debug ...` shows the whole trace.",
        code=FAILED,
    )


def _file(error: OSError) -> FdlabError:
    name = harmless(str(error.filename))
    if error.errno == errno.ENAMETOOLONG:
        return FdlabError(f"A name is too long for a file: {name}", "", "Use a shorter name.", code=USAGE)
    fix = "Check its permissions." if isinstance(error, PermissionError) else "Check the path and the disk."
    return FdlabError(f"{name} cannot be read or written.", error.strerror or type(error).__name__, fix, code=FAILED)


def harmless(text: str) -> str:
    """Foreign text on one line, without control characters, at most ``LONGEST`` of it.

    >>> harmless("a\\x1b[31m\\nb")
    'a\\\\x1b[31m b'
    """
    line = " ".join(text[: 4 * LONGEST].split())
    shown = "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in line)
    return shown if len(shown) <= LONGEST else f"{shown[:LONGEST]} ..."


def _place(error: Exception) -> str:
    """Where it was raised: the last frame of fdlab itself."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if "fdlab" in Path(frame.filename).parts]
    frame = own[-1] if own else None
    return f"{Path(frame.filename).name}:{frame.lineno} ({frame.name})" if frame else "a library"


def _written(error: Exception) -> str:
    """Writes the report beside the user's work, else where temporary files are; says where."""
    for folder in (Path.cwd(), Path(tempfile.gettempdir())):
        with contextlib.suppress(OSError):
            path = folder / REPORT
            path.write_text(report(error), encoding="utf-8")
            return f"{path} holds what a report of this fault needs (no data, no labels, no paths of yours)"
    return "No file for a report could be written"


def report(error: Exception) -> str:
    """What a report needs: versions, the verb and its options without values, types and places without messages."""
    from fdlab.version import versions

    verb = [word for word in sys.argv[1:3] if word.isalpha() and len(word) < 20]
    options = [word.partition("=")[0] for word in sys.argv[1:] if word.startswith("-") and not word[1:2].isdigit()]
    lines = [f"fdlab {' '.join(verb)} {' '.join(options)}".rstrip(), f"{platform.platform()}, {versions()}", ""]
    chain: list[BaseException] = [error]
    while (before := chain[-1].__cause__ or chain[-1].__context__) is not None and len(chain) < 10:
        chain.append(before)
    for link in reversed(chain):
        frames = traceback.extract_tb(link.__traceback__)[-40:]
        lines += [f"  {'/'.join(Path(frame.filename).parts[-3:])}:{frame.lineno} in {frame.name}" for frame in frames]
        lines.append(type(link).__name__)
    return "\n".join(lines) + "\n"

"""Records, and the store that keeps them by the content of their question.

A record is ``table.csv`` + ``arrays.npz`` (every per-image value, in image order) + ``manifest.json``.
The same question (weights, probe and version, settings, images, preprocessing) is answered once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import warnings
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fdlab.errors import FdlabError
from fdlab.records.atomic import as_json, replacing
from fdlab.records.seal import damaged, digest_of, seal
from fdlab.records.table import read_table, write_table

STORE_VERSION = 1
RETRIES = 10
FILES = ("table.csv", "arrays.npz", "manifest.json")
# what numpy raises on a file that was cut short or changed
DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


@dataclass
class Record:
    """One answered question: its rows, its per-image arrays and how it was made."""

    table: pd.DataFrame
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    manifest: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path | str) -> Path:
        """Writes the three files and their checksums; a record is read once it has a manifest."""
        folder = Path(folder)
        (folder / "manifest.json").unlink(missing_ok=True)
        write_table(folder / "table.csv", self.table)
        with replacing(folder / "arrays.npz") as draft, draft.open("wb") as file:
            np.savez_compressed(file, **self.arrays)  # type: ignore[arg-type]
        with replacing(folder / "manifest.json") as draft:
            draft.write_text(as_json(self.manifest), encoding="utf-8")
            seal(folder, [folder / "table.csv", folder / "arrays.npz"], {"manifest.json": digest_of(draft)})
        return folder

    @staticmethod
    def load(folder: Path | str) -> Record:
        """Reads a record.

        Raises:
            FdlabError: a file is absent or damaged (its checksum tells).
        """
        folder = Path(folder)
        try:
            if wrong := damaged(folder, FILES):
                raise ValueError(f"Its {' and '.join(wrong)} changed since the record was written.")
            manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            with np.load(folder / "arrays.npz", allow_pickle=False) as arrays:
                return Record(read_table(folder / "table.csv"), dict(arrays), manifest)
        except DAMAGED as error:
            raise FdlabError(f"The record {folder} is absent or damaged.", str(error)) from None


def question_key(question: dict[str, Any]) -> str:
    """The sha256 of a question, whatever the order of its keys."""
    text = json.dumps({"store": STORE_VERSION, **question}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


class Store:
    """Answered questions under one folder, by the sha256 of the question."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def folder(self, question: dict[str, Any]) -> Path:
        """Where the answer of this question is, or will be."""
        key = question_key(question)
        return self.root / key[:2] / key[2:]

    def unfinished(self, question: dict[str, Any]) -> Path:
        """A folder for what a measurement has so far, so that a stopped one continues; ``put`` removes it."""
        return self.root / "unfinished" / question_key(question)

    def get(self, question: dict[str, Any]) -> Record | None:
        """The answer, or None where there is none. A damaged one is None too, with a warning that it is made again."""
        folder = self.folder(question)
        for _ in range(RETRIES):  # another process may put a new answer in its place while this one is read
            before, problem, record = _stamp(folder), "", None
            if before is None:
                return None
            try:
                record = Record.load(folder)
            except FdlabError as error:
                problem = f"{error.what} It is made again. ({error.why})"
            if _stamp(folder) == before:
                break
        else:
            return None
        if problem:
            warnings.warn(problem, stacklevel=2)
        return record

    def older_version(self, question: dict[str, Any]) -> int | None:
        """The newest earlier ``version`` of the probe that answered this question, where it alone is kept."""
        if _stamp(self.folder(question)) is not None:
            return None
        for version in range(int(question.get("version", 1)) - 1, 0, -1):
            if (self.folder({**question, "version": version}) / "manifest.json").is_file():
                return version
        return None

    def put(self, question: dict[str, Any], record: Record) -> Path:
        """Keeps the answer. Two processes may write the same one: the last whole one stays.

        A store that cannot be written to keeps nothing, and says so: the answer itself is not lost.
        """
        try:
            return self._put(question, record)
        except OSError as error:
            warnings.warn(
                f"The store {self.root} keeps nothing of this ({error.strerror or error}): it will be measured anew. "
                "FDLAB_STORE names another folder.",
                stacklevel=2,
            )
            return self.folder(question)

    def _put(self, question: dict[str, Any], record: Record) -> Path:
        folder = self.folder(question)
        draft = folder.with_name(f".{folder.name}.{os.getpid()}")
        record.manifest.setdefault("question", question)
        record.save(draft)
        old = draft.with_name(f"{draft.name}.old")
        with contextlib.suppress(OSError):  # renamed, so that nobody reads a folder that is being emptied
            folder.replace(old)
        try:
            draft.replace(folder)
        except OSError:
            shutil.rmtree(draft, ignore_errors=True)  # another process was first, with the same answer
        shutil.rmtree(old, ignore_errors=True)
        shutil.rmtree(self.unfinished(question), ignore_errors=True)
        return folder


def _stamp(folder: Path) -> tuple[int, int] | None:
    """Inode and time of the answer in this folder, which tell one answer from another; None where there is none."""
    try:
        (folder / "manifest.json").stat()
        status = folder.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def default_store() -> Store:
    """``$FDLAB_STORE``, else the user's cache folder."""
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return Store(os.environ.get("FDLAB_STORE", home / "fdlab" / "store"))

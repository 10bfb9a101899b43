"""Records, and the store that keeps them by the content of their question.

A record is ``table.csv`` + ``arrays.npz`` (every per-image value, in image order) + ``manifest.json``.
The same question (weights, probe and version, settings, images, preprocessing) is answered once.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fdlab.errors import FdlabError
from fdlab.records.atomic import replacing, write_json
from fdlab.records.table import read_table, write_table

STORE_VERSION = 1


@dataclass
class Record:
    """One answered question: its rows, its per-image arrays and how it was made."""

    table: pd.DataFrame
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    manifest: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path | str) -> Path:
        """Writes the three files; the manifest last, so that a half-written record is not read."""
        folder = Path(folder)
        write_table(folder / "table.csv", self.table)
        with replacing(folder / "arrays.npz") as draft, draft.open("wb") as file:
            np.savez_compressed(file, **self.arrays)  # type: ignore[arg-type]
        write_json(folder / "manifest.json", self.manifest)
        return folder

    @staticmethod
    def load(folder: Path | str) -> Record:
        """Reads a record.

        Raises:
            FdlabError: a file is absent or damaged.
        """
        folder = Path(folder)
        try:
            manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            with np.load(folder / "arrays.npz", allow_pickle=False) as arrays:
                return Record(read_table(folder / "table.csv"), dict(arrays), manifest)
        except (OSError, ValueError, KeyError) as error:
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
        """The answer, or None where there is none or it is damaged (it is then made again)."""
        folder = self.folder(question)
        if not (folder / "manifest.json").is_file():
            return None
        try:
            return Record.load(folder)
        except FdlabError:
            return None

    def put(self, question: dict[str, Any], record: Record) -> Path:
        """Keeps the answer. Two processes may write the same one: the last whole one stays."""
        folder = self.folder(question)
        draft = folder.with_name(f".{folder.name}.{os.getpid()}")
        record.manifest.setdefault("question", question)
        record.save(draft)
        shutil.rmtree(folder, ignore_errors=True)
        try:
            draft.replace(folder)
        except OSError:
            shutil.rmtree(draft, ignore_errors=True)  # another process was first, with the same answer
        shutil.rmtree(self.unfinished(question), ignore_errors=True)
        return folder


def default_store() -> Store:
    """``$FDLAB_STORE``, else the user's cache folder."""
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return Store(os.environ.get("FDLAB_STORE", home / "fdlab" / "store"))

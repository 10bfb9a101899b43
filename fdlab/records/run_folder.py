"""A training run on disk: its recipe, its log, its state, its results.

``recipe.toml`` (resolved), ``metrics.jsonl``, ``checkpoint/last.pt``,
``snapshots/step-*.safetensors``, ``fork.json`` where it goes on from another run, at the end
``encoder.safetensors`` or ``student.safetensors`` with ``heads.safetensors``, ``run.json`` and the record
of the training itself; of a classifier also its card, ``README.md``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fdlab.errors import NOT_UNDERSTOOD, USAGE, FdlabError
from fdlab.records.atomic import read_json, replacing, writable_folder, write_json, write_text

_PLAIN, _DIGEST = re.compile(r"[a-z0-9](?:[a-z0-9._=-]{0,58}[a-z0-9])?"), re.compile(r"-[0-9a-f]{8}$")
RESULTS = ("student.safetensors", "encoder.safetensors")


def slug(label: str) -> str:
    """A label as a folder's name: letters, digits, ``.``, ``_`` and ``=`` stay, each run of others is one ``-``.

    >>> slug("DINO, distilled (seed=1)")
    'DINO-distilled-seed=1'
    """
    return re.sub(r"[^\w.=]+", "-", label).strip("-")


def own_folder(label: str) -> str:
    """A folder's name that no other label has, on any file system: a plain label, else its slug with a digest.

    Plain is what is short, of small ASCII letters, and does not end as a digest does.

    >>> own_folder("masked")
    'masked'
    >>> own_folder("ViT-B/16"), own_folder("ViT-B 16")
    ('ViT-B-16-28416be7', 'ViT-B-16-19fd6e6e')
    """
    if _PLAIN.fullmatch(label) and not _DIGEST.search(label):
        return label
    digest = hashlib.sha256(label.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{slug(label).encode('utf-8', 'ignore')[:60].decode('utf-8', 'ignore')}-{digest}"


def refuse_foreign(folder: Path, what: str, marker: str) -> None:
    """Refuses a folder with files in it, where the file ``marker`` would have said that they are fdlab's.

    Raises:
        FdlabError: code 2; ``what`` ends the sentence "The folder is not empty and".
    """
    if foreign := sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")):
        raise FdlabError(
            f"{folder} is not empty and {what}.",
            f"It holds {', '.join(foreign[:3])} and no {marker}.",
            "Name another folder with -o/--out; nothing there was touched.",
            code=USAGE,
        )


class RunFolder:
    """Paths and small files of one run. Making it does not touch the disk; ``prepare`` does."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.toml"

    @property
    def last(self) -> Path:
        return self.path / "checkpoint" / "last.pt"

    @property
    def previous(self) -> Path:
        """The state before the last one: what is left where the last file is damaged."""
        return self.path / "checkpoint" / "previous.pt"

    @property
    def state(self) -> Path | None:
        """The file that the run goes on from: the last state, or the one before where the last was deleted."""
        return next((path for path in (self.last, self.previous) if path.is_file()), None)

    @property
    def best(self) -> Path:
        return self.path / "checkpoint" / "best.pt"

    @property
    def log(self) -> Path:
        return self.path / "metrics.jsonl"

    def snapshot(self, step: int) -> Path:
        return self.path / "snapshots" / f"step-{step:07d}.safetensors"

    @property
    def result(self) -> Path | None:
        """The finished encoder, or None while there is none."""
        return next((self.path / name for name in RESULTS if (self.path / name).is_file()), None)

    @property
    def finished(self) -> bool:
        """Whether the run came to its end (run.json says so; it is written last)."""
        return self.facts().get("state") == "finished"

    def facts(self) -> dict[str, Any]:
        """run.json, or an empty dict; a damaged one is said and taken for none."""
        facts = read_json(self.path / "run.json")
        if not facts and (self.path / "run.json").is_file():
            warnings.warn(f"{self.path / 'run.json'} is damaged: the run is taken as unfinished.", stacklevel=2)
        return facts

    def prepare(self, recipe_toml: str, differences: list[str] | None = None) -> None:
        """Makes the folder, or accepts the one of an earlier start with the same settings.

        Args:
            recipe_toml: the resolved settings.
            differences: how they differ from those already there; any difference is refused.

        Raises:
            FdlabError: code 2, the settings changed, or the folder holds something else.
        """
        if differences:
            raise FdlabError(
                f"{self.path} was started with other settings.",
                "; ".join(differences),
                "Give the old settings to continue it, name a new folder with -o/--out, or go on from it with --fork.",
                code=USAGE,
            )
        writable_folder(self.path)
        if not self.recipe.is_file():
            refuse_foreign(self.path, "is no run of fdlab", "recipe.toml")
            write_text(self.recipe, recipe_toml)

    def beside(self, name: str) -> RunFolder:
        """The run of that path; a bare name lies in the same folder as this run."""
        return RunFolder(Path(name) if len(Path(name).parts) > 1 else self.path.parent / name)

    def fork(self, name: str, recipe_toml: str, differences: list[str]) -> RunFolder:
        """A new run that goes on from this one's last state with other settings; this one stays as it is.

        Args:
            name: the new run's folder; a bare name lies beside this one.
            recipe_toml: the new run's resolved settings. differences: how they differ from this run's.

        Raises:
            FdlabError: code 2, the name is taken. That there is a state to go on from is the caller's to check.
        """
        new = self.beside(name)
        if new.recipe.is_file():  # made by an earlier start of the same command
            return new
        if new.path.exists() and any(new.path.iterdir()):
            raise FdlabError(
                f"{new.path} is not empty.", fix="Name another folder; nothing there was touched.", code=USAGE
            )
        draft = writable_folder(new.path.parent / f".{new.path.name}.fork")
        shutil.copytree(self.last.parent, draft / self.last.parent.name, dirs_exist_ok=True)
        if self.log.is_file():
            shutil.copy2(self.log, draft / self.log.name)
        write_text(draft / self.recipe.name, recipe_toml)
        write_json(draft / "fork.json", {"from": str(self.path), "changed": differences})
        if new.path.exists():
            new.path.rmdir()
        draft.rename(new.path)  # all at once: a kill before this leaves no half-made run
        return new

    @property
    def forked(self) -> dict[str, Any]:
        """``from`` and ``changed`` of a run that ``fork`` made, else empty."""
        return read_json(self.path / "fork.json")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from training in this folder.

        Raises:
            FdlabError: another process is training in it.
        """
        try:
            import fcntl
        except ImportError:  # no such lock on this system
            yield
            return
        with (self.path / ".lock").open("w") as file:
            try:
                # A record lock, not flock: forked loader workers must not keep it when their parent is killed.
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise FdlabError(
                    f"Another process is training in {self.path}.",
                    "Two writers would spoil the run.",
                    "Wait for it or stop it, then give the command again.",
                ) from None
            yield

    def same_inputs(self, inputs: dict[str, str]) -> None:
        """Notes the digests of what the run starts from; when it is continued, refuses changed ones.

        Raises:
            FdlabError: code 2, an input changed since the first start.
        """
        path = self.path / "inputs.json"
        if not self.state or not path.is_file():
            write_json(path, inputs)
            return
        old = self._table(path)
        changed = sorted(name for name in old.keys() | inputs.keys() if old.get(name) != inputs.get(name))
        if changed:
            raise FdlabError(
                f"{self.path} cannot go on: its {' and '.join(changed)} changed since it began.",
                "The steps before and after would not belong to one training.",
                "Restore the old input, or name a new folder with -o/--out.",
                code=USAGE,
            )

    def _table(self, path: Path) -> dict[str, Any]:
        """A small JSON file of this run.

        Raises:
            FdlabError: code 3, it is damaged.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(content, dict):
                raise ValueError("It holds no table.")
        except (OSError, ValueError, RecursionError) as error:
            raise FdlabError(
                f"{path} of this run is damaged.",
                str(error).splitlines()[0][:200],
                "Delete that file: the run goes on without comparing its inputs; or begin anew with -o/--out.",
                code=NOT_UNDERSTOOD,
            ) from None
        return content

    def gone(self) -> FdlabError:
        """What a training says whose folder was removed or emptied."""
        return FdlabError(
            f"The run's folder {self.path} was removed or emptied while it trained.",
            f"{self.recipe.name} is gone, and with it the run's log.",
            "Give the command again: it begins anew.",
        )

    def finish(self, facts: dict[str, Any]) -> None:
        """Marks the run as finished; the facts go into run.json."""
        write_json(self.path / "run.json", {"state": "finished", **facts})
        self.previous.unlink(missing_ok=True)  # nothing goes on from it any more

    def append_log(self, line: dict[str, Any]) -> None:
        """Adds a line to metrics.jsonl; values that are not finite become null."""
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
        text = (json.dumps(clean) + "\n").encode()
        if not self.path.is_dir():
            raise self.gone()
        with self.log.open("ab+") as file:
            file.seek(max(0, file.tell() - len(text)))
            if file.read() != text:  # a run that was killed after its last line writes that line again
                file.write(text)

    def read_log(self) -> list[dict[str, Any]]:
        """The log's lines; a last line that a kill cut short is left out."""
        content = self.log.read_bytes() if self.log.is_file() else b""
        lines = []
        for text in content.split(b"\n"):
            with contextlib.suppress(ValueError, RecursionError):
                line = json.loads(text)
                if isinstance(line, dict) and isinstance(line.get("step"), int | float):
                    lines.append(line)
        return lines

    def cut_log(self, step: int) -> None:
        """Drops the lines after ``step``: a resumed run writes them again."""
        kept = [line for line in self.read_log() if line["step"] <= step]
        with replacing(self.log) as draft:
            draft.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")

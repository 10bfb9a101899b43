"""``hf:OWNER/NAME[@REVISION]`` and timm's ``hf-hub:OWNER/NAME``: a repository of the Hugging Face Hub as a folder.

Fetched are the JSON files that describe a model and its safetensors, by huggingface_hub into its own cache; nothing
else, so no pickle and no code. Without network the copy in the cache is opened.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from fdlab.checkpoints.sources import hub_parts
from fdlab.checkpoints.unpickle import CONFIGS, read_index
from fdlab.errors import NOT_UNDERSTOOD, OUT_OF_SPACE, FdlabError
from fdlab.progress import say

INDEX = "model.safetensors.index.json"
_WEIGHTS = ("model.safetensors", INDEX, "open_clip_model.safetensors")  # of standard names, the first that is there
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_TIMEOUT = 15.0  # seconds until the Hub's silence counts as no network


@dataclass(frozen=True)
class HubCopy:
    """A repository's files on this disk.

    Attributes:
        commit: the revision's hash, 40 hexadecimal digits.
        said: a sentence where the Hub could not be asked, else nothing.
    """

    folder: Path
    repo: str
    commit: str
    said: tuple[str, ...] = ()


def fetch(text: str) -> HubCopy:
    """The files of ``hf:OWNER/NAME[@REVISION]``, downloaded where the cache lacks them; the size is said before.

    Raises:
        FdlabError: code 2, no name of a repository; code 3, no network and no copy, no such repository or revision,
            not allowed, no safetensors; code 4, the disk is full.
    """
    import huggingface_hub

    repo, revision = hub_parts(text)
    return _fetched(repo, revision, str(huggingface_hub.constants.HF_HUB_CACHE))


@lru_cache(maxsize=64)  # one question to the Hub a process, however often the model is opened
def _fetched(repo: str, revision: str, cache: str) -> HubCopy:
    kept = _cached(repo, revision, cache)
    if kept is not None and kept.name == revision and not _lacking(kept):
        return HubCopy(kept, repo, kept.name)  # a commit never changes
    try:
        commit, sizes = _listed(repo, revision)
    except _Unreachable as error:
        if kept is None:
            raise _no_network(repo, revision, cache, str(error)) from error
        names = wanted(repo, [path.name for path in kept.iterdir()])
        if missing := [*_lacking(kept), *(name for name in names if not (kept / name).is_file())]:
            raise _no_network(repo, revision, cache, f"{error}; its copy lacks {missing[0]}") from error
        return HubCopy(kept, repo, kept.name, (f"the Hub was not asked ({error}): the copy in its cache is opened",))
    names = wanted(repo, sizes)
    _say_size(repo, commit, {name: sizes[name] for name in names}, cache)
    folder = _downloaded(repo, revision, names, cache)
    return HubCopy(folder, repo, folder.name)


def wanted(repo: str, names: Iterable[str]) -> list[str]:
    """The files of a repository that are fetched: descriptions and one set of safetensors, of the top folder alone.

    Raises:
        FdlabError: code 3, there are no safetensors, or several that no name sets apart.
    """
    top = [name for name in names if "/" not in name]
    weights = next(([name] for name in _WEIGHTS if name in top), [])
    if weights == [INDEX]:
        weights += sorted(filter(_SHARD.fullmatch, top))
    loose = sorted(name for name in top if name.endswith(".safetensors"))
    if not weights and len(loose) == 1:
        weights = loose
    if weights:
        return [name for name in CONFIGS if name in top] + weights
    if loose:
        raise FdlabError(
            f"hf:{repo} holds several safetensors files, and none of them is model.safetensors.",
            f"It holds {', '.join(loose[:6])}.",
            f"Fetch one and give the file: hf download {repo} {loose[0]}",
            code=NOT_UNDERSTOOD,
        )
    pickles = sorted(name for name in top if name.endswith((".bin", ".pth", ".pt", ".ckpt")))
    fix = "Give a repository with model.safetensors."
    if pickles:
        fix = f"Fetch it yourself (hf download {repo} {pickles[0]}) and give the file: nothing in it is executed."
    raise FdlabError(
        f"hf:{repo} holds no safetensors.",
        f"Its weights are pickles, which are not fetched: {', '.join(pickles[:4])}."
        if pickles
        else f"Its top folder holds {', '.join(sorted(top)[:6]) or 'nothing'}.",
        fix,
        code=NOT_UNDERSTOOD,
    )


class _Unreachable(Exception):
    """The Hub gave no answer, in words."""


def _listed(repo: str, revision: str) -> tuple[str, dict[str, int]]:
    """(commit, {file: bytes}) as the Hub has them now."""
    from huggingface_hub import HfApi, constants

    if constants.is_offline_mode():
        raise _Unreachable("HF_HUB_OFFLINE is set")
    info = _asked(
        repo, revision, lambda: HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=_TIMEOUT)
    )
    return str(info.sha), {file.rfilename: int(file.size or 0) for file in info.siblings or ()}


def _asked(repo: str, revision: str, ask: Callable[[], Any]) -> Any:
    """What the Hub answers; its refusals are said in fdlab's words.

    Raises:
        _Unreachable: there is no network, or the Hub is down.
        FdlabError: code 3, it refuses; code 4, the disk is full.
    """
    from huggingface_hub import errors

    try:
        return ask()
    except errors.GatedRepoError as error:  # a RepositoryNotFoundError as well: it comes first
        raise FdlabError(
            f"hf:{repo} is gated.",
            "Its owner gives it only to people who are logged in and have agreed to its terms.",
            f"Agree at https://huggingface.co/{repo}, then: hf auth login (or set HF_TOKEN).",
            code=NOT_UNDERSTOOD,
        ) from error
    except errors.RevisionNotFoundError as error:
        raise FdlabError(
            f"hf:{repo} has no revision '{revision}'.",
            "No branch, tag or commit has this name.",
            f"Leave it out (hf:{repo}), or name one after @.",
            code=NOT_UNDERSTOOD,
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise FdlabError(
            f"The Hub has no model {repo}, or not for you.",
            "A private repository looks the same to those who may not read it.",
            "Check OWNER/NAME; for a private one: hf auth login (or set HF_TOKEN).",
            code=NOT_UNDERSTOOD,
        ) from error
    except Exception as error:  # connection, proxy, certificate and server errors come in many types
        if getattr(error, "errno", None) == 28:
            raise FdlabError(
                f"hf:{repo} does not fit on the disk.", str(error), "Make room, or set HF_HOME.", code=OUT_OF_SPACE
            ) from error
        line = (str(error).strip().splitlines() or [""])[0][:120]
        raise _Unreachable(f"{type(error).__name__}: {line}") from error


def _downloaded(repo: str, revision: str, names: list[str], cache: str) -> Path:
    """The folder of the files; by the revision's name, which the cache then knows without network."""
    from huggingface_hub import snapshot_download

    def download() -> str:
        return str(snapshot_download(repo, revision=revision, allow_patterns=names, cache_dir=cache))

    try:
        return Path(_asked(repo, revision, download))
    except _Unreachable as error:
        raise _no_network(repo, revision, cache, str(error)) from error


def _cached(repo: str, revision: str, cache: str) -> Path | None:
    """The folder of this revision in the cache, whatever it holds."""
    home = Path(cache) / f"models--{repo.replace('/', '--')}"
    reference = home / "refs" / revision
    commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else revision
    folder = home / "snapshots" / commit
    return folder if re.fullmatch(r"[0-9a-f]{40}", commit) and folder.is_dir() else None


def _lacking(folder: Path) -> list[str]:
    """What a copy needs and lacks: any weights, or the shards that its index names."""
    if not any(folder.glob("*.safetensors")):
        return ["safetensors"]
    if (folder / _WEIGHTS[0]).is_file() or not (folder / INDEX).is_file():
        return []
    shards = set(read_index(folder / INDEX).values())
    return [name for name in sorted(shards) if not (folder / name).is_file()]


def _say_size(repo: str, commit: str, sizes: Mapping[str, int], cache: str) -> None:
    """One line before a download: what, how much, where to."""
    kept = _cached(repo, commit, cache)
    rest = sum(size for name, size in sizes.items() if kept is None or not (kept / name).is_file())
    if not rest:
        return
    free = shutil.disk_usage(next(path for path in (Path(cache), *Path(cache).parents) if path.exists())).free
    if rest > free:
        raise FdlabError(
            f"hf:{repo} does not fit on the disk.",
            f"It has {rest / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free in {cache}.",
            "Make room, or set HF_HOME to a folder on another disk.",
            code=OUT_OF_SPACE,
        )
    say(f"Downloads {rest / 1e6:,.1f} MB of hf:{repo} (commit {commit[:12]}) to {cache}.")


def _no_network(repo: str, revision: str, cache: str, why: str) -> FdlabError:
    what = f"hf:{repo}" + ("" if revision == "main" else f"@{revision}")
    return FdlabError(
        f"{what} cannot be fetched.",
        f"{why}. The cache ({cache}) holds no whole copy.",
        f"Connect, or run 'hf download {repo}' where there is a network and give the folder that it prints.",
        code=NOT_UNDERSTOOD,
    )

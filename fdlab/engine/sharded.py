"""The state of a run whose weights are shared among ranks: a folder in which every rank writes its part.

``checkpoint/step-*.dcp`` is written beside as ``*.part`` and renamed by rank 0 when all are done, so a folder
without that ending is whole; the newest one counts and older ones are removed. Another number of ranks can
go on from it.
"""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fdlab.engine.distributed import current
from fdlab.errors import NOT_UNDERSTOOD, OUT_OF_SPACE, FdlabError
from fdlab.records.atomic import replacing
from fdlab.records.seal import SEAL, damaged, seal

REST = "rest.pt"


def newest(folder: Path) -> Path | None:
    """The last whole state below ``folder``, or None."""
    states = sorted(folder.glob("step-*.dcp"))  # the step has nine digits, so names sort as numbers do
    return states[-1] if states else None


def save(folder: Path, step: int, module: nn.Module, optimizer: torch.optim.Optimizer, rest: dict[str, Any]) -> None:
    """Writes weights and optimiser in parts, ``rest`` (plain values, equal on all ranks) by rank 0.

    Raises:
        FdlabError: code 4, the disk of a rank is full; the state before is untouched.
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict import get_state_dict

    ranks = current()
    target = folder / f"step-{step:09d}.dcp"
    draft = target.with_suffix(".dcp.part")
    ranks.first(lambda: shutil.rmtree(draft, ignore_errors=True))  # what a killed run left
    weights, moments = get_state_dict(module, optimizer)
    full = False
    try:
        dcp.save({"module": weights, "optimizer": moments}, checkpoint_id=draft)
    except (Exception, CheckpointException) as error:  # DCP's own, which wraps what its writers raise, is no Exception
        if not any(_full(cause) for cause in _causes(error)):
            raise _causes(error)[0] from None  # an ordinary error again, e.g. of a rank that died
        full = True
    if ranks.any(full):  # one full disk is enough: no rank may count on this state
        ranks.first(lambda: shutil.rmtree(draft, ignore_errors=True))
        raise FdlabError(
            f"No space left while writing {target}.",
            why="The state that was there before is untouched.",
            fix="Free some space and give the same command again: it continues.",
            code=OUT_OF_SPACE,
        )

    def finish() -> None:
        with replacing(draft / REST) as file:  # says where the disk is full
            torch.save({"step": step, **rest}, file)
        seal(draft, (path for path in draft.rglob("*") if path.is_file()))
        if target.exists():
            shutil.rmtree(target)
        draft.replace(target)
        for old in sorted(folder.glob("step-*.dcp"))[:-2]:  # the state before is kept: the last may be damaged
            shutil.rmtree(old, ignore_errors=True)

    ranks.first(finish)


def load(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Loads weights and optimiser in place; returns the rest. Nothing in the folder is executed.

    Raises:
        FdlabError: the folder cannot be read, or holds another model's state.
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    from fdlab.engine.sharded_reading import Planner, Reader

    if wrong := damaged(path):
        raise FdlabError(
            f"The checkpoint {path} cannot be read.",
            f"Its {' and '.join(wrong[:3])} changed since it was written: the checksums in {SEAL} differ.",
            "Delete that folder and give the same command again: it goes on from the state before, where there is one.",
            code=NOT_UNDERSTOOD,
        )
    weights, moments = get_state_dict(module, optimizer)
    state: dict[str, Any] = {"module": weights, "optimizer": moments}
    try:
        dcp.load(state, storage_reader=Reader(path), planner=Planner())
        rest = torch.load(path / REST, map_location="cpu", weights_only=True)
    except (Exception, CheckpointException) as error:
        raise FdlabError(
            f"The checkpoint {path} cannot be read.",
            why=str(_causes(error)[0]).strip().splitlines()[0],
            fix="Delete that folder to start this run again from its first step.",
        ) from None
    set_state_dict(module, optimizer, model_state_dict=state["module"], optim_state_dict=state["optimizer"])
    return rest


def _full(error: BaseException) -> bool:
    return getattr(error, "errno", 0) == errno.ENOSPC or "No space left" in str(error)


def _causes(error: BaseException) -> list[BaseException]:
    """What went wrong on the ranks, out of DCP's wrapping."""
    return [cause for cause, _ in getattr(error, "failures", {}).values()] or [error]

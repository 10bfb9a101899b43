"""How the weights live on several ranks: each has all of them (DDP), or each a part (FSDP2).

What is wrapped is one training step, so that a task need not know: ``Step(task)(batch, step)``. Gradients
are averaged over the ranks, whose slices of the global batch are equal, so the sum is the whole batch's.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fdlab.encoders.encoder import blocks_of
from fdlab.encoders.position_bias import align_bias
from fdlab.engine.distributed import current
from fdlab.engine.settings import Recipe
from fdlab.engine.shares import draw_ahead
from fdlab.engine.trainable import Trainable
from fdlab.errors import USAGE, FdlabError


class Step(nn.Module):
    """A task's step as the forward of a module that owns the task's parameters."""

    def __init__(self, task: Trainable) -> None:
        super().__init__()
        self.module, self._task = task.module, (task,)

    def forward(self, batch: Any, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        return self._task[0].step(batch, step)

    def evaluate(self) -> dict[str, float]:
        return self._task[0].evaluate()


class Strategy:
    """One process: the step as it is. Several: the step under DDP or FSDP2.

    Raises:
        FdlabError: code 2, ``fsdp`` without torchrun or with what it cannot hold.
    """

    def __init__(self, task: Trainable, recipe: Recipe) -> None:
        self.task, self.ranks = task, current()
        self.sharded = recipe.run.strategy == "fsdp"
        # A plain module, DDP's or FSDP2's: the latter two have methods of their own.
        self.root: Any = Step(task)
        self.device = next(task.module.parameters()).device.type
        self.low = recipe.run.precision == "bf16"
        self.compiled = recipe.run.compile
        if self.device == "cuda":
            align_bias(task.module)
        if self.compiled:
            for network in (task.module["encoder"], *getattr(task, "frozen", ())):
                for block in blocks_of(network):
                    block.compile(dynamic=False)  # in place: the names of the weights stay
        if self.sharded:
            _check(recipe, getattr(task, "slow_copy", False))
            # The plain copy that receives the trained weights at the end.
            self.plain = copy.deepcopy(task.module).to("cpu")
            _shard(self.root)
        elif not self.ranks.alone:
            # static_graph: which parameters a step uses never changes, so unused ones cost no search.
            steady = recipe.run.accumulate == 1 and getattr(task, "steady", True)
            self.root = nn.parallel.DistributedDataParallel(
                self.root,
                gradient_as_bucket_view=True,
                broadcast_buffers=False,
                static_graph=steady,
                find_unused_parameters=not steady,
            )

    def step(self, batch: Any, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The task's step in the run's precision; bfloat16 needs no loss scaler."""
        if self.compiled:
            draw_ahead(self.task.module, len(batch.labels) * getattr(self.task, "views", 1))
        with torch.autocast(self.device, torch.bfloat16, enabled=self.low):
            return self.root(batch, step)

    @contextmanager
    def synchronising(self, last: bool) -> Iterator[None]:
        """Gradients travel on the ``last`` part of a batch only."""
        if self.sharded:
            self.root.set_requires_gradient_sync(last)
            yield
        elif self.ranks.alone or last:
            yield
        else:
            with self.root.no_sync():
                yield

    def evaluate(self) -> dict[str, float]:
        """The task's evaluation, each rank with its samples."""
        if not self.sharded:
            return self.task.evaluate()
        result = self.root.evaluate()
        self.root.reshard()
        return result

    def unshard(self) -> None:
        """At the end: the task's parts are plain modules again, with the trained weights, on every rank."""
        if not self.sharded:
            return
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        whole = get_model_state_dict(self.task.module, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if whole:  # on rank 0, which is the one that writes
            self.plain.load_state_dict(whole)
        for name, part in self.plain.items():
            self.task.module[name] = part


def _shard(root: Step) -> None:  # type: ignore[name-defined]
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    for block in blocks_of(root.module["encoder"]):
        fully_shard(block)
    fully_shard(root)
    register_fsdp_forward_method(root, "evaluate")


def _check(recipe: Recipe, slow_copy: bool) -> None:
    if not torch.distributed.is_initialized():
        raise FdlabError(
            "run.strategy=fsdp shares the weights among ranks, and there is one process.",
            fix="Start it with torchrun --nproc-per-node N -m fdlab ..., or leave the strategy at ddp.",
            code=USAGE,
        )
    faults = {
        "save.snapshots": recipe.save.snapshots,
        "save.best": recipe.save.best,
        "watch.every": recipe.watch.every,
        "watch.probe_every": recipe.watch.probe_every,
        "optim.ema": recipe.optim.ema,
        "optim.kind=lars": recipe.optim.kind == "lars",
        f"task={recipe.task}": slow_copy,
    }
    if wrong := [name for name, on in faults.items() if on]:
        raise FdlabError(
            f"{', '.join(wrong)} cannot be used with run.strategy=fsdp.",
            why="They need the whole weights at once.",
            fix="Leave them out, or use run.strategy=ddp.",
            code=USAGE,
        )

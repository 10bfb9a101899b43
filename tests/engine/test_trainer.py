"""The loop: exact continuation, a loss that is no number, stop requests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fdlab.engine.settings import OptimSettings, Recipe, RunSettings, SaveSettings
from fdlab.engine.state import State
from fdlab.engine.strategy import Strategy
from fdlab.engine.trainer import one_step, stop_requests, train
from fdlab.errors import FdlabError
from fdlab.randomness import seed_for
from fdlab.records.run_folder import RunFolder

STEPS = 17


class Toy:
    """A regression with dropout, so that the random stream matters."""

    def __init__(self, bad_step: int = -1) -> None:
        torch.manual_seed(7)
        self.module = nn.ModuleDict({"encoder": nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))})
        self.bad_step = bad_step

    def step(self, batch: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        loss = (self.module["encoder"](batch) - batch.sum(1, keepdim=True)).square().mean()
        return (loss * float("nan") if step == self.bad_step else loss), {}

    def prepare(self, batch: Tensor, step: int) -> Tensor:
        return batch

    def train_mode(self, on: bool) -> None:
        self.module.train(on)

    def after_step(self, step: int) -> None: ...

    def evaluate(self) -> dict[str, float]:
        torch.rand(3)  # an evaluation may draw; training must not notice
        return {"weight": float(self.module["encoder"][0].weight.sum())}

    def state_dict(self) -> dict[str, Any]:
        return {"module": self.module.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state["module"])


def batches(start: int) -> Iterator[Tensor]:
    for step in range(start, STEPS):
        yield torch.randn(8, 4, generator=torch.Generator().manual_seed(step))


def settings(save: int = 5, log: int = 4) -> Recipe:
    return Recipe(
        task="toy",
        run=RunSettings(steps=STEPS, seed=3, log_every=log),
        optim=OptimSettings(lr=1e-2),
        save=SaveSettings(every=save),
    )


def go(folder: Path, task: Toy | None = None, stop_at: int = 0, **kw: int) -> tuple[Toy, dict[str, float]]:
    task = task or Toy()

    def callback(done: int) -> None:
        if done == stop_at:
            raise KeyboardInterrupt

    result = train(task, batches, settings(**kw), prepared(folder), steps=STEPS, on_step=[callback])
    return task, result


def prepared(folder: Path) -> RunFolder:
    run = RunFolder(folder)
    run.prepare("task = 'toy'")
    return run


@pytest.mark.parametrize("stop_at", [1, 5, 7, 12, 16])
def test_an_interrupted_run_equals_an_uninterrupted_one_bitwise(tmp_path: Path, stop_at: int) -> None:
    whole, result = go(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "cut", stop_at=stop_at)
    again, continued = go(tmp_path / "cut")
    for name, tensor in whole.module.state_dict().items():
        assert torch.equal(tensor, again.module.state_dict()[name]), name
    assert continued == result
    steps = [line["step"] for line in RunFolder(tmp_path / "cut").read_log()]
    assert steps == [line["step"] for line in RunFolder(tmp_path / "whole").read_log()]
    losses = [[line.get("loss") for line in RunFolder(tmp_path / n).read_log()] for n in ("cut", "whole")]
    assert losses[0] == losses[1]


class Rows:
    """A batch that can be taken in parts."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def part(self, start: int, stop: int) -> Rows:
        return Rows(self.rows[start:stop])


class InParts(Toy):
    def step(self, batch: Rows, step: int) -> tuple[Tensor, dict[str, Tensor]]:  # type: ignore[override]
        return super().step(batch.rows, step)


def test_a_step_is_the_seeds_the_clipped_gradients_and_the_mean_of_its_parts(tmp_path: Path) -> None:
    """By hand: each of two parts from the step's seed, the mean of their gradients, its norm cut to 0.01, AdamW."""
    run, optim = RunSettings(steps=9, seed=3, batch=8, accumulate=2), OptimSettings(lr=1e-2, clip=0.01)
    recipe = Recipe(task="toy", run=run, optim=optim)
    rows, hand, task = next(batches(5)), InParts(), InParts()
    losses = []
    for part in (rows[:4], rows[4:]):
        torch.manual_seed(seed_for(3, "step", 5))
        losses.append(hand.step(Rows(part), 5)[0])
    mean = torch.stack(losses).mean()
    mean.backward()
    wanted = torch.cat([p.grad.flatten() for p in hand.module.parameters()])
    state = State(task, recipe, RunFolder(tmp_path))
    values = one_step(task, Rows(rows), 5, 1e-2, recipe, state, Strategy(task, recipe))
    assert float(values["loss"]) == pytest.approx(float(mean.detach()))
    assert float(values["grad_norm"]) == pytest.approx(float(wanted.norm()), rel=1e-5)
    moments = torch.cat([state.optimizer.state[p]["exp_avg"].flatten() for p in task.module.parameters()])
    assert torch.allclose(moments / (1 - optim.betas[0]), 0.01 * wanted / wanted.norm(), rtol=1e-3, atol=1e-7)


def test_a_loss_that_is_no_number_names_its_step_and_keeps_the_last_state(tmp_path: Path) -> None:
    with pytest.raises(FdlabError, match="step 11 is not a number"):
        go(tmp_path, Toy(bad_step=11))
    state = torch.load(RunFolder(tmp_path).last, weights_only=True)
    assert state["step"] == 10
    assert all(torch.isfinite(t).all() for t in state["task"]["module"].values())


def test_sigterm_finishes_the_step_saves_and_says_so(tmp_path: Path) -> None:
    task = Toy()

    def kill(done: int) -> None:
        if done == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(FdlabError) as caught:
        train(task, batches, settings(), prepared(tmp_path), steps=STEPS, on_step=[kill])
    assert caught.value.code == 130
    assert torch.load(RunFolder(tmp_path).last, weights_only=True)["step"] == 7
    whole, _ = go(tmp_path / "whole")
    again, _ = go(tmp_path)
    assert torch.equal(whole.module["encoder"][0].weight, again.module["encoder"][0].weight)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    go(tmp_path)
    RunFolder(tmp_path).last.write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(FdlabError, match=r"last\.pt cannot be read"):
        go(tmp_path)


def test_a_gradient_that_is_no_number_stops_too(tmp_path: Path) -> None:
    """sqrt at 0: the loss is 0, its gradient is not finite."""

    class Edge(Toy):
        def step(self, batch: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
            loss, _ = super().step(batch, step)
            return (loss + (self.module["encoder"][0].bias * 0).sum().sqrt() if step == 11 else loss), {}

    with pytest.raises(FdlabError, match="gradient at step 11 is not a number"):
        go(tmp_path, Edge())
    state = torch.load(RunFolder(tmp_path).last, weights_only=True)
    assert all(torch.isfinite(t).all() for t in state["task"]["module"].values())


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_requests() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert not stop.is_set()
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.is_set()
    finally:
        signal.signal(signal.SIGINT, before)


def test_bf16_is_close_and_keeps_float32_weights(tmp_path: Path) -> None:
    """Within bfloat16's 8 bits of float32, and not the same numbers."""
    results = {}
    for precision in ("float32", "bf16"):
        recipe = settings()
        recipe = recipe.model_copy(update={"run": recipe.run.model_copy(update={"precision": precision})})
        task = Toy()
        results[precision] = train(task, batches, recipe, prepared(tmp_path / precision), steps=STEPS)["final_loss"]
        assert all(parameter.dtype == torch.float32 for parameter in task.module.parameters())
    assert results["bf16"] == pytest.approx(results["float32"], rel=0.02)
    assert results["bf16"] != results["float32"]

"""A monitor inside somebody else's training: the training is bit for bit the one without it, and its rows are right."""

from __future__ import annotations

import copy
import json
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fdlab
from fdlab.encoders.undisturbed import undisturbed
from fdlab.errors import FdlabError
from fdlab.records.table import read_table
from fdlab.report.report import Report
from fdlab.study.publish import publish
from tests.encoders.own_vits import OwnViT, own

FEW: dict[str, Any] = {"data": "digits", "images": 8, "quiet": True}
ONE = {"attention": {"metrics": ("entropy", "distance")}}


class Net(nn.Module):
    """What a training may hold: dropout, batch statistics that move, and a part that stays in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.frozen = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.vit, self.drop, self.head = own(), nn.Dropout(0.3), nn.Linear(5, 4)

    def forward(self, images: Tensor) -> Tensor:
        noise = torch.randn(images.shape) if self.training else 0.0
        return self.head(self.drop(self.vit(self.frozen(self.stem(images + 0.1 * noise)))))

    def train(self, mode: bool = True) -> Net:
        super().train(mode)
        self.frozen.train(False)
        return self


Look = Callable[[nn.Module, int], object]


def trained(look: Look | None = None, steps: int = 12) -> tuple[dict[str, Tensor], Net]:
    """The state after a training that draws from every generator; ``look`` is called behind every step."""
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    net = Net()
    net.vit.layers[0].train(False)  # a part that its owner froze by hand
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    for step in range(1, steps + 1):
        images = torch.rand(6, 3, 32, 32) + random.random() + np.random.rand()
        nn.functional.cross_entropy(net(images), torch.randint(4, (6,))).backward()
        if step % 2 == 0:  # gradients of two steps are added up, and are there while the monitor looks
            optimizer.step()
            optimizer.zero_grad()
        if look is not None:
            look(net, step)
    return {**net.state_dict(), "draw": torch.rand(4), "numpy": torch.tensor(np.random.rand())}, net


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[key], other[key]) for key in one)


def test_a_training_with_the_monitor_is_bitwise_the_one_without_and_the_naive_form_is_not(tmp_path: Path) -> None:
    plain, net = trained()
    probes = {**ONE, "features": {"metrics": ("effective_rank", "alignment")}}
    made: list[fdlab.Monitor] = []

    def look(module: nn.Module, step: int) -> None:
        if not made:
            made.append(fdlab.Monitor(module, out=tmp_path / "m", every=3, probes=probes, **FEW))
        before = [parameter.grad for parameter in module.parameters()]
        assert made[0](step) == (step % 3 == 0)
        assert all(a is b.grad for a, b in zip(before, module.parameters(), strict=True))

    watched, other = trained(look)
    assert not made[0].stopped
    assert read_table(tmp_path / "m" / "table.csv")["step"].unique().tolist() == [3, 6, 9, 12]
    assert same(plain, watched)
    assert [part.training for part in net.modules()] == [part.training for part in other.modules()]

    def naive(module: nn.Module, step: int) -> None:
        module.eval()
        with torch.no_grad():
            module(torch.zeros(1, 3, 32, 32))
        module.train()

    assert not same(plain, trained(naive)[0])  # it wakes the frozen part

    def drawing(module: nn.Module, step: int) -> None:
        torch.rand(1)  # what a random view or a shuffled order takes

    assert not same(plain, trained(drawing)[0])


@pytest.mark.slow
def test_a_compiled_module_is_trained_alike(tmp_path: Path) -> None:
    def run(watch: bool) -> dict[str, Tensor]:
        torch.manual_seed(0)
        torch._dynamo.reset()
        net = Net()
        compiled = torch.compile(net, backend="aot_eager")
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
        monitor = fdlab.Monitor(compiled, out=tmp_path / "m", every=2, probes=ONE, **FEW) if watch else None
        for step in range(1, 7):
            compiled(torch.rand(4, 3, 32, 32)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            if monitor is not None:
                monitor(compiled, step)
        assert monitor is None or not monitor.stopped
        return net.state_dict()

    assert same(run(False), run(True))


def test_everything_comes_back_also_after_an_error() -> None:
    net = Net().train()
    net.vit.layers[1].train(False)
    net.vit.pos.requires_grad_(False)
    net(torch.rand(2, 3, 32, 32)).sum().backward()
    gradients = {name: (p.grad, p.requires_grad) for name, p in net.named_parameters()}
    kept = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    modes, buffers = [part.training for part in net.modules()], copy.deepcopy(dict(net.named_buffers()))
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()

    def harm() -> None:
        assert not any(part.training for part in net.modules())
        assert all(parameter.grad is None for parameter in net.parameters())
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=torch.is_autocast_enabled("cpu")):
            assert net.head(torch.rand(2, 5)).dtype == torch.float32
        net.train()
        net(torch.rand(2, 3, 32, 32)).sum().backward()
        net.requires_grad_(False)
        random.random(), np.random.rand(), torch.rand(1)

    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(KeyboardInterrupt), undisturbed(net):
        harm()
        raise KeyboardInterrupt
    assert [part.training for part in net.modules()] == modes
    assert all(torch.equal(tensor, buffers[name]) for name, tensor in net.named_buffers())
    for name, parameter in net.named_parameters():
        assert (parameter.grad, parameter.requires_grad) == gradients[name]
        assert parameter.grad is None or torch.equal(parameter.grad, kept[name])
    assert states[0] == random.getstate()
    assert states[1] == np.random.get_state()[1].tolist()
    assert torch.equal(states[2], torch.get_rng_state())


def late_entropy(folder: Path) -> dict[int, float]:
    table = read_table(folder / "table.csv")
    return dict(table[table["metric"] == "entropy"].groupby("step")["value"].mean())


def flatten(net: OwnViT) -> None:
    """Attention becomes exactly uniform: its queries are zero."""
    for layer in net.layers:
        with torch.no_grad():
            layer.mixer.qkv.weight[:24] = 0
            layer.mixer.qkv.bias[:24] = 0


def test_the_rows_are_those_of_the_weights_at_that_step(tmp_path: Path) -> None:
    net = own()
    monitor = fdlab.Monitor(net, out=tmp_path / "m", every=2, probes=ONE, name="mine", **FEW)
    monitor(2)
    alone = fdlab.measure("attention", {"mine": net}, "digits", 8, metrics=("entropy", "distance"))
    flatten(net)
    monitor(4)
    assert late_entropy(tmp_path / "m")[4] == pytest.approx(1.0, abs=1e-6)
    assert late_entropy(tmp_path / "m")[2] < 0.99
    table = read_table(tmp_path / "m" / "table.csv")
    first = table[table["step"] == 2]
    for column in ("metric", "block", "head", "value", "low", "high", "n"):
        assert first[column].tolist() == pytest.approx(alone[column].tolist(), nan_ok=True), column
    report = Report(table)  # figures of one state show the last one, not a mean over the training
    assert report.by_block("entropy", "mine")["value"].tolist() == pytest.approx([1.0] * 3, abs=1e-6)
    manifest = json.loads((tmp_path / "m" / "manifest.json").read_text())
    assert list(manifest["steps"]) == ["2", "4"]
    assert manifest["steps"]["2"]["weights"] != manifest["steps"]["4"]["weights"]


def test_a_restart_goes_on_and_replaces_what_it_measures_again(tmp_path: Path) -> None:
    net, again = own(), own()
    first = fdlab.Monitor(net, out=tmp_path / "m", every=2, probes=ONE, **FEW)
    for step in range(1, 7):
        first(step)
    before = late_entropy(tmp_path / "m")
    flatten(again)  # the training goes on from step 2 along another way
    second = fdlab.Monitor(again, out=tmp_path / "m", every=2, probes=ONE, **FEW)
    for step in (3, 4, 4):
        second(step)
    after = late_entropy(tmp_path / "m")
    assert list(after) == [2, 4, 6]
    assert (after[2], after[6]) == (before[2], before[6])
    assert after[4] == pytest.approx(1.0, abs=1e-6)
    assert set(read_table(tmp_path / "m" / "table.csv").groupby("step").size()) == {3 * 3 * 2}


@pytest.mark.parametrize("other", [{"images": 9}, {"seed": 1}, {"probes": ("features",)}, {"name": "another"}])
def test_a_folder_of_other_measurements_is_refused(tmp_path: Path, other: dict[str, Any]) -> None:
    same_settings = {**FEW, "out": tmp_path / "m", "every": 1, "probes": ONE, "name": "mine"}
    fdlab.Monitor(own(), **same_settings)(1)
    text = (tmp_path / "m" / "table.csv").read_bytes()
    with pytest.raises(FdlabError, match="holds other measurements") as caught:
        fdlab.Monitor(own(), **{**same_settings, **other})
    assert next(iter(other)) in str(caught.value.why).replace("model", "name")
    assert (tmp_path / "m" / "table.csv").read_bytes() == text


def test_the_cost_is_said_before_it_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {**FEW, "images": 40, "quiet": False, "probes": ONE, "name": "mine"}
    monitor = fdlab.Monitor(own(), out=tmp_path / "m", every=50, at=(1,), **settings)
    said = capsys.readouterr().err
    assert "Monitor of mine: attention on 40 images of digits every 50 steps and at 1; about " in said
    assert "s a measurement (estimated from 32 images)" in said
    assert "MiB for the images. Rows go to" in said
    assert not (tmp_path / "m" / "table.csv").exists()
    assert monitor.cost is not None
    assert monitor.cost.images == 40 * 3 * 32 * 32 * 4
    monitor(1)
    seconds = json.loads((tmp_path / "m" / "manifest.json").read_text())["steps"]["1"]["seconds"]
    assert monitor.cost.seconds / 30 < seconds < monitor.cost.seconds * 30
    fdlab.Monitor(own(), out=tmp_path / "m", every=50, at=(1,), **settings)
    assert "has steps 1 to 1 of an earlier start" in capsys.readouterr().err


def test_a_failing_monitor_warns_once_and_the_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = own().train()
    monitor = fdlab.Monitor(net, out=tmp_path / "m", every=1, probes=ONE, **FEW)
    assert monitor(1)

    def full(*_: Any) -> None:
        raise FdlabError("No space left while writing table.csv.")

    monkeypatch.setattr(monitor.table, "put", full)
    with pytest.warns(UserWarning, match="The monitor stops at step 2, the training goes on: No space left"):
        assert not monitor(2)
    assert net.training
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not monitor(3)
    assert list(late_entropy(tmp_path / "m")) == [1]


class Late(OwnViT):
    """Mixes all tokens by a branch whose gain is zero at first: nothing shows it before it is trained."""

    def __init__(self) -> None:
        super().__init__("sdpa")
        self.gain = nn.Parameter(torch.zeros(1))
        self.final = nn.Sequential(Mix(self.gain), nn.LayerNorm(24))


class Mix(nn.Module):
    def __init__(self, gain: nn.Parameter) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gain * x.mean(1, keepdim=True)


def test_a_branch_that_begins_to_mix_tokens_is_noticed(tmp_path: Path) -> None:
    net = Late()
    monitor = fdlab.Monitor(net, out=tmp_path / "m", every=1, probes=ONE, **FEW)
    assert monitor(1)
    with torch.no_grad():
        net.gain += 1
    with pytest.warns(UserWarning, match="can no longer be read completely"):
        assert not monitor(2)
    still = fdlab.Monitor(Late(), out=tmp_path / "n", every=1, probes=ONE, **FEW)
    assert all(still(step) for step in (1, 2, 3))


def test_attention_that_cannot_be_read_is_left_out_unless_it_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = own(kind="sigmoid")
    few = {**FEW, "quiet": False}
    assert fdlab.Monitor(net, out=tmp_path / "m", every=1, **few)(1)
    assert "cannot be read completely. The monitor measures features." in capsys.readouterr().err
    assert set(read_table(tmp_path / "m" / "table.csv")["probe"]) == {"features"}
    with pytest.raises(FdlabError, match="cannot be read completely"):
        fdlab.Monitor(net, out=tmp_path / "n", every=1, probes=("attention",), **few)


def test_only_the_first_process_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monitor = fdlab.Monitor(own(), out=tmp_path / "m", every=1, **FEW)
    assert not monitor(1)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"every": 0}, "no step to measure at"),
        ({"every": -5}, "no step to measure at"),
        ({"probes": ("atention",)}, "Did you mean 'attention'"),
        ({"probes": {"attention": {"metrix": 1}}}, "has no setting 'metrix'"),
        ({"probes": {"attention": {"tolerance": 0.1}}}, "no tolerance"),
        ({"probes": ()}, "nothing to measure"),
    ],
)
def test_wrong_settings_are_refused_before_the_training(tmp_path: Path, settings: dict[str, Any], what: str) -> None:
    with pytest.raises(FdlabError, match=what) as caught:
        fdlab.Monitor(own(), out=tmp_path / "m", **{**FEW, **settings})
    assert caught.value.code == 2


def test_calls_without_a_step_or_a_module_are_refused(tmp_path: Path) -> None:
    monitor = fdlab.Monitor(out=tmp_path / "m", every=1, probes=ONE, **FEW)
    with pytest.raises(FdlabError, match="needs the step"):
        monitor()
    with pytest.raises(FdlabError, match="no module"):
        monitor(1)
    assert monitor(own(), 1)
    assert monitor(step=2)


def test_an_encoder_says_what_the_module_does_not(tmp_path: Path) -> None:
    encoder = fdlab.wrap(own(), mean=(0, 0, 0), std=(1, 1, 1), name="said")
    monitor = fdlab.Monitor(encoder, out=tmp_path / "m", every=1, probes=ONE, family="supervised", **FEW)
    flatten(encoder.module)  # type: ignore[arg-type]
    assert monitor(1)
    assert monitor(encoder.module, 2)
    table = read_table(tmp_path / "m" / "table.csv")
    assert set(table["model"]) == {"said"}
    assert set(table["family"]) == {"supervised"}
    assert late_entropy(tmp_path / "m")[1] == pytest.approx(1.0, abs=1e-6)


def test_the_folder_is_a_report_and_grows_on_afterwards(tmp_path: Path) -> None:
    net = own()
    monitor = fdlab.Monitor(net, out=tmp_path / "m", every=10, probes=ONE, name="mine", **FEW)
    monitor(10)
    flatten(net)
    monitor(20)
    page = publish(tmp_path / "m", tmp_path / "m").read_text("utf-8")
    assert "mine along its training" in page
    assert "8 images of digits at step 20 of the training" in page  # of figures that show one state
    caption = (tmp_path / "m" / "figures" / "over_steps.txt").read_text("utf-8")
    assert "2 measures of mine at 2 steps (10 to 20) of the training, over 8 images of digits, the same" in caption
    assert "no interval of the change" in caption
    monitor(30)
    assert list(late_entropy(tmp_path / "m")) == [10, 20, 30]
    drawn = fdlab.figure("over_steps", tmp_path / "m")
    (line,) = drawn.axes[1].get_lines()
    assert line.get_xdata().tolist() == [10, 20, 30]
    assert line.get_ydata()[1:].tolist() == pytest.approx([1.0, 1.0], abs=1e-6)


# --- the hooks of libraries, by stand-ins that call them as the libraries do ---------------------------------


@pytest.fixture
def lightning(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    from types import ModuleType

    package, module = ModuleType("lightning"), ModuleType("lightning.pytorch")
    module.Callback = type("Callback", (), {})  # type: ignore[attr-defined]
    package.pytorch = module  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lightning", package)
    monkeypatch.setitem(sys.modules, "lightning.pytorch", module)


class Fit:
    """A Lightning trainer's loop: the hook comes behind every batch, ``global_step`` counts optimizer steps."""

    def __init__(self, module: nn.Module, callback: Any, accumulate: int, zero: bool = True) -> None:
        self.module, self.callback, self.accumulate, self.is_global_zero = module, callback, accumulate, zero
        self.global_step = 0
        self.hooks: list[int] = []

    def run(self, batches: int) -> None:
        torch.manual_seed(0)
        optimizer = torch.optim.SGD(self.module.parameters(), lr=0.05)
        self.module.train()
        self.callback.on_train_start(self, self.module)
        for batch in range(batches):
            images = torch.rand(2, 3, 32, 32)
            self.module.net(images).square().mean().backward()  # type: ignore[operator, union-attr]
            if (batch + 1) % self.accumulate == 0:
                optimizer.step()
                optimizer.zero_grad()
                self.global_step += 1
            self.hooks.append(self.global_step)
            self.callback.on_train_batch_end(self, self.module, None, images, batch)


class Lit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.loss = Net(), nn.MSELoss()


def test_lightning_measures_once_a_step_under_accumulation(tmp_path: Path, lightning: None) -> None:
    made: list[tuple[str, int]] = []

    def run(name: str, **settings: Any) -> tuple[Fit, dict[str, Tensor]]:
        torch.manual_seed(1)
        lit = Lit()
        callback: Any = fdlab.monitor.lightning(out=tmp_path / name, probes=ONE, **FEW, **settings)
        put = callback.monitor._measure
        callback.monitor._measure = lambda live, step: (made.append((name, step)), put(live, step))
        fit = Fit(lit, callback, 2)
        fit.run(7)
        return fit, lit.state_dict()

    fit, watched = run("m", every=1, at=(0,))
    assert fit.hooks == [0, 1, 1, 2, 2, 3, 3]
    assert [step for _, step in made] == [0, 1, 2, 3]
    assert list(late_entropy(tmp_path / "m")) == [0, 1, 2, 3]
    _, other = run("n", every=100)
    assert same(watched, other)
    assert [step for name, step in made if name == "n"] == []  # step 0 is not measured unasked
    state = fit.callback.state_dict()
    again: Any = fdlab.monitor.lightning(out=tmp_path / "m", every=1, at=(0,), probes=ONE, **FEW)
    again.load_state_dict(state)
    resumed = Fit(Lit(), again, 2)
    resumed.global_step = 3  # gradients of the fourth step are not whole: the third is not measured again
    resumed.run(1)
    assert again.monitor._count == 0


def test_lightning_names_the_part_and_other_ranks_do_nothing(tmp_path: Path, lightning: None) -> None:
    lit: Any = Lit()
    callback: Any = fdlab.monitor.lightning(out=tmp_path / "m", every=1, probes=ONE, module="net", **FEW)
    Fit(lit, callback, 1, zero=False).run(1)
    assert not (tmp_path / "m").exists()
    lit.teacher = own()
    unnamed: Any = fdlab.monitor.lightning(out=tmp_path / "m", every=1, probes=ONE, **FEW)
    with pytest.raises(FdlabError, match="2 parts with parameters"):
        Fit(lit, unnamed, 1).run(1)
    wrong: Any = fdlab.monitor.lightning(out=tmp_path / "m", every=1, probes=ONE, module="nett", **FEW)
    with pytest.raises(FdlabError, match="Did you mean 'net'"):
        Fit(lit, wrong, 1).run(1)


def test_transformers_measures_behind_the_optimizers_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    from types import ModuleType, SimpleNamespace

    module = ModuleType("transformers")
    module.TrainerCallback = type("TrainerCallback", (), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "transformers", module)
    net = own()
    callback: Any = fdlab.monitor.transformers(out=tmp_path / "m", every=2, at=(0,), probes=ONE, **FEW)
    for zero in (False, True):
        state = SimpleNamespace(global_step=0, is_world_process_zero=zero)
        given: dict[str, Any] = {"model": net, "optimizer": None, "train_dataloader": None}
        assert callback.on_train_begin(None, state, None, **given) is None
        for step in range(1, 5):
            state.global_step = step
            assert callback.on_step_end(None, state, None, **given) is None
        assert (tmp_path / "m").exists() == zero
    assert list(late_entropy(tmp_path / "m")) == [0, 2, 4]


@pytest.mark.parametrize(
    ("name", "extra"), [("lightning", "monitor-lightning"), ("transformers", "monitor-transformers")]
)
def test_without_the_library_the_way_out_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, extra: str
) -> None:
    import sys

    for module in ("lightning", "lightning.pytorch", "pytorch_lightning", "transformers"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(FdlabError, match="is not installed") as caught:
        getattr(fdlab.monitor, name)(out=tmp_path, **FEW)
    assert extra in str(caught.value.fix)
    assert f"{extra} = [" in (Path(fdlab.__file__).parents[1] / "pyproject.toml").read_text("utf-8")

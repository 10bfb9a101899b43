"""The fast path changes no number that it should not, and no step waits for the device."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode

from fdlab.encoders.position_bias import align_bias, aligned
from fdlab.encoders.student import Design, build, scale_bias
from fdlab.engine.distributed import current
from fdlab.engine.hardware import check_device, determinism, most_memory, peak
from fdlab.engine.shares import SharedDropPath, draw_ahead, equal_shares, share_drop_path, sharing
from fdlab.engine.state import State
from fdlab.engine.strategy import Strategy
from fdlab.engine.trainer import one_step
from fdlab.errors import FdlabError
from fdlab.records.run_folder import RunFolder
from fdlab.study.inputs import prepared
from fdlab.study.training import plan, run

SMALL: dict[str, Any] = {"data.source": "digits#train[:64]", "run.batch": 8, "run.steps": 6, "run.log_every": 100}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    own = {**SMALL, "run.steps": 2, "contrastive.model.depth": 2}
    return run(plan("digits/contrastive", options=own), tmp_path_factory.mktemp("f") / "teacher", quiet=True)


# ---- attention bias


DESIGNS = [
    Design(24, 8, 16, 2, 2, position=position, class_token=token)
    for position in ("shared_bias", "block_bias")
    for token in (True, False)
]


@pytest.mark.parametrize("design", DESIGNS, ids=lambda d: f"{d.position}-{d.class_token}")
@pytest.mark.parametrize("scaled", [False, True])
def test_an_aligned_bias_gives_the_same_output_and_gradient(design: Design, scaled: bool) -> None:
    plain = build(design, seed=1)
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            if "relative_position_bias_table" in name:
                parameter.normal_()
    if scaled:
        scale_bias(plain, 3.0)
    made = copy.deepcopy(plain)
    assert align_bias(made) == (1 if design.position == "shared_bias" else 2)
    assert align_bias(made) == 0  # once is enough
    assert plain.state_dict().keys() == made.state_dict().keys()
    images = torch.randn(3, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    results = []
    for model in (plain, made, copy.deepcopy(made)):
        out = model.forward_features(images)
        out.square().mean().backward()
        results.append((out, {name: p.grad for name, p in model.named_parameters()}))
    for out, gradients in results[1:]:
        assert torch.allclose(out, results[0][0], atol=1e-6)
        assert all(torch.allclose(g, results[0][1][name], atol=1e-6) for name, g in gradients.items() if g is not None)
        tables = [g for name, g in gradients.items() if "bias_table" in name]
        assert tables
        assert all(g is not None and g.abs().sum() > 0 for g in tables)


@pytest.mark.parametrize("count", [10, 16, 197])
def test_rows_of_a_bias_begin_at_multiples_of_8(count: int) -> None:
    bias = torch.randn(1, 3, count, count, requires_grad=True)
    made = aligned(bias)
    assert torch.equal(made, bias)
    assert made.stride(-1) == 1
    assert made.stride(-2) % 8 == made.stride(-3) % 8 == 0
    made.sum().backward()
    assert torch.equal(bias.grad, torch.ones_like(bias))
    with torch.autocast("cpu", torch.bfloat16):
        assert aligned(bias).dtype == torch.bfloat16
        assert aligned(bias).stride(-2) % 8 == 0


# ---- the teacher


def test_a_teacher_in_bfloat16_gives_nearly_the_same_target(teacher: Path) -> None:
    tasks = {}
    for precision in ("float32", "bf16"):
        planned = plan("digits/distill", options={**SMALL, "distill.teacher": str(teacher), "run.precision": precision})
        tasks[precision], batches, _ = prepared(planned.recipe, planned.task, "cpu")
    images = next(iter(batches(0))).images[0]
    low = tasks["bf16"]
    assert {p.dtype for p in low.frozen[0].parameters()} == {torch.bfloat16}
    assert {p.dtype for p in low.module.parameters()} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):  # of the step; the teacher leaves it
        wanted = low.targets[0](images)
    exact = tasks["float32"].targets[0](images)
    assert wanted.dtype == exact.dtype == torch.float32
    assert not wanted.is_inference()
    assert 0 < (wanted - exact).abs().mean() < 0.05
    low.train_mode(True)
    low.loss(images).backward()
    assert low.encoder.blocks[0].attn.qkv.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in low.frozen[0].parameters())


# ---- nothing waits


class Waits(TorchDispatchMode):
    """Notes every operation whose result the host has to wait for on a GPU."""

    SIGNS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = func.overloadpacket.__name__
        if name in self.SIGNS or (name.startswith("index") and _by_mask(args)):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def _by_mask(args: tuple[Any, ...]) -> bool:
    places = args[1] if len(args) > 1 and isinstance(args[1], (list, tuple)) else ()
    return any(isinstance(place, Tensor) and place.dtype == torch.bool for place in places)


RECIPES: dict[str, dict[str, Any]] = {
    "digits/contrastive": {},
    "digits/masked": {"view.rotate": 10},
    "digits/mae": {},
    "digits/dino": {},
    "digits/moco": {"optim.clip": 0},
    "digits/supervised": {"classify.mix.mixup": 0.8, "classify.mix.cutmix": 1.0, "classify.mix.erase": 0.9},
    "digits/distill": {"distill.mask": 0.5, "distill.norm": "standardise", "run.accumulate": 2},
    "digits/finetune": {"optim.kind": "lars", "classify.freeze": True},
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_step_waits_for_the_device(
    tmp_path: Path, teacher: Path, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a loader's process makes is made before; then: to the device, the step, the log, four times."""
    more = {"digits/distill": {"distill.teacher": str(teacher)}, "digits/finetune": {"classify.model": str(teacher)}}
    own = {
        **SMALL,
        "optim.ema": 0.9,
        "data.test": "",
        "data.per_class": 0,
        "data.validation": 0,
        **RECIPES[recipe],
        **more.get(recipe, {}),
    }
    planned = plan(recipe, options=own)
    task, batches, _ = prepared(planned.recipe, planned.task, "cpu")
    folder = RunFolder(tmp_path)
    strategy = Strategy(task, planned.recipe)
    state = State(task, planned.recipe, folder)
    source = batches(0)
    source.device = torch.device("cuda")  # so that the rest is left to the device
    made = [source.prepare(step) for step in range(4)]
    source.device = torch.device("cpu")
    task.train_mode(True)
    waits = Waits()
    for name in ("cpu", "numpy", "tolist"):
        monkeypatch.setattr(Tensor, name, lambda *_, name=name, **__: waits.found.append(name))
    with waits:
        for step, each in enumerate(made):
            values = one_step(task, source.finished(each), step, 1e-3, planned.recipe, state, strategy)
            state.log.add(step, values, 1e-3)
    assert waits.found == []


def test_the_audit_sees_what_waits() -> None:
    mask = torch.tensor([True, False])
    with (waits := Waits()):
        torch.ones(2)[mask]
        float(torch.ones(1))
        mask.nonzero()
        bool(mask[0])
        torch.ones(3)[torch.tensor([0, 2])]
    assert waits.found == ["index", "_local_scalar_dense", "nonzero", "_local_scalar_dense"]


# ---- compiled blocks


def test_blocks_of_all_rates_and_parts_are_compiled_once() -> None:
    """Twelve rates and four parts of a batch: one compilation for blocks with drop path, one for the first without."""
    model = build(Design(24, 8, 16, 12, 2, drop_path=0.5), seed=0).train()
    share_drop_path(model)
    counter = CompileCounter()
    for block in model.blocks:
        block.compile(backend=counter)
    images = torch.randn(2, 3, 24, 24)
    for share in equal_shares(8, 4):
        torch.manual_seed(1)
        with sharing(share):
            draw_ahead(model, len(images))
            model.forward_features(images)
    assert counter.frame_count == 2


def test_factors_drawn_ahead_are_the_whole_batchs_slices() -> None:
    path = SharedDropPath(0.5).train()
    module = torch.nn.ModuleDict({"a": torch.nn.Linear(1, 1), "b": path, "c": SharedDropPath(0.0)})
    torch.manual_seed(3)
    draw_ahead(module, 8)
    whole = path(torch.ones(8, 5, 2))
    assert set(whole.unique().tolist()) == {0.0, 2.0}
    assert whole.amin((1, 2)).tolist() == whole.amax((1, 2)).tolist()  # a sample's branch as a whole
    for share in equal_shares(8, 2):
        torch.manual_seed(3)
        with sharing(share):
            draw_ahead(module, 4)
        assert torch.equal(path(torch.ones(4, 5, 2)), whole[share.start : share.stop])
    path.eval()
    assert torch.equal(path(torch.ones(4, 5, 2)), torch.ones(4, 5, 2))


# ---- the device


def test_deterministic_runs_and_leaves_the_setting_as_it_was(tmp_path: Path, teacher: Path) -> None:
    own = {**SMALL, "distill.teacher": str(teacher), "run.deterministic": True, "distill.student.depth": 2}
    seen = []
    run(
        plan("digits/distill", options=own), tmp_path / "d", quiet=True,
        on_step=[lambda _: seen.append(torch.are_deterministic_algorithms_enabled())],
    )  # fmt: skip
    assert seen == [True] * 6
    assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(ValueError, match="x"), determinism(True):
        raise ValueError("x")
    assert not torch.are_deterministic_algorithms_enabled()


def test_what_apples_gpu_cannot_do_is_refused() -> None:
    recipe = plan("digits/masked", options={"run.compile": True, "run.deterministic": True}).recipe
    with pytest.raises(FdlabError, match=r"run\.compile, run\.deterministic") as caught:
        check_device(recipe, "mps", 1)
    assert caught.value.code == 2
    with pytest.raises(FdlabError, match="several processes"):
        check_device(plan("digits/masked").recipe, "mps", 2)
    check_device(plan("digits/masked").recipe, "mps", 1)
    check_device(recipe, "cpu", current().ranks)


def test_the_peak_is_a_matrix_products_and_draws_nothing() -> None:
    before = torch.get_rng_state()
    found = peak("cpu", False)
    assert 1e8 < found < 1e15
    assert peak("cpu", False) == found  # measured once
    assert torch.equal(before, torch.get_rng_state())
    assert 1e7 < most_memory() < 1e12

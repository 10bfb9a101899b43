"""The official code's faults, (a) to (k) of docs/official_code.md: here those that no other room tests."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fdlab.checkpoints.open import open_model
from fdlab.checkpoints.save import save_encoder
from fdlab.data.loader import Batches
from fdlab.data.sources import open_data
from fdlab.encoders.student import Design, build
from fdlab.engine import sharded
from fdlab.engine.recipe import read
from fdlab.errors import FdlabError
from fdlab.records.run_folder import RunFolder
from fdlab.study.inputs import prepared
from fdlab.study.training import plan, run
from fdlab.tasks.distill import Distill, DistillSettings

ROOT = Path(__file__).resolve().parents[2]
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)
SHORT: dict[str, Any] = {"run.steps": 2, "run.batch": 8, "data.source": "digits#train[:64]"}
STUDENT = {f"distill.student.{k}": v for k, v in {"width": 32, "depth": 1, "heads": 2, "patch_size": 8}.items()}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of ours with constants that are no one else's, and a final norm that does something."""
    design = Design(24, 4, 32, 2, 2, position="sincos", class_token=True)
    module = build(design, seed=1)
    with torch.no_grad():
        module.norm.weight.uniform_(0.2, 3, generator=torch.Generator().manual_seed(0))
    path = tmp_path_factory.mktemp("faults") / "teacher.safetensors"
    return save_encoder(path, module, design=design, mean=MEAN, std=STD, family="contrastive", seed=1)


@pytest.fixture(scope="module")
def registers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in timm's layout: class token, four registers, classifier."""
    torch.manual_seed(0)
    model = VisionTransformer(
        img_size=24, patch_size=8, embed_dim=192, depth=1, num_heads=3, num_classes=7, reg_tokens=4
    )
    path = tmp_path_factory.mktemp("faults") / "registers.pth"
    torch.save(model.state_dict(), path)
    return path


# ---- (a) what the official code knows by the teacher's name, here the opened teacher says


def test_a_the_teacher_says_its_constants_tokens_and_width_and_the_run_keeps_the_norm(
    tmp_path: Path, teacher: Path, registers: Path
) -> None:
    own, foreign = open_model(teacher).info, open_model(registers).info
    assert (own.mean, own.std, own.grid, own.width, own.prefix_kinds) == (MEAN, STD, (6, 6), 32, ("cls",))
    assert (foreign.grid, foreign.width, foreign.prefix_kinds) == ((3, 3), 192, ("cls", *["register"] * 4))
    for number, norm in enumerate(("none", "own", "own+whiten", "whiten", "standardise")):
        options = {**SHORT, **STUDENT, "distill.teacher": str(registers), "distill.norm": norm}
        folder = RunFolder(run(plan("digits/distill", options=options), tmp_path / str(number), quiet=True))
        assert read(str(folder.recipe))["distill"]["norm"] == norm
        assert any("4 prefix token(s)" in note for note in folder.facts()["notes"])
        state = torch.load(folder.last, weights_only=True)["task"]["module"]
        assert state["projector.weight"].shape == (192, 32)
        assert ("whitening.mean" in state) == (norm == "standardise")
        other = {**options, "distill.norm": "own" if norm != "own" else "none"}
        with pytest.raises(FdlabError, match=r"other settings[\s\S]*distill\.norm"):
            run(plan("digits/distill", options=other), folder.path, quiet=True)


# ---- (c) at the teacher itself, not at the whitening alone


def test_c_ten_times_the_teachers_output_is_the_same_target(teacher: Path) -> None:
    settings = DistillSettings(teacher=str(teacher), norm="whiten")
    task = Distill(settings, open_data("digits#train[:64]"), size=24, seed=0)
    images, _ = task.data.stack(range(6), 24)
    target = task.targets[0](images)
    assert target.mean(-1).abs().max() < 1e-3
    assert (target.square().mean(-1) - 1).abs().max() < 1e-3
    raw = task.targets[0].raw(images)
    task.targets[0].raw = lambda images, raw=raw: 10 * raw  # type: ignore[method-assign]
    assert torch.allclose(task.targets[0](images), target, atol=1e-3)


# ---- (e) validation is normalised as training is


def seen_by(module: torch.nn.Module, act: Any) -> Tensor:
    """What enters the patch embedding first while ``act`` runs."""
    seen: list[Tensor] = []
    handle = module.patch_embed.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0].detach().clone()))  # type: ignore[union-attr]
    try:
        with torch.no_grad():
            act()
    finally:
        handle.remove()
    return seen[0]


@pytest.mark.parametrize("recipe", ["digits/finetune", "digits/supervised", "digits/distill"])
def test_e_training_and_evaluation_normalise_alike(tmp_path: Path, teacher: Path, recipe: str) -> None:
    options = {**SHORT, "data.test": "digits#test[:8]", "data.per_class": 0, "data.validation": 0, "view.crop": [1, 1]}
    start = {"digits/finetune": {"classify.model": str(teacher)}, "digits/distill": {"distill.teacher": str(teacher)}}
    planned = plan(recipe, overrides=options, options=start.get(recipe, {}))
    task, _, _ = prepared(planned.recipe, planned.task, "cpu")
    assert task.test is not None
    batch = next(iter(Batches(task.test, size=24, batch=8, seed=0, start=0, stop=1)))  # unaugmented, in its own order
    places = torch.argsort(batch.indices)
    trained = seen_by(task.encoder, lambda: task.step(batch, 0))[places]
    task.train_mode(False)
    judged = seen_by(task.encoder, task.evaluate)
    watched = seen_by(task.encoder, lambda: task.kept_features(batch.images[0]))[places]
    assert torch.equal(trained, judged)
    assert torch.equal(watched, judged)
    constants = (MEAN, STD) if recipe == "digits/finetune" else (task.data.mean, task.data.std)
    assert (tuple(task.mean), tuple(task.std)) == tuple(map(tuple, constants))
    folder = run(planned, tmp_path / "run", quiet=True)
    reopened = open_model(folder)
    images, _ = task.test.stack(range(8), 24)
    assert torch.allclose(reopened.normalise(images), judged, atol=1e-6)


# ---- (g) no key passes unseen


@pytest.mark.parametrize("change", ["unused", "missing", "shape"])
def test_g_a_key_too_many_or_too_few_is_refused_by_name(tmp_path: Path, registers: Path, change: str) -> None:
    weights = dict(torch.load(registers, weights_only=True))
    key = "blocks.0.norm2.bias"
    if change == "unused":
        key = "blocks.0.adapter.weight"
        weights[key] = torch.zeros(3)
    elif change == "missing":
        del weights[key]
    else:
        weights[key] = torch.zeros(5)
    torch.save(weights, tmp_path / "x.pth")
    with pytest.raises(FdlabError, match=re.escape(key)) as caught:
        open_model(tmp_path / "x.pth")
    assert caught.value.code == 3
    with pytest.raises(FdlabError, match=re.escape(key)):  # as a teacher too, before the first step
        run(plan("digits/distill", options={**SHORT, "distill.teacher": str(tmp_path / "x.pth")}), tmp_path / "run")


def test_g_a_state_with_a_key_too_many_or_too_few_does_not_continue(tmp_path: Path, teacher: Path) -> None:
    options = {**SHORT, **STUDENT, "distill.teacher": str(teacher), "run.steps": 4, "save.every": 2}
    folder = stopped(plan("digits/distill", options=options), tmp_path / "run")
    whole = torch.load(folder.last, weights_only=True)
    for change in (lambda module: module.pop("projector.bias"), lambda module: module.update(extra=torch.zeros(2))):
        state = torch.load(folder.last, weights_only=True)
        change(state["task"]["module"])
        torch.save(state, folder.last)
        with pytest.raises(FdlabError, match="does not fit these settings"):
            run(plan("digits/distill", options=options), folder.path, quiet=True)
        torch.save(whole, folder.last)
    assert RunFolder(run(plan("digits/distill", options=options), folder.path, quiet=True)).finished


def stopped(planned: Any, out: Path) -> RunFolder:
    """The run's folder after a stop at step 3 of 4."""

    def stop(step: int) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(planned, out, quiet=True, on_step=[stop])
    return RunFolder(out)


# ---- (i) nothing in a run's folder is executed


class Attack:
    """Unpickled openly, it makes a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


@pytest.mark.parametrize("name", ["last", "best"])
def test_i_a_hostile_state_is_refused_and_not_executed(tmp_path: Path, teacher: Path, name: str) -> None:
    options: dict[str, Any] = {**SHORT, "run.steps": 4, "save.every": 2, "classify.model": str(teacher)}
    options |= {"save.best": "validation_accuracy", "save.export": "best", "run.evaluate_every": 1}
    planned = plan("digits/finetune", overrides={"data.per_class": 2, "data.validation": 20}, options=options)
    folder, canary = stopped(planned, tmp_path / "run"), tmp_path / "canary"
    path = getattr(folder, name)
    state = torch.load(path, weights_only=True)  # our own files hold tensors and plain values
    if name == "best":  # what a later evaluation does not overwrite
        last = torch.load(folder.last, weights_only=True)
        last["best"]["score"] = 2.0
        torch.save(last, folder.last)
    torch.save({**state, "extra": Attack(canary)}, path)
    torch.load(path, weights_only=False)
    assert canary.exists()  # the attack works on an open load
    canary.unlink()
    with pytest.raises(FdlabError, match=rf"{name}\.pt cannot be read"):
        run(planned, folder.path, quiet=True)
    assert not canary.exists()


@pytest.mark.parametrize("place", ["table of contents", "value", "rest"])
def test_i_a_hostile_shared_state_is_refused_and_not_executed(tmp_path: Path, place: str) -> None:
    """A state of ``fsdp``: torch unpickles its table of contents and the optimiser's settings openly."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict import get_state_dict

    canary, module = tmp_path / "canary", torch.nn.Linear(2, 3)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.25)
    optimizer.param_groups[0]["note"] = Attack(canary) if place == "value" else "plain"
    sharded.save(tmp_path, 7, module, optimizer, {"log": {}})
    path = sharded.newest(tmp_path)
    assert path is not None
    optimizer.param_groups[0].update(note="", lr=1.0)
    weight = module.weight.detach().clone()
    if place == "value":
        pass
    elif place == "rest":
        torch.save({"step": 7, "log": Attack(canary)}, path / sharded.REST)
    else:
        whole = (path / ".metadata").read_bytes()
        torch.nn.init.zeros_(module.weight)
        assert sharded.load(path, module, optimizer)["step"] == 7  # an honest one is read
        assert torch.equal(module.weight, weight)
        assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["note"]) == (0.25, "plain")
        (path / ".metadata").write_bytes(pickle.dumps([Attack(canary), pickle.loads(whole)]))

    def openly() -> None:
        if place == "rest":
            torch.load(path / sharded.REST, weights_only=False)
        weights, moments = get_state_dict(module, optimizer)
        with contextlib.suppress(Exception, CheckpointException):
            dcp.load({"module": weights, "optimizer": moments}, checkpoint_id=path)

    openly()
    assert canary.exists()  # the attack works on an open load
    canary.unlink()
    with pytest.raises(FdlabError, match="cannot be read"):
        sharded.load(path, module, optimizer)
    assert not canary.exists()


# ---- the table


def test_every_test_of_the_table_exists() -> None:
    """docs/official_code.md names a file and a test for each letter."""
    text = (ROOT / "docs" / "official_code.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \(([a-k])\) .*$", text, re.MULTILINE)
    assert sorted(set(rows)) == list("abcdefghijk")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    assert len(named) >= 11
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{test}"

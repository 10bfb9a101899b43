"""What holds for every probe of ``PROBES``: a new line there is tested here without another word."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

import fdlab
from fdlab.encoders.encoder import Encoder
from fdlab.errors import FdlabError
from fdlab.known_answers.doctor import CASES
from fdlab.probes.probe import PROBES, find_probe
from fdlab.records.metrics import METRICS
from fdlab.records.store import Record, Store

QUICK: dict[str, dict[str, Any]] = {  # settings that make a probe quick; a probe without an entry takes its defaults
    "attribution": {"steps": 2, "gradient_steps": 2, "orders": ["gradients"], "target": "feature"},
    "features": {"metrics": ["cka", "effective_rank", "token_similarity", "high_frequency"]},
    "hessian": {"k": 1, "probes": 0},
    "landscape": {"points": 3, "directions": 2},
    "sharpness": {"directions": 2},
}
HANDED = {"encoder", "images", "label", "seed", "batch", "progress"}  # of every probe, by ``fdlab.measure``
IMAGES = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 3
every_probe = pytest.mark.parametrize("name", PROBES)


def encoder(seed: int = 0) -> Encoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = VisionTransformer(img_size=16, patch_size=4, embed_dim=8, depth=2, num_heads=2, num_classes=3)
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return Encoder.wrap(module, family="small")


def measured(name: str, model: Encoder, images: Tensor = IMAGES, labels: Any = LABELS, **more: Any) -> Record:
    probe = find_probe(name)
    handed = {"labels": labels} if "labels" in probe.takes else {}
    settings = {"label": "m", "seed": 0, "batch": 8, "progress": None, **QUICK.get(name, {}), **more}
    return probe.measure(model, images, **handed, **settings)


def attempt(*arguments: Any, **settings: Any) -> tuple[Record | None, str]:
    """The record, or the words of the refusal."""
    try:
        return measured(*arguments, **settings), ""
    except FdlabError as error:
        return None, str(error)


def same(first: pd.DataFrame, second: pd.DataFrame, rtol: float = 0.0) -> None:
    """Equal but for the order of the columns."""
    pd.testing.assert_frame_equal(first.reset_index(drop=True), second.reset_index(drop=True), rtol=rtol, atol=rtol)


@every_probe
def test_it_declares_what_it_takes(name: str) -> None:
    probe = find_probe(name)
    assert {*probe.settings, *probe.takes} == {*inspect.signature(probe.measure).parameters} - HANDED
    assert set(probe.models) <= set(probe.settings)
    assert probe.version >= 1
    assert "Do not" in (probe.measure.__doc__ or "")


@every_probe
def test_its_arithmetic_has_known_answers(name: str) -> None:
    cases, run = CASES[find_probe(name).known_answers]
    checks = run(next(iter(cases())), torch.float64)
    assert checks
    assert all(check.right for check in checks)


@every_probe
def test_its_record_is_complete(name: str) -> None:
    record = measured(name, encoder())
    assert len(record.table)
    assert set(record.table["metric"]) <= set(METRICS)
    assert set(record.table["probe"]) == {name}
    assert set(record.table["model"]) == {"m"}
    assert record.manifest["probe"] == name
    assert record.manifest["version"] == find_probe(name).version
    assert record.manifest["weights"] == encoder().info.sha256
    assert record.manifest["images"] == len(IMAGES)
    same(measured(name, encoder()).table, record.table)


@every_probe
def test_the_model_is_left_as_it_was(name: str) -> None:
    model = encoder()
    model.module.blocks[0].requires_grad_(False)  # type: ignore[union-attr]
    model.module.blocks[1].train()  # type: ignore[union-attr]
    weights = {key: value.clone() for key, value in model.module.state_dict().items()}
    flags = [parameter.requires_grad for parameter in model.module.parameters()]
    modes = [part.training for part in model.module.modules()]
    measured(name, model)
    assert all(torch.equal(value, weights[key]) for key, value in model.module.state_dict().items())
    assert [parameter.requires_grad for parameter in model.module.parameters()] == flags
    assert all(parameter.grad is None for parameter in model.module.parameters())
    assert [part.training for part in model.module.modules()] == modes
    assert not [part for part in model.module.modules() if part._forward_hooks or part._forward_pre_hooks]


@every_probe
@pytest.mark.parametrize("enabled", [True, False])
def test_gradients_are_as_the_caller_had_them(name: str, enabled: bool) -> None:
    with torch.set_grad_enabled(enabled):
        record = measured(name, encoder())
        assert torch.is_grad_enabled() == enabled
    same(record.table, measured(name, encoder()).table)


@every_probe
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision_is_measured_or_refused(name: str, dtype: torch.dtype) -> None:
    model = encoder()
    model.module.to(dtype)
    record, refusal = attempt(name, model)
    if record is None:
        assert "precision" in refusal
        return
    assert np.isfinite(record.table["value"]).mean() > 0.9
    assert all(parameter.dtype == dtype for parameter in model.module.parameters())


@every_probe
def test_the_stores_answer_is_the_fresh_one(name: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"data": "digits", "images": 12, "store": Store(tmp_path), **QUICK.get(name, {})}
    with passes(model := encoder()) as counted:
        fresh = fdlab.measure(name, {"a": model}, **settings)
        once = len(counted)
        stored = fdlab.measure(name, {"a": model}, **settings)
    assert once == len(counted) > 0
    same(stored, fresh, rtol=1e-9)
    first, second = (table.attrs["record"]["a"].arrays for table in (fresh, stored))
    assert set(first) == set(second)
    assert all(np.array_equal(first[key], second[key], equal_nan=True) for key in first)


@contextmanager
def passes(model: Encoder) -> Iterator[list[int]]:
    """Fills with the number of images of every forward pass."""
    counted: list[int] = []
    handle = model.module.patch_embed.register_forward_pre_hook(  # type: ignore[union-attr, operator]
        lambda _module, inputs: counted.append(len(inputs[0]))
    )
    try:
        yield counted
    finally:
        handle.remove()


class Stopper:
    """A progress that stops the measurement as Ctrl-C does."""

    def __init__(self, after: int) -> None:
        self.left = after

    def advance(self, _units: int = 1, _note: str = "") -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@every_probe
def test_stopped_it_continues(name: str, tmp_path: Path) -> None:
    if "unfinished" not in find_probe(name).takes:
        pytest.skip("it has no unfinished form")
    model = encoder()
    with passes(model) as counted:
        whole = measured(name, model, unfinished=tmp_path / "whole")
        once = len(counted)
        with pytest.raises(KeyboardInterrupt):
            told = Told()
            measured(name, model, progress=told, unfinished=tmp_path / "other")
            measured(name, model, progress=Stopper(told.times - 1), unfinished=tmp_path / "stopped")
        counted.clear()
        continued = measured(name, model, unfinished=tmp_path / "stopped")
    assert len(counted) < once
    same(continued.table, whole.table)


class Told:
    """Counts how often a progress is told."""

    times = 0

    def advance(self, _units: int = 1, _note: str = "") -> None:
        self.times += 1


@every_probe
def test_one_image_is_measured_or_refused_in_words(name: str) -> None:
    record, refusal = attempt(name, encoder(), IMAGES[:1], LABELS[:1])
    assert record.table["value"].notna().any() if record is not None else len(refusal.splitlines()) > 1


@every_probe
def test_images_without_labels_are_measured_or_refused_in_words(name: str) -> None:
    record, refusal = attempt(name, encoder(), labels=None)
    assert record.table["value"].notna().any() if record is not None else "labels" in refusal


@every_probe
def test_the_number_of_threads_changes_no_number_and_stays(name: str) -> None:
    before = torch.get_num_threads()
    try:
        tables = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            tables.append(measured(name, encoder(), IMAGES[:6], LABELS[:6]).table)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    same(*tables, rtol=2e-3)

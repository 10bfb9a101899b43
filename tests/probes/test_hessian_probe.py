"""The Hessian probe: its numbers are the dense Hessian's, its parts fit together, its rows are complete."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import fdlab
from fdlab.encoders.encoder import Encoder, blocks_of
from fdlab.encoders.reparametrise import attention_parts, scale_heads
from fdlab.errors import FdlabError
from fdlab.measures.products import exact_kernels
from fdlab.probes.hessian import measure_hessian, parameter_groups
from fdlab.probes.objectives import build_objective
from fdlab.records.metrics import METRICS
from fdlab.records.store import Record, Store
from fdlab.records.table import COLUMNS


def encoder() -> Encoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        module = VisionTransformer(
            img_size=8, patch_size=4, embed_dim=8, depth=2, num_heads=2, mlp_ratio=1, num_classes=0
        )
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.3)
    return Encoder.wrap(module, family="small", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


IMAGES = torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(24) % 3


@pytest.fixture(autouse=True, scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FDLAB_STORE", str(tmp_path_factory.mktemp("store")))
        yield


@pytest.fixture(scope="module")
def exact() -> Tensor:
    made = build_objective("linear-probe", encoder(), IMAGES, LABELS, micro_batch=24)
    parameters = list(made.parameters.values())
    with exact_kernels():
        first = torch.autograd.grad(made.loss(made.batches[0]), parameters, create_graph=True)
        flat = torch.cat([g.reshape(-1) for g in first])
        parts = [
            torch.autograd.grad(flat, parameters, part, is_grads_batched=True, retain_graph=True)
            for part in torch.eye(len(flat)).split(32)
        ]
    return torch.cat([torch.cat([g.reshape(len(part[0]), -1) for g in part], 1) for part in parts]).double()


@pytest.fixture(scope="module")
def record() -> Record:
    return measure_hessian(encoder(), IMAGES, labels=LABELS, label="one")


def value(record: Record, metric: str, block: int | None = None) -> float:
    rows = record.table[record.table["metric"] == metric]
    rows = rows[rows["block"].isna()] if block is None else rows[rows["block"] == block]
    return float(rows["value"].iloc[0])


def test_numbers_are_those_of_the_dense_hessian(record: Record, exact: Tensor) -> None:
    true = torch.linalg.eigvalsh((exact + exact.T) / 2).flip(0).numpy()
    found = [value(record, f"eigenvalue_{rank}") for rank in range(1, 6)]
    np.testing.assert_allclose(found, true[:5], rtol=1e-3)
    assert value(record, "eigenvalue_lowest") == pytest.approx(true[-1], rel=2e-2)
    assert abs(value(record, "trace") - true.sum()) < 4 * record.manifest["trace_error"]
    mass = np.abs(true[true < 0]).sum() / np.abs(true).sum()
    assert value(record, "negative_mass") == pytest.approx(mass, rel=0.2)


def test_rows_and_arrays_are_complete(record: Record) -> None:
    assert tuple(record.table.columns) == COLUMNS
    assert set(record.table["metric"]) <= set(METRICS)
    assert set(record.table["probe"]) == {"hessian"}
    assert (record.table["n"] == 24).all()
    assert record.table["objective"].str.contains("linear probe").all()
    masses = record.table[record.table["metric"] == "spectral_mass"]
    assert masses["value"].sum() == pytest.approx(1)
    manifest = json.loads(json.dumps(record.manifest))
    assert manifest["gradient_norm"] > 0
    assert manifest["converged"] is True
    assert manifest["probe_accuracy"] > 0.4
    assert manifest["images"] == 24


def test_every_image_has_its_share_of_the_eigenvalue(record: Record) -> None:
    row = record.table[record.table["metric"] == "eigenvalue_1"].iloc[0]
    assert record.arrays["eigenvalue_1"].shape == (24,)
    assert record.arrays["eigenvalue_1"].mean() == pytest.approx(row["value"], rel=1e-4)
    assert row["low"] < row["value"] < row["high"]


def test_micro_batches_change_nothing(record: Record) -> None:
    other = measure_hessian(encoder(), IMAGES, labels=LABELS, label="one", batch=7, probes=0, k=2)
    for metric in ("eigenvalue_1", "eigenvalue_2"):
        assert value(other, metric) == pytest.approx(value(record, metric), rel=1e-4)


def test_blocks_are_the_diagonal_blocks_and_interlace(record: Record, exact: Tensor) -> None:
    model = encoder()
    blocks = measure_hessian(model, IMAGES, labels=LABELS, label="one", part="blocks")
    groups = parameter_groups(model, dict(model.module.named_parameters()))
    assert list(groups) == ["embedding", "0", "1", "final"]
    assert sum(p.numel() for chosen in groups.values() for p in chosen) == len(exact)
    names = [name for name, _ in model.module.named_parameters()]
    sizes = [p.numel() for p in model.module.parameters()]
    first = sum(sizes[: min(i for i, name in enumerate(names) if name.startswith("blocks.0."))])
    width = sum(size for name, size in zip(names, sizes, strict=True) if name.startswith("blocks.0."))
    true = torch.linalg.eigvalsh(exact[first : first + width, first : first + width])
    assert value(blocks, "eigenvalue_1", 0) == pytest.approx(float(true[-1]), rel=1e-3)
    for suffix, block in (("_embedding", None), ("", 0), ("", 1), ("_final", None)):
        assert value(blocks, f"eigenvalue_1{suffix}", block) <= value(record, "eigenvalue_1") * (1 + 1e-5)
        assert value(blocks, f"eigenvalue_lowest{suffix}", block) >= value(record, "eigenvalue_lowest") * 1.02


def test_balanced_values_do_not_react_to_scales_that_keep_the_function() -> None:
    model, moved = encoder(), encoder()
    with torch.no_grad():
        for block in blocks_of(moved.module):
            scale_heads(attention_parts(block.attn), query=4.0, value=2.0)  # type: ignore[arg-type]
            block.norm1.weight.mul_(128)
            block.norm1.bias.mul_(128)
            block.attn.qkv.weight.div_(128)
    settings: dict[str, Any] = {"labels": LABELS, "label": "one", "probes": 0, "k": 2}
    raw, raw_moved = (measure_hessian(m, IMAGES, **settings) for m in (model, moved))
    even, even_moved = (measure_hessian(m, IMAGES, part="balanced", **settings) for m in (model, moved))
    assert abs(value(raw_moved, "eigenvalue_1") / value(raw, "eigenvalue_1") - 1) > 0.2
    first, second = value(even, "eigenvalue_1_balanced"), value(even_moved, "eigenvalue_1_balanced")
    assert second == pytest.approx(first, rel=1e-3)
    assert "heads balanced" in even.manifest["note"]


def test_minibatch_maxima_lie_above_that_of_their_union(record: Record) -> None:
    small = measure_hessian(encoder(), IMAGES, labels=LABELS, label="one", part="minibatches", minibatch=6)
    tops = small.arrays["max_eigenvalues"]
    assert tops.shape == (4, 5)
    assert value(small, "max_eigenvalue_mean") == pytest.approx(tops[:, 0].mean())
    assert tops[:, 0].mean() >= value(record, "eigenvalue_1")  # the maximum is convex
    rows = small.table[small.table["metric"] == "max_eigenvalue"]
    assert len(rows) == 20
    assert (rows["n"] == 6).all()


def test_gauss_newton_has_no_negative_part() -> None:
    found = measure_hessian(encoder(), IMAGES, labels=LABELS, label="one", matrix="ggn", k=2, probes=1)
    assert value(found, "eigenvalue_lowest") > -1e-4 * value(found, "eigenvalue_1")
    assert found.table["objective"].str.contains("Gauss-Newton").all()
    assert "eigenvalue_1" not in found.arrays


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"part": "block"}, "Did you mean 'blocks'"),
        ({"labels": None}, "have no labels"),
        ({"part": "minibatches", "minibatch": 16}, "fewer than two minibatches"),
        ({"k": 0}, "cannot be looked for"),
    ],
)
def test_refusals(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(FdlabError, match=message):
        measure_hessian(encoder(), IMAGES, **{"labels": LABELS, "label": "one", **settings})


def test_measured_by_name_with_the_labels_of_the_data(tmp_path: Path) -> None:
    model = encoder()
    table = fdlab.measure("hessian", {"a": model}, data="digits", images=24, store=Store(tmp_path), probes=0, k=1)
    assert {"eigenvalue_1", "objective_loss"} <= set(table["metric"])
    assert (table["n"] == 24).all()

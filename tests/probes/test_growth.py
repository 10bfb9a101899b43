"""Images are added until all models are precise enough, none is seen twice, and the same set is every model's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fdlab.data.sources import open_data
from fdlab.encoders.encoder import Encoder
from fdlab.errors import FdlabError
from fdlab.probes.growth import drawn, sentence, stages, widest
from fdlab.probes.measure import measure
from fdlab.records.store import Store
from fdlab.records.table import frame


def encoder(scale: float = 1.0) -> Encoder:
    """``scale`` multiplies queries and keys: 0 is uniform attention, whose intervals have no width."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = VisionTransformer(img_size=16, patch_size=4, embed_dim=16, depth=1, num_heads=2, num_classes=0)
    with torch.no_grad():
        model.blocks[0].attn.qkv.weight[:32] *= scale  # type: ignore[union-attr,index]
    return Encoder.wrap(model, family="small")


def counted(model: Encoder) -> list[int]:
    """Fills with the number of images of every forward pass."""
    seen: list[int] = []

    def count(_module: Any, inputs: tuple[Tensor, ...]) -> None:
        seen.append(len(inputs[0]))

    model.module.patch_embed.register_forward_pre_hook(count)  # type: ignore[union-attr,operator]
    return seen


def run(models: Any, store: Store, **more: Any) -> Any:
    options: dict[str, Any] = {"data": "digits", "images": 200, "metrics": ["entropy", "nmi", "distance_spread"]}
    return measure("attention", models, store=store, **{**options, **more})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_used_up_is_the_plain_measurement_and_no_image_is_seen_twice(store: Store, tmp_path: Path) -> None:
    model = encoder(300.0)
    seen = counted(model)
    grown = run({"a": model}, store, tolerance=1e-9)
    assert sum(size for size in seen if size > 1) == 200  # single images are the proof that its attention is complete
    said = grown.attrs["record"]["a"].manifest["tolerance"]
    assert said["reached"] is False
    assert said["widest"]["half_width"] > 1e-9
    plain = run({"a": model}, Store(tmp_path / "other"))
    assert sum(size for size in seen if size > 1) == 400
    for name, values in plain.attrs["record"]["a"].arrays.items():
        np.testing.assert_array_equal(grown.attrs["record"]["a"].arrays[name], values)
    assert grown.equals(plain)
    assert grown.attrs["record"]["a"].manifest["images"] == 200
    assert "NOT reached: all images were used, 200 images" in sentence(said, 200)


def test_the_model_that_needs_most_decides_for_all(store: Store) -> None:
    sharp, uniform = encoder(300.0), encoder(0.0)
    both = run({"uniform": uniform, "sharp": sharp}, store, images=64)
    half = {label: widest(rows).half_width for label, rows in both.groupby("model")}
    assert half["uniform"] < 1e-6 < half["sharp"]
    alone = run({"uniform": uniform}, store, tolerance=1e-6).attrs["record"]["uniform"].manifest
    assert (alone["images"], alone["tolerance"]["reached"]) == (64, True)
    limit = half["sharp"] * 0.9  # 64 are too few for it, 200 are enough
    records = run({"uniform": uniform, "sharp": sharp}, store, tolerance=limit).attrs["record"]
    counts = {record.manifest["images"] for record in records.values()}
    assert counts <= {128, 200}
    assert len(counts) == 1
    said = records["uniform"].manifest["tolerance"]
    assert said == records["sharp"].manifest["tolerance"]
    assert said["reached"]
    assert said["widest"]["model"] == "sharp"


def test_a_plain_answer_and_a_looser_tolerance_are_the_beginning(store: Store) -> None:
    model = encoder(300.0)
    run({"a": model}, store, images=64)
    seen = counted(model)
    assert run({"a": model}, store, tolerance=0.9)["n"].max() == 64
    assert not seen
    run({"a": model}, store, tolerance=1e-9)
    assert sum(seen) == 200 - 64
    run({"a": model}, store, tolerance=1e-9)
    assert sum(seen) == 200 - 64


def test_larger_sets_begin_with_smaller_ones_up_to_all() -> None:
    whole = open_data("digits[:100]", size=16)
    few, all_of_them = (drawn(whole, count, 3).labels() for count in (40, 100))
    assert len(all_of_them) == 100
    np.testing.assert_array_equal(all_of_them[:40], few)
    assert sorted(all_of_them) == sorted(whole.labels())
    assert not np.array_equal(all_of_them, whole.labels())


def test_stages() -> None:
    assert stages(500, 10_000) == [64, 128, 256, 500]
    assert stages(500, 128) == [64, 128]
    assert stages(20, 50) == [20]


def test_the_widest_is_found_among_the_metrics_that_are_meant() -> None:
    def row(metric: str, half: float, **more: Any) -> dict[str, Any]:
        return {"metric": metric, "value": 0.5, "low": 0.5 - half, "high": 0.5 + half, **more}

    rows = [row("entropy", 0.01), row("distance_ratio", 0.03, block=1, head=2), row("distance", 9.0)]
    assert widest(frame(rows))[:3] == ("distance_ratio", 1, 2)
    assert widest(frame(rows)).half_width == pytest.approx(0.03)
    undefined = row("r2_relative", float("nan")) | {"value": float("nan")}
    assert widest(frame([*rows, undefined])).metric == "distance_ratio"
    assert widest(frame([*rows, row("nmi", float("nan"))])).half_width == float("inf")


def test_refusals(store: Store) -> None:
    for wrong in (-0.1, 1.0, float("nan"), "some"):
        with pytest.raises(FdlabError, match="no half-width"):
            run({"a": encoder()}, store, tolerance=wrong)
    with pytest.raises(FdlabError, match="nothing to judge"):
        run({"a": encoder()}, store, tolerance=0.1, images=20, metrics=["distance"])
    with pytest.raises(FdlabError, match="has no setting 'tolerance'"):
        measure("features", {"a": encoder()}, data="digits", images=20, store=store, tolerance=0.1)
    with pytest.raises(FdlabError, match="has no setting 'earlier'"):
        run({"a": encoder()}, store, earlier=None)

"""Answers kept from an earlier interval method get their intervals anew from their arrays, without a forward pass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from fdlab.encoders.encoder import Encoder
from fdlab.probes.measure import measure
from fdlab.probes.probe import find_probe
from fdlab.records.intervals import METHOD
from fdlab.records.store import Record, Store

IMAGES = 33  # enough for the bootstrap
OTHER = object()  # another model
NUMBERS = ["value", "low", "high"]
CASES: list[tuple[str, dict[str, Any], set[str]]] = [  # and what has another interval, which stays
    ("attention", {}, set()),
    ("features", {"teacher": OTHER}, {"cka", "effective_rank", "uniformity", "singular_value", "knn", "linear_probe"}),
    ("attribution", {"steps": 2, "gradient_steps": 2}, set()),
    ("attribution", {"part": "heads", "gradient_steps": 2}, set()),
    ("hessian", {"k": 2, "probes": 2}, {"trace"}),
    ("hessian", {"k": 1, "probes": 2, "part": "balanced"}, {"trace_balanced"}),
    ("hessian", {"part": "minibatches", "minibatch": 11}, set()),
    ("landscape", {"what": "plane", "points": 3, "span": 0.3}, set()),
    ("landscape", {"what": "interpolation", "to": OTHER, "points": 3}, set()),
    ("landscape", {"what": "line", "points": 3, "directions": 2}, {"loss_line", "accuracy_line"}),
    ("sharpness", {"part": "worst", "steps": 1}, set()),
    ("sharpness", {"part": "average", "directions": 2}, {"sharpness_average", "sharpness_adaptive"}),
]


def encoder(seed: int, **changes: Any) -> Encoder:
    settings: dict[str, Any] = {
        "img_size": 16, "patch_size": 4, "embed_dim": 8, "depth": 2, "num_heads": 2, "num_classes": 0,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Encoder.wrap(VisionTransformer(**{**settings, **changes}), family="small")


def age(store: Store) -> None:
    """Makes every answer one of an earlier method, with intervals of no width."""
    for path in store.root.glob("*/*/manifest.json"):
        record = Record.load(path.parent)
        assert record.manifest.pop("intervals") == METHOD
        known = record.table["low"].notna()
        record.table.loc[known, "low"] = record.table.loc[known, "high"] = record.table.loc[known, "value"]
        record.save(path.parent)


@pytest.mark.parametrize(("probe", "settings", "others"), CASES, ids=lambda case: case if isinstance(case, str) else "")
def test_intervals_come_anew_from_the_arrays(
    probe: str, settings: dict[str, Any], others: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, model = Store(tmp_path), encoder(0)
    settings = {name: encoder(1) if value is OTHER else value for name, value in settings.items()}

    def ask() -> Any:
        return measure(probe, {"a": model}, data="digits", images=IMAGES, store=store, **settings)

    first = ask()
    age(store)

    def refused(*_args: Any, **_settings: Any) -> Record:
        raise AssertionError("a forward pass")

    monkeypatch.setattr(f"fdlab.probes.{probe}.PROBE", replace(find_probe(probe), measure=refused))
    for _ in range(2):  # the second time from what the first one put back
        again = ask()
        assert len(again) == len(first)
        mine = ~first["metric"].isin(others)
        bounded = first["low"] < first["high"]
        assert set(first[bounded]["metric"]) - others or others & {"loss_line", "sharpness_average"}
        assert others <= set(first[bounded]["metric"])
        np.testing.assert_allclose(
            again[mine][NUMBERS].astype(float), first[mine][NUMBERS].astype(float), rtol=1e-6, atol=1e-9
        )
        kept = again[~mine & bounded]
        np.testing.assert_array_equal(kept["low"], kept["value"])
        assert again.attrs["record"]["a"].manifest["intervals"] == METHOD

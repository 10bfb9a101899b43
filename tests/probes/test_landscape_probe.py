"""The landscape probe: every point is the loss there, the model is untouched, a stopped plane continues."""

from __future__ import annotations

import copy
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from typer.testing import CliRunner

import fdlab
from fdlab.cli.app import app
from fdlab.encoders.encoder import Encoder
from fdlab.errors import FdlabError
from fdlab.measures.directions import filter_direction
from fdlab.probes.landscape import measure_landscape
from fdlab.probes.objectives.points import Points
from fdlab.records.intervals import mean_interval
from fdlab.records.metrics import METRICS
from fdlab.records.store import Record, Store


def encoder(seed: int = 3, depth: int = 2) -> Encoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = VisionTransformer(
            img_size=8, patch_size=4, embed_dim=8, depth=depth, num_heads=2, mlp_ratio=1, num_classes=3
        )
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.3)
    return Encoder.wrap(module, family="small", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


IMAGES = torch.rand(36, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(36) % 3
QUICK: dict[str, Any] = {"objective": "classifier", "batch": 16, "points": 5, "directions": 3, "span": 0.5}


def measured(model: Encoder, what: str, **settings: Any) -> Record:
    return measure_landscape(model, IMAGES, label="m", labels=LABELS, what=what, **{**QUICK, **settings})


def loss_at(model: Encoder, *steps: tuple[float, dict[str, torch.Tensor]]) -> float:
    """The loss by other means: a copy of the model, weights added one by one, all images at once."""
    other = copy.deepcopy(model.module)
    with torch.no_grad():
        for name, weight in other.named_parameters():
            for amount, direction in steps:
                if name in direction:
                    weight += amount * direction[name]
        return float(F.cross_entropy(other(model.normalise(IMAGES)), LABELS))


def state(model: Encoder) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.module.state_dict().items()}


def own_directions(model: Encoder, count: int) -> list[dict[str, torch.Tensor]]:
    head = {id(p) for p in model.module.get_classifier().parameters()}
    weights = {name: p for name, p in model.module.named_parameters() if id(p) not in head}
    return [filter_direction(weights, 0, number) for number in range(count)]


def test_every_point_of_a_plane_is_the_loss_there() -> None:
    model = encoder()
    table = measured(model, "plane").table
    first, second = own_directions(model, 2)
    plane = table[table["metric"] == "loss_plane"]
    assert len(plane) == 25
    for x, y, value in zip(plane["x"], plane["y"], plane["value"], strict=True):
        assert value == pytest.approx(loss_at(model, (x, first), (y, second)), rel=1e-5)
    assert ((plane["low"] < plane["value"]) & (plane["value"] < plane["high"])).all()
    middle = plane[(plane["x"] == 0) & (plane["y"] == 0)].iloc[0]
    with torch.no_grad():
        each = F.cross_entropy(model.module(model.normalise(IMAGES)), LABELS, reduction="none")
    known = mean_interval(each.double().numpy(), 0)
    np.testing.assert_allclose([middle["low"], middle["high"]], known[1:3], rtol=1e-5)
    centre = plane[(plane["x"] == 0) & (plane["y"] == 0)]["value"].iloc[0]
    assert centre == pytest.approx(loss_at(model), rel=1e-6)


def test_a_line_is_the_median_over_directions_with_both_signs() -> None:
    model = encoder()
    record = measured(model, "line")
    curve = record.table[record.table["metric"] == "loss_line"].set_index("x")
    for x in (-0.5, 0.25):
        each = [loss_at(model, (x, direction)) for direction in own_directions(model, 3)]
        assert curve.loc[x, "value"] == pytest.approx(np.median(each), rel=1e-5)
        assert curve.loc[x, "low"] == pytest.approx(np.quantile(each, 0.1), rel=1e-5)
    assert curve.loc[0.0, "low"] == curve.loc[0.0, "value"] == curve.loc[0.0, "high"]
    assert record.arrays["losses"].shape == (3 * 4 + 1, 36)
    np.testing.assert_allclose(record.arrays["losses"][0].mean(), curve.loc[0.0, "value"], rtol=1e-6)


def test_interpolation_ends_in_the_two_models_exactly() -> None:
    first, second = encoder(3), encoder(4)
    table = measured(first, "interpolation", to=second).table
    curve = table[table["metric"] == "loss_interpolation"].sort_values("x")
    assert curve["value"].iloc[0] == pytest.approx(loss_at(first), rel=1e-6)
    assert curve["value"].iloc[-1] == pytest.approx(loss_at(second), rel=1e-6)
    ends = dict(second.module.named_parameters())
    way = {name: (ends[name] - weight).detach() for name, weight in first.module.named_parameters()}
    assert curve["value"].iloc[2] == pytest.approx(loss_at(first, (0.5, way)), rel=1e-5)


def test_interpolation_agrees_with_loss_landscapes() -> None:
    """Its linear_interpolation leaves out the start; all its points are ours."""
    from loss_landscapes import linear_interpolation
    from loss_landscapes.metrics import Loss

    first, second = encoder(3), encoder(4)
    metric = Loss(nn.CrossEntropyLoss(), first.normalise(IMAGES), LABELS)
    theirs = linear_interpolation(first.module, second.module, metric, steps=4, deepcopy_model=True)
    ours = measured(first, "interpolation", to=second, points=5).table
    ours = ours[ours["metric"] == "loss_interpolation"].sort_values("x")["value"].to_numpy()
    np.testing.assert_allclose(theirs, ours[1:], rtol=1e-4)


@pytest.mark.parametrize("what", ["line", "plane", "eigenvectors", "interpolation"])
def test_rows_are_known_and_the_model_is_untouched(what: str) -> None:
    model, to = encoder(), encoder(4)
    model.module.train()
    before, flags = state(model), [p.requires_grad for p in model.module.parameters()]
    modes = [part.training for part in model.module.modules()]
    record = measured(model, what, **({"to": to} if what == "interpolation" else {}))
    assert set(record.table["metric"]) <= set(METRICS)
    assert all(torch.equal(value, before[name]) for name, value in model.module.state_dict().items())
    assert [p.requires_grad for p in model.module.parameters()] == flags
    assert [part.training for part in model.module.modules()] == modes
    assert record.table["n"].eq(36).all()
    again = measured(encoder(), what, **({"to": to} if what == "interpolation" else {}))
    assert again.table.equals(record.table)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_stopped_plane_continues_and_the_model_comes_back(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = encoder()
    before = state(model)
    evaluated, whole = [], Points._evaluated

    def counted(self: Points) -> Any:
        evaluated.append(1)
        if len(evaluated) == 11:
            raise error
        return whole(self)

    monkeypatch.setattr(Points, "_evaluated", counted)
    with pytest.raises(error):
        measured(model, "plane", unfinished=tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in model.module.state_dict().items())
    assert len((tmp_path / "points.jsonl").read_text().splitlines()) == 10
    with (tmp_path / "points.jsonl").open("a") as file:
        file.write('["0.25 0.5", 1.2')  # the line that was being written
    evaluated[:] = [1] * 8  # stops again after two more points
    with pytest.raises(error):
        measured(model, "plane", unfinished=tmp_path)
    record = measured(model, "plane", unfinished=tmp_path)
    assert len(evaluated) == 11 + 13
    assert record.table.equals(measured(encoder(), "plane").table)


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from test_landscape_probe import Points, encoder, measured
whole, count = Points._evaluated, []
def deadly(self):
    count.append(1)
    if len(count) == 11:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(self)
Points._evaluated = deadly
measured(encoder(), "plane", unfinished=Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_a_killed_plane_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", KILLED, here, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    evaluated, whole = [], Points._evaluated
    monkeypatch.setattr(Points, "_evaluated", lambda self: (evaluated.append(1), whole(self))[1])
    record = measured(encoder(), "plane", unfinished=tmp_path)
    assert len(evaluated) == 25 - 10
    assert record.table.equals(measured(encoder(), "plane").table)


def test_losses_that_are_not_finite_are_marked_points(tmp_path: Path) -> None:
    model = encoder()
    table = measured(model, "plane", span=1e30, unfinished=tmp_path).table
    plane = table[table["metric"] == "loss_plane"]
    assert plane["value"].isna().sum() > 10
    assert plane["n"].notna().all()
    assert np.isfinite(plane[(plane["x"] == 0) & (plane["y"] == 0)]["value"]).all()
    for line in (tmp_path / "points.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)  # no NaN or Infinity


def test_an_adaptive_plane_says_which_points_it_measured() -> None:
    table = measured(encoder(), "plane", points=17, span=0.3, adaptive=True).table
    plane = table[table["metric"] == "loss_plane"]
    full = measured(encoder(), "plane", points=17, span=0.3).table
    full = full[full["metric"] == "loss_plane"].set_index(["x", "y"])["value"]
    assert len(plane) == 17 * 17
    seen = plane[plane["n"].notna()].set_index(["x", "y"])["value"]
    assert 9 <= len(seen) < 17 * 17
    assert (seen == full[seen.index]).all()
    guessed = plane[plane["n"].isna()].set_index(["x", "y"])["value"]
    np.testing.assert_allclose(guessed, full[guessed.index], rtol=0.1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "one"
    overrides = {"run.steps": 8, "save.snapshots": 2, "run.batch": 8, "encoder.width": 16, "encoder.depth": 1}
    known = {key: value for key, value in overrides.items() if not key.startswith("encoder")}
    return Path(fdlab.pretrain("digits/masked", data="digits[:64]", out=folder, overrides=known))


def test_a_trajectory_starts_at_its_snapshots_and_ends_in_the_middle(run: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"data": "digits#test", "images": 40, "what": "trajectory", "points": 5}
    table = fdlab.measure("landscape", f"run={run}", store=Store(tmp_path), **settings)
    path = table[table["metric"] == "trajectory"].sort_values("value")
    assert len(path) >= 3
    assert path["value"].is_monotonic_increasing
    away = np.hypot(path["x"], path["y"])
    assert away.iloc[0] > away.iloc[-1]
    held = table[table["metric"] == "trajectory_explained"]["value"]
    assert 0.5 < held.sum() <= 1.0 + 1e-9
    middle = table[(table["metric"] == "loss_trajectory") & (table["x"] == 0) & (table["y"] == 0)]
    assert len(middle) == 1
    again = fdlab.measure("landscape", f"run={run}", store=Store(tmp_path), **settings)
    pd.testing.assert_frame_equal(again, table, rtol=1e-9)  # from the store, ten digits


def test_the_command_prints_shares_and_losses_of_a_trajectory(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FDLAB_STORE", str(tmp_path / "store"))
    asked = ["diagnose", "landscape", str(run), "--what", "trajectory", "--points", "3", "--images", "20"]
    shown = CliRunner().invoke(app, [*asked, "-o", str(tmp_path / "out")])
    assert shown.exit_code == 0, shown.output
    assert "trajectory_random_walk of axis 2" in shown.output
    assert "over 9 points" in shown.output


def test_bad_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(FdlabError, match=r"no form 'plan'. Did you mean 'plane'"):
        measured(encoder(), "plan")
    with pytest.raises(FdlabError, match="has no middle"):
        measured(encoder(), "line", points=4)
    with pytest.raises(FdlabError, match="no model to interpolate to"):
        measured(encoder(), "interpolation")
    with pytest.raises(FdlabError, match="different architectures"):
        measured(encoder(), "interpolation", to=encoder(depth=1))
    with pytest.raises(FdlabError, match="0 snapshots"):
        measured(encoder(), "trajectory")
    with pytest.raises(FdlabError, match="no labels"):
        measure_landscape(encoder(), IMAGES, label="m", labels=None, **QUICK)
    broken = encoder()
    with torch.no_grad():
        next(broken.module.parameters()).fill_(float("nan"))
    with pytest.raises(FdlabError, match="not finite"):
        measured(broken, "line")

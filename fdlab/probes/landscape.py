"""The landscape probe: the loss along lines and planes through a model's weights, the same for all models.

``what``: ``line`` (random directions), ``plane`` (two of them), ``interpolation`` (to another model), ``trajectory``
(the plane of a run's snapshots), ``eigenvectors`` (the two sharpest directions). Points are stored as they come: a
stopped measurement continues. The weights are bit-identical afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fdlab.checkpoints.open import open_model
from fdlab.errors import NOT_UNDERSTOOD, USAGE, FdlabError
from fdlab.measures.directions import Place, filter_direction, moving, share_moved
from fdlab.measures.products import full_precision
from fdlab.measures.spectrum import spectrum
from fdlab.measures.surface import Cell, filled, near_contours, odd_grid, trajectory
from fdlab.probes.loss_frame import LossFrame, Parameters, Row, hessian_of
from fdlab.probes.loss_frame import identity as heads_and_recipe
from fdlab.probes.objectives import Objective
from fdlab.probes.objectives.points import Points
from fdlab.probes.probe import Probe, check_name, untouched
from fdlab.records.estimate import Estimate
from fdlab.records.intervals import mean_interval
from fdlab.records.store import Record
from fdlab.records.table import with_bounds

if TYPE_CHECKING:
    from fdlab.encoders.encoder import Encoder

VERSION = 3
WHAT = ("line", "plane", "interpolation", "trajectory", "eigenvectors")
Direction = Mapping[str, Tensor]
RISE = 2.0  # nats that the quadratic rises along the sharpest direction at the edge of a plane of eigenvectors


@untouched
def measure_landscape(
    encoder: Encoder,
    images: Any,
    *,
    label: str,
    labels: Any = None,
    seed: int = 0,
    batch: int = 32,
    progress: Any = None,
    unfinished: Path | None = None,
    what: str = "line",
    objective: str = "linear-probe",
    teacher: Encoder | str = "",
    parameters: Parameters = "encoder",
    directions: int = 10,
    span: float = 1.0,
    points: int = 21,
    adaptive: bool = False,
    to: Encoder | str = "",
) -> Record:
    """Loss and accuracy at points around one model's weights, on fixed images.

    Do not read convexity, basins or flatness in general from a picture: it is a cut along few of very many
    directions, and a rescaling of the weights that keeps the function can change it.

    Args:
        encoder: the model, in eval mode.
        images, labels, batch, objective, teacher, parameters: as in ``LossFrame``.
        unfinished: a folder for the points so far.
        what: one of ``WHAT``.
        directions: of ``line``: Gaussian, each filter as long as the model's own, by (seed, parameter name).
        span: how far, in lengths of each filter; of ``trajectory``: in shares of the path's extent.
        points: on a line, or on a side of a plane; odd.
        adaptive: of planes: a coarse grid, then along the contours; the rest interpolated (rows without ``n``).
        to: of ``interpolation``: the other model, of the same architecture; heads are interpolated too.

    Returns:
        A record. Rows ``loss_WHAT`` and ``accuracy_WHAT`` at (x, y); ``low`` and ``high``: 95 % over images; of
        ``line``, the median over directions: its 10 % and 90 % quantiles. A loss that is not finite is a row
        without a value. Arrays: ``losses`` (points, n) of each image, ``x``, ``y``.

    Raises:
        FdlabError: what ``build_objective`` raises; an unknown ``what``; an even grid; models that do not fit each
            other; a run without snapshots.
    """
    check_name("A landscape has no form", what, WHAT, "Forms")
    if what != "interpolation":
        odd_grid(span, points)
    loss = LossFrame(
        "landscape", VERSION, images, labels, label, seed, batch, progress, objective, teacher,
        "all" if what == "interpolation" else parameters,
    )  # fmt: skip
    built = loss.objective_of(encoder)
    with moving(built.parameters) as place, full_precision(encoder.device):
        surface = Points(built, place, unfinished, progress)
        if what == "line":
            rows, facts = _line(surface, seed, directions, span, points)
        elif what == "interpolation":
            rows, facts = _interpolation(surface, _other_end(loss, encoder, to), points)
        else:
            axes = _axes(what, encoder, built, place, seed)
            rows = _plane(surface, what, axes, span * axes.reach, points, adaptive)
            facts = axes.facts
    if what != "line":
        _bound(rows, f"loss_{what}", surface.arrays(), seed)
    return loss.record(encoder, built, what, rows, surface.arrays(), {**facts, "not_finite": surface.not_finite})


def intervals_anew(record: Record, seed: int) -> Record:
    """The record with the intervals over images made again from its arrays; those of a line are over directions."""
    what, arrays = record.manifest["part"], record.arrays
    if what == "line":
        return record
    rows = [{str(key): value for key, value in row.items()} for row in record.table.to_dict("records")]
    _bound(rows, f"loss_{what}", arrays, seed)
    return replace(record, table=with_bounds(record.table, rows))


def identity(encoder: Encoder, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the numbers depend on beside the encoder's weights: kept heads, and the snapshots of a trajectory."""
    beside: dict[str, Any] = heads_and_recipe(encoder, settings)
    if settings.get("what") == "trajectory":
        stats = [(path.name, path.stat()) for path in _snapshots(encoder)]
        beside["snapshots"] = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    return beside


# --- forms ------------------------------------------------------------------------------------------------------------


class _Axes(NamedTuple):
    """Two directions through the weights, rows of points to mark, and facts; ``reach``: what a span of 1 stands for."""

    first: Direction
    second: Direction
    facts: dict[str, Any]
    reach: float = 1.0
    rows: Sequence[Row] = ()


def _line(surface: Points, seed: int, directions: int, span: float, points: int) -> tuple[list[Row], dict[str, Any]]:
    grid = odd_grid(span, points)
    surface.plan(directions * (points - 1) + 1)
    losses, accuracies = np.empty((directions, points)), np.empty((directions, points))
    middle = surface.at("0", (0.0, 0.0))
    for number in range(directions):
        direction = filter_direction(surface.place.start, seed, number)
        for column, amount in enumerate(grid):
            where = (float(amount), float(number))
            value = middle if amount == 0 else surface.at(f"{number} {amount!r}", where, (float(amount), direction))
            losses[number, column], accuracies[number, column] = value
    rows: list[Row] = []
    for metric, values in (("loss_line", losses), ("accuracy_line", accuracies)):
        low, mid, high = np.quantile(values, [0.1, 0.5, 0.9], axis=0)  # NaN where any direction is not finite
        rows += [
            {"metric": metric, "x": x, **Estimate(*ends).row} for x, *ends in zip(grid, mid, low, high, strict=True)
        ]
    moved = share_moved(surface.place.parameters, filter_direction(surface.place.start, seed, 0))
    return _defined(rows), {"directions": directions, "span": span, "moved": moved}


def _plane(surface: Points, what: str, axes: _Axes, span: float, points: int, adaptive: bool) -> list[Row]:
    """Z[row = second direction][column = first]; the weights in the middle cell."""
    grid = odd_grid(span, points)
    surface.plan(points * points)
    accuracy: dict[Cell, float] = {}

    def loss(cell: Cell) -> float:
        across, up = float(grid[cell[0]]), float(grid[cell[1]])
        value, accuracy[cell] = surface.at(f"{across!r} {up!r}", (across, up), (across, axes.first), (up, axes.second))
        return value

    if adaptive:
        measured = near_contours(points, loss)
        interpolated = filled(measured, points)
    else:
        measured = {(column, row): loss((column, row)) for row in range(points) for column in range(points)}
    rows: list[Row] = []
    for row, column in np.ndindex(points, points):
        where = {"x": grid[column], "y": grid[row]}
        if (column, row) in measured:
            rows.append({"metric": f"loss_{what}", "value": measured[column, row], **where})
            rows.append({"metric": f"accuracy_{what}", "value": accuracy[column, row], **where})
        elif adaptive:
            rows.append({"metric": f"loss_{what}", "value": interpolated[row, column], **where, "n": None})
    return [*_defined(rows), *axes.rows]


def _bound(rows: Sequence[Row], metric: str, arrays: Mapping[str, np.ndarray], seed: int) -> None:
    """Adds 95 % intervals over images at every point that was evaluated and is finite."""
    _, low, high, _ = mean_interval(arrays["losses"].T, seed)
    numbers = {_key(x, y): number for number, (x, y) in enumerate(zip(arrays["x"], arrays["y"], strict=True))}
    for row in rows:
        number = numbers.get(_key(row["x"], row.get("y", 0.0))) if row["metric"] == metric else None
        if number is not None and math.isfinite(row["value"]):
            row |= {"low": min(low[number], row["value"]), "high": max(high[number], row["value"])}


def _key(x: float, y: float) -> tuple[str, str]:
    """A point as a written table has it; a line has no y."""
    return f"{x:.10g}", f"{0.0 if math.isnan(y) else y:.10g}"


def _defined(rows: Sequence[Row]) -> list[Row]:
    """Without the accuracies of objectives that know no right answer; losses that are not finite stay, marked."""
    known = {row["metric"] for row in rows if row["metric"].startswith("loss") or not math.isnan(row["value"])}
    return [row for row in rows if row["metric"] in known]


def _interpolation(surface: Points, other: Objective, points: int) -> tuple[list[Row], dict[str, Any]]:
    """Loss and accuracy on the straight line to the other model; both ends are the two models exactly."""
    if points < 2:
        raise FdlabError(f"{points} points do not join two models.", fix="Give --points 2 or more.", code=USAGE)
    end = {name: weight.detach() for name, weight in other.parameters.items()}
    way = {name: end[name] - weight for name, weight in surface.place.start.items()}
    surface.plan(points)
    rows: list[Row] = []
    for alpha in (float(value) for value in np.linspace(0, 1, points)):
        where = (alpha, 0.0)
        values = surface.of("end", where, end) if alpha == 1 else surface.at(repr(alpha), where, (alpha, way))
        for metric, value in zip(("loss_interpolation", "accuracy_interpolation"), values, strict=True):
            rows.append({"metric": metric, "x": alpha, "value": value})
    return _defined(rows), {"distance": _length(way), "objective_of_the_end": other.description}


def _other_end(loss: LossFrame, encoder: Encoder, to: Any) -> Objective:
    """The objective of the model at the other end, whose weights have the same names and shapes."""
    if not to:
        raise FdlabError("There is no model to interpolate to.", fix="Name one: --to SOURCE.", code=USAGE)
    end = open_model(str(to), device=str(encoder.device)) if isinstance(to, (str, Path)) else to
    here, there = ({(name, tuple(p.shape)) for name, p in m.module.named_parameters()} for m in (encoder, end))
    if here != there:
        raise FdlabError(
            "These two models have different architectures.",
            f"The weight {min(here ^ there)[0]} is not the same in both: there is no straight line between them.",
            "Interpolate between models of one design, for instance two runs of one recipe.",
            NOT_UNDERSTOOD,
        )
    return loss.objective_of(end)


def _axes(what: str, encoder: Encoder, objective: Objective, place: Place, seed: int) -> _Axes:
    if what == "trajectory":
        return _trajectory(encoder, place)
    if what == "eigenvectors":
        return _eigenvectors(objective, seed)
    first, second = (filter_direction(place.start, seed, number) for number in (0, 1))
    cosine = _dot(first, second) / (_length(first) * _length(second))
    return _Axes(first, second, {"cosine_of_axes": cosine, "moved": share_moved(place.parameters, first)})


def _eigenvectors(objective: Objective, seed: int) -> _Axes:
    result = spectrum(hessian_of(objective), k=2, probes=0, seed=seed)
    first, second = (_by_name(objective, result.eigenvector(rank)) for rank in (0, 1))
    facts = {
        "eigenvalues": [float(value) for value in result.eigenvalues],
        "note": "axes are unit vectors; the edge is where the quadratic has risen by 2",
    }
    return _Axes(first, second, facts, math.sqrt(2 * RISE / max(float(result.eigenvalues[0]), 1e-12)))


def _by_name(objective: Objective, vector: Tensor) -> dict[str, Tensor]:
    """A (P,) vector as one tensor a parameter."""
    parameters = objective.parameters
    pieces = vector.split([p.numel() for p in parameters.values()])
    return {name: piece.view_as(p).to(p) for (name, p), piece in zip(parameters.items(), pieces, strict=True)}


def _dot(first: Direction, second: Direction) -> float:
    return sum(float((first[name] * second[name]).double().sum()) for name in first)


def _length(direction: Direction) -> float:
    return math.sqrt(sum(float(step.double().square().sum()) for step in direction.values()))


# --- trajectory -----------------------------------------------------------------------------------------------------


def _snapshots(encoder: Encoder) -> list[Path]:
    """The run's snapshots in the order of their steps."""
    source = Path(str(encoder.info.source))
    folder = source if source.is_dir() else source.parent
    files = sorted((folder / "snapshots").glob("step-*.safetensors"))
    if len(files) < 3:
        raise FdlabError(
            f"{folder} holds {len(files)} snapshots of a training; a trajectory needs 3.",
            "Snapshots are the encoder's weights along the way.",
            "Train with --set save.snapshots=N (steps between them), and name the run's folder.",
            NOT_UNDERSTOOD,
        )
    return files


def _trajectory(encoder: Encoder, place: Place) -> _Axes:
    """The plane of the first two principal axes of the snapshots, seen from the end; the end is the middle."""
    files = _snapshots(encoder)
    steps = [int(path.stem.removeprefix("step-")) for path in files]
    ways = [_way(path, encoder, place) for path in files] + [{n: torch.zeros_like(w) for n, w in place.start.items()}]
    path = trajectory(np.array([[_dot(a, b) for b in ways] for a in ways]))
    first, second = (
        {
            name: sum((float(c) * way[name] for c, way in zip(axis, ways, strict=True)), torch.zeros(()))
            for name in ways[0]
        }
        for axis in path.axes
    )
    rows: list[Row] = [
        {"metric": "trajectory", "x": float(x), "y": float(y), "value": step}
        for (x, y), step in zip(path.places, steps, strict=False)
    ]
    for metric, shares in (("trajectory_explained", path.explained), ("trajectory_random_walk", path.random_walk)):
        rows += [{"metric": metric, "x": number, "value": float(share)} for number, share in enumerate(shares, start=1)]
    return _Axes(first, second, {"snapshots": len(files)}, 1.2 * float(np.abs(path.places).max()), rows)


def _way(path: Path, encoder: Encoder, place: Place) -> dict[str, Tensor]:
    """From the weights to those of a snapshot."""
    snapshot = dict(open_model(str(path), device=str(encoder.device)).module.named_parameters())
    if any(name not in snapshot or snapshot[name].shape != weight.shape for name, weight in place.start.items()):
        raise FdlabError(f"{path} is of another architecture.", fix="Use the run's own snapshots.", code=NOT_UNDERSTOOD)
    return {name: snapshot[name].detach().to(weight) - weight for name, weight in place.start.items()}


PROBE = Probe(
    measure=measure_landscape,
    version=VERSION,
    known_answers="curvature",
    settings=(
        "what",
        "objective",
        "teacher",
        "parameters",
        "directions",
        "span",
        "points",
        "adaptive",
        "to",
    ),
    models=("teacher", "to"),
    takes=("labels", "unfinished"),
    identity=identity,
    intervals_anew=intervals_anew,
)

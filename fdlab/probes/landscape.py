"""The landscape probe: the loss along lines and planes through a model's weights, the same for all models.

``what``: ``line`` (random directions), ``plane`` (two of them), ``interpolation`` (to another model), ``trajectory``
(the plane of a run's snapshots), ``eigenvectors`` (the two sharpest directions). Points are stored as they come: a
stopped measurement continues. The weights are bit-identical afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from fdlab.checkpoints.open import open_model
from fdlab.errors import NOT_UNDERSTOOD, USAGE, FdlabError, nearest
from fdlab.measures.directions import Place, filter_direction, kept, moving, share_moved
from fdlab.measures.products import Hessian, full_precision
from fdlab.measures.spectrum import spectrum
from fdlab.measures.surface import Cell, filled, near_contours, odd_grid, trajectory
from fdlab.probes.objectives import Objective, build_objective, heads_identity
from fdlab.probes.objectives.points import Points
from fdlab.probes.probe import Probe
from fdlab.records.intervals import mean_interval
from fdlab.records.store import Record
from fdlab.records.table import frame, with_bounds

if TYPE_CHECKING:
    from fdlab.encoders.encoder import Encoder

VERSION = 2
WHAT = ("line", "plane", "interpolation", "trajectory", "eigenvectors")
Direction = Mapping[str, Tensor]
RISE = 2.0  # nats that the quadratic rises along the sharpest direction at the edge of a plane of eigenvectors


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
    parameters: Literal["encoder", "all"] = "encoder",
    directions: int = 10,
    span: float = 1.0,
    points: int = 21,
    adaptive: bool = False,
    to: Encoder | str = "",
) -> Record:
    """Loss and accuracy at places around one model's weights, on fixed images.

    Do not read convexity, basins or flatness in general from a picture: it is a cut along few of very many
    directions, and a rescaling of the weights that keeps the function can change it.

    Args:
        encoder: the model, in eval mode.
        images: (n, 3, H, W) in [0, 1] at the model's size, or what gives slices of it.
        labels: (n,) for objectives with labels, or what gives slices of it.
        batch: images in one forward pass: memory, not the result.
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
        without a value. Arrays: ``losses`` (places, n) of each image, ``x``, ``y``.

    Raises:
        FdlabError: what ``build_objective`` raises; an unknown ``what``; an even grid; models that do not fit each
            other; a run without snapshots.
    """
    if what not in WHAT:
        raise FdlabError(
            f"A landscape has no form '{what}'.{nearest(what, WHAT)}", "", f"Forms: {', '.join(WHAT)}.", USAGE
        )
    if what != "interpolation":
        odd_grid(span, points)
    pixels = images[0 : len(images)]
    answers = None if labels is None else labels[0 : len(labels)]
    settings: dict[str, Any] = {"teacher": teacher or None, "micro_batch": batch, "seed": seed}
    which = "all" if what == "interpolation" else parameters
    with ExitStack() as stack:
        stack.enter_context(kept(encoder.module))  # before the objective, which sets eval mode
        made = build_objective(objective, encoder, pixels, answers, parameters=which, **settings)  # type: ignore[arg-type]
        place = stack.enter_context(moving(made.parameters))
        stack.enter_context(full_precision(encoder.device))
        look = Points(made, place, unfinished, progress)
        if what == "line":
            rows, facts = _line(look, seed, directions, span, points)
        elif what == "interpolation":
            other = _other(encoder, to, objective, pixels, answers, settings)
            rows, facts = _interpolation(look, other, points)
        else:
            first, second, places, facts = _axes(what, encoder, made, place, seed)
            rows = _plane(look, what, first, second, span * facts.pop("reach", 1.0), points, adaptive, places)
    if what != "line":
        _bound(rows, f"loss_{what}", look.arrays(), seed)
    same = {"model": label, "family": encoder.info.family, "seed": seed, "probe": "landscape"}
    table = frame([{**same, "n": made.images, "objective": made.description, **row} for row in rows])
    record = Record(table, look.arrays(), _manifest(encoder, made, label, seed, what) | facts)
    record.manifest["not_finite"] = look.not_finite
    return record


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
    found: dict[str, Any] = heads_identity(encoder)
    if settings.get("what") == "trajectory":
        found["snapshots"] = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in _snapshots(encoder)]
    return found


def _manifest(encoder: Encoder, made: Objective, label: str, seed: int, what: str) -> dict[str, Any]:
    info = encoder.info
    return {
        "probe": "landscape",
        "version": VERSION,
        "label": label,
        "weights": info.sha256,
        "source": str(info.source),
        "family": info.family,
        "options": list(info.options),
        "assumed": list(info.assumed),
        "images": made.images,
        "seed": seed,
        "part": what,
        "objective": made.description,
        **made.facts,
    }


# --- forms ------------------------------------------------------------------------------------------------------------

Rows = list[dict[str, Any]]


def _line(look: Points, seed: int, directions: int, span: float, points: int) -> tuple[Rows, dict[str, Any]]:
    grid = odd_grid(span, points)
    look.plan(directions * (points - 1) + 1)
    losses, accuracies = np.empty((directions, points)), np.empty((directions, points))
    middle = look.at("0", (0.0, 0.0))
    for number in range(directions):
        direction = filter_direction(look.place.start, seed, number)
        for place, amount in enumerate(grid):
            here = (float(amount), float(number))
            found = middle if amount == 0 else look.at(f"{number} {amount!r}", here, (float(amount), direction))
            losses[number, place], accuracies[number, place] = found
    rows = []
    for metric, values in (("loss_line", losses), ("accuracy_line", accuracies)):
        low, mid, high = np.quantile(values, [0.1, 0.5, 0.9], axis=0)  # NaN where any direction is not finite
        rows += [
            {"metric": metric, "x": x, "value": v, "low": a, "high": b}
            for x, v, a, b in zip(grid, mid, low, high, strict=True)
        ]
    moved = share_moved(look.place.parameters, filter_direction(look.place.start, seed, 0))
    return _known_rows(rows), {"directions": directions, "span": span, "moved": moved}


def _plane(
    look: Points, what: str, first: Direction, second: Direction, span: float, points: int, adaptive: bool, path: Rows
) -> Rows:
    """Z[row = second direction][column = first]; the weights in the middle cell."""
    grid = odd_grid(span, points)
    look.plan(points * points)
    accuracy: dict[Cell, float] = {}

    def loss(cell: Cell) -> float:
        across, up = float(grid[cell[0]]), float(grid[cell[1]])
        found, accuracy[cell] = look.at(f"{across!r} {up!r}", (across, up), (across, first), (up, second))
        return found

    if adaptive:
        known = near_contours(points, loss)
        surface = filled(known, points)
    else:
        known = {(column, row): loss((column, row)) for row in range(points) for column in range(points)}
        surface = None
    rows = []
    for row in range(points):
        for column in range(points):
            where = {"x": grid[column], "y": grid[row]}
            if (column, row) in known:
                rows.append({"metric": f"loss_{what}", "value": known[column, row], **where})
                rows.append({"metric": f"accuracy_{what}", "value": accuracy[column, row], **where})
            elif surface is not None:
                rows.append({"metric": f"loss_{what}", "value": surface[row, column], **where, "n": None})
    return _known_rows(rows) + path


def _bound(rows: Rows, metric: str, arrays: Mapping[str, np.ndarray], seed: int) -> None:
    """95 % intervals over images at every place that was evaluated and is finite."""
    _, low, high, _ = mean_interval(arrays["losses"].T, seed)
    where = {_place(x, y): number for number, (x, y) in enumerate(zip(arrays["x"], arrays["y"], strict=True))}
    for row in rows:
        number = where.get(_place(row["x"], row.get("y", 0.0))) if row["metric"] == metric else None
        if number is not None and math.isfinite(row["value"]):
            row |= {"low": min(low[number], row["value"]), "high": max(high[number], row["value"])}


def _place(x: float, y: float) -> tuple[str, str]:
    """A place as a written table has it; a line has no y."""
    return f"{x:.10g}", f"{0.0 if math.isnan(y) else y:.10g}"


def _known_rows(rows: Rows) -> Rows:
    """Without the accuracies of objectives that know no right answer; losses that are not finite stay, marked."""
    lost = {m for m in {row["metric"] for row in rows} if m.startswith("accuracy")}
    lost = {m for m in lost if all(math.isnan(row["value"]) for row in rows if row["metric"] == m)}
    return [row for row in rows if row["metric"] not in lost]


def _interpolation(look: Points, other: Objective, points: int) -> tuple[Rows, dict[str, Any]]:
    """Both ends are the two models exactly."""
    if points < 2:
        raise FdlabError(f"{points} points do not join two models.", "", "Give --points 2 or more.", USAGE)
    end = {name: weight.detach() for name, weight in other.parameters.items()}
    way = {name: end[name] - weight for name, weight in look.place.start.items()}
    look.plan(points)
    rows = []
    for alpha in np.linspace(0, 1, points):
        here = (float(alpha), 0.0)
        found = look.of("end", here, end) if alpha == 1 else look.at(repr(float(alpha)), here, (float(alpha), way))
        for metric, value in zip(("loss_interpolation", "accuracy_interpolation"), found, strict=True):
            rows.append({"metric": metric, "x": float(alpha), "value": value})
    length = math.sqrt(sum(float(step.double().square().sum()) for step in way.values()))
    return _known_rows(rows), {"distance": length, "objective_of_the_end": other.description}


def _other(
    encoder: Encoder, to: Any, objective: str, pixels: Tensor, answers: Tensor | None, settings: dict[str, Any]
) -> Objective:
    """The objective of the model at the other end, its weights of the same names and shapes."""
    if not to:
        raise FdlabError("There is no model to interpolate to.", "", "Name one: --to SOURCE.", USAGE)
    end = open_model(str(to), device=str(encoder.device)) if isinstance(to, (str, Path)) else to
    own, its = ({name: tuple(p.shape) for name, p in model.module.named_parameters()} for model in (encoder, end))
    if own != its:
        wrong = next(iter(set(own.items()) ^ set(its.items())))[0]
        raise FdlabError(
            "These two models have different architectures.",
            f"The weight {wrong} is not the same in both: there is no straight line between them.",
            "Interpolate between models of one design, for instance two runs of one recipe.",
            NOT_UNDERSTOOD,
        )
    return build_objective(objective, end, pixels, answers, parameters="all", **settings)


def _axes(
    what: str, encoder: Encoder, made: Objective, place: Place, seed: int
) -> tuple[Direction, Direction, Rows, dict[str, Any]]:
    """Two directions, rows of places to mark, and facts; ``reach``: what a span of 1 stands for."""
    if what == "trajectory":
        return _trajectory(encoder, place)
    if what == "eigenvectors":
        return _eigenvectors(made, seed)
    first, second = (filter_direction(place.start, seed, number) for number in (0, 1))
    dot = sum(float((first[name] * second[name]).double().sum()) for name in first)
    lengths = [sum(float(step.double().square().sum()) for step in axis.values()) ** 0.5 for axis in (first, second)]
    return (
        first,
        second,
        [],
        {"cosine_of_axes": dot / math.prod(lengths), "moved": share_moved(place.parameters, first)},
    )


def _eigenvectors(made: Objective, seed: int) -> tuple[Direction, Direction, Rows, dict[str, Any]]:
    sizes = [len(inputs) for inputs, _ in made.batches]
    matrix = Hessian(made.loss, list(made.parameters.values()), made.batches, sizes)
    found = spectrum(matrix, k=2, probes=0, seed=seed)
    first, second = (_named(made, found.eigenvector(rank)) for rank in (0, 1))
    top = float(found.eigenvalues[0])
    facts = {"eigenvalues": [float(v) for v in found.eigenvalues], "reach": math.sqrt(2 * RISE / max(top, 1e-12))}
    return first, second, [], {**facts, "note": "axes are unit vectors; the edge is where the quadratic has risen by 2"}


def _named(made: Objective, vector: Tensor) -> dict[str, Tensor]:
    pieces = vector.split([p.numel() for p in made.parameters.values()])
    return {name: piece.view_as(p).to(p) for (name, p), piece in zip(made.parameters.items(), pieces, strict=True)}


# --- trajectory -----------------------------------------------------------------------------------------------------


def _snapshots(encoder: Encoder) -> list[Path]:
    """The run's snapshots in the order of their steps."""
    source = Path(str(encoder.info.source))
    folder = source if source.is_dir() else source.parent
    found = sorted((folder / "snapshots").glob("step-*.safetensors"))
    if len(found) < 3:
        raise FdlabError(
            f"{folder} holds {len(found)} snapshots of a training; a trajectory needs 3.",
            "Snapshots are the encoder's weights along the way.",
            "Train with --set save.snapshots=N (steps between them), and name the run's folder.",
            NOT_UNDERSTOOD,
        )
    return found


def _trajectory(encoder: Encoder, place: Place) -> tuple[Direction, Direction, Rows, dict[str, Any]]:
    """The plane of the first two principal axes of the snapshots, seen from the end; the end is the middle."""
    files = _snapshots(encoder)
    steps = [int(path.stem.removeprefix("step-")) for path in files]
    ways = [_way(path, encoder, place) for path in files] + [{n: torch.zeros_like(w) for n, w in place.start.items()}]
    gram = np.array([[_dot(a, b) for b in ways] for a in ways])
    found = trajectory(gram)
    axes = [
        {n: sum(float(c) * way[n] for c, way in zip(axis, ways, strict=True)) for n in place.start}
        for axis in found.axes
    ]
    rows = [
        {"metric": "trajectory", "x": float(x), "y": float(y), "value": step}
        for (x, y), step in zip(found.places, steps, strict=False)
    ]
    for metric, shares in (("trajectory_explained", found.explained), ("trajectory_random_walk", found.random_walk)):
        rows += [{"metric": metric, "x": number, "value": float(share)} for number, share in enumerate(shares, start=1)]
    facts = {
        "snapshots": len(files),
        "reach": 1.2 * float(np.abs(found.places).max()),
    }
    return axes[0], axes[1], rows, facts  # type: ignore[return-value]


def _way(path: Path, encoder: Encoder, place: Place) -> dict[str, Tensor]:
    own = dict(open_model(str(path), device=str(encoder.device)).module.named_parameters())
    if any(name not in own or own[name].shape != weight.shape for name, weight in place.start.items()):
        raise FdlabError(f"{path} is of another architecture.", "", "Use the run's own snapshots.", NOT_UNDERSTOOD)
    return {name: own[name].detach().to(weight) - weight for name, weight in place.start.items()}


def _dot(first: Direction, second: Direction) -> float:
    return sum(float((first[name] * second[name]).double().sum()) for name in first)


PROBE = Probe(
    measure=measure_landscape,
    version=VERSION,
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

"""The sharpness probe: how much a model's loss rises around its weights, and which of these numbers a rescaling moves.

Four parts, each a question of its own in the store: ``average`` and ``worst`` (plain and element-wise adaptive),
``noise`` (the largest noise the loss bears) and ``control`` (all of them, and the largest eigenvalue, on copies of the
model with other weights and the same function).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from fdlab.encoders.reparametrise import balanced
from fdlab.encoders.stretch import REPARAMETRISATIONS, reparametrised
from fdlab.errors import CHECK_NOT_MET, USAGE, FdlabError, nearest
from fdlab.measures.directions import filter_direction, moving
from fdlab.measures.products import Hessian
from fdlab.measures.sharpness import Steps, crossing, losses_around, noise, noise_curve, worst_case
from fdlab.measures.spectrum import spectrum
from fdlab.probes.objectives import Objective, build_objective, heads_identity
from fdlab.probes.probe import Probe
from fdlab.progress import Progress
from fdlab.records.estimate import Estimate
from fdlab.records.intervals import mean_interval, two_level_interval
from fdlab.records.store import Record
from fdlab.records.table import frame, with_bounds

if TYPE_CHECKING:
    from fdlab.encoders.encoder import Encoder

VERSION = 1
PARTS = ("average", "worst", "noise", "control")
RISE = 0.1  # nats


def measure_sharpness(
    encoder: Encoder,
    images: Any,
    *,
    label: str,
    labels: Any = None,
    seed: int = 0,
    batch: int = 32,
    progress: Any = None,
    part: str = "average",
    objective: str = "linear-probe",
    teacher: Encoder | str = "",
    parameters: Literal["encoder", "all"] = "encoder",
    directions: int = 20,
    steps: int = 20,
    radius: float = 0.05,
    radius_adaptive: float = 0.2,
    radius_worst: float = 0.25,
    radius_adaptive_worst: float = 0.5,
) -> Record:
    """How much the loss of one model rises around its weights, on fixed images.

    Do not compare the plain numbers of two models without the control: they move under changes of the weights that
    leave the function alone. Flat is no synonym of good: see the lesson on sharpness.

    Args:
        encoder: the model, in eval mode; its weights are bit-identical afterwards.
        images: (n, 3, H, W) in [0, 1] at the model's size, or what gives slices of it.
        labels: (n,) for objectives with labels, or what gives slices of it.
        batch: images in one forward pass: memory, not the result.
        part: ``average``, ``worst``, ``noise`` or ``control``.
        objective: ``linear-probe``, ``classifier``, ``distill`` (with ``teacher``) or ``mim``.
        parameters: the encoder's, or the head's too.
        directions: random directions of ``average`` and ``noise``; the same ones for all models, by parameter name.
        steps: gradient steps of the ascents of ``worst``.
        radius, radius_adaptive: standard deviation of the noise of ``average``, absolute and in shares of each weight.
        radius_worst, radius_adaptive_worst: length of the largest step of ``worst``.

    Returns:
        A record with a row a number; intervals over directions and images (``worst``: images alone, at the place
        found). Arrays: per-image rises (n,) of each metric, ``noise_losses`` (directions, amplitudes, n).

    Raises:
        FdlabError: what ``build_objective`` raises, an unknown part, a map that changes the function (code 5).
    """
    if part not in PARTS:
        raise FdlabError(
            f"Sharpness has no part '{part}'.{nearest(part, PARTS)}", "", f"Parts: {', '.join(PARTS)}.", USAGE
        )
    pixels = images[0 : len(images)]
    answers = None if labels is None else labels[0 : len(labels)]
    build = partial(
        _built, pixels=pixels, answers=answers, objective=objective, teacher=teacher, batch=batch, parameters=parameters
    )
    look = _Look(seed, directions, steps, (radius, radius_adaptive), (radius_worst, radius_adaptive_worst), progress)
    made = build(encoder, seed=seed)
    if part == "control":
        look = _Look(seed, min(directions, 5), min(steps, 8), look.radii, look.radii_worst, progress)
        rows, arrays = _control(look, encoder, made, partial(build, seed=seed), pixels[:batch])
    else:
        rows, arrays = {"average": _average, "worst": _worst, "noise": _noise}[part](look, made)
    same = {"model": label, "family": encoder.info.family, "seed": seed, "probe": "sharpness", "n": made.images}
    table = frame([{**same, "objective": made.description, **row} for row in rows])
    return Record(table, arrays, _manifest(encoder, made, look, label, part))


def intervals_anew(record: Record, seed: int) -> Record:
    """The record with the intervals of worst cases made again from its arrays; the other ones are as they were."""
    rows = [
        {"metric": name, **mean_interval(rise, seed).row}
        for name, rise in record.arrays.items()
        if record.manifest["part"] == "worst"
    ]
    return replace(record, table=with_bounds(record.table, rows))


def identity(encoder: Encoder, _settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the numbers depend on beside the encoder's weights: the heads that its run folder keeps."""
    return heads_identity(encoder)


def _built(
    encoder: Encoder, *, pixels: Tensor, answers: Tensor | None, objective: str, teacher: Any, batch: int,
    parameters: Any, seed: int,
) -> Objective:  # fmt: skip
    return build_objective(
        objective, encoder, pixels, answers,
        teacher=teacher or None, micro_batch=batch, seed=seed, parameters=parameters,
    )  # fmt: skip


def _manifest(encoder: Encoder, made: Objective, look: _Look, label: str, part: str) -> dict[str, Any]:
    info = encoder.info
    return {
        "probe": "sharpness",
        "version": VERSION,
        "label": label,
        "weights": info.sha256,
        "source": str(info.source),
        "family": info.family,
        "options": list(info.options),
        "assumed": list(info.assumed),
        "images": made.images,
        "seed": look.seed,
        "part": part,
        "objective": made.description,
        "directions": look.directions,
        "steps": look.steps,
        "radii": list(look.radii),
        "radii_worst": list(look.radii_worst),
        "not_finite": look.not_finite,
        **made.facts,
    }


@dataclass
class _Look:
    """How closely one looks: directions, ascent steps, radii (plain, adaptive); counts what is done."""

    seed: int
    directions: int
    steps: int
    radii: tuple[float, float]
    radii_worst: tuple[float, float]
    progress: Any = None
    not_finite: int = field(default=0)

    def plan(self, passes: int) -> None:
        """Progress is counted in passes over all images."""
        if isinstance(self.progress, Progress):
            self.progress.total = passes

    def done(self, passes: int = 1) -> None:
        if self.progress is not None:
            self.progress.advance(passes)


Measured = tuple[list[dict[str, Any]], dict[str, np.ndarray]]


def _losses(made: Objective) -> Tensor:
    with torch.no_grad():
        return torch.cat([made.losses(batch) for batch in made.batches])


def _gradient(made: Objective) -> Steps:
    """The gradient of the mean loss, micro-batches by their share of the images."""
    total = {name: torch.zeros_like(weight) for name, weight in made.parameters.items()}
    with torch.enable_grad():
        for batch in made.batches:
            parts = torch.autograd.grad(made.loss(batch), list(made.parameters.values()), allow_unused=True)
            for name, part in zip(total, parts, strict=True):
                if part is not None:
                    total[name].add_(part.detach(), alpha=len(batch[0]) / made.images)
    return total


def _row(metric: str, found: Estimate, **more: Any) -> dict[str, Any]:
    return {"metric": metric, "value": found.value, "low": found.low, "high": found.high, **more}


def _first(means: np.ndarray) -> np.ndarray:
    return np.asarray(means)


def _average(look: _Look, made: Objective) -> Measured:
    rows, arrays = [], {}
    look.plan(2 * look.directions)
    for metric, rise in _average_rises(look, made).items():
        look.not_finite += int((~np.isfinite(rise)).any(1).sum())
        kept = rise[np.isfinite(rise).all(1)]
        if not len(kept):
            rows.append({"metric": metric, "value": float("nan")})
            continue
        rows.append(_row(metric, two_level_interval(kept, _first, look.seed)))
        arrays[metric] = kept.mean(0)
    return rows, arrays


def _average_rises(look: _Look, made: Objective) -> dict[str, np.ndarray]:
    """metric -> (directions, n): the same draws for every model, by parameter name."""
    found = {}
    with moving(made.parameters) as place:
        base = _losses(made).double().cpu()
        for metric, radius, adaptive in (
            ("sharpness_average", look.radii[0], False),
            ("sharpness_adaptive", look.radii[1], True),
        ):
            step = partial(noise, place.start, look.seed, adaptive=adaptive)
            moved = losses_around(place, partial(_losses, made), step, look.directions, radius, look.done)
            found[metric] = (moved - base).numpy()
    return found


def _worst(look: _Look, made: Objective) -> Measured:
    rows, arrays = [], {}
    look.plan(2 * (look.steps + 1))
    for metric, rise in _worst_rises(look, made).items():
        rows.append(_row(metric, mean_interval(rise, look.seed)))
        arrays[metric] = rise
    return rows, arrays


def _worst_rises(look: _Look, made: Objective) -> dict[str, np.ndarray]:
    """metric -> (n,) rises at the worst place found."""
    found = {}
    with moving(made.parameters) as place:
        base = _losses(made).double().cpu()
        for metric, radius, adaptive in (
            ("sharpness_worst", look.radii_worst[0], False),
            ("sharpness_adaptive_worst", look.radii_worst[1], True),
        ):
            worst = worst_case(
                place, partial(_losses, made), partial(_gradient, made), radius,
                adaptive=adaptive, steps=look.steps, seed=look.seed, done=look.done,
            )  # fmt: skip
            found[metric] = (worst.losses - base).numpy()
    return found


def _noise(look: _Look, made: Objective) -> Measured:
    look.plan(9 * look.directions)
    curve = _noise_curve(look, made)
    rise = curve.rise()
    capped = np.where(np.isfinite(rise), rise, 1e6)  # a loss that is not finite has risen beyond any level
    look.not_finite = int((~np.isfinite(rise)).sum())
    rows = [_row("noise_to_rise", two_level_interval(capped, partial(crossing, curve.amounts, level=RISE), look.seed))]
    for place, amount in enumerate(curve.amounts):
        here = rise[..., place]
        if np.isfinite(here).all():
            rows.append(_row("noise_curve", two_level_interval(here, _first, look.seed), x=float(amount)))
        else:
            rows.append({"metric": "noise_curve", "value": float("nan"), "x": float(amount)})
    return rows, {"noise_losses": curve.losses.astype(np.float32), "noise_amounts": curve.amounts, "loss": curve.base}


def _noise_curve(look: _Look, made: Objective) -> Any:
    with moving(made.parameters) as place:
        step = partial(filter_direction, place.start, look.seed)
        return noise_curve(place, partial(_losses, made), step, look.directions, level=RISE, done=look.done)


# --- control ----------------------------------------------------------------------------------------------------


def _control(
    look: _Look, encoder: Encoder, made: Objective, build: Callable[[Encoder], Objective], sample: Tensor
) -> Measured:
    """Every measure of the model and of copies with other weights and the same function, as ratios."""
    each = 2 * look.directions + 2 * (look.steps + 1) + 9 * look.directions
    look.plan((len(REPARAMETRISATIONS) + 1) * each)
    untouched = _all_measures(look, encoder, made, build)
    rows: list[dict[str, Any]] = []
    for number, name in enumerate(REPARAMETRISATIONS, start=1):
        copied = reparametrised(encoder, name, look.seed)
        change = _change(encoder, copied, sample)
        if change > 1e-3:
            raise FdlabError(
                f"The map {name} changes this model ({encoder.info.family}).",
                f"Its tokens differ by {change:.1e} of the largest: its blocks are built differently.",
                "Leave the control out (--part average --part worst --part noise).",
                CHECK_NOT_MET,
            )
        rows.append({"metric": "moved_function", "value": change, "x": number})
        moved = _all_measures(look, copied, build(copied), build)
        for metric, value in moved.items():
            ratio = value / untouched[metric] if untouched[metric] else float("nan")
            rows.append({"metric": f"moved_{metric}", "value": ratio, "x": number})
    return rows, {f"untouched_{metric}": np.array(value) for metric, value in untouched.items()}


def _change(encoder: Encoder, other: Encoder, sample: Tensor) -> float:
    """The largest change of a token in shares of the largest token."""
    with torch.no_grad():
        first, second = (model.tokens(model.normalise(sample)) for model in (encoder, other))
    return float((first - second).abs().max() / first.abs().max().clamp_min(1e-12))


def _all_measures(
    look: _Look, encoder: Encoder, made: Objective, build: Callable[[Encoder], Objective]
) -> dict[str, float]:
    curve = _noise_curve(look, made)
    level = crossing(curve.amounts, np.nanmean(curve.rise(), (0, 1))[None], RISE)
    rises = {**_average_rises(look, made), **_worst_rises(look, made)}
    return {
        "eigenvalue_1": _top(look, made),
        "eigenvalue_1_balanced": _top(look, build(balanced(encoder)[0])),
        **{metric: float(rise.mean()) for metric, rise in rises.items()},
        "noise_to_rise": float(level[0]),
    }


def _top(look: _Look, made: Objective) -> float:
    sizes = [len(inputs) for inputs, _ in made.batches]
    matrix = Hessian(made.loss, list(made.parameters.values()), made.batches, sizes)
    return float(spectrum(matrix, k=1, probes=0, seed=look.seed).eigenvalues[0])


PROBE = Probe(
    measure=measure_sharpness,
    version=VERSION,
    settings=(
        "part",
        "objective",
        "teacher",
        "parameters",
        "directions",
        "steps",
        "radius",
        "radius_adaptive",
        "radius_worst",
        "radius_adaptive_worst",
    ),
    models=("teacher",),
    takes=("labels",),
    identity=identity,
    intervals_anew=intervals_anew,
)

"""The sharpness probe: how much a model's loss rises around its weights, and which of these numbers a rescaling moves.

Four parts, each a question of its own in the store: ``average`` and ``worst`` (plain and element-wise adaptive),
``noise`` (the largest noise the loss bears) and ``control`` (all of them, and the largest eigenvalue, on copies of the
model with other weights and the same function).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fdlab.encoders.reparametrise import balance_refusal, balanced
from fdlab.encoders.stretch import REPARAMETRISATIONS, reparametrised
from fdlab.errors import CHECK_NOT_MET, FdlabError
from fdlab.measures.directions import filter_direction, moving
from fdlab.measures.sharpness import NoiseCurve, Steps, crossing, losses_around, noise, noise_curve, worst_case
from fdlab.measures.spectrum import spectrum
from fdlab.probes.loss_frame import (
    Arrays,
    LossFrame,
    Parameters,
    Row,
    change_of_tokens,
    hessian_of,
    identity,
    losses_of,
)
from fdlab.probes.objectives import Objective
from fdlab.probes.probe import Probe, check_name, untouched
from fdlab.records.intervals import mean_interval, two_level_interval
from fdlab.records.store import Record
from fdlab.records.table import with_bounds

if TYPE_CHECKING:
    from fdlab.encoders.encoder import Encoder

VERSION = 2
PARTS = ("average", "worst", "noise", "control")
RISE = 0.1  # nats


@untouched
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
    parameters: Parameters = "encoder",
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
        images, labels, batch, objective, teacher, parameters: as in ``LossFrame``.
        part: ``average``, ``worst``, ``noise`` or ``control``.
        directions: random directions of ``average`` and ``noise``; the same ones for all models, by parameter name.
        steps: gradient steps of the ascents of ``worst``.
        radius, radius_adaptive: standard deviation of the noise of ``average``, absolute and in shares of each weight.
        radius_worst, radius_adaptive_worst: length of the largest step of ``worst``.

    Returns:
        A record with a row a number; intervals over directions and images (``worst``: images alone, at the worst
        point). Arrays: per-image rises (n,) of each metric, ``noise_losses`` (directions, amplitudes, n).

    Raises:
        FdlabError: what ``build_objective`` raises, an unknown part, a map that changes the function (code 5).
    """
    check_name("Sharpness has no part", part, PARTS, "Parts")
    loss = LossFrame(
        "sharpness", VERSION, images, labels, label, seed, batch, progress, objective, teacher, parameters
    )  # fmt: skip
    if part == "control":  # six times all measures: with fewer directions and steps each
        directions, steps = min(directions, 5), min(steps, 8)
    rises = _Rises(loss, directions, steps, (radius, radius_adaptive), (radius_worst, radius_adaptive_worst))
    built = loss.objective_of(encoder)
    if part == "control":
        rows, arrays = _control(rises, encoder, built)
    else:
        rows, arrays = {"average": _average, "worst": _worst, "noise": _noise}[part](rises, built)
    facts = {
        "directions": directions,
        "steps": steps,
        "radii": list(rises.radii),
        "radii_worst": list(rises.radii_worst),
        "not_finite": rises.not_finite,
    }
    return loss.record(encoder, built, part, rows, arrays, facts)


def intervals_anew(record: Record, seed: int) -> Record:
    """The record with the intervals of worst cases made again from its arrays; the other ones are as they were."""
    rows = [
        {"metric": name, **mean_interval(rise, seed).row}
        for name, rise in record.arrays.items()
        if record.manifest["part"] == "worst"
    ]
    return replace(record, table=with_bounds(record.table, rows))


# --- rises of the loss ------------------------------------------------------------------------------------------


@dataclass
class _Rises:
    """How the rises of a loss are measured: directions, ascent steps, radii (plain, adaptive); and what was lost."""

    loss: LossFrame
    directions: int
    steps: int
    radii: tuple[float, float]
    radii_worst: tuple[float, float]
    not_finite: int = 0

    def average(self, objective: Objective) -> dict[str, np.ndarray]:
        """metric -> (directions, n) rises: the same draws for every model, by parameter name."""
        rises = {}
        with moving(objective.parameters) as place:
            base = losses_of(objective).double().cpu()
            for metric, radius, adaptive in zip(
                ("sharpness_average", "sharpness_adaptive"), self.radii, (False, True), strict=True
            ):
                step = partial(noise, place.start, self.loss.seed, adaptive=adaptive)
                losses = losses_around(
                    place, partial(losses_of, objective), step, self.directions, radius, self.loss.advance
                )
                rises[metric] = (losses - base).numpy()
        return rises

    def worst(self, objective: Objective) -> dict[str, np.ndarray]:
        """metric -> (n,) rises at the worst point that the ascent meets."""
        rises = {}
        with moving(objective.parameters) as place:
            base = losses_of(objective).double().cpu()
            for metric, radius, adaptive in zip(
                ("sharpness_worst", "sharpness_adaptive_worst"), self.radii_worst, (False, True), strict=True
            ):
                worst = worst_case(
                    place, partial(losses_of, objective), partial(_gradient, objective), radius,
                    adaptive=adaptive, steps=self.steps, seed=self.loss.seed, done=self.loss.advance,
                )  # fmt: skip
                rises[metric] = (worst.losses - base).numpy()
        return rises

    def noise(self, objective: Objective) -> NoiseCurve:
        """Losses at noise of growing amplitude along filter-normalised directions."""
        with moving(objective.parameters) as place:
            step = partial(filter_direction, place.start, self.loss.seed)
            losses = partial(losses_of, objective)
            return noise_curve(place, losses, step, self.directions, level=RISE, done=self.loss.advance)


def _gradient(objective: Objective) -> Steps:
    """The gradient of the mean loss, micro-batches by their share of the images."""
    total = {name: torch.zeros_like(weight) for name, weight in objective.parameters.items()}
    with torch.enable_grad():
        for batch in objective.batches:
            parts = torch.autograd.grad(objective.loss(batch), list(objective.parameters.values()), allow_unused=True)
            for name, part in zip(total, parts, strict=True):
                if part is not None:
                    total[name].add_(part.detach(), alpha=len(batch[0]) / objective.images)
    return total


# --- parts --------------------------------------------------------------------------------------------------------

Measured = tuple[list[Row], Arrays]


def _average(rises: _Rises, objective: Objective) -> Measured:
    rows: list[Row] = []
    arrays = {}
    rises.loss.plan(2 * rises.directions)
    for metric, rise in rises.average(objective).items():
        finite = np.isfinite(rise).all(1)
        rises.not_finite += int((~finite).sum())
        if finite.any():
            rows.append({"metric": metric, **two_level_interval(rise[finite], np.asarray, rises.loss.seed).row})
            arrays[metric] = rise[finite].mean(0)
        else:
            rows.append({"metric": metric, "value": float("nan")})
    return rows, arrays


def _worst(rises: _Rises, objective: Objective) -> Measured:
    rises.loss.plan(2 * (rises.steps + 1))
    arrays = rises.worst(objective)
    return [{"metric": metric, **mean_interval(rise, rises.loss.seed).row} for metric, rise in arrays.items()], arrays


def _noise(rises: _Rises, objective: Objective) -> Measured:
    rises.loss.plan(9 * rises.directions)
    curve, seed = rises.noise(objective), rises.loss.seed
    rise = curve.rise()
    capped = np.where(np.isfinite(rise), rise, 1e6)  # a loss that is not finite has risen beyond any level
    rises.not_finite = int((~np.isfinite(rise)).sum())
    level = two_level_interval(capped, partial(crossing, curve.amounts, level=RISE), seed)
    rows: list[Row] = [{"metric": "noise_to_rise", **level.row}]
    for number, amount in enumerate(curve.amounts):
        here = rise[..., number]
        finite = two_level_interval(here, np.asarray, seed).row if np.isfinite(here).all() else {"value": float("nan")}
        rows.append({"metric": "noise_curve", **finite, "x": float(amount)})
    return rows, {"noise_losses": curve.losses.astype(np.float32), "noise_amounts": curve.amounts, "loss": curve.base}


# --- control ------------------------------------------------------------------------------------------------------


def _control(rises: _Rises, encoder: Encoder, objective: Objective) -> Measured:
    """Every measure of the model and of copies with other weights and the same function, as ratios."""
    loss = rises.loss
    one_model = 2 * rises.directions + 2 * (rises.steps + 1) + 9 * rises.directions
    loss.plan((len(REPARAMETRISATIONS) + 1) * one_model)
    untouched = _all_measures(rises, encoder, objective)
    rows: list[Row] = []
    for number, name in enumerate(REPARAMETRISATIONS, start=1):
        copied = reparametrised(encoder, name, loss.seed)
        change = change_of_tokens(encoder, copied, loss.images[: loss.batch])
        if change > 1e-3:
            raise FdlabError(
                f"The map {name} changes this model ({encoder.info.family}).",
                f"Its tokens differ by {change:.1e} of the largest: its blocks are built differently.",
                "Leave the control out (--part average --part worst --part noise).",
                CHECK_NOT_MET,
            )
        rows.append({"metric": "moved_function", "value": change, "x": number})
        for metric, value in _all_measures(rises, copied, loss.objective_of(copied)).items():
            ratio = value / untouched[metric] if untouched[metric] else float("nan")
            rows.append({"metric": f"moved_{metric}", "value": ratio, "x": number})
    return rows, {f"untouched_{metric}": np.array(value) for metric, value in untouched.items()}


def _all_measures(rises: _Rises, encoder: Encoder, objective: Objective) -> dict[str, float]:
    curve = rises.noise(objective)
    level = crossing(curve.amounts, np.nanmean(curve.rise(), (0, 1))[None], RISE)
    by_metric = {**rises.average(objective), **rises.worst(objective)}
    return {
        "eigenvalue_1": _top_eigenvalue(rises, objective),
        "eigenvalue_1_balanced": _top_eigenvalue(rises, rises.loss.objective_of(balanced(encoder)[0])),
        **{metric: float(rise.mean()) for metric, rise in by_metric.items()},
        "noise_to_rise": float(level[0]),
    }


def _top_eigenvalue(rises: _Rises, objective: Objective) -> float:
    return float(spectrum(hessian_of(objective), k=1, probes=0, seed=rises.loss.seed).eigenvalues[0])


PROBE = Probe(
    measure=measure_sharpness,
    version=VERSION,
    known_answers="curvature",
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
    refusal=lambda encoder, settings: balance_refusal(encoder) if settings.get("part") == "control" else None,
)

"""The Hessian probe: how sharply a model's loss is curved, as eigenvalues, trace and density.

Four parts, each a question of its own in the store: ``whole`` (top, lowest, trace, density), ``balanced`` (the
same after scales that do not change the function were balanced out), ``blocks`` (the diagonal block of each
transformer block) and ``minibatches`` (Park & Kim's spectrum of minibatch maxima).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from fdlab.encoders.encoder import blocks_of
from fdlab.encoders.reparametrise import balanced
from fdlab.errors import CHECK_NOT_MET, USAGE, FdlabError, nearest
from fdlab.measures.products import Curvature, GaussNewton, Hessian
from fdlab.measures.spectrum import Spectrum, check_repeatable, spectrum
from fdlab.probes.objectives import Objective, build_objective, heads_identity
from fdlab.probes.probe import Probe
from fdlab.progress import Progress
from fdlab.records.estimate import Estimate
from fdlab.records.intervals import mean_interval
from fdlab.records.store import Record
from fdlab.records.table import frame, with_bounds

if TYPE_CHECKING:
    from fdlab.encoders.encoder import Encoder

VERSION = 1
PARTS = ("whole", "balanced", "blocks", "minibatches")
TOP_OF_BATCH = 5  # Park & Kim's number of eigenvalues a minibatch
Matrices = Literal["hessian", "ggn"]


def measure_hessian(
    encoder: Encoder,
    images: Any,
    *,
    label: str,
    labels: Any = None,
    seed: int = 0,
    batch: int = 16,
    progress: Any = None,
    part: str = "whole",
    objective: str = "linear-probe",
    teacher: Encoder | str = "",
    matrix: Matrices = "hessian",
    parameters: Literal["encoder", "all"] = "encoder",
    k: int = 5,
    probes: int = 4,
    trace_probes: int = 0,
    minibatch: int = 32,
) -> Record:
    """The spectrum of one model's loss on fixed images.

    Do not compare eigenvalues of two models without the balanced form beside them: scales that leave the
    function alone move them several-fold. Do not read the share of negative eigenvalues as a count of descent
    directions: nearly half of a trained model's are zero but for rounding.

    Args:
        encoder: the model; eval mode, exact attention kernels, no mixed precision.
        images: (n, 3, H, W) in [0, 1] at the model's size, or what gives slices of it.
        labels: (n,) for objectives with labels, or what gives slices of it.
        batch: images in one forward and backward pass: memory, not the result.
        part: ``whole``, ``balanced``, ``blocks`` or ``minibatches``.
        objective: ``linear-probe``, ``classifier``, ``distill`` (with ``teacher``) or ``mim``.
        matrix: the Hessian, or its Gauss-Newton part (``ggn``).
        parameters: the encoder's, or the head's too.
        k: how many of the largest eigenvalues.
        probes: random probes for trace and density, 30 products each.
        trace_probes: further probes for the trace alone, one product each.
        minibatch: images in each of the minibatches of ``minibatches``.

    Returns:
        A record. ``whole``: rows ``eigenvalue_1`` ... ``eigenvalue_lowest``, ``trace``, ``negative_mass`` and
        ``spectral_mass`` (x: node); intervals over images from v' H_i v of each image, widened by the residual
        bound; arrays ``eigenvalue_1`` ... (n,), ``nodes``, ``weights``, ``residuals``.

    Raises:
        FdlabError: what ``build_objective`` raises, an unknown part, a basis that does not fit.
    """
    if part not in PARTS:
        raise FdlabError(
            f"The Hessian has no part '{part}'.{nearest(part, PARTS)}", "", f"Parts: {', '.join(PARTS)}.", USAGE
        )
    pixels = images[0 : len(images)]
    answers = None if labels is None else labels[0 : len(labels)]
    note = ""
    if part == "balanced":
        encoder, note = _balanced(encoder, pixels[:batch])
    made = build_objective(
        objective,
        encoder,
        pixels,
        answers,
        teacher=teacher or None,
        micro_batch=batch,
        seed=seed,
        parameters=parameters,
    )
    look = _Look(made, matrix, k, probes, trace_probes, seed, progress)
    rows, arrays, facts = _measured(look, encoder, part, minibatch)
    same = {"model": label, "family": encoder.info.family, "seed": seed, "probe": "hessian", "n": made.images}
    said = made.description + (" (Gauss-Newton)" if matrix == "ggn" else "")
    table = frame([{**same, "objective": said, **row} for row in rows])
    manifest = _manifest(encoder, made, label, seed, part) | facts
    manifest |= {"objective": said, "note": " ".join(text for text in (note, facts.get("note", "")) if text)}
    return Record(table, arrays, manifest)


def intervals_anew(record: Record, seed: int) -> Record:
    """The record with the intervals over images (or minibatches) made again from its arrays."""
    rows: list[dict[str, Any]] = []
    for name, each in record.arrays.items():
        if name.startswith("eigenvalue_"):
            own = float(record.table.loc[record.table["metric"] == name, "value"].iloc[0])
            bound = record.manifest["residuals"][name.removesuffix("_balanced")]
            rows.append({"metric": name, **_around(own, bound, each, seed).row})
    if "max_eigenvalues" in record.arrays:
        mean = mean_interval(record.arrays["max_eigenvalues"][:, 0], seed)
        rows.append({"metric": "max_eigenvalue_mean", "x": record.manifest["minibatch"], **mean.row})
    return replace(record, table=with_bounds(record.table, rows))


def identity(encoder: Encoder, _settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the numbers depend on beside the encoder's weights: the heads that its run folder keeps."""
    return heads_identity(encoder)


def _manifest(encoder: Encoder, made: Objective, label: str, seed: int, part: str) -> dict[str, Any]:
    info = encoder.info
    return {
        "probe": "hessian",
        "version": VERSION,
        "label": label,
        "weights": info.sha256,
        "source": str(info.source),
        "family": info.family,
        "options": list(info.options),
        "assumed": list(info.assumed),
        "images": made.images,
        "seed": seed,
        "part": part,
        **made.facts,
    }


class _Look:
    """One objective and how closely it is looked at; makes the matrix over any parameters and images."""

    def __init__(
        self, objective: Objective, kind: Matrices, k: int, probes: int, trace_probes: int, seed: int, progress: Any
    ) -> None:
        self.objective, self.kind, self.k = objective, kind, k
        self.probes, self.trace_probes, self.seed, self.progress = probes, trace_probes, seed, progress

    def plan(self, products: int) -> None:
        """Progress is counted in products, of which this many are expected."""
        if isinstance(self.progress, Progress):
            self.progress.total = products

    def advance(self, _step: int) -> None:
        if self.progress is None:
            return
        if isinstance(self.progress, Progress) and self.progress.done >= self.progress.total:
            self.progress.total = self.progress.done + 10  # Lanczos goes on until its bounds are met
        self.progress.advance()

    def matrix(self, parameters: Iterable[Tensor], batches: list[Any] | None = None) -> Curvature:
        chosen = self.objective.batches if batches is None else batches
        sizes = [len(inputs) for inputs, _ in chosen]
        if self.kind == "hessian":
            return Hessian(self.objective.loss, list(parameters), chosen, sizes)

        def output(batch: Any) -> Tensor:
            return self.objective.output(batch[0])

        def criterion(z: Tensor, batch: Any) -> Tensor:
            return self.objective.criterion(z, batch[1]).mean()

        return GaussNewton(output, criterion, list(parameters), chosen, sizes)

    def spectrum(self, matrix: Curvature, probes: int, trace_probes: int = 0, k: int | None = None) -> Spectrum:
        wanted = self.k if k is None else k
        settings = {"probes": probes, "trace_probes": trace_probes, "seed": self.seed, "on_step": self.advance}
        return spectrum(matrix, k=wanted, **settings)  # type: ignore[arg-type]


Measured = tuple[list[dict[str, Any]], dict[str, np.ndarray], dict[str, Any]]


def _measured(look: _Look, encoder: Encoder, part: str, minibatch: int) -> Measured:
    if part == "blocks":
        return _blocks(look, encoder)
    if part == "minibatches":
        return _minibatches(look, minibatch)
    rows, arrays, facts = _whole(look)
    if part == "balanced":
        kept = [row for row in rows if row["metric"] != "spectral_mass"]
        rows = [{**row, "metric": f"{row['metric']}_balanced"} for row in kept]
        arrays = {f"{name}_balanced": values for name, values in arrays.items()}
    return rows, arrays, facts


# --- all parameters together -----------------------------------------------------------------------------------


def _whole(look: _Look) -> Measured:
    made = look.objective
    matrix = look.matrix(made.parameters.values())
    first_order = Hessian(made.loss, matrix.parameters, matrix.batches, matrix.sizes)
    value = first_order.mean_loss()
    check_repeatable(value, first_order.mean_loss())
    look.plan(40 + 30 * look.probes + look.trace_probes + 2 * (look.k + 1))
    found = look.spectrum(matrix, look.probes, look.trace_probes)
    arrays = {"nodes": found.nodes, "weights": found.weights, "residuals": found.residuals}
    rows = []
    names = [f"eigenvalue_{rank + 1}" for rank in range(look.k)] + ["eigenvalue_lowest"]
    values, bounds = [*found.eigenvalues, found.lowest], [*found.residuals, found.lowest_residual]
    for rank, (name, own, bound) in enumerate(zip(names, values, bounds, strict=True)):
        if not np.isfinite(own):  # fewer parameters than eigenvalues asked for
            continue
        interval = Estimate(own, own - bound, own + bound)
        if isinstance(matrix, Hessian):
            each = matrix.along(found.eigenvector(-1 if name == "eigenvalue_lowest" else rank), made.losses)
            arrays[name] = each.double().cpu().numpy()
            interval = _around(own, bound, arrays[name], look.seed)
            look.advance(0)
        rows.append({"metric": name, "value": own, "low": interval.low, "high": interval.high})
    rows.append({"metric": "trace", **_trace_interval(found)})
    rows.append({"metric": "negative_mass", "value": found.negative_mass})
    rows += [
        {"metric": "spectral_mass", "x": node, "value": mass}
        for node, mass in zip(found.nodes, found.weights, strict=True)
    ]
    facts = {
        "loss": value,
        "gradient_norm": float(torch.linalg.vector_norm(first_order.gradient())),
        "parameters": found.parameters,
        "products": found.products,
        "converged": found.converged,
        "residuals": {name: float(bound) for name, bound in zip(names, bounds, strict=True)},
        "trace_error": found.trace_error,
        "probes": found.density.probes,
        "note": found.note,
    }
    rows.append({"metric": "gradient_norm", "value": facts["gradient_norm"]})
    rows.append({"metric": "objective_loss", "value": value})
    return rows, arrays, facts


def _around(own: float, bound: float, each: np.ndarray, seed: int) -> Estimate:
    """An eigenvalue's interval over the images of ``each``, not shorter than its residual bound."""
    spread = mean_interval(each, seed)
    return Estimate(own, own - max(spread.value - spread.low, bound), own + max(spread.high - spread.value, bound))


def _trace_interval(found: Spectrum) -> dict[str, float]:
    """Student's interval over the probes; none with a single one."""
    from scipy.special import stdtrit

    probes = found.density.probes
    half = float(stdtrit(probes - 1, 0.975)) * found.trace_error if probes > 1 else found.trace_error
    return {"value": found.trace, "low": found.trace - half, "high": found.trace + half}


def _balanced(encoder: Encoder, sample: Tensor) -> tuple[Encoder, str]:
    """The balanced copy, after a look at whether it is the same function."""
    other, said = balanced(encoder)
    with torch.no_grad():
        first, second = (model.tokens(model.normalise(sample)) for model in (encoder, other))
    error = float((first - second).abs().max() / first.abs().max().clamp_min(1e-12))
    if error > 1e-3:
        raise FdlabError(
            f"The balanced form of this model ({encoder.info.family}) is another function.",
            f"Its tokens differ by {error:.1e} of their largest: its blocks are built differently.",
            "Leave the balanced form out (--part whole).",
            CHECK_NOT_MET,
        )
    return other, f"{said}; tokens differ by {error:.0e}."


# --- block by block, minibatch by minibatch -----------------------------------------------------------------------


def _blocks(look: _Look, encoder: Encoder) -> Measured:
    """The exact diagonal block of every transformer block, and of what comes before and after them."""
    groups = parameter_groups(encoder, look.objective.parameters)
    look.plan(len(groups) * (30 + 30 * min(look.probes, 1) + 3))
    rows: list[dict[str, Any]] = []
    tops = {}
    depth = encoder.info.depth
    for name, chosen in groups.items():
        found = look.spectrum(look.matrix(chosen), min(look.probes, 1), trace_probes=3, k=1)
        place: dict[str, Any] = {}
        suffix = f"_{name}"
        if name.isdigit():
            place, suffix = {"block": int(name), "depth": (int(name) + 1) / depth}, ""
        own, bound = float(found.eigenvalues[0]), float(found.residuals[0])
        rows.append({"metric": f"eigenvalue_1{suffix}", "value": own, "low": own - bound, "high": own + bound, **place})
        rows.append({"metric": f"trace{suffix}", **_trace_interval(found), **place})
        rows.append({"metric": f"eigenvalue_lowest{suffix}", "value": found.lowest, **place})
        tops[name] = own
    facts = {"groups": {name: sum(p.numel() for p in chosen) for name, chosen in groups.items()}, "tops": tops}
    return rows, {}, facts


def parameter_groups(encoder: Encoder, parameters: dict[str, Tensor]) -> dict[str, list[Tensor]]:
    """``embedding``, ``0``, ``1``, ... (transformer blocks), ``final``: every parameter in one of them."""
    place = {
        id(parameter): str(index)
        for index, block in enumerate(blocks_of(encoder.module))
        for parameter in block.parameters()
    }
    groups: dict[str, list[Tensor]] = {"embedding": [], **{str(i): [] for i in range(encoder.info.depth)}, "final": []}
    for name, parameter in parameters.items():
        early = name.startswith(("patch_embed", "pos_embed", "rel_pos_bias")) or "token" in name.split(".")[0]
        groups[place.get(id(parameter), "embedding" if early else "final")].append(parameter)
    return {name: chosen for name, chosen in groups.items() if chosen}


def _minibatches(look: _Look, size: int) -> Measured:
    """The five largest eigenvalues of every minibatch, pooled (Park & Kim 2022, arXiv 2202.06709)."""
    made = look.objective
    inputs, targets = (torch.cat([batch[i] for batch in made.batches]) for i in (0, 1))
    count = len(inputs) // size
    if count < 2:
        raise FdlabError(
            f"{len(inputs)} images make fewer than two minibatches of {size}.",
            "",
            "Give more images or a smaller --minibatch.",
            USAGE,
        )
    micro = len(made.batches[0][0])
    look.plan(30 * count)
    tops = np.full((count, TOP_OF_BATCH), np.nan)
    for number in range(count):
        part = slice(number * size, (number + 1) * size)
        batches = list(zip(inputs[part].split(micro), targets[part].split(micro), strict=True))
        tops[number] = look.spectrum(look.matrix(made.parameters.values(), batches), 0, k=TOP_OF_BATCH).eigenvalues
    rows = [
        {"metric": "max_eigenvalue", "x": number, "y": rank + 1, "value": tops[number, rank], "n": size}
        for number, rank in np.ndindex(tops.shape)
        if np.isfinite(tops[number, rank])
    ]
    value, low, high, _ = mean_interval(tops[:, 0], look.seed)
    rows.append({"metric": "max_eigenvalue_mean", "value": value, "low": low, "high": high, "x": size})
    return rows, {"max_eigenvalues": tops}, {"minibatch": size, "minibatches": count}


PROBE = Probe(
    measure=measure_hessian,
    version=VERSION,
    settings=(
        "part",
        "objective",
        "teacher",
        "matrix",
        "parameters",
        "k",
        "probes",
        "trace_probes",
        "minibatch",
    ),
    models=("teacher",),
    takes=("labels",),
    identity=identity,
    intervals_anew=intervals_anew,
)

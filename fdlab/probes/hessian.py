"""The Hessian probe: how sharply a model's loss is curved, as eigenvalues, trace and density.

Four parts, each a question of its own in the store: ``whole`` (top, lowest, trace, density), ``balanced`` (the
same after scales that do not change the function were balanced out), ``blocks`` (the diagonal block of each
transformer block) and ``minibatches`` (Park & Kim's spectrum of minibatch maxima).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

from fdlab.encoders.encoder import blocks_of
from fdlab.encoders.reparametrise import balance_refusal, balanced
from fdlab.errors import CHECK_NOT_MET, USAGE, FdlabError
from fdlab.measures.products import Curvature, GaussNewton, Hessian
from fdlab.measures.spectrum import Spectrum, check_repeatable, spectrum
from fdlab.probes.loss_frame import Arrays, LossFrame, Parameters, Row, change_of_tokens, hessian_of, identity
from fdlab.probes.objectives import Objective
from fdlab.probes.probe import Probe, check_name, untouched
from fdlab.progress import Progress
from fdlab.records.estimate import Estimate
from fdlab.records.intervals import mean_interval
from fdlab.records.store import Record
from fdlab.records.table import with_bounds

if TYPE_CHECKING:
    from fdlab.encoders.encoder import Encoder

VERSION = 2
PARTS = ("whole", "balanced", "blocks", "minibatches")
TOP_OF_BATCH = 5  # Park & Kim's number of eigenvalues a minibatch
Matrices = Literal["hessian", "ggn"]
Measured = tuple[list[Row], Arrays, dict[str, Any]]  # rows, arrays, facts for the manifest


@untouched
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
    parameters: Parameters = "encoder",
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
        images, labels, batch, objective, teacher, parameters: as in ``LossFrame``.
        part: ``whole``, ``balanced``, ``blocks`` or ``minibatches``.
        matrix: the Hessian, or its Gauss-Newton part (``ggn``).
        k: how many of the largest eigenvalues.
        probes: random probes for trace and density, 30 products each.
        trace_probes: further probes for the trace alone, one product each.
        minibatch: images in each of the minibatches of ``minibatches``.

    Returns:
        A record. ``whole``: rows ``eigenvalue_1`` ... ``eigenvalue_lowest``, ``trace``, ``negative_mass`` and
        ``spectral_mass`` (x: node); intervals over images from v' H_i v of each image, widened by the residual
        bound; arrays ``eigenvalue_1`` ... (n,), ``nodes``, ``weights``, ``residuals``.

    Raises:
        FdlabError: what ``build_objective`` raises, an unknown part, a basis that does not fit, half precision.
    """
    check_name("The Hessian has no part", part, PARTS, "Parts")
    if any(parameter.dtype in (torch.bfloat16, torch.float16) for parameter in encoder.module.parameters()):
        raise FdlabError(
            "This model is in half precision.",
            "The second derivatives of its loss are lost in its rounding.",
            "Make it float32 first: encoder.module.float().",
            USAGE,
        )
    loss = LossFrame(
        "hessian", VERSION, images, labels, label, seed, batch, progress, objective, teacher, parameters
    )  # fmt: skip
    remarks = []
    if part == "balanced":
        encoder, remark = _balanced(encoder, loss.images[:batch])
        remarks.append(remark)
    built = loss.objective_of(encoder)
    spectra = _Spectra(loss, built, matrix, k, probes, trace_probes)
    if part == "blocks":
        rows, arrays, facts = _blocks(spectra, encoder)
    elif part == "minibatches":
        rows, arrays, facts = _minibatches(spectra, minibatch)
    else:
        rows, arrays, facts = _whole(spectra)
    if part == "balanced":
        rows = [{**row, "metric": f"{row['metric']}_balanced"} for row in rows if row["metric"] != "spectral_mass"]
        arrays = {f"{name}_balanced": values for name, values in arrays.items()}
    remarks += [facts["note"]] if facts.get("note") else []
    description = built.description + (" (Gauss-Newton)" if matrix == "ggn" else "")
    return loss.record(encoder, built, part, rows, arrays, {**facts, "note": " ".join(remarks)}, description)


def intervals_anew(record: Record, seed: int) -> Record:
    """The record with the intervals over images (or minibatches) made again from its arrays."""
    rows: list[Row] = []
    for name, per_image in record.arrays.items():
        if name.startswith("eigenvalue_"):
            value = float(record.table.loc[record.table["metric"] == name, "value"].iloc[0])
            bound = record.manifest["residuals"][name.removesuffix("_balanced")]
            rows.append({"metric": name, **_around(value, bound, per_image, seed).row})
    if "max_eigenvalues" in record.arrays:
        mean = mean_interval(record.arrays["max_eigenvalues"][:, 0], seed)
        rows.append({"metric": "max_eigenvalue_mean", "x": record.manifest["minibatch"], **mean.row})
    return replace(record, table=with_bounds(record.table, rows))


@dataclass
class _Spectra:
    """The curvature of one objective, over any of its parameters and images, and how closely it is measured."""

    loss: LossFrame
    objective: Objective
    kind: Matrices
    k: int
    probes: int
    trace_probes: int

    def advance(self, _step: int = 0) -> None:
        progress = self.loss.progress
        if isinstance(progress, Progress) and progress.done >= progress.total:
            progress.total = progress.done + 10  # Lanczos goes on until its bounds are met
        self.loss.advance()

    def matrix(self, parameters: Iterable[Tensor], batches: list[Any] | None = None) -> Curvature:
        """The Hessian or Gauss-Newton matrix over these parameters; on all images or on ``batches`` of them."""
        chosen = self.objective.batches if batches is None else batches
        sizes = [len(inputs) for inputs, _ in chosen]
        if self.kind == "hessian":
            return Hessian(self.objective.loss, list(parameters), chosen, sizes)

        def output(batch: Any) -> Tensor:
            return self.objective.output(batch[0])

        def criterion(z: Tensor, batch: Any) -> Tensor:
            return self.objective.criterion(z, batch[1]).mean()

        return GaussNewton(output, criterion, list(parameters), chosen, sizes)

    def spectrum(self, matrix: Curvature, k: int, probes: int, trace_probes: int = 0) -> Spectrum:
        return spectrum(
            matrix, k=k, probes=probes, trace_probes=trace_probes, seed=self.loss.seed, on_step=self.advance
        )


# --- all parameters together -----------------------------------------------------------------------------------


def _whole(spectra: _Spectra) -> Measured:
    objective, k = spectra.objective, spectra.k
    matrix = spectra.matrix(objective.parameters.values())
    exact = hessian_of(objective)  # for the loss and its gradient, also where the matrix is Gauss-Newton's
    mean_loss = exact.mean_loss()
    check_repeatable(mean_loss, exact.mean_loss())
    spectra.loss.plan(40 + 30 * spectra.probes + spectra.trace_probes + 2 * (k + 1))
    result = spectra.spectrum(matrix, k, spectra.probes, spectra.trace_probes)
    arrays = {"nodes": result.nodes, "weights": result.weights, "residuals": result.residuals}
    rows: list[Row] = []
    names = [f"eigenvalue_{rank + 1}" for rank in range(k)] + ["eigenvalue_lowest"]
    values, bounds = [*result.eigenvalues, result.lowest], [*result.residuals, result.lowest_residual]
    for rank, (name, value, bound) in enumerate(zip(names, values, bounds, strict=True)):
        if not np.isfinite(value):  # fewer parameters than eigenvalues asked for
            continue
        interval = Estimate(value, value - bound, value + bound)
        if isinstance(matrix, Hessian):
            vector = result.eigenvector(-1 if name == "eigenvalue_lowest" else rank)
            arrays[name] = matrix.along(vector, objective.losses).double().cpu().numpy()
            interval = _around(value, bound, arrays[name], spectra.loss.seed)
            spectra.advance()
        rows.append({"metric": name, **interval.row})
    rows += [{"metric": "trace", **_trace(result).row}, {"metric": "negative_mass", "value": result.negative_mass}]
    rows += [
        {"metric": "spectral_mass", "x": node, "value": mass}
        for node, mass in zip(result.nodes, result.weights, strict=True)
    ]
    gradient_norm = float(torch.linalg.vector_norm(exact.gradient()))
    rows += [{"metric": "gradient_norm", "value": gradient_norm}, {"metric": "objective_loss", "value": mean_loss}]
    facts = {
        "loss": mean_loss,
        "gradient_norm": gradient_norm,
        "parameters": result.parameters,
        "products": result.products,
        "converged": result.converged,
        "residuals": {name: float(bound) for name, bound in zip(names, bounds, strict=True)},
        "trace_error": result.trace_error,
        "probes": result.density.probes,
        "note": result.note,
    }
    return rows, arrays, facts


def _around(value: float, bound: float, per_image: np.ndarray, seed: int) -> Estimate:
    """An eigenvalue's interval over the images of ``per_image`` (n,), not shorter than its residual bound."""
    mean = mean_interval(per_image, seed)
    return Estimate(value, value - max(mean.value - mean.low, bound), value + max(mean.high - mean.value, bound))


def _trace(result: Spectrum) -> Estimate:
    """The trace with Student's interval over the probes; with a single probe, plus and minus its error."""
    probes = result.density.probes
    half = float(stdtrit(probes - 1, 0.975)) * result.trace_error if probes > 1 else result.trace_error
    return Estimate(result.trace, result.trace - half, result.trace + half)


def _balanced(encoder: Encoder, sample: Tensor) -> tuple[Encoder, str]:
    """The balanced copy and a remark on it; refused where it is another function on these images."""
    copy, remark = balanced(encoder)
    error = change_of_tokens(encoder, copy, sample)
    if error > 1e-3:
        raise FdlabError(
            f"The balanced form of this model ({encoder.info.family}) is another function.",
            f"Its tokens differ by {error:.1e} of their largest: its blocks are built differently.",
            "Leave the balanced form out (--part whole).",
            CHECK_NOT_MET,
        )
    return copy, f"{remark}; tokens differ by {error:.0e}."


# --- block by block, minibatch by minibatch -----------------------------------------------------------------------


def _blocks(spectra: _Spectra, encoder: Encoder) -> Measured:
    """The exact diagonal block of every transformer block, and of what comes before and after them."""
    groups = parameter_groups(encoder, spectra.objective.parameters)
    probes = min(spectra.probes, 1)
    spectra.loss.plan(len(groups) * (30 + 30 * probes + 3))
    rows: list[Row] = []
    tops = {}
    for name, parameters in groups.items():
        result = spectra.spectrum(spectra.matrix(parameters), 1, probes, trace_probes=3)
        axes: Row = {}
        suffix = f"_{name}"
        if name.isdigit():
            axes, suffix = {"block": int(name), "depth": (int(name) + 1) / encoder.info.depth}, ""
        top, bound = float(result.eigenvalues[0]), float(result.residuals[0])
        rows.append({"metric": f"eigenvalue_1{suffix}", **Estimate(top, top - bound, top + bound).row, **axes})
        rows.append({"metric": f"trace{suffix}", **_trace(result).row, **axes})
        rows.append({"metric": f"eigenvalue_lowest{suffix}", "value": result.lowest, **axes})
        tops[name] = top
    sizes = {name: sum(p.numel() for p in parameters) for name, parameters in groups.items()}
    return rows, {}, {"groups": sizes, "tops": tops}


def parameter_groups(encoder: Encoder, parameters: dict[str, Tensor]) -> dict[str, list[Tensor]]:
    """``embedding``, ``0``, ``1``, ... (transformer blocks), ``final``: every parameter in one of them."""
    block_of = {
        id(parameter): str(index)
        for index, block in enumerate(blocks_of(encoder.module))
        for parameter in block.parameters()
    }
    groups: dict[str, list[Tensor]] = {"embedding": [], **{str(i): [] for i in range(encoder.info.depth)}, "final": []}
    for name, parameter in parameters.items():
        early = _is_early(encoder, name)
        groups[block_of.get(id(parameter), "embedding" if early else "final")].append(parameter)
    return {name: members for name, members in groups.items() if members}


def _is_early(encoder: Encoder, name: str) -> bool:
    """Whether this parameter, which is in no block, is used before the first one."""
    if encoder.anatomy.order_of_parts is not None:
        return encoder.anatomy.blocks_done(name) == 0
    return name.startswith(("patch_embed", "pos_embed", "rel_pos_bias")) or "token" in name.split(".")[0]


def _minibatches(spectra: _Spectra, size: int) -> Measured:
    """The five largest eigenvalues of every minibatch, pooled (Park & Kim 2022, arXiv 2202.06709)."""
    objective = spectra.objective
    inputs, targets = (torch.cat([batch[i] for batch in objective.batches]) for i in (0, 1))
    count = len(inputs) // size
    if count < 2:
        raise FdlabError(
            f"{len(inputs)} images make fewer than two minibatches of {size}.",
            fix="Give more images or a smaller --minibatch.",
            code=USAGE,
        )
    micro = len(objective.batches[0][0])
    spectra.loss.plan(30 * count)
    tops = np.full((count, TOP_OF_BATCH), np.nan)
    for number in range(count):
        part = slice(number * size, (number + 1) * size)
        batches = list(zip(inputs[part].split(micro), targets[part].split(micro), strict=True))
        matrix = spectra.matrix(objective.parameters.values(), batches)
        tops[number] = spectra.spectrum(matrix, TOP_OF_BATCH, probes=0).eigenvalues
    rows: list[Row] = [
        {"metric": "max_eigenvalue", "x": number, "y": rank + 1, "value": tops[number, rank], "n": size}
        for number, rank in np.ndindex(tops.shape)
        if np.isfinite(tops[number, rank])
    ]
    rows.append({"metric": "max_eigenvalue_mean", **mean_interval(tops[:, 0], spectra.loss.seed).row, "x": size})
    return rows, {"max_eigenvalues": tops}, {"minibatch": size, "minibatches": count}


PROBE = Probe(
    measure=measure_hessian,
    version=VERSION,
    known_answers="curvature",
    settings=("part", "objective", "teacher", "matrix", "parameters", "k", "probes", "trace_probes", "minibatch"),
    models=("teacher",),
    takes=("labels",),
    identity=identity,
    intervals_anew=intervals_anew,
    refusal=lambda encoder, settings: balance_refusal(encoder) if settings.get("part") == "balanced" else None,
)

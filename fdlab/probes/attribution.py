"""The attribution probe: which parts of an image, and which heads, a model's answer rests on.

Two parts, each a question of its own in the store: ``curves`` (the score while parts of the image are removed or
added, in the order of integrated gradients, of attention rollout and at random) and ``heads`` (the score without each
head, and the conductance of each head). Images are measured in groups of eight, each kept as it is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.special import bdtrc
from torch import Tensor

from fdlab.encoders.anatomy import COMPLETE
from fdlab.encoders.attending import attending
from fdlab.encoders.head_outputs import Projection, head_outputs, heads_refusal, projections, without_head
from fdlab.encoders.reading import SlicedImages, heads_of
from fdlab.encoders.tap import AttentionCall
from fdlab.errors import NOT_UNDERSTOOD, USAGE, FdlabError
from fdlab.measures import attribution as form
from fdlab.measures.attribution_rows import UNDEFINED, curve_rows, head_rows, score_rows
from fdlab.probes.objectives.scores import ClassOrFeature
from fdlab.probes.probe import Probe, check_images, check_name, expect, manifest_of, untouched
from fdlab.records.atomic import replacing
from fdlab.records.metrics import METRICS
from fdlab.records.metrics.names import ORDERS
from fdlab.records.store import DAMAGED, Record
from fdlab.records.table import frame, with_bounds

if TYPE_CHECKING:
    from fdlab.encoders.encoder import Encoder

VERSION = 1
PARTS = ("curves", "heads")
GROUP = 8  # images that are done, and kept, together
Arrays = dict[str, np.ndarray]


@untouched
def measure_attribution(
    encoder: Encoder,
    images: Tensor | SlicedImages,
    labels: Tensor | SlicedImages | None = None,
    *,
    label: str,
    seed: int = 0,
    batch: int = 8,
    progress: Any = None,
    unfinished: Path | None = None,
    part: str = "curves",
    target: str = "auto",
    orders: Iterable[str] | None = None,
    steps: int = 20,
    gradient_steps: int = 50,
) -> Record:
    """What a score of each image rests on: its parts (``curves``) or the model's heads (``heads``).

    Do not read a good curve as a true explanation: it says that removing these parts moves this model's score, on
    pictures with holes that it never saw. Do not compare logits of two models; shares of the score can be.

    Args:
        encoder: any open model.
        images: (n, 3, H, W) float32 in [0, 1] at the model's input size, not normalised, or what gives slices of it.
        labels: (n,) classes from 0, or what gives the same slices.
        seed: of the random order and the bootstrap.
        batch: images in one forward pass, at most ``GROUP``: memory, not the result.
        unfinished: a folder for the groups so far.
        part: ``curves`` or ``heads``.
        target: ``auto``: the label's logit where the model has a classifier and the images labels, the logit of its own
            first answer where they have none, else ``feature``. ``label``, ``prediction`` and ``feature`` (cosine of
            the mean of the final patch tokens to that of the whole image) ask for one by name.
        orders: of ``gradients``, ``rollout``, ``random`` (always there); by default all that the model allows.
        steps: points of a curve beside its start; fewer where there are fewer cells.
        gradient_steps: points of the integrals of gradients and conductance.

    Returns:
        A record. ``curves``: NAME_ORDER (``x``: share of the cells), areas, gains over the random order, completeness.
        ``heads``: three rows a block and head. Arrays, per image: ``deletion_ORDER``, ``insertion_ORDER`` (n, points)
        not normalised, ``cells_ORDER`` (n, cells), ``head_effect``, ``head_conductance`` (n, blocks, heads).

    Raises:
        FdlabError: code 2: an unknown part, target or order, no image, labels that the classifier lacks; code 3:
            rollout of a model in windows, or a classifier or heads that the model does not have, asked for by name.
    """
    check_name("Attribution has no part", part, PARTS)
    if steps < 1 or gradient_steps < 1:
        raise FdlabError("Curves and integrals need at least one step.", fix="Set steps to 1 or more.", code=USAGE)
    check_images(images)
    score = ClassOrFeature(encoder, target, labels is not None)
    chosen, left_out = _orders(encoder, orders)
    groups = _Groups(encoder, score, batch, seed, chosen, steps, gradient_steps, progress)
    measure = groups.curves if part == "curves" else groups.heads
    groups.plan(len(images), part)
    parts = [
        _kept(unfinished, first, partial(_group, images, labels, first, score, measure))
        for first in range(0, len(images), GROUP)
    ]
    readable = [arrays for arrays in parts if arrays]
    if not readable:
        raise FdlabError("None of the images could be read.", fix="Check --data.", code=NOT_UNDERSTOOD)
    arrays = {name: np.concatenate([group[name] for group in readable]) for name in readable[0]}
    if part == "curves":
        rows, undefined = curve_rows(arrays, groups.shares, chosen, seed)
        rows += score_rows(arrays, seed)
    else:
        left_out = []
        rows, undefined = head_rows(arrays, heads_of(encoder), seed)
    n = len(arrays["score_whole"])
    columns = {"model": label, "family": encoder.info.family, "seed": seed, "probe": "attribution", "n": n}
    table = frame([{**columns, "objective": score.words, "unit": METRICS[row["metric"]].unit, **row} for row in rows])
    manifest = manifest_of("attribution", VERSION, encoder, label, seed, n)
    manifest |= {"part": part, "objective": score.words, "not_measured": [*left_out, *undefined]}
    if "answered" in arrays:
        manifest["label_is_first_answer"] = float(arrays["answered"].mean())
        manifest["remarks"] = _strangers(encoder, arrays["answered"])
    return Record(table, arrays, manifest)


def intervals_anew(record: Record, seed: int) -> Record:
    """The record with all intervals made again from its arrays."""
    arrays, table = record.arrays, record.table
    if "head_effect" in arrays:
        blocks, most = arrays["head_effect"].shape[1:]
        rows, undefined = head_rows(arrays, [most] * blocks, seed)  # absent heads have no row to fill
    else:
        shares = table[table["metric"] == "deletion_curve_random"]["x"].to_numpy(np.float64)
        orders = [name.removeprefix("deletion_") for name in arrays if name.startswith("deletion_")]
        rows, undefined = curve_rows(arrays, shares, orders, seed)
        rows += score_rows(arrays, seed)
    kept = [text for text in record.manifest["not_measured"] if not text.startswith(UNDEFINED)]
    manifest = {**record.manifest, "not_measured": kept + undefined}
    return replace(record, table=with_bounds(table, rows), manifest=manifest)


def announcement(encoder: Encoder, _size: Sequence[int], settings: Mapping[str, Any]) -> str:
    """How much work an image is, said before the probe starts."""
    gradient = settings.get("gradient_steps", 50)
    if settings.get("part", "curves") == "heads":
        return f"{sum(heads_of(encoder))} forward passes an image for its heads, {gradient + 1} with gradients"
    forward = 2 * settings.get("steps", 20) * len(_orders(encoder, settings.get("orders"))[0])
    return f"at most {forward} forward passes an image for its curves, {gradient} with gradients"


# --- one group of images -------------------------------------------------------------------------------


@dataclass
class _Groups:
    """How a group of images is measured; counts forward passes for the progress."""

    encoder: Encoder
    score: ClassOrFeature
    batch: int
    seed: int
    orders: list[str]
    steps: int
    gradient_steps: int
    progress: Any

    def __post_init__(self) -> None:
        self.grid = self.encoder.info.grid
        self.counts = form.counts_of(self.grid[0] * self.grid[1], self.steps)
        self.shares = np.array(self.counts) / self.counts[-1]  # of the cells, changed at each point of a curve

    def plan(self, images: int, part: str) -> None:
        """Progress is counted in passes over a group; one with gradients counts as three."""
        if part == "heads":
            passes = sum(heads_of(self.encoder)) + 3 * self.gradient_steps
        else:
            passes = 2 * (len(self.counts) - 2) * len(self.orders)
            passes += 3 * self.gradient_steps * ("gradients" in self.orders)
        expect(self.progress, passes * -(-images // GROUP))

    def done(self, passes: int = 1) -> None:
        if self.progress is not None:
            self.progress.advance(passes)

    def scores(self, images: Tensor, aims: Tensor) -> Tensor:
        """(B,): without gradients, ``batch`` images at a time."""
        with torch.no_grad():
            return torch.cat([self.score(*pair) for pair in self.pairs(images, aims)])

    def pairs(self, images: Tensor, aims: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """``batch`` images and their aims at a time."""
        return zip(images.split(self.batch), aims.split(self.batch), strict=True)

    def curves(self, images: Tensor, aims: Tensor, first: int) -> dict[str, Tensor]:
        """Scores along the curves of every order; ``first`` is the number of the group's first image."""
        whole, empty = self.scores(images, aims), self.scores(torch.zeros_like(images), aims)
        results = {"score_whole": whole, "score_empty": empty}
        for name in self.orders:
            if name == "random":
                order = form.random_order(self.seed, range(first, first + len(images)), self.counts[-1])
            else:
                if name == "gradients":
                    cells, results["completeness_gap"] = self._gradients(images, aims)
                else:
                    cells = self._rollout(images)
                results[f"cells_{name}"] = cells
                order = form.descending(cells.cpu())
            removed, added = form.curves(
                self.scores, images, aims, order, self.grid, self.counts, ends=(whole, empty), done=self.done
            )
            results |= {f"deletion_{name}": removed, f"insertion_{name}": added}
        return results

    def _gradients(self, images: Tensor, aims: Tensor) -> tuple[Tensor, Tensor]:
        """(B, cells) integrated gradients and their (B,) gaps to the difference of the scores."""
        parts = [
            form.integrated_gradients(self.score, *pair, steps=self.gradient_steps, rows=self.batch)
            for pair in self.pairs(images, aims)
        ]
        self.done(3 * self.gradient_steps)
        cells = [form.cell_sums(attributions, self.grid) for attributions, _ in parts]
        return torch.cat(cells), torch.cat([gap for _, gap in parts])

    def _rollout(self, images: Tensor) -> Tensor:
        """(B, cells): how much of each cell reaches what the score reads."""
        rollout = form.Rollout()
        tokens = self.grid[0] * self.grid[1] + self.encoder.info.prefix_tokens

        def on_call(call: AttentionCall) -> None:
            if call.shape[0] != len(images) or call.shape[-1] != tokens:
                raise _no_rollout(self.encoder, f"Block {call.block + 1} attends within {call.shape[-1]} tokens.")
            rollout.add(call.maps())

        with torch.no_grad(), attending(self.encoder, on_call):
            self.encoder.tokens(images)
        return rollout.patches(self.encoder.info.prefix_tokens, self.score.row)

    def heads(self, images: Tensor, aims: Tensor, _first: int) -> dict[str, Tensor]:
        """(B, blocks, heads) of both head measures; NaN where a block has fewer heads."""
        whole, empty = self.scores(images, aims), self.scores(torch.zeros_like(images), aims)
        blocks = projections(self.encoder)
        shape = (len(images), len(blocks), max(block.heads for block in blocks))
        effect = torch.full(shape, float("nan"), dtype=whole.dtype, device=whole.device)
        conductance = effect.clone()
        for number, block in enumerate(blocks):
            conductance[:, number, : block.heads] = 0
            for head in range(block.heads):
                with without_head(block, head):
                    effect[:, number, head] = whole - self.scores(images, aims)
                self.done()
        for pair, total in zip(self.pairs(images, aims), conductance.split(self.batch), strict=True):
            self._conductance(blocks, *pair, total)
        self.done(3 * self.gradient_steps)
        return {"score_whole": whole, "score_empty": empty, "head_effect": effect, "head_conductance": conductance}

    def _conductance(self, blocks: list[Projection], images: Tensor, aims: Tensor, total: Tensor) -> None:
        """Adds captum's ``LayerConductance`` at every projection's input, summed over tokens and each head's channels.

        One walk along the line serves all blocks; captum would walk once a block, and fails where a projection sees
        windows. ``total``: (B, blocks, heads).
        """
        before: list[tuple[Tensor, Tensor]] = []
        for alpha in form.line_points(self.gradient_steps + 1):
            with torch.enable_grad(), head_outputs(blocks) as outputs:
                point = (alpha * images).requires_grad_()
                slopes = torch.autograd.grad(self.score(point, aims).sum(), outputs)
            here = [(output.detach(), slope) for output, slope in zip(outputs, slopes, strict=True)]
            for number, (block, (value, _), (last, slope)) in enumerate(zip(blocks, here, before, strict=False)):
                moved = block.by_head(slope * (value - last)).unflatten(0, (len(images), -1))
                total[:, number, : block.heads] += moved.sum((1, 2, 4))
            before = here


def _group(
    images: Any, labels: Any, first: int, score: ClassOrFeature, measure: Callable[..., dict[str, Tensor]]
) -> Arrays:
    """The arrays of one group of images from number ``first`` on; none where none of it can be read."""
    part = slice(first, min(first + GROUP, len(images)))
    raw = images[part]
    if not len(raw):
        return {}
    inputs = score.encoder.normalise(raw.to(score.encoder.device))
    aims, answered = score.aims(inputs, None if labels is None else labels[part])
    results = measure(inputs, aims, first)
    if answered is not None:
        results["answered"] = answered
    return {name: values.detach().float().cpu().numpy() for name, values in results.items()}


def _kept(folder: Path | None, first: int, measure: Callable[[], Arrays]) -> Arrays:
    """The group's arrays from the folder, or measured and kept there."""
    path = None if folder is None else folder / f"images-{first}.npz"
    if path is not None and path.is_file():
        try:
            with np.load(path, allow_pickle=False) as kept:
                return dict(kept)
        except DAMAGED:
            pass  # measured again
    arrays = measure()
    if path is not None:
        with replacing(path) as draft, draft.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
    return arrays


# --- what can be asked -----------------------------------------------------------------------------------


def _strangers(encoder: Encoder, answered: np.ndarray) -> list[str]:
    """Says where the answers are the labels no more often than by chance: the labels may mean other classes."""
    right, n, classes = int(answered.sum()), len(answered), encoder.info.classes
    if encoder.info.source.startswith("random:") or bdtrc(right - 1, n, 1 / classes) < 0.05:
        return []
    return [
        f"the label is the model's first answer for {right} of {n} images, no more than chance: labels from other "
        f"classes than the {classes} of the classifier? (--target prediction needs no labels)"
    ]


def _orders(encoder: Encoder, asked: Iterable[str] | None) -> tuple[list[str], list[str]]:
    """The orders in the sequence of ``ORDERS``, and sentences on what was left out though nobody named it."""
    names = list(ORDERS) if asked is None else [asked] if isinstance(asked, str) else list(asked)
    for name in names:
        check_name("Attribution has no order", name, ORDERS)
    wanted = {*names, "random"}
    attends = encoder.info.attention == COMPLETE
    if "rollout" not in wanted or (attends and not encoder.info.windows):
        return [name for name in ORDERS if name in wanted], []
    refusal = _no_rollout(encoder, "It attends inside windows." if attends else f"Attention: {encoder.info.attention}.")
    if asked is not None:
        raise refusal
    return [name for name in ORDERS if name in wanted - {"rollout"}], [f"rollout: {refusal.what} {refusal.why}"]


def _no_rollout(encoder: Encoder, why: str) -> FdlabError:
    return FdlabError(
        f"Attention rollout is not defined for {type(encoder.module).__name__}.",
        f"{why} Rollout multiplies maps between the same tokens in every block.",
        "Ask for the other orders: --order gradients.",
        NOT_UNDERSTOOD,
    )


PROBE = Probe(
    measure=measure_attribution,
    version=VERSION,
    known_answers="attribution",
    settings=("part", "target", "orders", "steps", "gradient_steps"),
    takes=("labels", "unfinished"),
    announcement=announcement,
    intervals_anew=intervals_anew,
    refusal=lambda encoder, settings: heads_refusal(encoder) if settings.get("part") == "heads" else None,
)

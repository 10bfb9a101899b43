"""The attribution probe: which parts of an image, and which heads, a model's answer rests on.

Two parts, each a question of its own in the store: ``curves`` (the score while parts of the image are removed or
added, in the order of integrated gradients, of attention rollout and at random) and ``heads`` (the score without each
head, and the conductance of each head). Images are looked at in groups of eight, each kept as it is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.special import bdtrc
from torch import Tensor

from fdlab.encoders.head_outputs import head_outputs, projections, without_head
from fdlab.encoders.reading import SlicedImages, heads_of
from fdlab.encoders.tap import AttentionCall, tap
from fdlab.errors import NOT_UNDERSTOOD, USAGE, FdlabError, nearest
from fdlab.measures import attribution as form
from fdlab.measures.attribution_rows import UNDEFINED, curve_rows, head_rows, score_rows
from fdlab.probes.objectives.scores import ClassOrFeature
from fdlab.probes.probe import Probe
from fdlab.progress import Progress
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
    _known(part, PARTS, "part")
    if steps < 1 or gradient_steps < 1:
        raise FdlabError("Curves and integrals need at least one step.", "", "Set steps to 1 or more.", USAGE)
    if len(images.shape) != 4 or len(images) == 0:
        raise FdlabError(f"Images of shape {tuple(images.shape)} cannot be measured.", "", "Pass (n, 3, H, W).", USAGE)
    score = ClassOrFeature(encoder, target, labels is not None)
    chosen, skipped = _orders(encoder, orders)
    look = _Look(encoder, score, batch, seed, chosen, steps, gradient_steps, progress)
    group = look.curves if part == "curves" else look.heads
    look.plan(len(images), part)
    parts = [
        _kept(unfinished, start, lambda start=start: _read(images, labels, start, score, group))  # type: ignore[misc]
        for start in range(0, len(images), GROUP)
    ]
    found = [arrays for arrays in parts if arrays]
    if not found:
        raise FdlabError("None of the images could be read.", "", "Check --data.", NOT_UNDERSTOOD)
    arrays = {name: np.concatenate([one[name] for one in found]) for name in found[0]}
    if part == "curves":
        rows, said = curve_rows(arrays, look.shares(), chosen, seed)
        rows += score_rows(arrays, seed)
    else:
        rows, said = head_rows(arrays, heads_of(encoder), seed)
    n = len(arrays["score_whole"])
    same = {"model": label, "family": encoder.info.family, "seed": seed, "probe": "attribution", "n": n}
    table = frame([{**same, "objective": score.words, "unit": METRICS[row["metric"]].unit, **row} for row in rows])
    manifest = _manifest(encoder, label, seed, n, part) | {"objective": score.words, "grid": list(look.grid)}
    manifest["not_measured"] = [*(skipped if part == "curves" else []), *said]
    if "answered" in arrays:
        manifest["label_is_first_answer"] = float(arrays["answered"].mean())
        manifest["remarks"] = _strangers(encoder, arrays["answered"])
    return Record(table, arrays, manifest)


def intervals_anew(record: Record, seed: int) -> Record:
    """The record with all intervals made again from its arrays."""
    arrays, table = record.arrays, record.table
    if "head_effect" in arrays:
        blocks, most = arrays["head_effect"].shape[1:]
        rows, said = head_rows(arrays, [most] * blocks, seed)  # absent heads have no row to fill
    else:
        shares = table[table["metric"] == "deletion_curve_random"]["x"].to_numpy(np.float64)
        orders = [name.removeprefix("deletion_") for name in arrays if name.startswith("deletion_")]
        rows, said = curve_rows(arrays, shares, orders, seed)
        rows += score_rows(arrays, seed)
    kept = [text for text in record.manifest["not_measured"] if not text.startswith(UNDEFINED)]
    manifest = {**record.manifest, "not_measured": kept + said}
    return replace(record, table=with_bounds(table, rows), manifest=manifest)


def announcement(encoder: Encoder, _size: tuple[int, int], settings: dict[str, Any]) -> str:
    """How much work an image is, said before it starts."""
    gradient = settings.get("gradient_steps", 50)
    if settings.get("part", "curves") == "heads":
        return f"{sum(heads_of(encoder))} forward passes an image for its heads, {gradient + 1} with gradients"
    forward = 2 * settings.get("steps", 20) * len(_orders(encoder, settings.get("orders"))[0])
    return f"at most {forward} forward passes an image for its curves, {gradient} with gradients"


# --- one group of images -------------------------------------------------------------------------------


class _Look:
    """How one looks at a group of images; counts forward passes for the progress."""

    def __init__(
        self, encoder: Encoder, score: ClassOrFeature, batch: int, seed: int, orders: list[str], steps: int,
        gradient_steps: int, progress: Any,
    ) -> None:  # fmt: skip
        self.encoder, self.score, self.batch, self.seed = encoder, score, batch, seed
        self.orders, self.gradient_steps, self.progress = orders, gradient_steps, progress
        self.grid = encoder.info.grid
        self.counts = form.counts_of(self.grid[0] * self.grid[1], steps)

    def shares(self) -> np.ndarray:
        """(points,): the share of the cells that is changed at each point of a curve."""
        return np.array(self.counts) / self.counts[-1]

    def plan(self, images: int, part: str) -> None:
        """Progress is counted in passes over a group; one with gradients counts as three."""
        if isinstance(self.progress, Progress):
            curves = 2 * (len(self.counts) - 2) * len(self.orders)
            heads = sum(heads_of(self.encoder)) + 3 * self.gradient_steps
            each = curves + 3 * self.gradient_steps * ("gradients" in self.orders) if part == "curves" else heads
            self.progress.total = each * -(-images // GROUP)

    def done(self, passes: int = 1) -> None:
        if self.progress is not None:
            self.progress.advance(passes)

    def scores(self, images: Tensor, aims: Tensor) -> Tensor:
        """(B,): without gradients, ``batch`` images at a time."""
        with torch.no_grad():
            pairs = zip(images.split(self.batch), aims.split(self.batch), strict=True)
            return torch.cat([self.score(*pair) for pair in pairs])

    def ends(self, images: Tensor, aims: Tensor) -> tuple[Tensor, Tensor]:
        return self.scores(images, aims), self.scores(torch.zeros_like(images), aims)

    def curves(self, images: Tensor, aims: Tensor, first: int) -> dict[str, Tensor]:
        """Scores along the curves of every order; ``first`` is the number of the group's first image."""
        whole, empty = self.ends(images, aims)
        found = {"score_whole": whole, "score_empty": empty}
        for name in self.orders:
            if name == "random":
                order = form.random_order(self.seed, range(first, first + len(images)), self.counts[-1])
            else:
                cells = self._gradients(images, aims, found) if name == "gradients" else self._rollout(images)
                found[f"cells_{name}"] = cells
                order = form.descending(cells.cpu())
            removed, added = form.curves(
                self.scores, images, aims, order, self.grid, self.counts, ends=(whole, empty), done=self.done
            )
            found |= {f"deletion_{name}": removed, f"insertion_{name}": added}
        return found

    def _gradients(self, images: Tensor, aims: Tensor, found: dict[str, Tensor]) -> Tensor:
        pairs = zip(images.split(self.batch), aims.split(self.batch), strict=True)
        parts = [
            form.integrated_gradients(self.score, *pair, steps=self.gradient_steps, rows=self.batch) for pair in pairs
        ]
        found["completeness_gap"] = torch.cat([gap for _, gap in parts])
        self.done(3 * self.gradient_steps)
        return torch.cat([form.cell_sums(attributions, self.grid) for attributions, _ in parts])

    def _rollout(self, images: Tensor) -> Tensor:
        rollout = form.Rollout()
        tokens = self.grid[0] * self.grid[1] + self.encoder.info.prefix_tokens

        def on_call(call: AttentionCall) -> None:
            if call.shape[0] != len(images) or call.shape[-1] != tokens:
                raise _no_rollout(self.encoder, f"Block {call.block + 1} attends within {call.shape[-1]} tokens.")
            rollout.add(call.maps())

        with torch.no_grad(), tap(self.encoder.module, on_call):
            self.encoder.tokens(images)
        return rollout.patches(self.encoder.info.prefix_tokens, self.score.row)

    def heads(self, images: Tensor, aims: Tensor, _first: int) -> dict[str, Tensor]:
        """(B, blocks, heads) of both head measures; NaN where a block has fewer heads."""
        whole, empty = self.ends(images, aims)
        blocks = projections(self.encoder)
        shape = (len(images), len(blocks), max(block.heads for block in blocks))
        effect = torch.full(shape, float("nan"), dtype=whole.dtype, device=whole.device)
        for place, block in enumerate(blocks):
            for head in range(block.heads):
                with without_head(block, head):
                    effect[:, place, head] = whole - self.scores(images, aims)
                self.done()
        conductance = torch.full_like(effect, float("nan"))
        pairs = zip(images.split(self.batch), aims.split(self.batch), conductance.split(self.batch), strict=True)
        for some, their_aims, into in pairs:
            self._conductance(some, their_aims, into)
        self.done(3 * self.gradient_steps)
        return {
            "score_whole": whole, "score_empty": empty, "head_effect": effect, "head_conductance": conductance,
        }  # fmt: skip

    def _conductance(self, images: Tensor, aims: Tensor, into: Tensor) -> None:
        """captum's ``LayerConductance`` at every projection's input, summed over tokens and each head's channels.

        One walk along the line serves all blocks; captum would walk once a block, and fails where a projection sees
        windows.
        """
        blocks = projections(self.encoder)
        before: tuple[list[Tensor], tuple[Tensor, ...]] | None = None
        total = torch.zeros_like(into).nan_to_num()
        for alpha in form.line_points(self.gradient_steps + 1):
            with torch.enable_grad(), head_outputs(blocks) as outputs:
                point = (alpha * images).requires_grad_()
                slopes = torch.autograd.grad(self.score(point, aims).sum(), outputs)
            values = [output.detach() for output in outputs]
            for place, block in enumerate(blocks) if before is not None else ():
                moved = block.by_head(before[1][place] * (values[place] - before[0][place]))  # type: ignore[index]
                total[:, place, : block.heads] += moved.unflatten(0, (len(images), -1)).sum((1, 2, 4))
            before = values, slopes
        for place, block in enumerate(blocks):
            into[:, place, : block.heads] = total[:, place, : block.heads]


def _read(
    images: Any, labels: Any, start: int, score: ClassOrFeature, look: Callable[..., dict[str, Tensor]]
) -> Arrays:
    """One group's arrays; none where none of it can be read."""
    part = slice(start, min(start + GROUP, len(images)))
    raw = images[part]
    if not len(raw):
        return {}
    seen = score.encoder.normalise(raw.to(score.encoder.device))
    aims, answered = score.aims(seen, None if labels is None else labels[part])
    found = look(seen, aims, start)
    if answered is not None:
        found["answered"] = answered
    return {name: values.detach().float().cpu().numpy() for name, values in found.items()}


def _kept(folder: Path | None, start: int, make: Callable[[], Arrays]) -> Arrays:
    """The group's arrays from the folder, or made and kept there."""
    path = None if folder is None else folder / f"images-{start}.npz"
    if path is not None and path.is_file():
        try:
            with np.load(path, allow_pickle=False) as kept:
                return dict(kept)
        except DAMAGED:
            pass  # damaged: made again
    arrays = make()
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
    """The orders in the house's sequence, and sentences on what was left out though nobody named it."""
    names = list(ORDERS) if asked is None else [asked] if isinstance(asked, str) else list(asked)
    for name in names:
        _known(name, tuple(ORDERS), "order")
    wanted = {*names, "random"}
    if "rollout" not in wanted or not encoder.info.windows:
        return [name for name in ORDERS if name in wanted], []
    refusal = _no_rollout(encoder, "It attends inside windows.")
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


def _known(name: str, names: tuple[str, ...], kind: str) -> None:
    if name not in names:
        raise FdlabError(
            f"Attribution has no {kind} '{name}'.{nearest(name, names)}", "", f"Known: {', '.join(names)}.", USAGE
        )


def _manifest(encoder: Encoder, label: str, seed: int, images: int, part: str) -> dict[str, Any]:
    info = encoder.info
    return {
        "probe": "attribution", "version": VERSION, "label": label, "weights": info.sha256, "source": str(info.source),
        "family": info.family, "depth": info.depth, "options": list(info.options), "assumed": list(info.assumed),
        "images": images, "seed": seed, "part": part,
    }  # fmt: skip


PROBE = Probe(
    measure=measure_attribution,
    version=VERSION,
    settings=("part", "target", "orders", "steps", "gradient_steps"),
    takes=("labels", "unfinished"),
    announcement=announcement,
    intervals_anew=intervals_anew,
)

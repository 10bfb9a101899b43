"""A step's loss equals the one made by hand from its parts, for every task: what no test of a formula alone can see.

The references below are written from the papers' formulas, with plain sums, and share nothing with the tasks but the
networks themselves. A task without a reference fails, so that a new one brings its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fdlab.checkpoints.save import save_encoder
from fdlab.data.loader import Batch
from fdlab.data.sources import open_data
from fdlab.encoders.student import Design, build
from fdlab.tasks.base import TASKS, find_task

SIZE, PATCH, IMAGES, STEP, SEED = 24, 4, 6, 3, 11
MODEL = {"patch_size": PATCH, "width": 32, "depth": 2, "heads": 2, "class_token": True}
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    design = Design(SIZE, PATCH, 32, 3, 2, position="sincos", class_token=True)
    module = build(design, seed=1)
    with torch.no_grad():
        module.norm.weight.uniform_(0.2, 3, generator=torch.Generator().manual_seed(0))
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    return save_encoder(path, module, design=design, mean=MEAN, std=STD, family="contrastive", seed=1)


def made(name: str, settings: dict[str, Any]) -> Any:
    """The task in training mode, its slow copy and head moved away from what they are at the first step."""
    kind = find_task(name)
    task = kind(kind.Settings(**settings), open_data("digits#train").subset(range(60)), size=SIZE, seed=0)
    task.steps = 10
    task.train_mode(True)
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        moved = [*getattr(task, "slow", torch.nn.ModuleDict()).parameters()]
        moved += [p for name, p in task.module.named_parameters() if name.startswith("head.")]
        for parameter in moved:
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw))
        if hasattr(task, "centre"):
            task.centre.copy_(0.3 * torch.randn(task.centre.shape, generator=draw))
    return task


def a_batch(views: int) -> Batch:
    images, labels = open_data("digits#train").stack(range(IMAGES * views), SIZE)
    return Batch(STEP, list(images.split(IMAGES)), labels[:IMAGES], torch.arange(IMAGES))


# --- the parts ---------------------------------------------------------------------------------------------------


def normalised(task: Any, images: Tensor) -> Tensor:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (task.mean, task.std))
    return (images - mean) / std


def patch_mean(encoder: Any, images: Tensor) -> Tensor:
    """(B, C): the mean over the patch tokens, which stand behind the class token."""
    return encoder.forward_features(images)[:, 1:].mean(1)


def patches_of(images: Tensor) -> Tensor:
    """(B, N, 3 p p): channel, row and column of each pixel of each patch."""
    rows = [
        image[:, r : r + PATCH, c : c + PATCH].flatten()
        for image in images
        for r in range(0, SIZE, PATCH)
        for c in range(0, SIZE, PATCH)
    ]
    return torch.stack(rows).unflatten(0, (len(images), -1))


def standardised(patches: Tensor) -> Tensor:
    """Each patch with mean 0 and variance 1 over its own pixels (He et al. 2022, section 3: unbiased variance)."""
    off = patches - patches.mean(-1, keepdim=True)
    return off / (off.square().sum(-1, keepdim=True) / (patches.shape[-1] - 1) + 1e-6).sqrt()


def step_mask(ratio: float) -> Tensor:
    """(B, N) bool: the patches with the smallest draws of the step's generator are masked."""
    draws = torch.rand(IMAGES, (SIZE // PATCH) ** 2)
    smallest = draws.sort(1).values[:, : round(ratio * draws.shape[1])][:, -1:]
    return draws <= smallest


def softmax(logits: Tensor) -> Tensor:
    powers = (logits - logits.max(-1, keepdim=True).values).exp()
    return powers / powers.sum(-1, keepdim=True)


def unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.square().sum(-1, keepdim=True).sqrt()


# --- a loss by hand for every task -----------------------------------------------------------------------------------


def distill(task: Any, batch: Batch) -> Tensor:
    """Smooth L1 with beta between projected tokens and the teacher's normed, whitened ones (Wei et al. 2022)."""
    encoder = task.teacher.module
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    tokens = encoder.forward_features((batch.images[0] - mean) / std)
    off = tokens - tokens.mean(-1, keepdim=True)
    target = off / (off.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    layer = task.module["projector"]
    predicted = task.encoder.forward_features(normalised(task, batch.images[0])) @ layer.weight.T + layer.bias
    error, beta = (predicted - target).abs(), task.settings.beta
    return torch.where(error <= beta, error.square() / (2 * beta), error - beta / 2).mean()


def contrastive(task: Any, batch: Batch) -> Tensor:
    """NT-Xent: - log of the share of one's own other view among the 2B - 1 others (Chen et al. 2020, equation 1)."""
    both = normalised(task, torch.cat(batch.images))
    z = unit(task.module["projection"](patch_mean(task.encoder, both)))
    losses = []
    for i in range(2 * IMAGES):
        powers = {k: (z[i] @ z[k] / task.settings.temperature).exp() for k in range(2 * IMAGES) if k != i}
        losses.append(-(powers[(i + IMAGES) % (2 * IMAGES)] / sum(powers.values())).log())
    return torch.stack(losses).mean()


def masked(task: Any, batch: Batch) -> Tensor:
    """SimMIM: L1 on the masked patches, whose embeddings are the mask token (Xie et al. 2022)."""
    images, mask = normalised(task, batch.images[0]), step_mask(task.settings.ratio)
    embedded = task.encoder.patch_embed(images)
    embedded = torch.where(mask[..., None], task.module["mask"]["mask_token"], embedded)
    tokens = task.encoder.norm(task.encoder.blocks(task.encoder._pos_embed(embedded)))
    error = (task.module["decoder"](tokens[:, 1:]) - standardised(patches_of(images))).abs()
    return error[mask].mean()


def mae(task: Any, batch: Batch) -> Tensor:
    """MAE: the encoder sees the visible patches alone; mean square of the masked ones (He et al. 2022)."""
    images, mask = normalised(task, batch.images[0]), step_mask(task.settings.ratio)
    encoder, decoder = task.encoder, task.module["decoder"]
    placed = encoder._pos_embed(encoder.patch_embed(images))
    losses = []
    for tokens, hidden, pixels in zip(placed, mask, standardised(patches_of(images)), strict=True):
        seen = torch.cat([torch.ones(1, dtype=torch.bool), ~hidden])
        code = decoder.embed(encoder.norm(encoder.blocks(tokens[seen][None]))[0])
        patches = decoder.mask_token.repeat(len(hidden), 1)
        patches[~hidden] = code[1:]
        decoded = decoder.norm(decoder.blocks(torch.cat([code[:1], patches + decoder.positions])[None]))[0, 1:]
        losses.append((decoder.pixels(decoded) - pixels)[hidden].square().mean())
    return torch.stack(losses).mean()


def dino(task: Any, batch: Batch) -> Tensor:
    """- sum p log q, p of the copy on one view and q of the student on the other (Caron et al. 2021, algorithm 1)."""
    own, losses = task.settings, []

    def scores(parts: Any, view: Tensor) -> Tensor:
        pooled = patch_mean(parts["encoder"], normalised(task, view))
        return unit(parts["head"].layers(pooled)) @ unit(parts["head"].prototypes).T

    for seen, other in ((0, 1), (1, 0)):
        p = softmax((scores(task.slow, batch.images[seen]) - task.centre) / own.teacher_temperature)
        q = softmax(scores(task.module, batch.images[other]) / own.student_temperature)
        losses.append(-(p * q.log()).sum(-1).mean())
    return (losses[0] + losses[1]) / 2


def moco(task: Any, batch: Batch) -> Tensor:
    """2 T x (cross-entropy of q1 with k2 + of q2 with k1), keys of the slow copy (Chen et al. 2021, algorithm 1).

    Batch norms see both views of the batch together.
    """
    both, t = normalised(task, torch.cat(batch.images)), task.settings.temperature
    queries = unit(task.module["predictor"](task.module["projection"](patch_mean(task.encoder, both))))
    keys = unit(task.slow["projection"](patch_mean(task.slow["encoder"], both)))
    losses = []
    for i in range(2 * IMAGES):
        others = keys[IMAGES:] if i < IMAGES else keys[:IMAGES]
        losses.append(-softmax(others @ queries[i] / t)[i % IMAGES].log())
    return 2 * t * torch.stack(losses).sum() / IMAGES


def classify(task: Any, batch: Batch) -> Tensor:
    """Cross-entropy with (1 - s) x the class shares + s / K (Szegedy et al. 2016, section 7)."""
    shares = batch.targets
    if shares is None:
        shares = (batch.labels[:, None] == torch.arange(task.classes)).float()
    goal = (1 - task.settings.smoothing) * shares + task.settings.smoothing / task.classes
    pooled = patch_mean(task.encoder, normalised(task, batch.images[0]))
    off = pooled - pooled.mean(-1, keepdim=True)
    normed = off / (off.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    head = task.module["head"]
    return -(goal * softmax(normed @ head.weight.T + head.bias).log()).sum(-1).mean()


# Settings away from the defaults, so that one which is not handed on is noticed.
HAND: dict[str, tuple[Callable[[Any, Batch], Tensor], dict[str, Any]]] = {
    "distill": (distill, {"beta": 0.3, "student": {"drop_path": 0.0}}),
    "contrastive": (contrastive, {"temperature": 0.5, "model": MODEL}),
    "masked": (masked, {"ratio": 0.4, "loss": "l1", "per_patch": True, "model": MODEL}),
    "mae": (mae, {"ratio": 0.7, "width": 32, "model": MODEL}),
    "dino": (dino, {"prototypes": 32, "student_temperature": 0.2, "freeze_last": 0.0, "model": MODEL}),
    "moco": (moco, {"temperature": 0.4, "model": MODEL}),
    "classify": (classify, {"smoothing": 0.2, "head_init": 0.02, "design": MODEL}),
}


def both_losses(task: Any, by_hand: Callable[[Any, Batch], Tensor], batch: Batch) -> tuple[float, float]:
    torch.manual_seed(SEED)
    loss, _ = task.step(batch, STEP)
    torch.manual_seed(SEED)
    with torch.no_grad():
        return float(loss.detach()), float(by_hand(task, batch))


@pytest.mark.parametrize("name", TASKS)
def test_a_steps_loss_is_the_one_made_by_hand(name: str, teacher: Path) -> None:
    by_hand, settings = HAND[name]
    task = made(name, {**settings, "teacher": str(teacher)} if name == "distill" else settings)
    loss, expected = both_losses(task, by_hand, a_batch(task.views))
    assert loss == pytest.approx(expected, rel=2e-5)


def test_a_step_on_mixed_images_uses_their_shares_of_the_classes() -> None:
    by_hand, settings = HAND["classify"]
    task = made("classify", {**settings, "mix": {"mixup": 0.8}})
    mixed = task.prepare(a_batch(1), STEP)
    assert mixed.targets is not None
    loss, expected = both_losses(task, by_hand, mixed)
    assert loss == pytest.approx(expected, rel=2e-5)
    assert loss != pytest.approx(both_losses(task, by_hand, replace(mixed, targets=None))[0], rel=1e-3)


def test_the_teacher_is_what_the_student_predicts_and_not_the_other_way_round(teacher: Path) -> None:
    """KL(teacher || student) with temperature 2 is not KL(student || teacher)."""
    settings = {"teacher": str(teacher), "loss": "kl", "temperature": 2.0, "student": {"drop_path": 0.0}}
    task, batch = made("distill", settings), a_batch(1)
    with torch.no_grad():
        target = task.targets[0](batch.images[0])
        predicted = task.module["projector"](task.encoder.forward_features(normalised(task, batch.images[0])))
    p, q = softmax(target / 2), softmax(predicted / 2)
    assert float(task.step(batch, STEP)[0].detach()) == pytest.approx(
        4 * float((p * (p / q).log()).sum(-1).mean()), rel=1e-4
    )


@pytest.mark.parametrize(("counted", "class_token"), [("masked", False), ("visible", True)])
def test_a_masked_distillation_counts_the_tokens_that_it_says(counted: str, class_token: bool, teacher: Path) -> None:
    """The class token, which is never hidden, counts with the visible patches."""
    settings = {"mask": 0.4, "mask_loss": counted, "loss": "mse", "student": {"drop_path": 0.0}}
    task, batch = made("distill", {**settings, "teacher": str(teacher)}), a_batch(1)

    def by_hand(task: Any, batch: Batch) -> Tensor:
        hidden, token = step_mask(0.4), task.module["mask"]["mask_token"]
        hook = task.encoder.patch_embed.register_forward_hook(
            lambda _m, _x, out: torch.where(hidden[..., None], token, out)
        )
        predicted = task.module["projector"](task.encoder.forward_features(normalised(task, batch.images[0])))
        hook.remove()
        error = (predicted - task.targets[0](batch.images[0])).square().mean(-1)
        chosen = hidden if counted == "masked" else ~hidden
        return error[torch.cat([torch.full((IMAGES, 1), class_token), chosen], 1)].mean()

    loss, expected = both_losses(task, by_hand, batch)
    assert loss == pytest.approx(expected, rel=2e-5)

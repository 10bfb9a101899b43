"""What is distilled: targets, norms, whitening, losses, masks, several teachers; known answers and refusals."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer

from fdlab.checkpoints.save import save_encoder
from fdlab.data.loader import Batch
from fdlab.data.sources import open_data
from fdlab.encoders.student import Design, build
from fdlab.errors import FdlabError
from fdlab.measures.losses import feature_loss, whiten
from fdlab.tasks.distill import Distill, DistillSettings
from fdlab.tasks.whitening import Statistics

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    design = Design(24, 4, 32, 3, 2, position="sincos", class_token=True)
    module = build(design, seed=1)
    with torch.no_grad():  # a norm that does something
        module.norm.weight.uniform_(0.2, 3, generator=torch.Generator().manual_seed(0))
        module.norm.bias.uniform_(-1, 1, generator=torch.Generator().manual_seed(1))
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    return save_encoder(path, module, design=design, mean=MEAN, std=STD, family="contrastive", seed=1)


def distill(teacher: Path | str, *, size: int = 24, images: int = 96, **own: Any) -> Distill:
    data = open_data("digits#train").subset(range(images))
    return Distill(DistillSettings(teacher=str(teacher), **own), data, size=size, seed=0)


def batch(count: int = 6) -> Batch:
    images, labels = open_data("digits#train").stack(range(count), 24)
    return Batch(0, [images], labels, torch.arange(count))


def tokens_of(task: Distill, norm: bool = True) -> torch.Tensor:
    return task.teacher.tokens(task.teacher.normalise(batch().images[0]), norm=norm)


@pytest.mark.parametrize(("target", "count"), [("tokens", 37), ("patches", 36), ("class", 1), ("mean", 1)])
def test_each_target_is_what_it_says(teacher: Path, target: str, count: int) -> None:
    task = distill(teacher, target=target, norm="own")
    got, tokens = task.targets[0](batch().images[0]), tokens_of(task)
    expected = {
        "tokens": tokens,
        "patches": tokens[:, 1:],
        "class": tokens[:, :1],
        "mean": tokens[:, 1:].mean(1, keepdim=True),
    }[target]
    assert got.shape == (6, count, 32)
    assert torch.allclose(got, expected, atol=1e-6)
    loss, _ = task.step(batch(), 0)
    loss.backward()
    assert torch.isfinite(loss)


def test_norms_are_told_apart(teacher: Path) -> None:
    images = batch().images[0]
    got = {n: distill(teacher, norm=n).targets[0](images) for n in ("none", "own", "own+whiten", "whiten")}
    task = distill(teacher)
    raw, own = tokens_of(task, norm=False), tokens_of(task)
    assert torch.allclose(got["none"], raw, atol=1e-6)
    assert torch.allclose(got["own"], own, atol=1e-6)
    assert torch.allclose(got["own+whiten"], whiten(own), atol=1e-6)
    assert torch.allclose(got["whiten"], whiten(raw), atol=1e-6)
    # The double norm is not the single one: the teacher's scale weighs the channels anew.
    assert F.cosine_similarity(got["whiten"].flatten(), got["own+whiten"].flatten(), 0) < 0.98


@pytest.mark.parametrize("block", [0, 1, -2])
def test_an_inner_block_is_read_where_it_is_computed(teacher: Path, block: int) -> None:
    task = distill(teacher, block=block, norm="none")
    seen: list[torch.Tensor] = []
    task.teacher.module.blocks[block].register_forward_hook(lambda _m, _i, out: seen.append(out))
    got = task.targets[0](batch().images[0])
    assert torch.equal(got, seen[0])
    assert any(f"block {block % 3}" in note for note in task.notes)


def test_a_narrow_student_keeps_a_wide_projector() -> None:
    narrow = {"width": 32, "depth": 1, "heads": 2, "patch_size": 8}
    task = distill("random:vit_tiny_patch16_224", target="mean", student=narrow)
    assert task.targets[0].width == 192
    assert task.module["projector"].weight.shape == (192, 32)


@pytest.mark.parametrize("norm", ["none", "whiten"])
def test_logits_are_distilled(tmp_path: Path, norm: str) -> None:
    """The classifier's outputs of a file in timm's layout; the student's mean patch token predicts them."""
    torch.manual_seed(0)
    teacher = VisionTransformer(img_size=24, patch_size=8, embed_dim=192, depth=1, num_heads=3, num_classes=7)
    torch.nn.init.normal_(teacher.head.weight)
    torch.save(teacher.state_dict(), tmp_path / "deit.pth")
    task = distill(
        tmp_path / "deit.pth", target="logits", norm=norm, loss="kl" if norm == "none" else "smooth_l1",
        temperature=2.0, student={"width": 32, "depth": 1, "heads": 2, "drop_path": 0.0},
    )  # fmt: skip
    images = batch().images[0]
    with torch.no_grad():
        logits = teacher.eval()(task.teacher.normalise(images))
    goal = task.targets[0](images)
    assert goal.shape == (6, 1, 7)
    expected = logits if norm == "none" else whiten(logits)
    assert torch.allclose(goal[:, 0], expected, atol=1e-4)
    assert logits.std() > 0.1  # not the zeros of an untrained head
    task.train_mode(True)
    said = task.module["projector"](task.tokens(images)[:, 1:].mean(1))
    loss, _ = task.step(batch(), 0)
    if norm == "none":  # Hinton's: T^2 KL of softened classes
        by_hand = 4 * F.kl_div((said / 2).log_softmax(-1), (logits / 2).log_softmax(-1), log_target=True,
                               reduction="batchmean")  # fmt: skip
        assert torch.allclose(loss, by_hand, rtol=1e-4)
    loss.backward()
    assert task.encoder.blocks[0].attn.qkv.weight.grad.abs().sum() > 0
    optimizer = torch.optim.Adam(task.module.parameters(), 1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        later = task.step(batch(), 0)[0]
        later.backward()
        optimizer.step()
    assert float(later.detach()) < 0.7 * float(loss.detach())


def test_logits_need_a_classifier_and_no_other_block_or_norm(teacher: Path) -> None:
    for own, match in (
        ({"norm": "none"}, "no classifier"),
        ({"norm": "none", "block": 0}, "after the last block"),
        ({"norm": "own"}, "behind its norm"),
    ):
        with pytest.raises(FdlabError, match=match):
            distill(teacher, target="logits", **own)


def test_impossible_targets_are_refused(teacher: Path, tmp_path: Path) -> None:
    design = Design(24, 4, 32, 2, 2, position="sincos")
    path = save_encoder(
        tmp_path / "t.safetensors", build(design, seed=1), design=design, mean=MEAN, std=STD, family="mim", seed=1
    )
    for own, match in (
        ({"target": "class"}, "no class token"),
        ({"block": 5}, "no block 5"),
        ({"mask": 0.5, "target": "mean"}, "no masked tokens"),
        ({"mask": 0.5, "student": SWIN}, "cannot be masked"),
        ({"others": [{"weight": 2.0}]}, "has no teacher"),
    ):
        with pytest.raises(FdlabError, match=match) as caught:
            distill(path, **own)
        assert caught.value.code == 2


SWIN = {
    "patch_size": 2, "width": 16, "stages": [1, 2], "heads": 2, "window": 3,
    "position": "block_bias", "layer_scale": 0.0, "init": "timm",
}  # fmt: skip


def test_a_swin_student_is_the_stock_class_on_another_grid(teacher: Path) -> None:
    from timm.models.swin_transformer_v2 import SwinTransformerV2

    task = distill(teacher, student=SWIN)
    assert type(task.encoder) is SwinTransformerV2
    assert task.tokens(batch().images[0]).shape == (6, 36, 32)
    loss, _ = task.step(batch(), 0)
    loss.backward()
    assert 0 < float(loss.detach()) < 2
    patch8 = distill(teacher, student={**SWIN, "stages": [1, 1, 1], "window": 3})
    assert any("resampled" in note for note in patch8.notes)
    assert patch8.targets[0](batch().images[0]).shape == (6, 9, 32)


def test_standardising_gives_each_channel_mean_0_and_variance_1(teacher: Path) -> None:
    task = distill(teacher, norm="standardise")
    images, _ = task.data.stack(range(96), 24)
    task.train_mode(False)
    got = task.targets[0](images).flatten(0, 1)
    assert got.mean(0).abs().max() < 1e-4
    assert (got.var(0, correction=0) - 1).abs().max() < 1e-2
    assert "whitening.mean" in task.state_dict()["module"]


def test_pca_leaves_no_correlation() -> None:
    draw = torch.Generator().manual_seed(0)
    mixed = torch.randn(5000, 6, generator=draw) @ torch.randn(6, 6, generator=draw) + 3
    pca = Statistics(6, pca=True)
    pca.fit(mixed.split(500))
    white = pca.eval()(mixed)
    covariance = white.T @ white / len(white)
    assert (covariance - torch.diag(covariance.diagonal())).abs().max() < 1e-3
    values = torch.linalg.eigvalsh(mixed.T.cov(correction=0))
    assert torch.allclose(covariance.diagonal(), values / (values + 1e-3 * values.mean()), atol=2e-3)


def test_running_statistics_move_alike_in_one_part_and_in_two() -> None:
    tokens = 2 + 3 * torch.randn(8, 5, 4, generator=torch.Generator().manual_seed(0))
    whole, parts = (Statistics(4, pca=False, momentum=0.5).train() for _ in range(2))
    whole(tokens)
    parts(tokens[:4]), parts(tokens[4:])
    for each in (whole, parts):
        each.follow()
    assert torch.allclose(whole.mean, parts.mean)
    assert torch.allclose(whole.variance, parts.variance)
    flat = tokens.flatten(0, 1)
    assert torch.allclose(whole.mean, flat.mean(0) / 2)
    assert torch.allclose(whole.variance, (1 + (flat - flat.mean(0)).square().mean(0)) / 2, rtol=1e-4)
    before = whole.mean.clone()
    whole.eval()(tokens)
    whole.follow()
    assert torch.equal(whole.mean, before)


def test_losses_have_their_closed_forms() -> None:
    target, predicted = torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[4.0, 3.0]]])
    assert float(feature_loss(predicted, target, "mse")) == pytest.approx(1.0)
    assert float(feature_loss(predicted, target, "smooth_l1", beta=2.0)) == pytest.approx(0.25)
    assert float(feature_loss(predicted, target, "cosine")) == pytest.approx(1 - 24 / 25)
    p = 1 / (1 + math.exp(0.5))  # the softmax of (3, 4) at temperature 2
    kl = p * math.log(p / (1 - p)) + (1 - p) * math.log((1 - p) / p)
    assert float(feature_loss(predicted, target, "kl", temperature=2.0)) == pytest.approx(4 * kl, rel=1e-5)
    two_p, two_t = torch.cat([predicted, target], 1), torch.cat([target, target], 1)
    weight = torch.tensor([[True, False]])
    for kind in ("smooth_l1", "mse", "cosine", "kl"):
        one = feature_loss(predicted, target, kind)
        assert torch.allclose(feature_loss(two_p, two_t, kind, weight=weight), one)
        assert float(feature_loss(two_p, two_t, kind, weight=~weight)) == pytest.approx(0, abs=1e-6)


def test_masked_tokens_are_hidden_and_only_counted_ones_matter(teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = batch().images[0]
    losses = {}
    for counted in ("masked", "visible", "all"):
        task = distill(teacher, mask=0.5, mask_loss=counted, student={"drop_path": 0.0})
        task.train_mode(True)
        torch.manual_seed(3)
        mask = task._mask(6)
        torch.manual_seed(3)
        losses[counted] = float(task.loss(images).detach())
        pixels = mask.view(6, 6, 6).repeat_interleave(4, 1).repeat_interleave(4, 2).unsqueeze(1).expand_as(images)
        changed = torch.where(pixels, 1 - images, images)
        monkeypatch.setattr(task.targets[0], "raw", lambda _changed, raw=task.targets[0].raw(images): raw)
        torch.manual_seed(3)
        assert float(task.loss(changed).detach()) == pytest.approx(losses[counted], rel=1e-5)
    assert losses["all"] == pytest.approx((18 * losses["masked"] + 19 * losses["visible"]) / 37, rel=1e-4)
    assert mask.sum(1).tolist() == [18] * 6
    task.train_mode(False)
    assert task.loss(images).item() == task.loss(images).item()


def test_several_teachers_are_weighed(teacher: Path) -> None:
    both = distill(teacher, weight=1.0, others=[{"teacher": str(teacher), "weight": 3.0, "target": "mean"}])
    both.train_mode(False)
    assert set(both.inputs) == {"teacher", "teacher_1"}
    images = batch().images[0]
    student, parts = both.tokens(images), []
    for target, name in zip(both.targets, ("projector", "projector_1"), strict=True):
        goal = target(images)
        parts.append(feature_loss(both.module[name](target.predictors(student, 1, goal.shape[1])), goal))
    assert torch.allclose(both.loss(images), (parts[0] + 3 * parts[1]) / 4)


def test_a_wide_projector(teacher: Path) -> None:
    task = distill(teacher, projector_hidden=48, student={"width": 16, "heads": 2})
    assert [tuple(p.shape) for p in task.module["projector"].parameters() if p.ndim == 2] == [(48, 16), (32, 48)]

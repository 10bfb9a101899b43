"""Distillation is the paper's: the whitened target, the loss, the same view, the frozen teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models.beit import Beit
from timm.models.vision_transformer_relpos import VisionTransformerRelPos

from fdlab.checkpoints.save import save_encoder
from fdlab.data.loader import Batches
from fdlab.data.sources import open_data
from fdlab.data.transforms import View
from fdlab.encoders.student import Design, build
from fdlab.errors import FdlabError
from fdlab.measures.losses import distillation_loss, whiten
from fdlab.tasks.distill import Distill, DistillSettings

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)
VIEW = View(crop=(0.5, 1.0), flip=0.5)


def teacher_file(folder: Path, **changes: Any) -> Path:
    design = Design(
        **{"image_size": 24, "patch_size": 4, "width": 32, "depth": 2, "heads": 2, "position": "sincos", **changes}
    )
    path = folder / "teacher.safetensors"
    save_encoder(path, build(design, seed=1), design=design, mean=MEAN, std=STD, family="contrastive", seed=1)
    return path


def distill(path: Path, **student: Any) -> Distill:
    settings = DistillSettings(teacher=str(path), student=student)  # type: ignore[arg-type]
    return Distill(settings, open_data("digits#train"), size=24, seed=0)


def a_batch(count: int = 4) -> Any:
    return next(iter(Batches(open_data("digits#train"), size=24, batch=count, seed=0, view=VIEW, start=0, stop=1)))


def test_the_target_has_mean_0_and_power_1_and_forgets_its_scale() -> None:
    tokens = 3 + 5 * torch.randn(2, 7, 64)
    target = whiten(tokens)
    assert target.mean(-1).abs().max() < 1e-5
    assert (target.square().mean(-1) - 1).abs().max() < 1e-3
    assert torch.allclose(whiten(10 * tokens), target, atol=1e-4)


def test_predicting_zero_scores_what_the_paper_implies() -> None:
    target = whiten(torch.randn(64, 50, 768, generator=torch.Generator().manual_seed(0)))
    loss = float(distillation_loss(torch.zeros_like(target), target, beta=2.0))
    assert loss == pytest.approx(0.247, abs=5e-4)
    # At most 0.25 for any target of power 1: two-point values lie in the quadratic zone.
    assert float(distillation_loss(torch.zeros(4), torch.tensor([1.0, -1, 1, -1]))) == 0.25
    assert float(distillation_loss(torch.zeros(2), torch.tensor([5.0, 1.0]))) == pytest.approx((4.0 + 0.25) / 2)


def test_teacher_and_student_see_the_same_view_each_normalised_its_own_way(tmp_path: Path) -> None:
    task = distill(teacher_file(tmp_path))
    seen: dict[str, torch.Tensor] = {}
    task.teacher.module.patch_embed.register_forward_pre_hook(lambda _m, x: seen.update(teacher=x[0]))
    task.encoder.patch_embed.register_forward_pre_hook(lambda _m, x: seen.update(student=x[0]))
    batch = a_batch()
    task.step(batch, 0)

    def undone(images: torch.Tensor, mean: Any, std: Any) -> torch.Tensor:
        return images * torch.tensor(std).view(1, 3, 1, 1) + torch.tensor(mean).view(1, 3, 1, 1)

    assert torch.allclose(undone(seen["teacher"], MEAN, STD), batch.images[0], atol=1e-6)
    assert torch.allclose(undone(seen["student"], task.mean, task.std), batch.images[0], atol=1e-6)
    assert not torch.allclose(seen["teacher"], seen["student"])


def test_the_teacher_is_frozen_in_eval_mode_and_not_saved(tmp_path: Path) -> None:
    task = distill(teacher_file(tmp_path))
    before = {k: v.clone() for k, v in task.teacher.module.state_dict().items()}
    optimizer = torch.optim.SGD(task.module.parameters(), lr=1.0)
    task.module.train()
    for _ in range(3):
        loss, _ = task.step(a_batch(), 0)
        loss.backward()
        optimizer.step()
    assert all(torch.equal(v, task.teacher.module.state_dict()[k]) for k, v in before.items())
    assert not task.teacher.module.training
    assert not any("teacher" in key for key in task.state_dict()["module"])
    assert all(p.grad is None for p in task.teacher.module.parameters())


@pytest.mark.parametrize(("class_token", "kind"), [(True, Beit), (False, VisionTransformerRelPos)])
def test_the_student_is_a_stock_class_with_the_papers_design(tmp_path: Path, class_token: bool, kind: type) -> None:
    task = distill(teacher_file(tmp_path, class_token=class_token))
    assert type(task.encoder) is kind
    assert task.design is not None
    assert (task.design.position, task.design.layer_scale, task.design.bias_scale) == ("shared_bias", 0.1, 1.0)
    assert getattr(task.encoder, "pos_embed", None) is None
    tables = [n for n, _ in task.encoder.named_parameters() if "relative_position_bias_table" in n]
    assert len(tables) == 1
    task.module.eval()
    batch = a_batch()
    expected = distillation_loss(
        task.module["projector"](task.tokens(batch.images[0])),
        whiten(task.teacher.tokens(task.teacher.normalise(batch.images[0]))),
    )
    loss, _ = task.step(batch, 0)
    assert torch.allclose(loss, expected)


def test_drop_path_is_the_students_alone_and_rises_with_depth(tmp_path: Path) -> None:
    task = distill(teacher_file(tmp_path), drop_path=0.3)
    task.module.train()
    rates = [getattr(b.drop_path1, "drop_prob", 0.0) for b in task.encoder.blocks]
    assert rates == pytest.approx([0.0, 0.3])
    images = a_batch().images[0]
    assert torch.equal(task.teacher_tokens(images), task.teacher_tokens(images))
    torch.manual_seed(0)
    first = task.tokens(images)
    torch.manual_seed(1)
    assert not torch.equal(first, task.tokens(images))


def test_another_grid_is_resampled_and_said(tmp_path: Path) -> None:
    task = distill(teacher_file(tmp_path), patch_size=8)
    assert any("resampled" in note for note in task.notes)
    assert task.teacher_tokens(a_batch().images[0]).shape == (4, 9, 32)
    loss, _ = task.step(a_batch(), 0)
    assert 0 < float(loss) < 2


def test_a_missing_teacher_says_how_to_give_one() -> None:
    with pytest.raises(FdlabError, match="--teacher"):
        Distill(DistillSettings(), open_data("digits#train"), size=24, seed=0)

"""Contrastive, masked and classification: known answers and what each must not do."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from fdlab.data.loader import Batch
from fdlab.data.sources import open_data
from fdlab.encoders.student import Design
from fdlab.errors import FdlabError
from fdlab.measures.classifier import knn_predict
from fdlab.measures.losses import masked_pixel_loss, nt_xent, patchify
from fdlab.measures.ridge import explained, fit_position_ridge
from fdlab.tasks.base import ModelSettings, find_task
from fdlab.tasks.masking import draw_mask

MODEL = {"image_size": 24, "patch_size": 4, "width": 32, "depth": 2, "heads": 2}


def make(name: str, own: dict[str, Any], **data: Any) -> Any:
    task = find_task(name)
    images = open_data("digits#train")
    return task(task.Settings(**own), images.subset(range(60)), size=24, seed=0, **data)


def batch(count: int = 6, views: int = 1) -> Batch:
    images, labels = open_data("digits#train").stack(range(count), 24)
    return Batch(0, [images] * views, labels, torch.arange(count))


def test_nt_xent_known_answers() -> None:
    same = torch.ones(4, 3)
    assert float(nt_xent(same, same, 0.2)) == pytest.approx(math.log(7))
    # Orthogonal images whose two views agree: -log(e^(1/t) / (e^(1/t) + 6)).
    t = 0.5
    expected = -math.log(math.exp(1 / t) / (math.exp(1 / t) + 6))
    assert float(nt_xent(torch.eye(4), 3 * torch.eye(4), t)) == pytest.approx(expected, rel=1e-5)


def test_masked_loss_counts_masked_patches_only() -> None:
    pixels = torch.zeros(1, 4, 2)
    predicted = torch.tensor([[[2.0, 0], [9, 9], [1, 1], [9, 9]]])
    mask = torch.tensor([[True, False, True, False]])
    assert float(masked_pixel_loss(predicted, pixels, mask)) == pytest.approx((2.0 + 1.0) / 2)
    assert float(masked_pixel_loss(predicted, pixels, mask, "l1")) == pytest.approx(1.0)


def test_patches_are_row_major() -> None:
    image = torch.arange(16.0).view(1, 1, 4, 4)
    assert patchify(image, 2)[0, 1].tolist() == [2, 3, 6, 7]


def test_what_is_masked_cannot_be_seen() -> None:
    task = make("masked", {"model": MODEL})
    task.module.eval()
    images = task.normalise(batch().images[0])
    mask = draw_mask(6, 36, task.settings.ratio)
    assert (mask.sum(1) == 22).all()
    changed = images.clone()
    pixels = mask.view(6, 6, 6).repeat_interleave(4, 1).repeat_interleave(4, 2).unsqueeze(1).expand_as(images)
    changed[pixels] = 100.0
    assert torch.allclose(task.tokens_masked(images, mask), task.tokens_masked(changed, mask), atol=1e-5)
    assert not torch.allclose(task.tokens_masked(images, ~mask), task.tokens_masked(changed, ~mask))
    assert len(task.encoder.patch_embed._forward_hooks) == 0


@pytest.mark.parametrize("position", ["sincos", "learned", "shared_bias", "block_bias", "none"])
@pytest.mark.parametrize("class_token", [False, True])
def test_every_design_can_be_pretrained(position: str, class_token: bool) -> None:
    model = {**MODEL, "position": position, "class_token": class_token, "layer_scale": 0.1}
    for name, views in (("masked", 1), ("contrastive", 2)):
        task = make(name, {"model": model})
        task.module.train()
        loss, _ = task.step(batch(views=views), 0)
        loss.backward()
        assert torch.isfinite(loss)
        missing = [n for n, p in task.encoder.named_parameters() if p.requires_grad and p.grad is None]
        assert not missing


def test_a_zero_head_starts_at_the_uniform_guess_and_statistics_come_from_the_labelled_images() -> None:
    task = make("classify", {"design": MODEL, "head_norm": "standardise", "head_init": 0.0, "smoothing": 0.0})
    loss, _ = task.step(batch(), 0)
    assert float(loss) == pytest.approx(math.log(10), rel=1e-5)
    images, _ = task.data.stack(range(60), 24)
    task.module.eval()
    pooled = task.module["norm"](task.pooled(task.tokens(images)))
    assert pooled.mean(0).abs().max() < 1e-4
    assert (pooled.std(0) - 1).abs().max() < 1e-3


def test_every_test_image_is_counted_once() -> None:
    test = open_data("digits#test")
    task = make("classify", {"design": MODEL}, test=test)
    assert task.evaluate()["count"] == len(test) == 500


def test_fine_tuning_without_labels_or_model_is_refused() -> None:
    with pytest.raises(FdlabError, match="no model to fine-tune"):
        make("classify", {})
    task = find_task("classify")
    with pytest.raises(FdlabError, match="no labels"):
        task(task.Settings(design=MODEL), open_data("photos"), size=24, seed=0)


def test_the_settings_of_a_model_are_a_part_of_its_design() -> None:
    assert set(ModelSettings.model_fields) <= {field.name for field in fields(Design)}
    model = ModelSettings(patch_size=4, width=32, depth=2, heads=2)
    assert model.design(24) == Design(24, 4, 32, 2, 2, position="sincos")
    with pytest.raises(FdlabError, match=r"width 32 is not a multiple of 3 heads.*patch size 5(.|\n)*Change data.size"):
        ModelSettings(patch_size=5, width=32, depth=2, heads=3).design(24)


def test_an_unknown_task_has_a_nearest_name() -> None:
    with pytest.raises(FdlabError, match="'masked'"):
        find_task("maskd")


def test_ridge_explains_a_linear_map_and_nothing_of_noise() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(300, 4, 6, generator=draw)
    y = x @ torch.randn(6, 5, generator=draw) + torch.randn(4, 5, generator=draw)
    error, base = explained(fit_position_ridge(x[:200], y[:200], 1e-6), x[200:], y[200:])
    assert 1 - float(error.sum() / base.sum()) > 0.999
    noise = torch.randn(300, 4, 5, generator=draw)
    error, base = explained(fit_position_ridge(x[:200], noise[:200]), x[200:], noise[200:])
    assert abs(1 - float(error.sum() / base.sum())) < 0.05


def test_a_constant_per_position_is_not_counted_as_explained() -> None:
    """The position mean is the baseline: a target without image differences leaves nothing to explain."""
    x = torch.randn(50, 4, 6)
    y = torch.randn(4, 5).expand(50, 4, 5)
    _, base = explained(fit_position_ridge(x, y), x, y)
    assert float(base.sum()) < 1e-8


def test_knn_votes_by_similarity() -> None:
    train = torch.tensor([[1.0, 0], [0.9, 0.1], [0, 1]])
    labels = torch.tensor([0, 0, 1])
    assert knn_predict(train, labels, torch.tensor([[0.1, 5.0], [3, 0.1]]), k=1).tolist() == [1, 0]
    # One very near neighbour outvotes two far ones at a small temperature.
    assert knn_predict(train, labels, torch.tensor([[0.05, 1.0]]), k=3, temperature=0.07).tolist() == [1]


def test_fine_tuning_keeps_what_the_bias_scale_adds(tmp_path: Path) -> None:
    """A scaled table learns faster but gives the same tokens at the start."""
    from fdlab.checkpoints.save import save_encoder
    from fdlab.encoders.student import Design, build

    design = Design(**MODEL, position="shared_bias", bias_scale=10.0)
    module = build(design, seed=0)
    with torch.no_grad():
        next(p for n, p in module.named_parameters() if "bias_table" in n).normal_(std=0.05)
    path = tmp_path / "m.safetensors"
    save_encoder(path, module, design=design, mean=(0.5,) * 3, std=(0.2,) * 3, family="distilled", seed=0)
    plain = make("classify", {"model": str(path)})
    scaled = make("classify", {"model": str(path), "bias_scale": 10})
    images = batch().images[0]
    plain.module.eval(), scaled.module.eval()
    assert torch.allclose(plain.tokens(images), scaled.tokens(images), atol=1e-5)
    assert scaled.options == ("bias_scale 10",)

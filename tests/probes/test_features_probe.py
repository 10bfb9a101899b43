"""The feature probe against direct computation, on varied models, and its refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor

from fdlab.encoders.encoder import Encoder
from fdlab.errors import FdlabError
from fdlab.measures import features as form
from fdlab.probes.features import ALL, LABELLED, between, measure_features

SMALL = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 3, "num_heads": 2, "num_classes": 0}
MODELS: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": SMALL,
    "vit_small_patch14_reg4_dinov2": SMALL,
    "beit_base_patch16_224": SMALL,
    "eva02_tiny_patch14_224": SMALL,
    "swin_tiny_patch4_window7_224": {
        "img_size": 64, "window_size": 4, "embed_dim": 16, "depths": (1, 1, 2), "num_heads": (1, 2, 2),
        "num_classes": 0,
    },
}  # fmt: skip


def encoder(name: str = "vit_tiny_patch16_224", seed: int = 0, **changes: Any) -> Encoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Encoder.wrap(timm.create_model(name, **{**MODELS[name], **changes}), family="small")


def pictures(n: int, size: tuple[int, int] = (64, 64)) -> Tensor:
    return torch.rand(n, 3, *size, generator=torch.Generator().manual_seed(1))


def block_tokens(model: Encoder, images: Tensor, block: int) -> Tensor:
    """Independent of the probe: the module run by hand up to a block."""
    x = model.module._pos_embed(model.module.patch_embed(model.normalise(images)))
    with torch.no_grad():
        for part in model.module.blocks[: block + 1]:
            x = part(x)
    return x[:, 1:]


@pytest.mark.parametrize("name", MODELS)
def test_varied_models_have_every_row(name: str) -> None:
    model, images = encoder(name), pictures(12)
    before = model.tokens(model.normalise(images))
    record = measure_features(model, images, torch.arange(12) % 3, label="m", batch=5)
    table = record.table
    assert set(table["metric"]) == set(ALL)
    depth = model.info.depth
    assert (table[table["metric"] == "high_frequency"]["block"].tolist()) == list(range(depth))
    assert np.isfinite(table["value"]).all()
    assert (table["low"] <= table["value"]).all() and (table["value"] <= table["high"]).all()
    torch.testing.assert_close(model.tokens(model.normalise(images)), before, rtol=0, atol=0)
    assert not any(module._forward_hooks for module in model.module.modules())


def test_values_are_those_of_the_formulas() -> None:
    model, images = encoder(), pictures(10)
    record = measure_features(model, images, label="m", batch=4)
    first, last = (block_tokens(model, images, block) for block in (0, 2))
    value = record.table.set_index(["metric", "block", "x"])["value"]
    assert value["cka", 0, 2.0] == pytest.approx(form.cka(first, last), abs=1e-5)
    np.testing.assert_allclose(record.arrays["token_similarity"][:, 2], form.token_similarity(last), rtol=1e-4)
    maps = last.transpose(1, 2).unflatten(2, (4, 4))
    np.testing.assert_allclose(record.arrays["high_frequency"][:, 2], form.high_frequency(maps), atol=1e-4)
    table = record.table[record.table["x"].isna()].set_index(["metric", "block"])["value"]
    pooled = last.mean(1).double()
    singular = torch.linalg.svdvals(pooled - pooled.mean(0))
    assert table["effective_rank", 2] == pytest.approx(float(form.effective_rank(singular)), rel=1e-4)
    shares = record.table.set_index(["metric", "block", "x"])["value"]["singular_value", 2]
    np.testing.assert_allclose(shares, (singular / singular.sum())[shares.index.astype(int).to_numpy() - 1], rtol=1e-4)
    assert table["uniformity", 2] == pytest.approx(form.uniformity(pooled), abs=1e-5)


def test_neither_batch_nor_a_second_run_changes_a_number() -> None:
    model, images = encoder(), pictures(40)
    runs = [measure_features(model, images, torch.arange(40) % 2, label="m", batch=b).table for b in (32, 7, 7)]
    np.testing.assert_allclose(runs[0]["value"], runs[1]["value"], rtol=1e-4, atol=1e-5)
    assert runs[1].equals(runs[2])


def test_between_models() -> None:
    images = pictures(40)
    records = {name: measure_features(encoder(seed=s), images, label=name, metrics=["cka"])
               for name, s in (("a", 0), ("same", 0), ("b", 1))}  # fmt: skip
    table = between(records, seed=0).set_index(["model", "reference", "block", "x"])["value"]
    assert table["a", "same", 1, 1.0] == pytest.approx(1, abs=1e-6)
    assert table["a", "b", 1, 1.0] < 0.999
    x, y = (block_tokens(encoder(seed=s), images, 1) for s in (0, 1))
    groups = [(form.gram(x[p]), form.gram(y[p])) for p in (slice(0, 32), slice(32, 40))]
    sums = [sum(float(form.hsic_unbiased(g[i], g[j])) for g in groups) for i, j in ((0, 1), (0, 0), (1, 1))]
    assert table["a", "b", 1, 1.0] == pytest.approx(sums[0] / (sums[1] * sums[2]) ** 0.5, abs=1e-5)


def test_classes_that_pixels_tell_apart_are_found() -> None:
    labels = torch.arange(40) % 2
    images = (0.1 * pictures(40) + 0.8 * labels[:, None, None, None]).clamp(0, 1)
    table = measure_features(encoder(), images, labels, label="m", metrics=LABELLED).table
    assert set(table["objective"]) == {"patch mean, 5 folds", "class token, 5 folds"}
    assert table[table["objective"].str.startswith("patch")]["value"].min() > 0.9


def test_attentive_pooling_is_on_request_and_its_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.arange(40) % 2
    images = 0.3 * pictures(40)
    for image, label in zip(images, labels, strict=True):  # one patch of 16, elsewhere in every image, tells
        row, column = (16 * int(k) for k in torch.randint(0, 4, (2,), generator=torch.Generator().manual_seed(3)))
        image[label, row : row + 16, column : column + 16] = 1.0
    asked = {"label": "m", "metrics": LABELLED, "pooling": ["patches", "attentive"]}
    runs = [measure_features(encoder(), images, labels, batch=b, **asked) for b in (7, 32)]
    for record in runs:
        found = record.table.set_index(["metric", "objective"])["value"]
        assert set(found.index) == {
            ("knn", "patch mean, 5 folds"), ("linear_probe", "patch mean, 5 folds"),
            ("linear_probe", "attentive pooling, 5 folds"),
        }  # fmt: skip
        assert found["linear_probe", "attentive pooling, 5 folds"] > 0.9
        assert record.arrays["linear_probe attentive pooling"].shape == (40,)
    assert runs[0].table["value"].tolist() == runs[1].table["value"].tolist()
    monkeypatch.setattr("fdlab.probes.features.TOKENS", 39 * 16 * 32 * 4)
    with pytest.raises(FdlabError, match="at most 39 images") as caught:
        measure_features(encoder(), images, labels, **asked)
    assert caught.value.code == 4
    with pytest.raises(FdlabError, match="Did you mean 'attentive'"):
        measure_features(encoder(), images, labels, label="m", pooling=["atentive"])


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_a_model_explains_itself_and_a_teacher_of_another_size_is_resized(name: str) -> None:
    model, images = encoder(name), pictures(40)
    runs = [measure_features(model, images, label="m", batch=b, metrics=["teacher_r2"], teacher=model) for b in (7, 32)]
    for record in runs:
        assert set(record.table["metric"]) == {"teacher_r2"}
        whole = record.table[record.table["block"].isna()].iloc[0]
        assert 0.99 < whole["low"] <= whole["value"] <= whole["high"] <= 1 and whole["n"] == 40
        blocks = record.table[record.table["block"].notna()]
        assert blocks["block"].tolist() == list(range(model.info.depth))
        assert blocks["value"].is_monotonic_increasing or name.startswith("swin")
    np.testing.assert_allclose(runs[0].table["value"], runs[1].table["value"], atol=1e-5)
    other = measure_features(encoder(img_size=32, seed=1), pictures(40, (32, 32)), label="m", teacher=model).table
    other = other[other["metric"] == "teacher_r2"]
    assert (other["value"] < 1).all() and "final tokens" in other[other["block"].isna()]["objective"].iloc[0]


def test_refusals_of_the_teacher() -> None:
    with pytest.raises(FdlabError, match="--teacher SOURCE"):
        measure_features(encoder(), pictures(20), label="m", metrics=["teacher_r2"])
    with pytest.raises(FdlabError, match="at least 16 images"):
        measure_features(encoder(), pictures(15), label="m", teacher=encoder())


def test_rectangles_are_measured_without_views() -> None:
    model = encoder(img_size=(32, 64))
    table = measure_features(model, pictures(8, (32, 64)), label="m").table
    assert np.isfinite(table[table["metric"] == "high_frequency"]["value"]).all()
    assert "alignment" not in set(table["metric"])


@pytest.mark.parametrize(
    ("metrics", "count", "labels", "words"),
    [
        (["knn"], 12, None, "no labels"),
        (["knn"], 12, torch.zeros(12, dtype=torch.int64), "one class"),
        (["cka"], 1, None, "images are needed"),
        (["effective_rank"], 1, None, "images are needed"),
        (["ckka"], 4, None, "Did you mean 'cka'"),
    ],
)
def test_refusals(metrics: list[str], count: int, labels: Any, words: str) -> None:
    with pytest.raises(FdlabError) as caught:
        measure_features(encoder(), pictures(count), labels, label="m", metrics=metrics)
    assert caught.value.code == 2
    assert words in f"{caught.value.what} {caught.value.why}"


def test_one_image_and_one_class_give_what_they_can() -> None:
    table = measure_features(encoder(), pictures(1), torch.zeros(1), label="m").table
    assert set(table["metric"]) >= {"high_frequency", "token_similarity"}
    table = measure_features(encoder(), pictures(12), torch.zeros(12), label="m").table
    assert not set(table["metric"]) & set(LABELLED)

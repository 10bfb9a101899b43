"""The attribution probe on models whose answer is known, against independent computation, and its refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from captum.attr import LayerConductance
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fdlab.encoders.encoder import Encoder, blocks_of
from fdlab.errors import FdlabError
from fdlab.measures.attribution import random_order
from fdlab.probes.attribution import measure_attribution
from fdlab.records.metrics import METRICS
from fdlab.records.store import Store

SMALL = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 3, "num_heads": 2, "num_classes": 0}
MODELS: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {**SMALL, "num_classes": 5},
    "vit_small_patch14_reg4_dinov2": SMALL,
    "beit_base_patch16_224": SMALL,
    "eva02_tiny_patch14_224": {**SMALL, "num_classes": 5},
    "swin_tiny_patch4_window7_224": {
        "img_size": 64, "window_size": 4, "embed_dim": 16, "depths": (1, 1, 2), "num_heads": (1, 2, 2),
        "num_classes": 5,
    },
}  # fmt: skip
FEW = {"label": "m", "steps": 4, "gradient_steps": 8}


def encoder(name: str = "vit_tiny_patch16_224", seed: int = 0, **changes: Any) -> Encoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = timm.create_model(name, **{**MODELS[name], **changes})
        for part in module.modules():  # timm's small initial weights leave next to nothing to attribute
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=0.3)
        return Encoder.wrap(module, family="small")


def linear(classes: int = 3) -> Encoder:
    """A vision transformer whose blocks add nothing: its logits are a linear map of the mean patch."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = VisionTransformer(
            img_size=32, patch_size=8, embed_dim=8, depth=2, num_heads=2, num_classes=classes, class_token=False,
            global_pool="avg",
        )  # fmt: skip
        for block in module.blocks:
            for layer in (block.attn.proj, block.mlp.fc2):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)
        module.norm, module.fc_norm = nn.Identity(), nn.Identity()
        for constant in (module.pos_embed, module.patch_embed.proj.bias, module.head.bias):
            nn.init.zeros_(constant)
        nn.init.normal_(module.head.weight)
        return Encoder.wrap(module, family="linear")


def pictures(n: int, size: tuple[int, int] = (64, 64)) -> Tensor:
    return torch.rand(n, 3, *size, generator=torch.Generator().manual_seed(1))


def numbers(record: Any) -> dict[str, float]:
    whole = record.table[record.table["x"].isna() & record.table["block"].isna()]
    return dict(zip(whole["metric"], whole["value"], strict=True))


# --- known answers ---------------------------------------------------------------------------------------


def test_a_linear_model_is_attributed_exactly() -> None:
    model, images = linear(), pictures(5, (32, 32))
    record = measure_attribution(model, images, torch.tensor([0, 1, 2, 0, 1]), label="m")
    seen = model.normalise(images)
    weights = model.module.head.weight.detach(), model.module.patch_embed.proj.weight.detach()
    kernel = torch.einsum("kc,cxyz->kxyz", *weights) / 16
    for place, answer in enumerate([0, 1, 2, 0, 1]):
        for cell in range(16):
            row, column = 8 * (cell // 4), 8 * (cell % 4)
            expected = float((kernel[answer] * seen[place, :, row : row + 8, column : column + 8]).sum())
            assert record.arrays["cells_gradients"][place, cell] == pytest.approx(expected, abs=1e-5)
    assert numbers(record)["completeness_error"] < 1e-5
    assert record.manifest["objective"] == "logit of the image's label"
    heads = measure_attribution(model, images, torch.tensor([0, 1, 2, 0, 1]), label="m", part="heads")
    assert (heads.arrays["head_effect"] == 0).all()
    assert (heads.arrays["head_conductance"] == 0).all()


def test_one_patch_that_carries_the_score() -> None:
    """Images of the mean colour but for one patch: removed first, the area is half a step; at random, by its rank."""
    model, cells = linear(), [3, 9, 14, 0]
    images = torch.tensor(model.info.mean)[None, :, None, None].repeat(4, 1, 32, 32)
    for image, cell in zip(images, cells, strict=True):
        row, column = 8 * (cell // 4), 8 * (cell % 4)
        image[:, row : row + 8, column : column + 8] = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(2))
    record = measure_attribution(model, images, label="m", target="prediction", seed=5)
    found = numbers(record)
    assert found["score_whole"] > found["score_empty"]
    assert found["deletion_area_gradients"] == pytest.approx(0.5 / 16, abs=1e-4)
    assert found["insertion_area_gradients"] == pytest.approx(1 - 0.5 / 16, abs=1e-4)
    ranks = [list(row).index(cell) for row, cell in zip(random_order(5, range(4), 16).tolist(), cells, strict=True)]
    # the same patch everywhere: each image has the same change, so the mean of the areas is the area of the mean
    expected = (np.mean(ranks) + 0.5) / 16
    assert found["deletion_area_random"] == pytest.approx(expected, abs=1e-3)
    assert found["insertion_area_random"] == pytest.approx(1 - expected, abs=1e-3)
    assert found["deletion_gain_gradients"] == pytest.approx(expected - 0.5 / 16, abs=1e-3)
    assert found["insertion_gain_gradients"] == pytest.approx(expected - 0.5 / 16, abs=1e-3)


def test_a_head_that_adds_nothing_has_no_effect_at_all() -> None:
    model = encoder()
    with torch.no_grad():
        model.module.blocks[1].attn.proj.weight[:, 16:] = 0
    arrays = measure_attribution(model, pictures(9), part="heads", **FEW).arrays
    assert (arrays["head_effect"][:, 1, 1] == 0).all()
    assert (arrays["head_conductance"][:, 1, 1] == 0).all()
    others = np.delete(arrays["head_effect"].reshape(9, 6), 3, axis=1)
    assert (np.abs(others).mean(0) > 1e-4).all()


# --- independent computation -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_masking_a_head_is_zeroing_its_weights(name: str) -> None:
    model, images, labels = encoder(name), pictures(5), torch.arange(5)
    effect = measure_attribution(model, images, labels, part="heads", **FEW).arrays["head_effect"]
    seen = model.normalise(images)
    with torch.no_grad():
        before = model.logits(seen)[labels, labels]
        for place, block in enumerate(blocks_of(model.module)):
            layer, heads = block.attn.proj, block.attn.num_heads
            width, kept = layer.in_features // heads, layer.weight.clone()
            for head in range(heads):
                layer.weight[:, head * width : (head + 1) * width] = 0
                expected = before - model.logits(seen)[labels, labels]
                layer.weight.copy_(kept)
                np.testing.assert_allclose(effect[:, place, head], expected, atol=1e-5)
            assert np.isnan(effect[:, place, heads:]).all()


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "eva02_tiny_patch14_224", "swin_tiny_patch4_window7_224"])
def test_conductance_is_that_of_captum(name: str) -> None:
    model, images, labels = encoder(name), pictures(3), torch.tensor([0, 4, 2])
    found = measure_attribution(model, images, labels, part="heads", batch=2, **FEW).arrays["head_conductance"]
    for place, block in enumerate(blocks_of(model.module)):
        if getattr(block, "window_size", None) != getattr(block, "input_resolution", None):
            continue  # captum takes windows for images and fails; the test of batches holds these
        conductance = LayerConductance(model.module, block.attn.proj).attribute(
            model.normalise(images), target=labels, n_steps=8, attribute_to_layer_input=True
        )
        heads = block.attn.num_heads
        by_head = conductance.unflatten(-1, (heads, -1)).unflatten(0, (3, -1)).flatten(1, 2).sum((1, 3))
        np.testing.assert_allclose(found[:, place, :heads], by_head.detach(), rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize(("target", "row"), [("prediction", 0), ("feature", None)])
def test_rollout_starts_at_what_the_score_reads(target: str, row: int | None) -> None:
    model, images = encoder(), pictures(3)
    cells = measure_attribution(model, images, target=target, orders=["rollout"], **FEW).arrays["cells_rollout"]
    maps = model.attention(model.normalise(images), blocks=(0, 1, 2))
    product = torch.eye(17)
    for block in range(3):
        product = (0.5 * maps[block].detach().mean(1) + 0.5 * torch.eye(17)) @ product
    expected = product[:, 0, 1:] if row == 0 else product[:, 1:, 1:].mean(1)
    np.testing.assert_allclose(cells, expected, atol=1e-6)


def test_curves_by_hand() -> None:
    model, images = encoder(), pictures(3)
    arrays = measure_attribution(model, images, target="feature", orders=["rollout"], **FEW).arrays
    seen = model.normalise(images)
    with torch.no_grad():
        aims = model.tokens(seen)[:, 1:].mean(1)
        for image in range(3):
            first = np.argsort(-arrays["cells_rollout"][image], kind="stable")[:4]
            removed, added = seen[image].clone(), torch.zeros_like(seen[image])
            for cell in first:
                part = (slice(None), *(slice(16 * k, 16 * k + 16) for k in divmod(int(cell), 4)))
                removed[part], added[part] = 0, seen[image][part]
            both = model.tokens(torch.stack([removed, added]))[:, 1:].mean(1)
            expected = torch.cosine_similarity(both, aims[image][None])
            assert arrays["deletion_rollout"][image, 1] == pytest.approx(float(expected[0]), abs=1e-5)
            assert arrays["insertion_rollout"][image, 1] == pytest.approx(float(expected[1]), abs=1e-5)


# --- what holds for every model --------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_varied_models_have_every_row_and_stay_as_they_are(name: str) -> None:
    model, images = encoder(name), pictures(10)
    before = model.tokens(model.normalise(images)).detach()
    curves = measure_attribution(model, images, **FEW)
    heads = measure_attribution(model, images, part="heads", **FEW)
    after = model.tokens(model.normalise(images)).detach()
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.module.modules())
    assert all(weight.grad is None for weight in model.module.parameters())
    windows = name.startswith("swin")
    orders = ["gradients", "random"] if windows else ["gradients", "rollout", "random"]
    wanted = {f"{kind}_{what}_{o}" for kind in ("deletion", "insertion") for what in ("curve", "area") for o in orders}
    wanted |= {f"{kind}_gain_{o}" for kind in ("deletion", "insertion") for o in orders[:-1]}
    assert set(curves.table["metric"]) == wanted | {"completeness_error", "score_whole", "score_empty"}
    assert set(curves.table["metric"]) | set(heads.table["metric"]) <= set(METRICS)
    assert [text.split(":")[0] for text in curves.manifest["not_measured"]][:1] == (["rollout"] if windows else [])
    counts = [int(block.attn.num_heads) for block in blocks_of(model.module)]
    effect = heads.table[heads.table["metric"] == "head_effect"]
    assert effect.groupby("block")["head"].count().tolist() == counts
    known = heads.table[heads.table["metric"] != "head_effect_share"]
    assert np.isfinite(known["value"]).all()
    assert (known["low"] <= known["value"]).all() and (known["value"] <= known["high"]).all()


def test_shares_begin_and_end_where_they_must() -> None:
    table = measure_attribution(encoder(), pictures(12), target="feature", **FEW).table
    for kind, ends in (("deletion", [1.0, 0.0]), ("insertion", [0.0, 1.0])):
        for order in ("gradients", "rollout", "random"):
            curve = table[table["metric"] == f"{kind}_curve_{order}"].sort_values("x")
            assert curve["x"].tolist() == [0, 0.25, 0.5, 0.75, 1]
            assert curve["value"].iloc[[0, -1]].tolist() == pytest.approx(ends)
    gain = table.set_index("metric")["value"]
    assert gain["deletion_gain_gradients"] == pytest.approx(
        gain["deletion_area_random"] - gain["deletion_area_gradients"], abs=1e-9
    )


def test_neither_batch_nor_a_second_run_changes_a_number() -> None:
    model, images = encoder("swin_tiny_patch4_window7_224"), pictures(11)
    for part in ("curves", "heads"):
        runs = [measure_attribution(model, images, part=part, batch=b, **FEW) for b in (8, 3, 3)]
        for name, values in runs[0].arrays.items():
            np.testing.assert_allclose(values, runs[1].arrays[name], rtol=1e-3, atol=2e-5, err_msg=name)
        assert runs[1].table.equals(runs[2].table)


def test_rectangles() -> None:
    model = encoder(img_size=(32, 64))
    record = measure_attribution(model, pictures(3, (32, 64)), **FEW)
    assert record.arrays["cells_gradients"].shape == (3, 8)
    assert record.manifest["grid"] == [2, 4]


def test_shares_of_a_score_that_images_do_not_raise_are_undefined() -> None:
    model = linear()
    with torch.no_grad():
        model.module.head.weight.zero_()
    record = measure_attribution(model, pictures(4, (32, 32)), torch.zeros(4, dtype=torch.int64), label="m")
    found = numbers(record)
    assert np.isnan(found["deletion_area_gradients"]) and np.isnan(found["deletion_gain_rollout"])
    assert found["score_whole"] == found["score_empty"]
    assert "not surely higher" in record.manifest["not_measured"][0]


def test_how_often_the_label_is_the_first_answer() -> None:
    model, images = encoder(), pictures(4)
    first = model.logits(model.normalise(images)).argmax(1)
    labels = torch.where(torch.arange(4) < 3, first, (first + 1) % 5)
    record = measure_attribution(model, images, labels, orders=["random"], **FEW)
    assert record.manifest["label_is_first_answer"] == 0.75
    assert record.manifest["remarks"] == []
    wrong = measure_attribution(model, images, (first + 1) % 5, orders=["random"], **FEW)
    assert "first answer for 0 of 4 images, no more than chance" in wrong.manifest["remarks"][0]


def test_labels_of_other_classes_are_said(tmp_path: Path) -> None:
    from fdlab.study.diagnosis import gather

    model = linear(classes=50)
    with torch.no_grad():
        model.module.head.weight.zero_()
        model.module.head.weight[40, 0] = 1e-3
    settings: dict[str, Any] = {"images": 5, "store": Store(tmp_path), "steps": 2, "gradient_steps": 2}
    found = gather("attribution", {"m": model}, "digits", parts=("curves", "heads"), **settings)
    assert any("m: the label is the model's first answer for" in note for note in found.notes)


# --- the store -------------------------------------------------------------------------------------------


class Counted:
    """Counts passes, and stops after some of them."""

    def __init__(self, most: int | None = None) -> None:
        self.passes, self.most = 0, most

    def advance(self, units: int = 1, note: str = "") -> None:
        self.passes += units
        if self.most is not None and self.passes > self.most:
            raise KeyboardInterrupt


@pytest.mark.parametrize("part", ["curves", "heads"])
def test_a_stopped_measurement_goes_on(part: str, tmp_path: Path) -> None:
    model, images = encoder(), pictures(20)
    whole, stopped, rest = Counted(), Counted(), Counted()
    plain = measure_attribution(model, images, part=part, progress=whole, **FEW)
    stopped.most = whole.passes // 2
    with pytest.raises(KeyboardInterrupt):
        measure_attribution(model, images, part=part, progress=stopped, unfinished=tmp_path, **FEW)
    assert [path.name for path in tmp_path.iterdir()] == ["images-0.npz"]
    again = measure_attribution(model, images, part=part, progress=rest, unfinished=tmp_path, **FEW)
    assert again.table.equals(plain.table)
    assert rest.passes == whole.passes * 2 // 3
    (tmp_path / "images-8.npz").write_bytes(b"half a file")
    assert measure_attribution(model, images, part=part, unfinished=tmp_path, **FEW).table.equals(plain.table)


# --- refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes", "labels", "settings", "words", "code"),
    [
        ("vit_tiny_patch16_224", {}, None, {"part": "curve"}, "Did you mean 'curves'", 2),
        ("vit_tiny_patch16_224", {}, None, {"orders": ["rolout"]}, "Did you mean 'rollout'", 2),
        ("vit_tiny_patch16_224", {}, None, {"target": "labels"}, "Did you mean 'label'", 2),
        ("vit_tiny_patch16_224", {}, None, {"target": "label"}, "no labels", 2),
        ("vit_tiny_patch16_224", {}, [0, 1, 7], {}, "classes 0 to 4", 2),
        ("vit_tiny_patch16_224", {}, None, {"steps": 0}, "at least one step", 2),
        ("vit_tiny_patch16_224", {"num_classes": 0}, None, {"target": "prediction"}, "no classifier", 3),
        ("swin_tiny_patch4_window7_224", {}, None, {"orders": "rollout"}, "inside windows", 3),
    ],
)
def test_refusals(name: str, changes: Any, labels: Any, settings: Any, words: str, code: int) -> None:
    answers = None if labels is None else torch.tensor(labels)
    with pytest.raises(FdlabError) as caught:
        measure_attribution(encoder(name, **changes), pictures(3), answers, **{**FEW, **settings})
    assert words in f"{caught.value.what} {caught.value.why}"
    assert caught.value.code == code


def test_no_image_and_heads_that_cannot_be_told_apart() -> None:
    with pytest.raises(FdlabError, match="cannot be measured"):
        measure_attribution(encoder(), pictures(0), **FEW)
    model = encoder()
    model.module.blocks[1].attn.proj = nn.Sequential(model.module.blocks[1].attn.proj)
    with pytest.raises(FdlabError, match="heads of block 2 of VisionTransformer") as caught:
        measure_attribution(model, pictures(2), part="heads", **FEW)
    assert caught.value.code == 3

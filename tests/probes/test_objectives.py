"""Objectives: a converged probe, exact means, and clear refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fdlab.checkpoints.save import save_heads
from fdlab.encoders.encoder import Encoder
from fdlab.errors import FdlabError
from fdlab.measures.classifier import fit_logistic
from fdlab.probes.objectives import Objective, build_objective, check_module
from fdlab.records.store import Store


def encoder(**changes: Any) -> Encoder:
    settings: dict[str, Any] = {
        "img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 0,
    }  # fmt: skip
    known = {key: changes.pop(key) for key in ("source",) if key in changes}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        module = VisionTransformer(**{**settings, **changes})
    return Encoder.wrap(module, family="small", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), **known)


def images(n: int = 40, size: int = 16) -> Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))


def labels(n: int = 40) -> Tensor:
    return torch.arange(n) % 3 + 4  # class numbers need not start at 0


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def probe(store: Store, **changes: Any) -> Objective:
    return build_objective("linear-probe", encoder(), images(), labels(), store=store, **changes)


def test_the_logistic_fit_is_the_minimum_that_scikit_learn_finds() -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 4)), rng.integers(0, 3, 60)
    fit = fit_logistic(x, y, l2=1e-2)
    other = LogisticRegression(C=1 / (1e-2 * 60), tol=1e-10, max_iter=10_000).fit(x, y)
    assert fit.gradient_norm < 1e-6
    np.testing.assert_allclose(fit.weight, other.coef_, atol=1e-5)


def test_separable_features_without_a_penalty_are_refused() -> None:
    x = np.array([[-2.0], [-1.0], [1.0], [2.0]])
    with pytest.raises(FdlabError, match="separable"):
        fit_logistic(x, np.array([0, 0, 1, 1]), l2=0.0)
    assert fit_logistic(x, np.array([0, 0, 1, 1]), l2=1e-3).gradient_norm < 1e-6


def test_linear_probe_is_converged_and_is_the_loss_of_its_own_logits(store: Store) -> None:
    made = probe(store)
    weights = torch.tensor([len(x) for x, _ in made.batches]) / made.images
    with torch.no_grad():
        total = sum(float(w) * float(made.loss(batch)) for w, batch in zip(weights, made.batches, strict=True))
        each = torch.cat([made.losses(batch) for batch in made.batches])
        whole = torch.cat([made.module(x) for x, _ in made.batches])
    assert [len(x) for x, _ in made.batches] == [16, 16, 8]
    assert total == pytest.approx(float(each.mean()), abs=1e-6)
    assert made.facts["probe_gradient_norm"] < 1e-6
    assert total == pytest.approx(made.facts["probe_loss"], abs=1e-5)
    torch.testing.assert_close(each, F.cross_entropy(whole, labels() - 4, reduction="none"))
    right = torch.cat([made.correct(batch) for batch in made.batches])  # type: ignore[misc]
    assert float(right.float().mean()) == pytest.approx(made.facts["probe_accuracy"])
    evaluated = made.evaluate(made.batches[0])
    torch.testing.assert_close(evaluated[0], each[:16])


def test_parameters_are_the_encoders_or_all(store: Store) -> None:
    made = probe(store)
    assert set(made.parameters) == {name for name, _ in encoder().module.named_parameters()}
    everything = probe(store, parameters="all")
    assert set(everything.parameters) - set(made.parameters) == {"head.weight", "head.bias"}


def test_the_fit_is_kept_by_content(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = probe(store)
    monkeypatch.setattr("fdlab.probes.objectives.classifiers.fit_logistic", lambda *_a, **_k: pytest.fail("refitted"))
    second = probe(store)
    torch.testing.assert_close(first.module.head.weight, second.module.head.weight)  # type: ignore[union-attr]
    assert first.facts == second.facts


def test_description_is_the_same_for_models_measured_alike(store: Store) -> None:
    other = build_objective("linear-probe", encoder(embed_dim=24), images(), labels(), store=store)
    assert other.description == probe(store).description
    assert "40 images" in other.description


def test_own_classifier_moves_without_its_head() -> None:
    made = build_objective("classifier", encoder(num_classes=7), images(), labels())
    assert not [name for name in made.parameters if name.startswith("head")]
    assert made.loss(made.batches[0]).item() == pytest.approx(
        F.cross_entropy(made.module(made.batches[0][0]), labels()[:16]).item()
    )
    everything = build_objective("classifier", encoder(num_classes=7), images(), labels(), parameters="all")
    assert "head.weight" in everything.parameters


def test_classifier_of_a_run_folder(tmp_path: Path) -> None:
    head, norm = nn.Linear(16, 7), nn.LayerNorm(16)
    save_heads(tmp_path / "heads.safetensors", {"head": head, "norm": norm})
    model = encoder(source=str(tmp_path))
    made = build_objective("classifier", model, images(), labels())
    with torch.no_grad():
        pooled = model.tokens(model.normalise(images()))[:, 1:].mean(1)
        expected = F.cross_entropy(head(F.layer_norm(pooled, (16,), norm.weight, norm.bias, 1e-6)), labels())
        found = torch.cat([made.losses(batch) for batch in made.batches]).mean()
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def fine_tuned(folder: Path, recipe: str) -> tuple[Encoder, nn.Linear, nn.LayerNorm]:
    """An encoder whose run folder keeps a classifier of 7 classes and this recipe."""
    head, norm = nn.Linear(16, 7), nn.LayerNorm(16)
    save_heads(folder / "heads.safetensors", {"head": head, "norm": norm})
    (folder / "recipe.toml").write_text(f'task = "classify"\n[run]\nbatch = 16\n{recipe}')
    return encoder(source=str(folder)), head, norm


def logits_of(model: Encoder, head: nn.Linear, norm: nn.LayerNorm, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        pooled = model.tokens(model.normalise(inputs))[:, 1:].mean(1)
        return head(F.layer_norm(pooled, (16,), norm.weight, norm.bias, 1e-6))


def mean_loss(made: Objective) -> float:
    with torch.no_grad():
        return float(torch.cat([made.losses(batch) for batch in made.batches]).mean())


def test_the_loss_of_a_fine_tuning_has_the_views_and_the_smoothing_of_its_recipe(tmp_path: Path) -> None:
    model, head, norm = fine_tuned(tmp_path, "[view]\nflip = 1.0\n[classify]\nsmoothing = 0.2")
    made = build_objective("fine-tuning", model, images(), labels())
    mirrored = logits_of(model, head, norm, images().flip(-1))
    expected = F.cross_entropy(mirrored, labels(), label_smoothing=0.2)
    assert mean_loss(made) == pytest.approx(float(expected), rel=1e-5)
    assert abs(mean_loss(made) - mean_loss(build_objective("classifier", model, images(), labels()))) > 1e-4
    assert "(flip 1.0, smoothing 0.2); 40 images, each augmented once, eval mode" in made.description
    right = torch.cat([made.correct(batch) for batch in made.batches])  # type: ignore[misc]
    assert torch.equal(right, mirrored.argmax(-1) == labels())
    assert set(made.parameters) == set(build_objective("classifier", model, images(), labels()).parameters)


def test_a_recipe_without_augmentation_has_the_loss_of_the_classifier(tmp_path: Path) -> None:
    model, *_ = fine_tuned(tmp_path, "[classify]\nsmoothing = 0.0")
    both = [mean_loss(build_objective(name, model, images(), labels())) for name in ("fine-tuning", "classifier")]
    assert both[0] == pytest.approx(both[1], rel=1e-6)


def test_mixed_images_have_mixed_classes(tmp_path: Path) -> None:
    """Mixup in batches of the run's size: image i with its mirror place in the batch, in one share a batch."""
    model, head, norm = fine_tuned(tmp_path, "[classify]\nsmoothing = 0.0\n[classify.mix]\nmixup = 0.8")
    classes = torch.arange(32) % 7  # those that are mixed differ
    made = build_objective("fine-tuning", model, images(32), classes, seed=3)
    targets = torch.cat([aims for _, aims in made.batches])
    torch.testing.assert_close(targets.sum(1), torch.ones(32))
    mixed = []
    for part in torch.arange(32).split(16):
        share = float(targets[part[0], classes[part[0]]])
        assert 0 < share < 1
        mixed.append(share * images()[part] + (1 - share) * images()[part].flip(0))
    logits = logits_of(model, head, norm, torch.cat(mixed))
    expected = -(targets * F.log_softmax(logits, -1)).sum(-1).mean()
    assert mean_loss(made) == pytest.approx(float(expected), rel=1e-4)
    assert made.correct(made.batches[0]) is None
    assert mean_loss(build_objective("fine-tuning", model, images(32), classes, seed=3)) == mean_loss(made)
    assert mean_loss(build_objective("fine-tuning", model, images(32), classes, seed=4)) != mean_loss(made)


def test_a_model_that_was_not_fine_tuned_has_no_augmented_loss(tmp_path: Path) -> None:
    with pytest.raises(FdlabError, match="keeps no recipe of a fine-tuning") as error:
        build_objective("fine-tuning", encoder(source=str(tmp_path)), images(), labels())
    assert "--objective classifier" in error.value.fix


def test_distillation_of_a_model_from_itself_is_nearly_solved_by_the_fitted_projector() -> None:
    made = build_objective("distill", encoder(), images(), teacher=encoder())
    with torch.no_grad():
        each = torch.cat([made.losses(batch) for batch in made.batches])
    assert float(each.mean()) < 0.02  # 0.25 is predicting nothing
    assert 0 <= made.facts["share_outside_beta"] < 0.01
    assert made.correct(made.batches[0]) is None


def test_masked_pixels_of_a_run_folder(tmp_path: Path) -> None:
    token = nn.ParameterDict({"mask_token": nn.Parameter(torch.zeros(16))})
    decoder = nn.Linear(16, 48)
    nn.init.zeros_(decoder.weight)
    nn.init.zeros_(decoder.bias)
    save_heads(tmp_path / "heads.safetensors", {"decoder": decoder, "mask": token})
    model = encoder(source=str(tmp_path))
    made = build_objective("mim", model, torch.full((4, 3, 16, 16), 0.75), micro_batch=4)
    # predicting 0 for pixels that are all (0.75 - 0.5) / 0.25 = 1
    torch.testing.assert_close(made.losses(made.batches[0]), torch.ones(4))
    first, again = (build_objective("mim", model, images(), seed=s).batches[0][1] for s in (1, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, build_objective("mim", model, images(), seed=2).batches[0][1])


def test_masked_pixels_are_those_that_are_hidden(tmp_path: Path) -> None:
    """The decoder answers 0: the loss is the mean square of the hidden patches alone."""
    decoder = nn.Linear(16, 48)
    nn.init.zeros_(decoder.weight)
    nn.init.zeros_(decoder.bias)
    token = nn.ParameterDict({"mask_token": nn.Parameter(torch.zeros(16))})
    save_heads(tmp_path / "heads.safetensors", {"decoder": decoder, "mask": token})
    objective = build_objective("mim", encoder(source=str(tmp_path)), images(4), micro_batch=4)
    pixels, hidden = objective.batches[0][1][..., :-1], objective.batches[0][1][..., -1] > 0
    expected = torch.stack([pixels[k][hidden[k]].square().mean() for k in range(4)])
    assert hidden.sum(1).tolist() == [10] * 4  # 60 % of 16 patches
    torch.testing.assert_close(objective.losses(objective.batches[0]), expected)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("linear-prob", {}, "Did you mean 'linear-probe'"),
        ("linear-probe", {"labels": None}, "have no labels"),
        ("linear-probe", {"labels": torch.full((40,), -1)}, "have no labels"),
        ("linear-probe", {"labels": torch.zeros(40, dtype=torch.int64)}, "one label"),
        ("linear-probe", {"pool": "class", "model": {"class_token": False, "global_pool": "avg"}}, "no class token"),
        ("classifier", {}, "holds no classifier"),
        ("classifier", {"model": {"num_classes": 3}}, "knows 3 classes"),
        ("distill", {}, "no teacher"),
        ("mim", {}, "no decoder"),
    ],
)
def test_refusals(name: str, options: dict[str, Any], message: str, store: Store) -> None:
    model = encoder(**options.pop("model", {}))
    arguments = {"labels": labels(), "store": store, **options}
    with pytest.raises(FdlabError, match=message):
        build_objective(name, model, images(), arguments.pop("labels"), **arguments)


def test_bad_weights_and_random_modules_are_refused() -> None:
    broken = encoder()
    with torch.no_grad():
        next(broken.module.parameters()).view(-1)[0] = float("nan")
    with pytest.raises(FdlabError, match="not finite"):
        build_objective("linear-probe", broken, images(), labels())
    with pytest.raises(FdlabError, match="training mode"):
        check_module(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1)).train())
    with pytest.raises(FdlabError, match="BatchNorm"):
        check_module(nn.BatchNorm1d(3).train())
    check_module(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1)).eval())

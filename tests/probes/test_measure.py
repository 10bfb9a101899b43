"""``measure``: the same images for all, one answer a question, clear refusals."""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

import fdlab.probes.attention as attention_probe
from fdlab.checkpoints.open import open_model
from fdlab.data.sources import open_data
from fdlab.encoders.encoder import Encoder
from fdlab.errors import FdlabError
from fdlab.probes.measure import Streamed, measure
from fdlab.probes.probe import PROBES, Probe
from fdlab.records.store import Record, Store
from fdlab.records.table import CONTROL, frame


def encoder(seed: int = 0, **changes: Any) -> Encoder:
    settings: dict[str, Any] = {
        "img_size": 24, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 0,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Encoder.wrap(VisionTransformer(**{**settings, **changes}), family="small")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The labels that were really measured."""
    measured: list[str] = []

    def counted(*args: Any, **settings: Any) -> Any:
        measured.append(settings["label"])
        return attention_probe.measure_attention(*args, **settings)

    monkeypatch.setattr(attention_probe, "PROBE", replace(attention_probe.PROBE, measure=counted))
    return measured


def run(models: Any, store: Store, **more: Any) -> Any:
    options: dict[str, Any] = {"data": "digits", "images": 20, "metrics": ["distance", "nmi"]}
    return measure("attention", models, store=store, **{**options, **more})


def test_two_models_one_table(store: Store) -> None:
    table = run({"a": encoder(0), "b": encoder(1)}, store)
    assert list(dict.fromkeys(table["model"])) == ["a", "b"]
    assert len(table) == 2 * 2 * 2 * 2
    records = table.attrs["record"]
    assert records["a"].arrays["distance"].shape == (20, 2, 2)
    kept = table.query("model == 'b'").copy()
    assert kept.attrs["record"]["a"] is records["a"]  # not copied at every step
    assert records["a"].manifest["data"] == "digits"
    assert records["a"].manifest["data_digest"] == records["b"].manifest["data_digest"]


def test_a_question_is_answered_once(store: Store, runs: list[str]) -> None:
    first = run({"a": encoder()}, store)
    again = run({"renamed": encoder()}, store)  # the same weights under another label
    assert runs == ["a"]
    assert set(again["model"]) == {"renamed"}
    assert again.attrs["record"]["renamed"].manifest["label"] == "renamed"
    np.testing.assert_allclose(first["value"], again["value"], rtol=1e-8)
    run({"a": encoder()}, store, fresh=True)
    assert runs == ["a", "a"]


@pytest.mark.parametrize(
    "change", [{"images": 19}, {"seed": 1}, {"data": "digits#test"}, {"metrics": ["distance"]}], ids=str
)
def test_another_question_is_measured(store: Store, runs: list[str], change: dict[str, Any]) -> None:
    run({"a": encoder()}, store)
    run({"a": encoder()}, store, **change)
    run({"a": encoder(1)}, store)
    assert len(runs) == 3


def test_another_seed_is_another_question_on_the_same_images(store: Store, runs: list[str]) -> None:
    for seed in (0, 1):
        run({"a": encoder()}, store, data="digits[:20]", seed=seed)  # all of them: only the intervals are drawn anew
    assert len(runs) == 2


def test_an_older_version_and_a_damaged_answer_are_measured_again_and_that_is_said(
    store: Store, runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, version = encoder(), attention_probe.VERSION
    first = run({"a": model}, store)
    monkeypatch.setattr(attention_probe, "PROBE", replace(attention_probe.PROBE, version=version + 2))
    with pytest.warns(UserWarning, match=f"a: .* of version {version} of the attention probe, now {version + 2}"):
        run({"a": model}, store)
    for path in store.root.glob("*/*/arrays.npz"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.warns(UserWarning, match="It is made again"):
        again = run({"a": model}, store)
    assert runs == ["a"] * 3
    np.testing.assert_array_equal(first["value"], again["value"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run({"a": model}, store)
    assert runs == ["a"] * 3


def test_images_are_those_of_the_seed(store: Store) -> None:
    def values(**more: Any) -> np.ndarray:
        return run({"a": encoder()}, store, fresh=True, **more).attrs["record"]["a"].arrays["distance"]

    assert np.array_equal(values(), values())
    assert not np.array_equal(values(), values(seed=1))
    np.testing.assert_allclose(values(images=10), values()[:10], rtol=1e-5)  # the first N of one permutation


def test_few_images_are_warned_about(store: Store) -> None:
    with pytest.warns(UserWarning, match="Only 8 images"):
        run({"a": encoder()}, store, data="digits[:8]", images=64)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        run({"a": encoder()}, store, images=4)  # asked for few: no surprise


def test_refusals(store: Store) -> None:
    for arguments, words in (
        ((["x=random:test_vit", "x=random:test_vit"],), "label 'x'"),
        (([encoder(0), encoder(1)],), "Two models have the label"),
        (([],), "No model"),
    ):
        with pytest.raises(FdlabError, match=words) as caught:
            run(*arguments, store)
        assert caught.value.code == 2
    with pytest.raises(FdlabError, match="Did you mean 'attention'") as caught:
        measure("atention", encoder(), store=store)
    assert caught.value.code == 2
    with pytest.raises(FdlabError, match="Did you mean 'metrics'"):
        measure("attention", encoder(), store=store, metric=["nmi"])
    with pytest.raises(FdlabError, match="no setting 'label'"):
        measure("attention", encoder(), store=store, label="x")


def test_rectangular_models_get_the_middle_of_the_square(store: Store) -> None:
    table = run({"wide": encoder(img_size=(16, 32))}, store)
    assert table.attrs["record"]["wide"].manifest["grid"][0] * 2 == table.attrs["record"]["wide"].manifest["grid"][1]
    source = open_data("digits", size=32, seed=0).sample(3, 0)
    square, wide = Streamed(source, (32, 32))[0:3], Streamed(source, (16, 32))[0:3]
    assert torch.equal(square[..., 8:24, :], wide)


def test_an_untrained_model_is_its_own_control(store: Store) -> None:
    table = run("x=random:test_vit", store, images=2, random_control=True, seed=3)
    assert set(table["model"]) == {"x"}
    assert set(table["family"]) == {"random"}


def test_control_of_a_bare_file_takes_its_head_count(store: Store, shared: Any) -> None:
    file = shared("fixtures/dino_backbone/dino_deitsmall8_pretrain.pth")
    table = run({"dino": open_model(file, heads=2)}, store, images=2, random_control=True)
    assert table.groupby("model")["family"].first().to_dict() == {"dino": "dino", CONTROL: "random"}
    first, second = (table.attrs["record"][label].arrays["distance"] for label in ("dino", CONTROL))
    assert first.shape == second.shape
    assert not np.allclose(first, second)


def test_control_that_cannot_be_built_is_said(store: Store) -> None:
    said = "No untrained control.* nothing names its architecture.* Add one as a model: untrained=random:NAME"
    with pytest.warns(UserWarning, match=said):
        table = run({"a": encoder()}, store, random_control=True)
    assert set(table["model"]) == {"a"}


def test_default_data_are_the_photographs(store: Store) -> None:
    table = measure("attention", {"a": encoder()}, images=3, store=store, metrics=["nmi"])
    assert table.attrs["record"]["a"].manifest["data"] == "photos"
    assert (table["n"] == 3).all()


def _probe_with_labels(seen: list[Any]) -> Any:
    """A probe that keeps what it is handed: labels slice by slice, and a model setting."""

    def measure_handed(encoder: Any, images: Any, labels: Any, *, label: str, seed: int, batch: int,
                       progress: Any, teacher: Any = None) -> Record:  # fmt: skip
        parts = range(0, len(images), batch)
        seen.append((None if labels is None else [labels[i : i + batch].tolist() for i in parts], teacher))
        seen.append([len(images[i : i + batch]) for i in parts])
        return Record(frame([{"model": label, "probe": "handed", "metric": "nmi", "value": 0.0}]), {}, {})

    def between(records: Any, *, seed: int) -> Any:
        first, second = records
        return frame([{"model": first, "reference": second, "metric": "nmi", "value": 1.0}])

    return Probe(
        measure=measure_handed,
        version=1,
        settings=("teacher",),
        known_answers="",
        models=("teacher",),
        takes=("labels",),
        between=between,
    )


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    seen: list[Any] = []
    monkeypatch.setitem(sys.modules, "handed", SimpleNamespace(PROBE=_probe_with_labels(seen)))
    monkeypatch.setitem(PROBES, "handed", "handed:PROBE")
    return seen


def test_labels_reach_a_probe_that_takes_them(store: Store, handed: list[Any]) -> None:
    measure("handed", {"a": encoder()}, data="digits", images=10, batch=4, store=store)
    truth = open_data("digits", size=24, seed=0).sample(10, 0).labels().tolist()
    assert handed[0][0] == [truth[:4], truth[4:8], truth[8:]]
    measure("handed", {"a": encoder()}, data="photos", images=3, store=store)
    assert handed[2][0] is None


def test_labels_skip_what_cannot_be_read(store: Store, handed: list[Any], tmp_path: Path) -> None:
    from PIL import Image

    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (30, 30)).save(tmp_path / "data" / name / f"{number}.png")
    (tmp_path / "data" / "a" / "1.png").write_bytes(b"no image")
    measure("handed", {"a": encoder()}, data=str(tmp_path / "data"), images=8, batch=8, store=store)
    assert handed[0][0] == [[0, 0, 0, 1, 1, 1, 1]]
    assert handed[1] == [7]


def test_model_settings_are_opened_and_asked_by_weights(store: Store, handed: list[Any]) -> None:
    ask = {"data": "digits", "images": 4, "store": store}
    measure("handed", {"a": encoder()}, teacher="random:test_vit", **ask)
    assert isinstance(handed[0][1], Encoder)
    measure("handed", {"a": encoder()}, teacher=handed[0][1], **ask)
    assert len(handed) == 2  # the same weights: answered by the store
    measure("handed", {"a": encoder()}, teacher=encoder(5), **ask)
    assert len(handed) == 4


def test_rows_between_models_follow_from_their_records(store: Store, handed: list[Any]) -> None:
    table = measure("handed", {"a": encoder(0), "b": encoder(1)}, data="digits", images=4, store=store)
    assert table["reference"].tolist() == ["", "", "b"]

"""The ``--data`` grammar, the built-in digits and photographs, and what a selection answers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fdlab.data.sources import Spec, open_data, parse_spec, with_split
from fdlab.errors import FdlabError

_names = st.text("abcdefgh-_./:019 ", min_size=1, max_size=30).filter(lambda t: t == t.strip())
_ends = st.none() | st.integers(-999, 999)


@given(base=_names, split=st.sampled_from([None, "train", "test"]), start=_ends, stop=_ends)
def test_a_specification_survives_writing_and_reading(base, split, start, stop):
    spec = Spec(base, split, start, stop)
    assert parse_spec(str(spec)) == spec


@given(st.text(max_size=40))
def test_any_text_is_parsed_or_refused_as_usage(text):
    code = None
    try:
        assert parse_spec(text).base
    except FdlabError as error:
        code = error.code
    assert code in (None, 2)


@pytest.mark.parametrize(
    ("spec", "code", "word"),
    [
        ("", 2, "No data"),
        ("digits#tset", 2, "'test'"),
        ("digits#", 2, "#train"),
        ("digits[10]", 2, "[:N]"),
        ("digits[:5]#test", 2, "[:N]"),
        ("digits[5:5]", 2, "no image"),
        ("digits[9000:]", 2, "1797"),
        ("locality", 2, "ALPHA"),
        ("locality:1.5", 2, "ALPHA"),
        ("locality:nan", 2, "ALPHA"),
        ("shards/{000..009}.tar", 3, "10 of 10 shards are missing"),
        ("photos#test", 2, "leak"),
        ("digit", 3, "'digits'"),
        ("x" * 5000, 3, ""),
    ],
)
def test_refusals_name_the_fault_and_a_way_out(spec, code, word):
    with pytest.raises(FdlabError) as caught:
        open_data(spec)
    assert caught.value.code == code
    assert word in str(caught.value)
    assert caught.value.fix


def test_a_file_that_is_no_data_is_told_apart(tmp_path):
    for name, word in [("a.pt", "checkpoint"), ("b.zip", "unpack"), ("c.jpg", "folder"), ("d.csv", ".csv")]:
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(FdlabError) as caught:
            open_data(str(tmp_path / name))
        assert caught.value.code == 3
        assert word in str(caught.value)


def test_a_split_is_added_only_where_none_is_named():
    assert with_split("digits[:5]", "test") == "digits#test[:5]"
    assert with_split("digits#train", "test") == "digits#train"


def test_digits_have_the_fixed_split():
    train, test, whole = (open_data(f"digits{part}") for part in ("#train", "#test", ""))
    assert (len(train), len(test), len(whole)) == (1297, 500, 1797)
    pixels = {
        name: {i.numpy().tobytes() for i in s.stack(range(len(s)), 24)[0]}
        for name, s in [("train", train), ("test", test), ("whole", whole)]
    }
    assert pixels["train"] | pixels["test"] == pixels["whole"]
    assert not pixels["train"] & pixels["test"]  # no digit occurs twice
    assert sorted([*train.labels(), *test.labels()]) == sorted(whole.labels())


def test_digits_mean_and_std_are_those_of_the_training_part():
    train = open_data("digits#train")
    images, labels = train.stack(range(len(train)), 24)
    assert images.shape == (1297, 3, 24, 24)
    assert images.dtype == torch.float32
    assert torch.equal(images[:, 0], images[:, 2])
    assert images.min() == 0
    assert images.max() == 1
    assert abs(float(images.mean()) - train.mean[0]) < 5e-4
    assert abs(float(images.std()) - train.std[0]) < 5e-4
    assert labels.tolist() == train.labels().tolist()


def test_digits_are_enlarged_straight_to_the_size_asked_for():
    eight, large = open_data("digits", size=8), open_data("digits", size=32)
    from sklearn.datasets import load_digits

    assert np.allclose(eight.image(7)[0].numpy() * 16, load_digits().images[7], atol=1e-5)
    assert large.native_size == (32, 32)
    assert large.image(0).shape == (3, 32, 32)
    assert eight.digest != large.digest
    assert "resized to" in large.preprocessing


def test_photos_are_few_crops_of_both_photographs():
    photos = open_data("photos")
    images, labels = photos.stack(range(len(photos)), 224)
    assert images.shape == (24, 3, 224, 224)
    assert set(labels.tolist()) == {-1}
    assert photos.classes is None
    assert "two photographs" in photos.notes[0]
    assert len({i.numpy().tobytes() for i in images}) == 24
    flower, china = images[1::2].mean(dim=(0, 2, 3)), images[::2].mean(dim=(0, 2, 3))
    assert float((flower - china).abs().max()) > 0.1


def test_a_folder_of_the_name_of_a_built_in_set_is_not_taken_in_silence(tmp_path: Path, monkeypatch):
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match=r"write \./photos for the folder"):
        assert len(open_data("photos")) == 24


def test_selections_compose_and_name_themselves():
    test = open_data("digits#test")
    cut = open_data("digits#test[10:20]")
    assert cut.digest == test.subset(range(10, 20)).digest == test.subset(list(range(10, 20))).digest
    assert cut.digest != open_data("digits#train[10:20]").digest != test.digest
    backwards = cut.subset([9, 0])
    assert torch.equal(backwards.image(0), test.image(19))
    assert backwards.label(1) == test.label(10)
    assert open_data("digits[:10]").digest == open_data("digits").subset(np.arange(10)).digest
    with pytest.raises(IndexError):
        cut.image(10)
    with pytest.raises(IndexError):
        cut.stack([-1], 24)


def test_a_sample_is_nested_and_without_repeats():
    test = open_data("digits#test")
    small, large = test.sample(50, seed=3), test.sample(200, seed=3)
    assert small.labels().tolist() == large.labels()[:50].tolist()
    assert len({i.numpy().tobytes() for i in large.stack(range(200), 24)[0]}) == 200
    assert test.sample(9999) is test
    assert small.digest != test.sample(50, seed=4).digest


def test_an_empty_stack_is_empty():
    images, labels = open_data("digits").stack([], 24)
    assert images.shape == (0, 3, 24, 24)
    assert labels.shape == (0,)


def test_digits_are_those_of_scikit_learn_read_without_importing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.datasets import load_digits

    from fdlab.data import builtin

    truth = load_digits()
    builtin._load_digits.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr("sklearn.datasets.load_digits", lambda: pytest.fail("imported"))
        images, labels = builtin._load_digits()
    assert np.array_equal(images, (truth.images / 16).astype(np.float32))
    assert np.array_equal(labels, truth.target)
    builtin._load_digits.cache_clear()
    monkeypatch.setattr(builtin, "find_spec", lambda _name: None)  # its file is not where it was
    images, labels = builtin._load_digits()
    assert np.array_equal(images, (truth.images / 16).astype(np.float32))
    assert np.array_equal(labels, truth.target)
    builtin._load_digits.cache_clear()


def test_knowing_which_images_there_are_imports_no_torchvision(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (30, 30)).save(tmp_path / "one.png")
    code = (
        "import sys; from fdlab.data.sources import open_data\n"
        f"for name in ('digits', 'photos', 'locality:1', {str(tmp_path)!r}): open_data(name).sample(8).digest\n"
        "print(sorted({'torchvision', 'sklearn'} & set(sys.modules)))\n"
        "open_data('photos').stack([0], 32); print('torchvision' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split("\n")[:2] == ["[]", "True"]

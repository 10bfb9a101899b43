"""Image folders, parquet files and the decoder, with damaged and unusual files."""

from __future__ import annotations

import builtins
import contextlib
import io
import os
import pickle
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from fdlab.data.decode import Unreadable, decode
from fdlab.data.loader import Batches
from fdlab.data.sources import open_data
from fdlab.errors import FdlabError

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def encoded(image: Image.Image, kind: str = "PNG", **settings) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **settings)
    return out.getvalue()


def photo(seed: int, size: tuple[int, int] = (60, 40)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


def write(path, image, **settings):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **settings)


# ---- decoder


def pixel(image: Image.Image, kind: str = "PNG", **settings) -> tuple[int, ...]:
    found = decode(encoded(image, kind, **settings))
    assert found.dtype == torch.uint8
    assert found.shape == (3, 4, 6)
    return tuple(found[:, 1, 1].tolist())


def test_every_mode_becomes_rgb():
    assert pixel(Image.new("RGB", (6, 4), RED)) == RED
    assert pixel(Image.new("L", (6, 4), 77)) == (77, 77, 77)
    assert pixel(Image.new("1", (6, 4), 1)) == (255, 255, 255)
    assert pixel(Image.new("RGBA", (6, 4), (*BLUE, 255))) == BLUE
    assert pixel(Image.new("RGBA", (6, 4), (*BLUE, 0))) == (255, 255, 255)  # transparent: white paper
    assert pixel(Image.new("RGBA", (6, 4), (0, 0, 0, 51))) == (204, 204, 204)
    assert pixel(Image.new("LA", (6, 4), (10, 0))) == (255, 255, 255)
    assert pixel(Image.new("RGB", (6, 4), GREEN).quantize(4)) == GREEN
    assert pixel(Image.new("RGB", (6, 4), RED), transparency=RED) == (255, 255, 255)
    assert pixel(Image.new("CMYK", (6, 4), (0, 255, 255, 0)), "TIFF") == RED


def test_sixteen_bits_and_floats_are_scaled_and_not_clipped():
    deep = Image.fromarray(np.full((4, 6), 200 * 257, dtype=np.uint16))
    assert pixel(deep) == (200, 200, 200)
    assert pixel(deep, "TIFF") == (200, 200, 200)
    assert pixel(Image.fromarray(np.full((4, 6), 0.5, dtype=np.float32)), "TIFF") == (128, 128, 128)


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"text", lambda b: b[100:]])
def test_damaged_files_are_unreadable(damage):
    with pytest.raises(Unreadable):
        decode(damage(encoded(photo(0), "JPEG")))


# ---- folders


def test_class_folders(tmp_path):
    for label, name in enumerate(["cat", "dog", "emu"]):
        for number in range(2):
            write(tmp_path / name / "deeper" / f"{number}.JPEG", photo(label * 2 + number))
    (tmp_path / "notes.txt").write_text("no image")
    write(tmp_path / ".hidden" / "x.png", photo(9))
    source = open_data(str(tmp_path))
    assert source.classes == ("cat", "dog", "emu")
    assert source.labels().tolist() == [0, 0, 1, 1, 2, 2]
    assert source.native_size == (40, 60)
    assert not source.endless
    assert source.label(3) == 1
    assert source.image(0).dtype == torch.uint8
    assert source.image(0).shape == (3, 40, 60)
    images, labels = source.stack([0, 5], 32)
    assert images.shape == (2, 3, 32, 32)
    assert labels.tolist() == [0, 2]
    assert images.min() >= 0
    assert images.max() <= 1


def test_flat_folders_and_a_single_subfolder_have_no_classes(tmp_path):
    for suffix in ["png", "webp", "bmp", "ppm", "tif"]:
        write(tmp_path / f"a.{suffix}", photo(1))
    flat = open_data(str(tmp_path))
    assert len(flat) == 5
    assert flat.classes is None
    assert set(flat.labels()) == {-1}
    write(tmp_path / "inside" / "b.jpg", photo(2))
    assert len(open_data(str(tmp_path))) == 6
    assert open_data(str(tmp_path)).classes is None
    assert open_data(str(tmp_path / "inside")).classes is None


def test_train_and_val_folders_are_the_split(tmp_path):
    for part, count in [("train", 3), ("val", 2)]:
        for name in "ab":
            for number in range(count):
                write(tmp_path / part / name / f"{number}.png", photo(number))
    train, test, whole = (open_data(str(tmp_path) + tail) for tail in ("#train", "#test", ""))
    assert (len(train), len(test), len(whole)) == (6, 4, 10)
    assert train.classes == test.classes == ("a", "b")
    assert test.labels().tolist() == [0, 0, 1, 1]
    assert "own parts" in train.notes[-1]
    os.rename(tmp_path / "val" / "b", tmp_path / "val" / "c")
    with pytest.raises(FdlabError, match="different classes"):
        open_data(str(tmp_path))


def test_a_folder_without_parts_is_split_once_and_for_all(tmp_path):
    for number in range(20):
        write(tmp_path / f"{number:02}.png", Image.new("L", (8, 8), number))
    train, test = open_data(f"{tmp_path}#train"), open_data(f"{tmp_path}#test")
    values = [[int(s.image(i)[0, 0, 0]) for i in range(len(s))] for s in (train, test)]
    assert (len(train), len(test)) == (16, 4)
    assert sorted(values[0] + values[1]) == list(range(20))
    assert values[1] == sorted(values[1])
    assert values[1] != [16, 17, 18, 19]
    assert "80/20" in test.notes[-1]
    assert test.digest == open_data(f"{tmp_path}#test").digest


def test_the_digest_sees_names_and_sizes_but_not_where_the_folder_lies(tmp_path, monkeypatch):
    for place in ("one", "two"):
        write(tmp_path / place / "train" / "a.png", photo(0))
        write(tmp_path / place / "val" / "b.png", photo(1))
    one, two = open_data(str(tmp_path / "one")).digest, open_data(str(tmp_path / "two")).digest
    monkeypatch.chdir(tmp_path / "one")
    assert one == two == open_data(".").digest
    write(tmp_path / "two" / "val" / "b.png", photo(1, (90, 90)))
    assert open_data(str(tmp_path / "two")).digest != one
    os.rename(tmp_path / "one" / "val" / "b.png", tmp_path / "one" / "val" / "c.png")
    assert open_data(".").digest != one


def test_a_link_to_a_folder_above_does_not_go_round(tmp_path):
    write(tmp_path / "a" / "0.png", photo(0))
    write(tmp_path / "b" / "0.png", photo(1))
    (tmp_path / "b" / "up").symlink_to(tmp_path, target_is_directory=True)
    assert len(open_data(str(tmp_path))) == 2


def test_an_empty_folder_says_what_was_looked_for(tmp_path):
    with pytest.raises(FdlabError, match=r"\.jpeg") as caught:
        open_data(str(tmp_path))
    assert caught.value.code == 3
    (tmp_path / "part.parquet").write_bytes(b"")
    with pytest.raises(FdlabError, match=r"part\.parquet"):
        open_data(str(tmp_path))


def test_a_missing_path_names_a_neighbour(tmp_path):
    (tmp_path / "pictures").mkdir()
    with pytest.raises(FdlabError, match="pictures") as caught:
        open_data(str(tmp_path / "picturs"))
    assert caught.value.code == 3


def broken_folder(path, count: int, broken: set[int]):
    for number in range(count):
        data = encoded(Image.new("RGB", (40, 40), (number * 20, 0, 0)).resize((40 + number, 40)), "JPEG")
        path.mkdir(exist_ok=True)
        (path / f"{number}.jpg").write_bytes(data[:-60] if number in broken else data)
    return open_data(str(path))


def test_unreadable_images_are_left_out_of_evaluation(tmp_path):
    source = broken_folder(tmp_path, 6, {1, 4})
    images, labels = source.stack(range(6), 16)
    assert len(images) == len(labels) == 4
    assert source.skipped == 2
    assert [round(float(i[0].mean()) * 255 / 20) for i in images] == [0, 2, 3, 5]
    source.stack(range(6), 16)
    assert source.skipped == 2
    assert source.subset([0, 1, 2]).skipped == 1
    with pytest.raises(FdlabError) as caught:
        source.image(4)
    assert caught.value.code == 3
    assert "4.jpg" in str(caught.value)


def test_an_unreadable_image_is_replaced_in_training_by_the_next(tmp_path):
    source = broken_folder(tmp_path, 6, {1, 4, 5})
    found = source.gather(np.array([0, 1, 4, 5]))
    assert found.indices.tolist() == [0, 2, 0, 0]
    assert source.skipped == 3
    assert source.gather(np.array([0, 1, 4, 5])).indices.tolist() == [0, 2, 0, 0]
    for workers in (0, 2):
        fresh = open_data(str(tmp_path))
        batches = list(Batches(fresh, size=16, batch=3, seed=0, stop=4, workers=workers))
        assert not {1, 4, 5} & {int(i) for b in batches for i in b.indices}
        assert fresh.skipped == 3  # workers hand over what they found


def test_more_than_half_unreadable_is_an_error(tmp_path):
    source = broken_folder(tmp_path, 5, {0, 2, 4})
    with pytest.raises(FdlabError, match="3 of 5") as caught:
        source.stack(range(5), 16)
    assert caught.value.code == 3
    for workers in (0, 1):
        with pytest.raises(FdlabError, match="cannot be read") as caught:
            list(Batches(open_data(str(tmp_path)), size=16, batch=4, seed=0, stop=5, workers=workers))
        assert caught.value.code == 3
        assert caught.value.fix
    for number in range(5):
        (tmp_path / f"{number}.jpg").write_bytes(b"nothing")
    with pytest.raises(FdlabError, match="None of 5"):
        open_data(str(tmp_path))


def test_a_small_set_with_an_odd_size_still_stacks(tmp_path):
    for number in range(40):
        write(tmp_path / f"{number:02}.png", photo(number, (50, 30) if number == 1 else (32, 32)))
    source = open_data(str(tmp_path))
    assert source.native_size == (32, 32)  # judged by 16 of them
    assert source.stack(range(40), 32)[0].shape == (40, 3, 32, 32)
    gathered = source.gather(np.arange(40)).images
    assert isinstance(gathered, torch.Tensor)
    assert gathered.shape == (40, 3, 32, 32)
    assert torch.equal(source.stack([0], 32)[0][0], source.image(0) / 255)  # at its own size: untouched


def test_real_photographs(shared):
    source = open_data(str(shared("data/imagenet_samples")))
    assert len(source) == 100 == len(source.classes)
    assert source.labels().tolist() == list(range(100))
    images, labels = source.stack([3, 50], 224)
    assert images.shape == (2, 3, 224, 224)
    assert labels.tolist() == [3, 50]
    assert source.skipped == 0
    assert "256/224" in source.preprocessing
    assert 0.1 < float(images.mean()) < 0.9


# ---- parquet


def test_cifar(shared):
    path = shared("data/cifar10/test.parquet")
    source = open_data(str(path))
    assert len(source) == 9000
    assert source.native_size == (32, 32)
    assert source.classes[3] == "cat"
    assert np.bincount(source.labels()).tolist() == [900] * 10
    images, labels = source.subset([0, 1]).stack([0, 1], 32)
    assert images.shape == (2, 3, 32, 32)
    assert labels.tolist() == [3, 8]
    assert torch.equal(images[1], source.image(1) / 255)
    assert pickle.loads(pickle.dumps(source)).digest == source.digest
    assert source.stack([7], 64)[0].shape == (1, 3, 64, 64)


def parquet_file(path, columns):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path)
    return str(path)


def test_plain_bytes_and_fine_labels(tmp_path):
    rows = [encoded(Image.new("L", (5, 5), n)) for n in (10, 20, 30)]
    spec = parquet_file(tmp_path / "a.parquet", {"id": ["x", "y", "z"], "jpg": rows, "fine_label": [4, None, 6]})
    source = open_data(spec)
    assert source.labels().tolist() == [4, -1, 6]
    assert source.classes is None
    assert int(source.image(1)[2, 0, 0]) == 20
    other = parquet_file(tmp_path / "b.parquet", {"jpg": rows[::-1]})
    assert set(open_data(other).labels()) == {-1}
    assert open_data(other).digest != source.digest


def test_rows_without_bytes_are_unreadable(tmp_path):
    rows = [{"bytes": encoded(photo(n)), "path": None} for n in range(3)] + [{"bytes": None, "path": "a.jpg"}]
    source = open_data(parquet_file(tmp_path / "a.parquet", {"image": rows}))
    assert len(source.stack(range(4), 16)[0]) == 3
    assert source.skipped == 1


@pytest.mark.parametrize(("columns", "word"), [({"text": ["a"]}, "text"), ({"image": []}, "no ")])
def test_parquet_without_images(tmp_path, columns, word):
    with pytest.raises(FdlabError, match=word) as caught:
        open_data(parquet_file(tmp_path / "a.parquet", columns))
    assert caught.value.code == 3


def test_a_broken_parquet_file(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(FdlabError) as caught:
        open_data(str(tmp_path / "a.parquet"))
    assert caught.value.code == 3


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"")
    real = builtins.__import__

    def absent(name, *rest):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(FdlabError, match=r'pip install "fdlab\[data\]"'):
        open_data(str(tmp_path / "a.parquet"))


# ---- numbers of any size


@pytest.mark.parametrize("kind", ["uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"])
def test_labels_of_every_integer_type_are_read(kind, tmp_path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    labels = [0, 3, None, 2**64 - 1 if kind == "uint64" else 7]
    images = [{"bytes": encoded(photo(n)), "path": ""} for n in range(4)]
    table = pa.table({"image": images, "label": pa.array(labels, getattr(pa, kind)())})
    parquet.write_table(table, tmp_path / "x.parquet")
    assert open_data(str(tmp_path / "x.parquet")).labels().tolist() == [0, 3, -1, -1 if kind == "uint64" else 7]


def test_a_column_that_is_there_twice_is_no_traceback(tmp_path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    column = pa.array([encoded(photo(0))])
    parquet.write_table(pa.Table.from_arrays([column, column], names=["image", "image"]), tmp_path / "x.parquet")
    with pytest.raises(FdlabError) as caught:
        open_data(str(tmp_path / "x.parquet"))
    assert caught.value.code == 3


def tar_of(path, members):
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize(
    "note",
    [
        {"a.cls": b"9" * 30},
        {"a.cls": b"9" * 5000},
        {"a.cls": str(2**70).encode()},
        {"a.json": b'{"label": 1e999}'},
        {"a.json": b'{"label": NaN}'},
        {"a.json": b'{"label": 1' + b"0" * 400 + b"}"},
        {"a.json": b"[" * 100_000},
        {"a.json": b'{"label": [1]}'},
        {"a.json": b"\xff"},
    ],
)
def test_a_label_that_is_no_number_of_64_bits_is_none(note, tmp_path):
    tar_of(tmp_path / "x.tar", {"a.png": encoded(photo(0)), **note, "b.png": encoded(photo(1)), "b.cls": b"1"})
    assert open_data(str(tmp_path / "x.tar")).labels().tolist() == [-1, 1]


@pytest.mark.parametrize("size", [10**12, 2**62, -5])
def test_a_member_that_claims_bytes_that_are_not_there_is_counted(size, tmp_path):
    tar_of(tmp_path / "x.tar", {"a.png": encoded(photo(0)), "b.png": encoded(photo(1)), "c.png": encoded(photo(2))})
    content = bytearray((tmp_path / "x.tar").read_bytes())
    info = tarfile.TarInfo("z.png")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(size)}
    head = info.tobuf(format=tarfile.PAX_FORMAT)
    (tmp_path / "x.tar").write_bytes(head + content)
    with contextlib.suppress(FdlabError):
        source = open_data(str(tmp_path / "x.tar"))
        _, labels = source.stack(range(len(source)), 32)
        assert len(labels) == 3


@pytest.mark.parametrize(
    "pattern", ["q-{0..3000000}.tar", "q-{0..99999999999999999999}.tar", "q-{000..999}{000..999}.tar"]
)
def test_a_pattern_of_millions_of_shards_is_refused_at_once(pattern, tmp_path):
    with pytest.raises(FdlabError):
        open_data(str(tmp_path / pattern))


@pytest.mark.parametrize("compressed", ["zstd", "none"])
def test_a_parquet_file_that_unpacks_to_any_size_is_refused_while_it_is_read(compressed, tmp_path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    cell, path = encoded(photo(0)) + bytes(4_000_000), tmp_path / "x.parquet"
    parquet.write_table(pa.table({"image": pa.array([cell] * 80)}), path, compression=compressed)
    if path.stat().st_size > 100_000_000:
        assert len(open_data(str(path))) == 80  # an honest file of this size is read
        return
    with pytest.raises(FdlabError, match="unpack to more than") as caught:
        open_data(str(path))
    assert caught.value.code == 3

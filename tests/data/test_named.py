"""Tar shards, and data sets by name, against files that are made here."""

from __future__ import annotations

import io
import json
import pickle
import sys
import tarfile
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fdlab.data.loader import Batches
from fdlab.data.sources import open_data
from fdlab.data.tars import shards
from fdlab.errors import FdlabError


def png(value: int, size: int = 12) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), value, dtype=np.uint8)).save(out, "png")
    return out.getvalue()


def shard(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


class Trap:
    def __reduce__(self):  # type: ignore[no-untyped-def]
        return (exec, ("raise SystemExit('a pickle was executed')",))


@pytest.fixture
def two_shards(tmp_path: Path) -> str:
    for number in range(2):
        members: dict[str, bytes] = {}
        for place in range(3):
            value = 10 * (3 * number + place)
            # labels after, before and in JSON; a pickle beside
            members |= {f"a/{value:03d}.png": png(value), f"a/{value:03d}.cls": str(place).encode()}
        members["a/j.json"] = b'{"label": 7}'
        members["a/j.seg.png"] = png(250)
        members["a/j.png"] = png(200 + number)
        members["a/x.pyd"] = pickle.dumps(Trap())
        shard(tmp_path / f"set-{number:03d}.tar", members)
    return str(tmp_path / "set-{000..001}.tar")


def test_shards_give_images_and_labels_by_place(two_shards: str) -> None:
    data = open_data(two_shards)
    assert len(data) == 8  # x.seg.png belongs to no image of its own
    images, labels = data.stack(range(len(data)), 12)
    assert labels.tolist() == [0, 1, 2, 7, 0, 1, 2, 7]
    assert (images[:, 0, 0, 0] * 255).round().tolist() == [0, 10, 20, 200, 30, 40, 50, 201]
    assert open_data(two_shards.replace("{000..001}", "*")).digest == data.digest


def test_shards_give_the_same_batches_with_workers(two_shards: str) -> None:
    data = open_data(two_shards)
    none, two = (list(Batches(data, size=12, batch=3, seed=1, stop=5, workers=workers)) for workers in (0, 2))
    assert all(torch.equal(a.images[0], b.images[0]) for a, b in zip(none, two, strict=True))


def test_a_shard_that_is_cut_short_missing_or_compressed_is_said(tmp_path: Path, two_shards: str) -> None:
    whole = (tmp_path / "set-000.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[:700])
    with tarfile.open(tmp_path / "small.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "set-000.tar")
    shard(tmp_path / "empty.tar", {"note.txt": b"no image"})
    for name, match in {
        "cut.tar": "cannot be read as a tar file",
        "small.tar.gz": "Decompress it first",
        "set-{000..002}.tar": "1 of 3 shards are missing",
        "empty.tar": "no images",
    }.items():
        with pytest.raises(FdlabError, match=match) as caught:
            open_data(str(tmp_path / name))
        assert caught.value.code == 3


def test_patterns_of_shards() -> None:
    assert [path.name for path in shards("x-{08..11}.tar")] == ["x-08.tar", "x-09.tar", "x-10.tar", "x-11.tar"]


def cifar(root: Path) -> None:
    """Two images a file in CIFAR-10's layout."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for number, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        content = {"data": np.full((2, 3072), number, dtype=np.uint8), "labels": [number, 9]}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"c{i}" for i in range(10)]}))


def test_a_torchvision_set_in_its_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    cifar(tmp_path / "fdlab" / "torchvision")
    train, test = open_data("torchvision:cifar10#train"), open_data("torchvision:CIFAR10#test")
    assert (len(train), len(test)) == (10, 2)
    images, labels = test.stack(range(2), 32)
    assert images.shape == (2, 3, 32, 32)
    assert (images * 255).unique().tolist() == [5]
    assert labels.tolist() == [5, 9]
    assert train.classes is not None and train.classes[9] == "c9"


def test_named_sets_that_cannot_be_had_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    def offline(*_args: object, **_more: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(datasets, "MNIST", offline)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(FdlabError, match="no route to host"):
        open_data("torchvision:MNIST")
    with pytest.raises(FdlabError, match="Did you mean 'CIFAR100'") as caught:
        open_data("torchvision:CIFAR1000")
    assert caught.value.code == 2
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(FdlabError, match="needs the library datasets"):
        open_data("hfds:cifar10")
    library = types.ModuleType("datasets")
    library.load_dataset = offline  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", library)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FdlabError, match="offline mode is on"):
        open_data("hfds:cifar10")


def test_a_hugging_face_set_from_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets", reason="the library datasets is not installed")
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    features = {"image": {"_type": "Image"}, "label": {"names": ["no", "yes"], "_type": "ClassLabel"}}
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    for part, values in {"train": [0, 40, 80], "test": [120]}.items():
        rows = {"image": [{"bytes": png(v), "path": f"{v}.png"} for v in values], "label": [v // 80 for v in values]}
        table = pyarrow.table(rows).replace_schema_metadata(about)
        parquet.write_table(table, tmp_path / "set" / f"{part}-0.parquet")
    train, test = (open_data(f"hfds:{tmp_path / 'set'}#{part}") for part in ("train", "test"))
    assert (len(train), len(test), train.classes) == (3, 1, ("no", "yes"))
    images, labels = train.stack(range(3), 12)
    assert (images[:, 0, 0, 0] * 255).round().tolist() == [0, 40, 80]
    assert labels.tolist() == [0, 0, 1]

"""Archives of numpy's arrays and folders of torch's distributed checkpoints: read as data, refused where damaged."""

from __future__ import annotations

import os
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode adds no folder by itself

from random_modules import random_vit

from fdlab.checkpoints.open import open_model
from fdlab.checkpoints.unpickle import read_weights
from fdlab.errors import FdlabError


class Trap:
    """Unpickled by Python's own reader, this makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mknod, (str(self.path),)


def same(tmp_path, path, **given):
    torch.save(random_vit(), tmp_path / "plain.pth")
    expected, got = open_model(tmp_path / "plain.pth", heads=2), open_model(path, heads=2, **given)
    return got.info.sha256 == expected.info.sha256


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_pickle_of_arrays_opens_and_runs_nothing(tmp_path, protocol, order):
    arrays = {key: np.array(value.numpy(), order=order) for key, value in random_vit().items()}
    content = {"model": arrays, "__author__": "someone", "trap": Trap(tmp_path / "made")}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    assert same(tmp_path, tmp_path / "x.pkl") and not (tmp_path / "made").exists()


def test_arrays_of_objects_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.array([Trap(tmp_path / "made")], dtype=object))
    with pytest.raises(FdlabError, match="of objects") as caught:
        open_model(tmp_path / "x.npz")
    assert caught.value.code == 3 and not (tmp_path / "made").exists()


def test_an_archive_of_arrays_under_any_prefix(tmp_path, shared):
    arrays = dict(np.load(shared("fixtures/jax_vit_npz/ViT-B_16.npz")))
    heads = open_model(shared("fixtures/jax_vit_npz/ViT-B_16.npz")).info.heads
    np.savez(tmp_path / "x.npz", **{f"params/img/{key}": value for key, value in arrays.items()})
    assert open_model(tmp_path / "x.npz").info.heads == heads


@pytest.fixture
def distributed(tmp_path):
    import torch.distributed.checkpoint as dcp

    state = {"model": random_vit(), "optimizer": {"state": {"a": torch.ones(3)}}, "epoch": 3}
    dcp.save(state, checkpoint_id=tmp_path / "ckpt", no_dist=True)
    return tmp_path / "ckpt"


def test_a_distributed_checkpoint_is_the_same_network(tmp_path, distributed):
    assert same(tmp_path, distributed)
    assert set(read_weights(distributed).content) == {"model"}


def test_a_tensor_in_pieces_is_put_together(distributed):
    """Each piece goes to its own offset: the metadata of one tensor says that it lies in two halves."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex

    name = "model.blocks.0.mlp.fc1.weight"
    metadata = FileSystemReader(distributed).read_metadata()
    other = metadata.storage_data[MetadataIndex("model.blocks.1.mlp.fc1.weight", torch.Size([0, 0]), 0)]
    entry, rows = metadata.state_dict_metadata[name], 32
    entry.size = torch.Size([2 * rows, 16])
    entry.chunks.append(ChunkStorageMetadata(torch.Size([rows, 0]), torch.Size([rows, 16])))
    metadata.storage_data[MetadataIndex(name, torch.Size([rows, 0]), 1)] = other
    (distributed / ".metadata").write_bytes(pickle.dumps(metadata))
    weights = random_vit()
    expected = torch.cat([weights["blocks.0.mlp.fc1.weight"], weights["blocks.1.mlp.fc1.weight"]])
    assert torch.equal(read_weights(distributed).content["model"]["blocks.0.mlp.fc1.weight"], expected)


@pytest.mark.parametrize("damage", ["cut", "missing", "trap", "outside"])
def test_a_damaged_distributed_checkpoint_is_refused(tmp_path, distributed, damage):
    file = next(distributed.glob("*.distcp"))
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:5000])
    elif damage == "missing":
        shutil.move(file, distributed / "__9_9.distcp")
    elif damage == "trap":
        (distributed / ".metadata").write_bytes(pickle.dumps(Trap(tmp_path / "made")))
    else:
        raw = (distributed / ".metadata").read_bytes()
        (distributed / ".metadata").write_bytes(raw.replace(b"__0_0.distcp", b"../../../etc"))
    with pytest.raises(FdlabError) as caught:
        open_model(distributed)
    assert caught.value.code == 3 and not (tmp_path / "made").exists()


def test_a_folder_of_checkpoints_names_those_inside(tmp_path):
    from safetensors.torch import save_file

    for step in (500, 1000):
        (tmp_path / f"checkpoint-{step}").mkdir()
        save_file(random_vit(), tmp_path / f"checkpoint-{step}" / "model.safetensors")
    with pytest.raises(FdlabError, match="checkpoint-500, checkpoint-1000") as caught:
        open_model(tmp_path, heads=2)
    assert caught.value.code == 3 and "checkpoint-1000" in caught.value.fix
    assert open_model(tmp_path / "checkpoint-1000", heads=2).info.depth == 2

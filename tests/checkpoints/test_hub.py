"""Repositories of the Hugging Face Hub as SOURCEs: a hub of this process, and caches laid by hand."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode adds no folder by itself

from hub_server import COMMIT, Hub, serving

import fdlab
from fdlab.checkpoints import hub as hub_module
from fdlab.checkpoints.sources import hub_parts, parse_label, refuse_absent
from fdlab.errors import FdlabError

PAGES = {"pytorch_model.bin": b"a pickle", "modeling_own.py": b"raise SystemExit", "onnx/model.safetensors": b"another"}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache without network; what an earlier test was told is forgotten."""
    hub_module._fetched.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


@pytest.fixture
def hub(cache: Path, shared: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one ViT of transformers, and with files beside it that are not to be fetched."""
    folder = shared("fixtures/hf_vit")
    names = ("config.json", "preprocessor_config.json", "model.safetensors")
    found = Hub({**{name: (folder / name).read_bytes() for name in names}, **PAGES})
    with serving(found) as url:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", url)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.hf_api.constants, "ENDPOINT", url)
        yield found


def lay(cache: Path, folder: Path, *, commit: str = COMMIT, revision: str = "main") -> Path:
    """A snapshot in the cache, as huggingface_hub lays it."""
    home = cache / "models--owner--name"
    snapshot = home / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for file in folder.iterdir():
        if file.name not in ("expected.safetensors", "meta.json"):
            (snapshot / file.name).write_bytes(file.read_bytes())
    (home / "refs").mkdir(exist_ok=True)
    (home / "refs" / revision).write_text(commit)
    return snapshot


def test_what_is_fetched_is_said_and_opens_as_the_folder_does(hub, cache, shared, capsys) -> None:
    """Descriptions and one safetensors file: no pickle, no code, no second model; the size before the first byte."""
    encoder = fdlab.open_model("hf:owner/name")
    size = sum(len(hub.files[name]) for name in hub.files if name not in PAGES) / 1e6
    assert f"Downloads {size:,.1f} MB of hf:owner/name (commit {COMMIT[:12]})" in capsys.readouterr().err
    got = {path.name for path in (cache / "models--owner--name" / "snapshots" / COMMIT).iterdir()}
    assert got == {"config.json", "preprocessor_config.json", "model.safetensors"}
    assert not any(name in asked for asked in hub.asked for name in ("pytorch_model", "modeling_own", "onnx"))
    assert encoder.info.sha256 == fdlab.open_model(shared("fixtures/hf_vit")).info.sha256
    assert encoder.info.repository == f"owner/name@{COMMIT}" and encoder.info.source == "hf:owner/name"
    asked = len(hub.asked)
    assert fdlab.open_model(f"hf:owner/name@{COMMIT}").info.sha256 == encoder.info.sha256
    assert len(hub.asked) == asked  # a commit never changes: nobody is asked
    hub_module._fetched.cache_clear()
    fdlab.open_model("hf:owner/name")
    assert "Downloads" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "sign", "what", "fix"),
    [
        (404, "RepoNotFound", "The Hub has no model owner/name, or not for you.", "hf auth login"),
        (403, "GatedRepo", "hf:owner/name is gated.", "Agree at https://huggingface.co/owner/name"),
        (404, "RevisionNotFound", "hf:owner/name has no revision 'main'.", "Leave it out"),
    ],
)
def test_what_the_hub_refuses_is_said(hub, status, sign, what, fix) -> None:
    hub.refuses = (status, sign)
    with pytest.raises(FdlabError) as caught:
        fdlab.open_model("hf:owner/name")
    assert caught.value.what == what and fix in caught.value.fix and caught.value.why and caught.value.code == 3


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["pytorch_model.bin", "README.md"], ("holds no safetensors", "hf download owner/name pytorch_model.bin")),
        (["a.safetensors", "b.safetensors"], ("none of them is model.safetensors", "owner/name a.safetensors")),
        (["README.md", "unet/model.safetensors"], ("holds no safetensors", "README.md")),
    ],
)
def test_repositories_without_clear_safetensors_are_refused(hub, names, words) -> None:
    hub.files = dict.fromkeys(names, b"x")
    with pytest.raises(FdlabError) as caught:
        fdlab.open_model("hf:owner/name")
    assert all(word in " ".join((caught.value.what, caught.value.why, caught.value.fix)) for word in words)
    assert not any("resolve" in asked for asked in hub.asked)


def test_a_cache_laid_by_hand_opens_without_network(cache, shared) -> None:
    folder = shared("fixtures/hf_vit")
    lay(cache, folder)
    encoder = fdlab.open_model("hf:owner/name")
    images = torch.randn(1, 3, 48, 48)
    assert torch.equal(encoder.tokens(images), fdlab.open_model(folder).tokens(images))
    assert encoder.info.repository == f"owner/name@{COMMIT}"
    assert any("the Hub was not asked (HF_HUB_OFFLINE is set)" in sentence for sentence in encoder.info.assumed)
    control = fdlab.open_model("random:hf:owner/name")
    assert control.info.kind == "random" and not torch.equal(control.tokens(images), encoder.tokens(images))
    table = fdlab.measure("attention", "hf:owner/name", "locality:1", images=2)
    assert set(table["model"]) == {"name"}
    assert table.attrs["record"]["name"].manifest["repository"] == f"owner/name@{COMMIT}"


def test_a_revision_is_another_copy(cache, shared) -> None:
    other = "f" * 40
    lay(cache, shared("fixtures/hf_vit"))
    lay(cache, shared("fixtures/hf_beit"), commit=other, revision="v2")
    assert fdlab.open_model("hf:owner/name").info.family == "hf_vit"
    found = fdlab.open_model("hf:owner/name@v2")
    assert found.info.family == "hf_beit" and found.info.repository == f"owner/name@{other}"
    assert fdlab.open_model(f"hf:owner/name@{other}").info.sha256 == found.info.sha256


def test_names_of_timm_on_the_hub_open(cache, shared) -> None:
    folder = shared("fixtures/timm_hf_folder")
    lay(cache, folder)
    encoder = fdlab.open_model("hf-hub:owner/name")
    assert encoder.info.family == "timm" and encoder.info.sha256 == fdlab.open_model(folder).info.sha256


def test_without_network_and_copy_the_way_out_is_said(cache) -> None:
    with pytest.raises(FdlabError) as caught:
        fdlab.open_model("hf:owner/name")
    assert caught.value.what == "hf:owner/name cannot be fetched." and caught.value.code == 3
    assert "HF_HUB_OFFLINE" in caught.value.why and "hf download owner/name" in caught.value.fix


def test_a_copy_without_one_of_its_shards_is_no_copy(cache, shared, tmp_path) -> None:
    state = load_file(shared("fixtures/hf_vit") / "model.safetensors")
    names = sorted(state)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    folder = tmp_path / "shards"
    folder.mkdir()
    for file, keys in parts.items():
        save_file({key: state[key] for key in keys}, folder / file)
    where = {key: file for file, keys in parts.items() for key in keys}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    config = shared("fixtures/hf_vit") / "config.json"
    (folder / "config.json").write_bytes(config.read_bytes())
    lay(cache, folder)
    encoder = fdlab.open_model("hf:owner/name")
    assert encoder.info.container.startswith("sharded folder")
    lacking = "model-00002-of-00002.safetensors"
    (cache / "models--owner--name" / "snapshots" / COMMIT / lacking).unlink()
    hub_module._fetched.cache_clear()
    with pytest.raises(FdlabError, match="cannot be fetched") as caught:
        fdlab.open_model("hf:owner/name")
    assert lacking in caught.value.why


@pytest.mark.parametrize(
    "text", ["hf:", "hf:name", "hf:../../etc/x", "hf:a/b/c", "hf:a/b@", "hf:a/b@../x", "hf:a--b/c"]
)
def test_names_that_cannot_be_are_refused_before_anything_is_loaded(text) -> None:
    with pytest.raises(FdlabError) as caught:
        refuse_absent(text)
    assert caught.value.code == 2


def test_labels_of_repositories() -> None:
    assert parse_label("hf:owner/name") == ("name", "hf:owner/name")
    assert parse_label(f"random:hf:owner/name@{COMMIT}")[0] == f"random name@{COMMIT[:12]}"
    assert parse_label("mine=hf:owner/name@v2?heads=2") == ("mine", "hf:owner/name@v2?heads=2")
    assert hub_parts("hf-hub:timm/vit_tiny.in1k@refs/pr/1") == ("timm/vit_tiny.in1k", "refs/pr/1")

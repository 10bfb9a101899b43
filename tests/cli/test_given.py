"""What files do not say of a model is told in one way wherever a SOURCE is taken: as options, behind ?, in a cohort."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from typer.testing import CliRunner

from fdlab.checkpoints.open import open_model
from fdlab.checkpoints.sources import parse_label, read_facts, split_facts, with_facts
from fdlab.cli.app import app
from fdlab.compare.cohort import read_cohort
from fdlab.encoders.channels import check_colour, in_channels
from fdlab.errors import USAGE, FdlabError
from tests.cli.test_help import COMMANDS, options

TOLD = {"--heads", "--activation", "--image-size", "--prefix-tokens", "--channels"}
MODELS = {name for name in COMMANDS if name.startswith(("diagnose ", "evaluate "))}
MODELS |= {"compare", "trainability", "distill", "finetune", "inspect", "export"}
IMAGES = (MODELS | {"pretrain"}) - {"inspect", "export"}


def vit(**more: object) -> VisionTransformer:
    torch.manual_seed(0)
    known = {"img_size": 32, "patch_size": 8, "embed_dim": 96, "depth": 2, "num_heads": 3, "num_classes": 0}
    return VisionTransformer(**{**known, **more}).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("given")
    torch.save(vit().state_dict(), path / "model.pth")
    for channels in (1, 4):
        torch.save(vit(in_chans=channels).state_dict(), path / f"channels{channels}.pth")
    for name in "ab":
        (path / "data" / name).mkdir(parents=True)
        for number in range(6):
            grey = np.random.default_rng(number).integers(0, 256, (32, 32), dtype=np.uint8)
            Image.fromarray(grey).save(path / "data" / name / f"{number}.png")
    return path


@pytest.fixture(autouse=True)
def own_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FDLAB_STORE", str(tmp_path / "store"))


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_command_that_takes_a_source_can_be_told_what_the_file_does_not_say(name: str) -> None:
    assert options(name) >= TOLD


@pytest.mark.parametrize("name", sorted(IMAGES))
def test_every_command_that_takes_images_can_be_told_their_range(name: str) -> None:
    assert {"--value-range", "--labels"} <= options(name)


@pytest.mark.parametrize(
    ("text", "label", "source"),
    [
        ("m.pth?heads=2", "m", "m.pth?heads=2"),
        ("a=m.pth?heads=2&image_size=64", "a", "m.pth?heads=2&image_size=64"),
        ("random:m.pth@teacher?heads=2", "random m@teacher", "random:m.pth@teacher?heads=2"),
        ("a b=timm:vit?image_size=32x64", "a b", "timm:vit?image_size=32x64"),
    ],
)
def test_a_label_stands_before_and_facts_behind(text: str, label: str, source: str) -> None:
    assert parse_label(text) == (label, source)


def test_an_existing_file_wins_over_the_grammar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m?heads=2").write_text("x")
    assert split_facts("m?heads=2") == ("m?heads=2", "")


@pytest.mark.parametrize(
    "behind",
    ["?head=2", "?heads=0", "?heads=-1", "?heads=two", "?heads=", "?image_size=0", "?image_size=1x2x3", "?image_size=x",
     "?channels=0", "?prefix_tokens=a", "?heads=" + "9" * 5000],
)  # fmt: skip
def test_what_cannot_be_told_is_refused(behind: str) -> None:
    with pytest.raises(FdlabError) as caught:
        read_facts(behind)
    assert caught.value.code == USAGE


def test_what_a_source_says_itself_comes_before_an_option() -> None:
    assert with_facts("m?heads=2", {"heads": 3, "channels": 1}) == "m?heads=2&channels=1"


@pytest.mark.parametrize(
    ("words", "heads"), [(["--heads", "3"], 3), (["--heads", "6"], 6), (["--heads", "3", "--image-size", "32x64"], 3)]
)
def test_inspect_and_diagnose_use_what_they_are_told(
    folder: Path, tmp_path: Path, words: list[str], heads: int
) -> None:
    shown = CliRunner().invoke(app, ["inspect", str(folder / "model.pth"), *words, "--json"])
    facts = json.loads(shown.stdout)
    assert facts["heads"] == heads
    size = [32, 64] if "32x64" in words else 32
    assert facts["image_size"] == size
    asked = ["diagnose", "attention", f"m={folder / 'model.pth'}", "--data", str(folder / "data"), "--images", "6"]
    done = CliRunner().invoke(app, [*asked, "--no-control", "-o", str(tmp_path / "out"), "--json", *words])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout[done.stdout.index("[{") :])
    assert max(row["head"] for row in rows if row["head"] is not None) == heads - 1


def test_without_heads_the_error_names_an_option_that_the_command_has(folder: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["diagnose", "attention", str(folder / "model.pth"), "-o", str(tmp_path)])
    assert isinstance(done.exception, FdlabError)
    assert "--heads N" in done.exception.fix
    assert "SOURCE?heads=N" in done.exception.fix


def test_a_cohort_states_it_by_keys(folder: Path, tmp_path: Path) -> None:
    models = [("a", "heads = 3\n"), ("b", 'heads = 6\nimage_size = "32x64"\n'), ("c", "")]
    lines = [f'[[model]]\nlabel = "{name}"\nsource = "{folder / "model.pth"}"\n{keys}' for name, keys in models]
    (tmp_path / "cohort.toml").write_text("\n".join(lines))
    sources = read_cohort(tmp_path / "cohort.toml").sources()
    assert open_model(sources["a"]).info.heads == 3
    assert (open_model(sources["b"]).info.heads, open_model(sources["b"]).info.image_size) == (6, (32, 64))
    assert sources["c"].endswith("model.pth")


def test_facts_are_part_of_the_question_that_the_store_keeps(folder: Path) -> None:
    first, second = (open_model(f"{folder / 'model.pth'}?heads={heads}") for heads in (3, 6))
    assert first.info.sha256 != second.info.sha256


@pytest.mark.parametrize("channels", [1, 4])
def test_a_model_of_other_channels_sees_grey_images(folder: Path, channels: int) -> None:
    path = folder / f"channels{channels}.pth"
    with pytest.raises(FdlabError, match=f"takes images of {channels} channel") as caught:
        check_colour(open_model(path, heads=3))
    assert f"--channels {channels}" in caught.value.fix
    told = check_colour(open_model(f"{path}?heads=3&channels={channels}"))
    grey = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        expected = vit(in_chans=channels).forward_features(
            ((grey - told.info.mean[0]) / told.info.std[0]).expand(-1, channels, -1, -1)
        )
        found = told.module.forward_features(told.normalise(grey.expand(-1, 3, -1, -1)))
    assert in_channels(told) == 3
    assert torch.allclose(found, expected, atol=1e-5)
    assert any("given by the user" in said for said in told.info.assumed)
    with pytest.raises(FdlabError, match="not 7"):
        open_model(path, heads=3, channels=7)


@pytest.mark.parametrize("words", [["--heads", "3"], ["--heads", "3", "--channels", "1"]], ids=["refused", "told"])
def test_finetuning_a_one_channel_model_trains_or_says_what_to_give(
    folder: Path, tmp_path: Path, words: list[str]
) -> None:
    asked = ["finetune", str(folder / "channels1.pth"), "--recipe", "digits/finetune", "--data", str(folder / "data")]
    small = ("data.size=32", "run.steps=2", "run.batch=4", "data.validation=2", "data.per_class=0", "data.test=''")
    settings = [word for setting in small for word in ("--set", setting)]
    done = CliRunner().invoke(app, [*asked, *settings, "-o", str(tmp_path / "run"), "--quiet", *words])
    if "--channels" in words:
        assert done.exit_code == 0, (done.output, done.exception)
        assert (tmp_path / "run" / "encoder.safetensors").is_file()
    else:
        assert isinstance(done.exception, FdlabError)
        assert "--channels 1" in done.exception.fix


@pytest.mark.parametrize("given", [0, 2, 5])
def test_prefix_tokens_that_are_not_the_files_are_refused(folder: Path, given: int) -> None:
    with pytest.raises(FdlabError, match="has 1 prefix tokens"):
        open_model(folder / "model.pth", heads=3, prefix_tokens=given)
    assert open_model(folder / "model.pth", heads=3, prefix_tokens=1).info.prefix_tokens == 1


def test_facts_of_a_model_that_is_not_named_are_refused() -> None:
    done = CliRunner().invoke(app, ["distill", "--heads", "3", "--dry-run"])
    assert isinstance(done.exception, FdlabError)
    assert "--heads speaks of a model" in done.exception.what


def test_the_exported_and_the_published_names_still_open() -> None:
    assert timm.is_model("vit_tiny_patch16_224")
    assert open_model("random:vit_tiny_patch16_224?image_size=32x64").info.image_size == (32, 64)

"""``fdlab.export`` on finished runs: its folder, its card, what it refuses, and the same from the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import fdlab
from fdlab.cli.app import app
from fdlab.errors import FdlabError
from fdlab.records.intervals import proportion_interval
from fdlab.study.exports import timm_folder
from fdlab.study.exports.card import source_name, without_paths
from fdlab.study.training import finetune
from tests.study.test_classifier import SMALL, colours


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("private") / "somebody"
    images, test = colours(folder / "colours", count=6), colours(folder / "held", count=7)
    for file in test.glob("*/[0-5].png"):
        file.unlink()  # drawn alike: those are the same pictures
    changes = {**SMALL, "run.steps": 8, "classify.design.class_token": True, "classify.head_init": 0.3}
    return finetune("digits/finetune", data=images, test=test, out=folder / "run", overrides=changes)


def texts(folder: Path) -> str:
    """Everything that is written in the folder, also what stands in weight files."""
    return "".join(path.read_bytes().decode("latin-1") for path in sorted(folder.iterdir()))


def test_a_finished_run_goes_with_its_classifier_and_its_card(tuned: Path, tmp_path: Path) -> None:
    done = fdlab.export(tuned, out=tmp_path / "out", to="timm")
    assert sorted(path.name for path in done.folder.iterdir()) == [
        "README.md",
        "config.json",
        "export.json",
        "model.safetensors",
    ]
    assert done.output == "logits (batch, 3)"
    card, facts = (done.folder / "README.md").read_text(), json.loads((tuned / "run.json").read_text())
    share = proportion_interval(facts["correct"], facts["count"])
    low, high = 100 * share.low, 100 * share.high
    assert f"{100 * share.value:.1f} % (95 % interval {low:.1f} to {high:.1f}, n = 3)" in card
    assert "In the order of the outputs: blue, green, red." in card
    assert "18 labelled images" in card
    assert 'timm.create_model("local-dir:FOLDER", pretrained=True)' in card
    assert "This architecture has no name in timm" in card
    assert "hf upload YOUR_NAME/out" in done.upload
    written = texts(done.folder)
    assert "somebody" not in written
    assert str(tmp_path) not in written
    assert str(Path.home()) not in written


def test_the_run_itself_is_one_folder_that_says_what_it_is(tuned: Path) -> None:
    card, facts = (tuned / "README.md").read_text(), json.loads((tuned / "run.json").read_text())
    assert 'fdlab.load_classifier("FOLDER")' in card
    assert "In the order of the outputs: blue, green, red." in card
    assert "n = 3" in card
    assert "somebody" not in card
    assert facts["direct"] is True  # squares of one size
    classifier = fdlab.load_classifier(tuned)
    assert (classifier.direct, classifier.classes) == (True, ("blue", "green", "red"))


def test_a_training_is_not_lost_over_its_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise FdlabError("It cannot be opened.", "For a test.")

    monkeypatch.setattr("fdlab.study.results.ending", fails)
    with pytest.warns(UserWarning, match=r"The card of .* was not written: It cannot be opened\. For a test\."):
        run = finetune(data="digits#train", out=tmp_path / "run", overrides={**SMALL, "run.steps": 2, "run.batch": 4})
    assert json.loads((run / "run.json").read_text())["state"] == "finished"
    assert not (run / "README.md").exists()


def test_pictures_reach_the_size_as_in_the_training(tuned: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "one.png")
    classifier = fdlab.load_classifier(tuned)
    from fdlab.data.transforms import fit

    whole = torch.from_numpy(pixels).permute(2, 0, 1)
    shares = {direct: classifier.logits(fit(whole, 24, direct=direct)[None]).softmax(-1)[0] for direct in (True, False)}
    said = {guess.name: guess.share for guess in classifier.predict(tmp_path / "one.png")[str(tmp_path / "one.png")]}
    assert [said[name] for name in classifier.classes] == pytest.approx(shares[True].tolist(), abs=1e-6)
    assert shares[False].tolist() != pytest.approx(shares[True].tolist(), abs=1e-3)


def test_the_crop_of_the_training_is_in_the_folder(tuned: Path, tmp_path: Path) -> None:
    whole = fdlab.export(tuned, out=tmp_path / "whole")
    assert json.loads((whole.folder / "config.json").read_text())["pretrained_cfg"]["crop_pct"] == 1.0
    other = shutil.copytree(tuned, tmp_path / "photographs")
    facts = json.loads((other / "run.json").read_text())
    for stated, line in (({"direct": False}, False), ({}, True)):  # an older run does not say
        known = {key: value for key, value in facts.items() if key != "direct"} | stated
        (other / "run.json").write_text(json.dumps(known))
        cut = fdlab.export(other, out=tmp_path / "cut", force=True)
        crop = json.loads((cut.folder / "config.json").read_text())["pretrained_cfg"]["crop_pct"]
        assert int(24 / crop) == 27  # 24 * 256 / 224
        assert ("is not known" in (cut.folder / "README.md").read_text()) == line


def test_fdlab_opens_what_it_exported(tuned: Path, tmp_path: Path) -> None:
    first = fdlab.load_classifier(tuned)
    again = fdlab.load_classifier(fdlab.export(tuned, out=tmp_path / "out").folder)
    images = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(again.logits(images), first.logits(images), atol=1e-5)
    assert (again.classes, again.named, again.direct) == (first.classes, True, True)


def test_without_its_head_it_is_the_encoder(tuned: Path, tmp_path: Path) -> None:
    done = fdlab.export(tuned, out=tmp_path / "out", head=False)
    assert done.output.startswith("tokens (batch, 10, 32)")
    assert json.loads((done.folder / "config.json").read_text())["num_classes"] == 0
    assert "Classes" not in (done.folder / "README.md").read_text()


def test_what_is_there_is_not_lost(tuned: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / ".git").mkdir()  # hidden files are nobody's
    fdlab.export(tuned, out=out, to="hf")
    with pytest.raises(FdlabError, match="is not empty") as caught:
        fdlab.export(tuned, out=out)
    assert "--force" in caught.value.fix
    (out / "notes.txt").write_text("mine")
    fdlab.export(tuned, out=out, force=True)
    assert sorted(path.name for path in out.iterdir()) == [
        ".git",
        "README.md",
        "config.json",
        "export.json",
        "model.safetensors",
        "notes.txt",
    ]
    (out / "export.json").unlink()
    for force in (True, False):
        with pytest.raises(FdlabError, match="is not empty") as caught:
            fdlab.export(tuned, out=out, force=force)
        assert "--force" not in caught.value.fix
    (tmp_path / "file").write_text("")
    with pytest.raises(FdlabError, match="is a file"):
        fdlab.export(tuned, out=tmp_path / "file")


def test_a_failure_on_the_way_leaves_nothing(tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(timm_folder, "write_json", full)
    with pytest.raises(FdlabError, match="No space left") as caught:
        fdlab.export(tuned, out=tmp_path / "out")
    assert caught.value.code == 4
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_asked_is_said(tuned: Path, tmp_path: Path) -> None:
    with pytest.raises(FdlabError, match="Unknown form 'tim'") as caught:
        fdlab.export(tuned, out=tmp_path / "out", to="tim")
    assert "Did you mean 'timm'?" in caught.value.fix
    with pytest.raises(FdlabError, match="says by itself") as caught:
        fdlab.export(f"{tuned}?image_size=32", out=tmp_path / "out")
    assert caught.value.code == 2
    assert not list(tmp_path.iterdir())


def test_the_command_says_how_it_is_used_and_uploads_nothing(tuned: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    done = CliRunner().invoke(app, ["export", str(tuned), "--to", "timm", "-o", str(out)])
    assert done.exit_code == 0, done.output
    assert f'timm.create_model("local-dir:{out}", pretrained=True)' in done.output
    assert "Read back: the largest difference is" in done.output
    assert f"Nothing was uploaded. After reading README.md there, this would: hf upload YOUR_NAME/model {out}" in (
        done.output
    )
    said = json.loads(CliRunner().invoke(app, ["export", str(tuned), "-o", str(out), "--force", "--json"]).stdout)
    assert said["largest_difference"] < 1e-5
    assert said["files"] == ["config.json", "model.safetensors"]
    Image.new("RGB", (40, 30), (250, 20, 20)).save(tmp_path / "photo.jpg")
    scope: dict[str, object] = {}
    code = "\n".join(line.removeprefix("    ") for line in done.output.splitlines() if line.startswith("    "))
    exec(code.replace("photo.jpg", str(tmp_path / "photo.jpg")), scope)
    assert tuple(scope["shares"].shape) == (3,)  # type: ignore[attr-defined]


def test_names_hold_no_paths() -> None:
    assert source_name("/home/me/mine/train#train") == "train#train"
    assert source_name("hfds:me/set") == "set"
    assert without_paths("3 files of /data/me/x were left out") == "3 files of x were left out"

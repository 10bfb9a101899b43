"""Notes on models: nothing is opened while they hold; every change of a file ends them; a bad one is ignored."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from fdlab.checkpoints import known
from fdlab.checkpoints.known import Known, known_model
from fdlab.checkpoints.open import open_model
from fdlab.checkpoints.save import save_encoder
from fdlab.encoders.student import Design, build
from fdlab.errors import FdlabError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights" / "small.safetensors"
    path.parent.mkdir()
    design = Design(24, 4, 32, 2, 4, layer_scale=0.1)
    save_encoder(path, build(design, seed=0), design=design, mean=(0.5,) * 3, std=(0.25,) * 3, family="fd", seed=0)
    return path


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sources that were opened."""
    monkeypatch.setattr(known, "AT_REST", -1.0)  # files of a test are new
    sources: list[str] = []

    def counted(source: str, **more: Any) -> Any:
        sources.append(source)
        return open_model(source, **more)

    monkeypatch.setattr("fdlab.checkpoints.open.open_model", counted)
    return sources


def test_what_is_known_is_what_opening_says_field_by_field(file: Path, tmp_path: Path, opened: list[str]) -> None:
    for source in (str(file), "random:swin_tiny_patch4_window7_224", f"random:{file}"):
        truth = open_model(source)
        known_model(source, tmp_path / "notes")
        before = len(opened)
        again = known_model(source, tmp_path / "notes")
        assert len(opened) == before
        for field in fields(truth.info):
            value, wanted = getattr(again.info, field.name), getattr(truth.info, field.name)
            assert (value, type(value)) == (wanted, type(wanted)), field.name
        assert again.encoder.info == truth.info  # opened now, once
        assert again.encoder is again.encoder
        assert len(opened) == before + 1


def test_a_question_needs_neither_timm_nor_the_reader(file: Path, tmp_path: Path) -> None:
    os.utime(file, ns=(1, 1))
    code = (
        "import sys; from pathlib import Path; from fdlab.checkpoints import known; known.AT_REST = -1.0\n"
        f"print(known.known_model({str(file)!r}, Path({str(tmp_path / 'notes')!r})).info.sha256)\n"
        "print(sorted({'timm', 'torchvision', 'fdlab.checkpoints.open'} & set(sys.modules)))"
    )
    first, second = (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split("\n")
        for _ in range(2)
    )
    assert first[0] == second[0] == open_model(file).info.sha256
    assert "timm" in first[1]
    assert second[1] == "[]"


def _other_weights(path: Path) -> None:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as held:
        metadata = held.metadata()
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("norm.weight"))
    save_file(tensors | {name: tensors[name] + 1}, path, metadata)


@pytest.mark.parametrize("times", ["new", "kept"])
def test_other_content_is_noticed_also_of_the_same_size_and_time(
    file: Path, tmp_path: Path, opened: list[str], times: str
) -> None:
    old, before = known_model(str(file), tmp_path / "notes").info, file.stat()
    _other_weights(file)
    assert file.stat().st_size == before.st_size
    if times == "kept":
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    new = known_model(str(file), tmp_path / "notes").info
    assert len(opened) == 2
    assert new.sha256 != old.sha256
    assert new == open_model(file).info


def test_what_stands_beside_a_file_and_what_opens_it_are_part_of_it(
    file: Path, tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def again() -> int:
        known_model(str(file), tmp_path / "notes")
        return len(opened)

    assert again() == again() == 1
    os.utime(file, ns=(1, 1))
    assert again() == again() == 2
    (file.parent / "config.json").write_text("{}")
    assert again() == again() == 3
    monkeypatch.setattr(known, "_made_by", lambda: ["another version"])
    assert again() == again() == 4
    file.unlink()
    with pytest.raises(FdlabError, match="does not exist"):
        again()


def test_an_untrained_model_is_known_by_its_seed_and_a_published_name_never(
    tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, other = (known_model("random:test_vit", tmp_path, seed=seed).info for seed in (0, 1))
    assert first.sha256 != other.sha256
    assert known_model("random:test_vit", tmp_path, seed=1).info == other
    assert len(opened) == 2
    monkeypatch.setattr("fdlab.checkpoints.open.open_model", lambda source, **_: open_model(f"random:{source}"))
    known_model("test_vit", tmp_path)
    assert len(list(tmp_path.iterdir())) == 2  # a name whose weights come from elsewhere leaves no note


def test_a_damaged_note_is_ignored_and_made_again(file: Path, tmp_path: Path, opened: list[str]) -> None:
    notes = tmp_path / "notes"
    truth = known_model(str(file), notes).info
    (note,) = notes.iterdir()
    whole = note.read_text()
    held = json.loads(whole)
    wrong = [json.dumps({**held, "info": {**held["info"], "sha256": "0" * 64}}), json.dumps({"of": held["of"]})]
    for number, text in enumerate(("", "[]", "null", "{", whole[: len(whole) // 2], *wrong), 2):
        note.write_text(text)
        assert known_model(str(file), notes).info == truth
        assert len(opened) == number
        assert note.read_text() == whole


def test_a_file_written_a_moment_ago_is_not_noted(
    file: Path, tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "AT_REST", 3600.0)
    known_model(str(file), tmp_path / "notes")
    known_model(str(file), tmp_path / "notes")
    assert len(opened) == 2


def test_a_file_that_changes_between_question_and_measurement_is_refused(
    file: Path, tmp_path: Path, opened: list[str]
) -> None:
    known_model(str(file), tmp_path / "notes")
    found = known_model(str(file), tmp_path / "notes")
    _other_weights(file)
    with pytest.raises(FdlabError, match="was changed while"):
        found.encoder
    assert isinstance(found, Known)
    assert known_model(str(file), tmp_path / "notes").encoder.info == open_model(file).info


def test_two_may_write_one_note_and_a_folder_that_takes_none_costs_no_result(
    file: Path, tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    notes, truth = tmp_path / "notes", open_model(file).info
    with monkeypatch.context() as patched:

        def while_another_does(source: str, **more: Any) -> Any:
            patched.setattr("fdlab.checkpoints.open.open_model", open_model)
            assert known_model(str(file), notes).info == truth
            assert len(list(notes.iterdir())) == 1
            return open_model(source, **more)

        patched.setattr("fdlab.checkpoints.open.open_model", while_another_does)
        assert known_model(str(file), notes).info == truth
    assert known_model(str(file), notes).info == truth
    assert opened == []  # by the note
    (tmp_path / "taken").write_text("a file")
    assert known_model(str(file), tmp_path / "taken" / "notes").info == truth

"""Damage to a run's own files is found, said, and never trained on; the state before the last one goes on."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from fdlab.engine import sealed
from fdlab.errors import NOT_UNDERSTOOD, FdlabError
from fdlab.records.run_folder import RunFolder
from fdlab.study.training import plan, run
from tests.engine.test_official_faults import stopped

OWN = {"run.steps": 4, "run.batch": 8, "save.every": 1, "run.log_every": 1}
STATE = {"step": 3, "task": {"w": torch.arange(5000.0)}, "optimizer": {}, "log": {"sums": {}, "count": 0}, "note": "a"}


def planned(**more: Any) -> Any:
    return plan("digits/masked", options={**OWN, **more})


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stopped(planned(), tmp_path_factory.mktemp("half") / "run").path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(planned(), tmp_path_factory.mktemp("whole") / "run", quiet=True)


@pytest.fixture
def copy(half: Path, tmp_path: Path) -> RunFolder:
    return RunFolder(shutil.copytree(half, tmp_path / "run"))


def test_a_sealed_file_is_read_by_torch_too(tmp_path: Path) -> None:
    sealed.write(tmp_path / "x.pt", STATE)
    assert torch.load(tmp_path / "x.pt", weights_only=True)["step"] == 3
    assert torch.equal(sealed.read(tmp_path / "x.pt", instead="")["task"]["w"], STATE["task"]["w"])


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    sealed.write(path, STATE)
    content, draw = path.read_bytes(), random.Random(0)
    places = [draw.randrange(len(content)) for _ in range(60)] + list(range(len(content) - 110, len(content)))
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        with pytest.raises(FdlabError, match="cannot be read") as caught:
            sealed.read(path, instead="Delete it.")
        assert caught.value.code == NOT_UNDERSTOOD


@pytest.mark.parametrize("kept", [0, 1, 30, 0.5, -1, -77, -100])
def test_every_cut_is_found(kept: float, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    sealed.write(path, STATE)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if 0 < kept < 1 else int(kept)])
    with pytest.raises(FdlabError, match="cannot be read") as caught:
        sealed.read(path, instead="Delete it.")
    assert "weights_only" not in str(caught.value)


def test_a_file_from_before_there_were_checksums_is_read_and_its_zip_sums_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save(STATE, path)
    assert sealed.read(path, instead="")["step"] == 3
    content = bytearray(path.read_bytes())
    content[content.index(torch.arange(5000.0).numpy().tobytes()) + 40] ^= 4
    path.write_bytes(content)
    with pytest.raises(FdlabError, match="cannot be read"):
        sealed.read(path, instead="")


def damage_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "bit": damage_bit,
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[:1000]),
    "text": lambda path: path.write_text("no checkpoint"),
    "parts": lambda path: torch.save({"step": 3}, path),
    "no table": lambda path: torch.save([1, 2], path),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_last_state_names_the_one_before_and_the_run_goes_on_from_it(
    damage: str, copy: RunFolder, whole: Path
) -> None:
    DAMAGE[damage](copy.last)
    with pytest.raises(FdlabError, match=r"last\.pt cannot be read") as caught:
        run(planned(), copy.path, quiet=True)
    assert "of step 2" in caught.value.fix
    assert "previous.pt" in caught.value.fix
    assert not copy.finished
    copy.last.unlink()
    run(planned(), copy.path, quiet=True)
    assert (copy.path / "encoder.safetensors").read_bytes() == (whole / "encoder.safetensors").read_bytes()
    steps = [[line["step"] for line in RunFolder(path).read_log()] for path in (copy.path, whole)]
    assert steps[0] == steps[1]
    assert not copy.previous.exists()  # a finished run needs it no more


def test_both_states_damaged_leave_the_first_step(copy: RunFolder) -> None:
    damage_bit(copy.last)
    damage_bit(copy.previous)
    with pytest.raises(FdlabError) as caught:
        run(planned(), copy.path, quiet=True)
    assert "previous.pt" not in caught.value.fix
    assert str(copy.last.parent) in caught.value.fix


BROKEN = [b"", b"{", b"\xff\xfe\x00", b"[1, 2]", b"[" * 100_000, b"null"]


@pytest.mark.parametrize("content", BROKEN, ids=range(len(BROKEN)))
@pytest.mark.parametrize("name", ["inputs.json", "recipe.toml", "metrics.jsonl", "run.json"])
def test_small_files_that_are_damaged_are_named(name: str, content: bytes, copy: RunFolder) -> None:
    (copy.path / name).write_bytes(content)
    if name in ("inputs.json", "recipe.toml"):
        with pytest.raises(FdlabError, match=f"{name} of this run is damaged") as caught:
            run(planned(), copy.path, quiet=True)
        assert caught.value.code == NOT_UNDERSTOOD
    elif name == "run.json":
        with pytest.warns(UserWarning, match="run.json is damaged"):
            run(planned(), copy.path, quiet=True)
        assert json.loads((copy.path / name).read_text())["state"] == "finished"
    else:
        run(planned(), copy.path, quiet=True)
        assert copy.finished


def test_a_folder_that_is_removed_while_its_run_trains_ends_the_run(tmp_path: Path) -> None:
    def remove(step: int) -> None:
        if step == 2:
            shutil.rmtree(tmp_path / "run")

    with pytest.raises(FdlabError, match="was removed or emptied"):
        run(planned(), tmp_path / "run", quiet=True, on_step=[remove])
    assert not RunFolder(tmp_path / "run").finished


def test_a_closing_line_is_written_once(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for line in ({"step": 1, "loss": 2.0}, {"step": 40}, {"step": 40}, {"step": 41}):
        folder.append_log(line)
    assert folder.log.read_text() == '{"step": 1, "loss": 2.0}\n{"step": 40}\n{"step": 41}\n'


def test_other_conditions_are_said(copy: RunFolder) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        with pytest.warns(UserWarning, match=f"threads {threads}, now {threads + 1}"):
            run(planned(), copy.path, quiet=True)
    finally:
        torch.set_num_threads(threads)


def test_weights_have_the_mode_of_the_umask(whole: Path) -> None:
    mask = os.umask(0)
    os.umask(mask)
    modes = {path.name: path.stat().st_mode & 0o777 for path in whole.rglob("*") if path.is_file()}
    assert set(modes.values()) == {0o666 & ~mask}, modes

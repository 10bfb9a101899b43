"""A run that goes on from another one's last state with other settings; the other one stays as it is."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from fdlab.errors import FdlabError
from fdlab.records.run_folder import RunFolder
from fdlab.study.training import plan, run

TINY = {
    "run.steps": 4,
    "run.batch": 8,
    "run.log_every": 1,
    "data.source": "digits#train[:64]",
    **{f"masked.model.{key}": value for key, value in {"width": 16, "depth": 1, "heads": 2, "patch_size": 8}.items()},
}


def digest(folder: Path) -> dict[str, str]:
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != ".lock"]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_a_fork_goes_on_with_new_settings_and_leaves_its_origin_alone(tmp_path: Path) -> None:
    run(plan("digits/masked", options=TINY), tmp_path / "a", quiet=True)
    before = digest(tmp_path / "a")
    longer = plan("digits/masked", options={**TINY, "run.steps": 7, "optim.lr": 1e-4})
    with pytest.raises(FdlabError, match="other settings") as caught:
        run(longer, tmp_path / "a", quiet=True)
    assert "--fork" in caught.value.fix
    seen: list[int] = []
    made = run(longer, tmp_path / "a", quiet=True, fork="b", on_step=[seen.append])
    assert made == tmp_path / "b"
    assert seen == [5, 6, 7]
    assert digest(tmp_path / "a") == before
    forked = RunFolder(made).facts()["forked"]
    assert forked["from"] == str(tmp_path / "a")
    assert any(said.startswith("run.steps: 4") for said in forked["changed"])
    old, new = ([line for line in RunFolder(tmp_path / name).read_log() if "loss" in line] for name in "ab")
    assert [line["step"] for line in new] == [1, 2, 3, 4, 5, 6, 7]
    assert [line["loss"] for line in new[:4]] == [line["loss"] for line in old]
    assert run(longer, tmp_path / "a", quiet=True, fork="b", on_step=[seen.append]) == made
    assert seen == [5, 6, 7], "the same command on a finished fork does nothing"


def test_what_cannot_be_forked_is_said_and_nothing_is_written(tmp_path: Path) -> None:
    planned = plan("digits/masked", options=TINY)
    with pytest.raises(FdlabError, match="no state to fork"):
        run(planned, tmp_path / "none", quiet=True, fork="b")
    run(planned, tmp_path / "a", quiet=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    with pytest.raises(FdlabError, match="not empty"):
        run(planned, tmp_path / "a", quiet=True, fork="full")
    wider = plan("digits/masked", options={**TINY, "run.steps": 6, "masked.model.width": 32})
    with pytest.raises(FdlabError, match="does not fit these settings") as caught:
        run(wider, tmp_path / "a", quiet=True, fork="wide")
    assert caught.value.code == 2

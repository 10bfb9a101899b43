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
    longer = plan("digits/masked", options={**TINY, "run.steps": 6})
    with pytest.raises(FdlabError, match="not empty"):
        run(longer, tmp_path / "a", quiet=True, fork="full")
    wider = plan("digits/masked", options={**TINY, "run.steps": 6, "masked.model.width": 32})
    with pytest.raises(FdlabError, match="does not fit these settings") as caught:
        run(wider, tmp_path / "a", quiet=True, fork="wide")
    assert caught.value.code == 2


def test_a_fork_without_steps_left_is_refused_and_the_right_command_works_afterwards(tmp_path: Path) -> None:
    run(plan("digits/masked", options=TINY), tmp_path / "a", quiet=True)
    by_epochs = {**TINY, "run.steps": 0, "optim.lr": 1e-4}  # 64 images in batches of 8
    for options, end in (({**TINY, "run.steps": 4}, 4), ({**TINY, "run.steps": 3}, 3)):
        with pytest.raises(FdlabError, match=f"is at step 4, and these settings end at step {end}") as caught:
            run(plan("digits/masked", options=options), tmp_path / "a", quiet=True, fork="b")
        assert caught.value.code == 2
        assert "run.steps above 4" in caught.value.fix
        assert not (tmp_path / "b").exists()
    with pytest.raises(FdlabError, match="no length"):
        run(plan("digits/masked", options=by_epochs), tmp_path / "a", quiet=True, fork="b")
    longer = plan("digits/masked", options={**by_epochs, "run.epochs": 1})
    made = run(longer, tmp_path / "a", quiet=True, fork="b")
    assert RunFolder(made).facts()["steps"] == 8
    with pytest.raises(FdlabError, match=r"no state to fork with run\.strategy=fsdp"):
        run(plan("digits/masked", options={**TINY, "run.steps": 9, "run.strategy": "fsdp"}), tmp_path / "a", fork="c")


def test_a_fork_that_was_killed_after_its_last_state_still_finishes(tmp_path: Path) -> None:
    """No steps are left then either, and that is right: only the first start of a fork is checked."""
    run(plan("digits/masked", options=TINY), tmp_path / "a", quiet=True)
    longer = plan("digits/masked", options={**TINY, "run.steps": 6})

    def stop(step: int) -> None:
        if step == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(longer, tmp_path / "a", quiet=True, fork="b", on_step=[stop])
    assert not RunFolder(tmp_path / "b").finished
    assert RunFolder(run(longer, tmp_path / "a", quiet=True, fork="b")).finished

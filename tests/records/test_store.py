"""The store answers equal questions once and survives damage; run folders and atomic writes keep what is there."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from fdlab.errors import FdlabError
from fdlab.records.atomic import replacing, writable_folder
from fdlab.records.run_folder import RunFolder
from fdlab.records.store import Record, Store
from fdlab.records.table import frame

QUESTION = {"probe": "attention", "weights": "abc", "settings": {"batch": 3}}


def record(value: float) -> Record:
    return Record(frame([{"model": "a", "value": value}]), {"nmi": np.arange(3.0)}, {"seconds": 1})


def test_the_same_question_in_another_order_finds_the_answer(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(QUESTION, record(0.25))
    found = store.get(dict(reversed(QUESTION.items())))
    assert found is not None
    assert found.table["value"][0] == 0.25
    assert found.arrays["nmi"].tolist() == [0, 1, 2]
    assert store.get({**QUESTION, "weights": "abd"}) is None


@pytest.mark.parametrize("name", ["arrays.npz", "table.csv", "manifest.json"])
@pytest.mark.parametrize("kept", [0, 9, 0.5, -30])
def test_a_damaged_answer_is_no_answer_and_is_said(name: str, kept: float, tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = store.put(QUESTION, record(1.0)) / name
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept) if 0 < kept < 1 else int(kept)])
    with pytest.warns(UserWarning, match="It is made again"):
        assert store.get(QUESTION) is None
    store.put(QUESTION, record(2.0))
    again = store.get(QUESTION)
    assert again is not None
    assert again.table["value"][0] == 2.0


def test_a_changed_byte_in_the_arrays_is_noticed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = store.put(QUESTION, record(1.0)) / "arrays.npz"
    content = bytearray(path.read_bytes())
    content[content.index(b"nmi.npy") + 60] ^= 0xFF
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="It is made again"):
        assert store.get(QUESTION) is None


def test_an_answer_of_an_older_version_is_known(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put({**QUESTION, "version": 2}, record(1.0))
    assert store.older_version({**QUESTION, "version": 4}) == 2
    assert store.older_version({**QUESTION, "version": 3}) == 2
    assert store.older_version({**QUESTION, "version": 2}) is None
    assert store.older_version({**QUESTION, "version": 4, "weights": "other"}) is None
    assert store.older_version(QUESTION) is None


WRITER = """
import sys
import numpy as np
from fdlab.records.store import Record, Store
from fdlab.records.table import frame
store = Store(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for number in range(40):
    value = float(f"{sys.argv[2]}.{number + 100}")
    store.put({"probe": "x"}, Record(frame([{"model": "a", "value": value}]), {"nmi": np.full(5000, value)}, {}))
"""


def test_two_processes_that_write_the_same_answer_leave_a_whole_one(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), number],
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for number in ("1", "2")
    ]
    for writer in writers:
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
    store, whole = Store(tmp_path), 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # read while it is replaced: an answer or none, but not a damaged one
        while any(writer.poll() is None for writer in writers):
            found = store.get({"probe": "x"})
            if found is not None:  # never half of one and half of another
                assert (found.arrays["nmi"] == found.table["value"][0]).all()
                whole += 1
    assert [writer.wait() for writer in writers] == [0, 0]
    found = store.get({"probe": "x"})
    assert found is not None
    assert (found.arrays["nmi"] == found.table["value"][0]).all()
    assert whole > 0
    assert [path.name for path in tmp_path.glob("*/.*")] == []


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "kept.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as draft:
        draft.write_text("half of the ne")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_unwritable_folder_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FdlabError, match="--out"):
        writable_folder(tmp_path / "file" / "below")


def test_a_run_folder_refuses_changed_settings_and_foreign_folders(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.prepare("task = 'x'\n")
    with pytest.raises(FdlabError, match=r"optim\.lr: 1, now 2"):
        run.prepare("", differences=["optim.lr: 1, now 2"])
    (tmp_path / "thesis.pdf").write_text("precious")
    with pytest.raises(FdlabError, match="not empty"):
        RunFolder(tmp_path).prepare("task = 'x'\n")


def test_a_log_cut_short_by_a_kill_is_read_up_to_there(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for step in (1, 2, 3):
        run.append_log({"step": step, "loss": float("nan") if step == 2 else 0.5})
    with run.log.open("a") as file:
        file.write('{"step": 4, "lo')
    assert [line["step"] for line in run.read_log()] == [1, 2, 3]
    assert run.read_log()[1]["loss"] is None
    run.cut_log(2)
    assert [line["step"] for line in run.read_log()] == [1, 2]

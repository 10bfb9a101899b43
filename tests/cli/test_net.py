"""Any exception becomes three lines, the right exit code and, where nobody knows it, a file without data in it."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

import pytest

from fdlab.cli import app
from fdlab.cli.net import LONGEST, REPORT
from fdlab.errors import FAILED, OUT_OF_SPACE, USAGE, FdlabError
from fdlab.records.atomic import replacing

UNKNOWN = [
    ValueError("secret label 7\x1b[31m\nline"),
    KeyError("secret label 7"),
    IndexError(),
    OverflowError("int too large"),
    AssertionError("secret label 7"),
    TypeError("x" * 100_000),
    RecursionError("maximum recursion depth exceeded"),
    UnicodeEncodeError("ascii", "secret label 7", 0, 1, "no"),
    EOFError(),
]
SPACE = [
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:116] . DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
    OSError(errno.ENOSPC, "No space left on device", "x/last.pt"),
    OSError(errno.EDQUOT, "Disk quota exceeded", "x/last.pt"),
    OSError(errno.EFBIG, "File too large"),
    RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"),
    RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
]
FILES = [
    (PermissionError(errno.EACCES, "Permission denied", "d/x.pth"), FAILED, "permissions"),
    (FileNotFoundError(errno.ENOENT, "No such file or directory", "d/x.pth"), FAILED, "d/x.pth"),
    (OSError(errno.EROFS, "Read-only file system", "ro/s"), FAILED, "Read-only"),
    (OSError(errno.ENAMETOOLONG, "File name too long", "n" * 5000), USAGE, "too long"),
]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def run(error: BaseException, *, debug: bool = False) -> tuple[int, str]:
        def fails() -> None:
            raise error

        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(app, "app", fails)
        monkeypatch.setattr(sys, "argv", ["fdlab", "diagnose", "features", "--data=/home/me/secret", "m=secret.pth"])
        monkeypatch.setenv("FDLAB_DEBUG", "1") if debug else monkeypatch.delenv("FDLAB_DEBUG", raising=False)
        with pytest.raises(SystemExit) as ended:
            app.main()
        return int(str(ended.value.code)), capsys.readouterr().err

    return run


@pytest.mark.parametrize("error", UNKNOWN, ids=lambda error: type(error).__name__)
def test_an_unknown_error_is_three_lines_and_a_report_without_data(run, error: Exception, tmp_path: Path) -> None:
    code, said = run(error)
    assert code == FAILED
    assert type(error).__name__ in said
    assert "--debug" in said
    assert "Traceback" not in said
    assert "\x1b" not in said
    assert len(said.strip().splitlines()) <= 3
    assert max(map(len, said.splitlines())) < LONGEST + 200
    report = (tmp_path / REPORT).read_text()
    assert "fdlab diagnose features --data" in report
    assert "test_net.py" in report
    assert "secret" not in report
    assert str(tmp_path) not in report


@pytest.mark.parametrize("error", SPACE, ids=lambda error: str(error)[:40] or "MemoryError")
def test_memory_and_disk_have_their_exit_code(run, error: Exception, tmp_path: Path) -> None:
    code, said = run(error)
    assert code == OUT_OF_SPACE
    assert not (tmp_path / REPORT).exists()
    assert "Traceback" not in said


@pytest.mark.parametrize(("error", "code", "word"), FILES)
def test_files_out_of_reach_are_named(run, error: Exception, code: int, word: str, tmp_path: Path) -> None:
    got, said = run(error)
    assert got == code
    assert word in said
    assert not (tmp_path / REPORT).exists()


def test_debug_shows_the_trace(run, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="x"):
        monkeypatch.setenv("FDLAB_DEBUG", "1")
        monkeypatch.setattr(app, "app", lambda: (_ for _ in ()).throw(ValueError("x")))
        app.main()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EFBIG, "File too large"),
        RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos"),
        RuntimeError("PytorchStreamWriter failed writing central directory: file write failed"),
    ],
)
def test_a_full_disk_leaves_the_old_file_and_no_draft(error: Exception, tmp_path: Path) -> None:
    (tmp_path / "last.pt").write_text("old")
    with pytest.raises(FdlabError, match="No space left") as caught, replacing(tmp_path / "last.pt") as draft:
        draft.write_text("half")
        raise error
    assert caught.value.code == OUT_OF_SPACE
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]
    assert (tmp_path / "last.pt").read_text() == "old"


def test_drafts_of_dead_processes_are_cleared_and_those_of_others_stay(tmp_path: Path) -> None:
    with replacing(tmp_path / "x.csv") as draft:
        draft.write_text("new")
    dead, elsewhere = draft.name.rsplit(".", 2)[0] + ".999999999.part", ".x.csv.another-host.999999999.part"
    for name in (dead, elsewhere, ".y.csv.part"):
        (tmp_path / name).write_text("half")
    with replacing(tmp_path / "x.csv") as draft:
        draft.write_text("newer")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["x.csv", elsewhere, ".y.csv.part"])

"""A loader's process that dies is reported, also where its batch is being fetched over a socket."""

from __future__ import annotations

import multiprocessing
import time

import pytest

from fdlab.data import sending
from fdlab.data.sending import worker_deaths
from fdlab.errors import FdlabError

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "UNTIL_REPORTED", 0.01)


@pytest.mark.parametrize("lost", [ConnectionResetError, ConnectionRefusedError, EOFError])
def test_a_socket_of_a_dead_process_is_its_death(lost: type[Exception]) -> None:
    dead = SPAWN.Process(target=time.time)
    dead.start()
    dead.join()
    with pytest.raises(FdlabError, match="A process that prepares batches has died") as caught, worker_deaths([dead]):
        raise lost
    assert caught.value.code == 4  # what a system short of memory does
    assert "run.workers=0" in caught.value.fix


def test_a_socket_of_nobody_or_of_a_live_process_is_no_death() -> None:
    for workers in ([], [multiprocessing.current_process()]):
        with pytest.raises(ConnectionResetError), worker_deaths(workers):
            raise ConnectionResetError


def test_what_torch_reports_while_it_is_awaited_is_the_death(monkeypatch: pytest.MonkeyPatch) -> None:
    def report(_seconds: float) -> None:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    monkeypatch.setattr(time, "sleep", report)
    with pytest.raises(FdlabError, match="has died") as caught, worker_deaths():
        raise ConnectionResetError
    assert caught.value.why == "DataLoader worker (pid 7) is killed by signal: Killed."


def test_other_errors_are_left_alone() -> None:
    with pytest.raises(RuntimeError, match="shapes"), worker_deaths():
        raise RuntimeError("shapes differ")


@pytest.mark.parametrize(
    ("why", "code"),
    [
        ("DataLoader worker (pid 7) is killed by signal: Killed. ", 4),
        ("DataLoader worker (pid(s) 7, 8) exited unexpectedly", 4),
        ("DataLoader worker (pid 7) is killed by signal: Segmentation fault. ", 1),
        ("DataLoader worker (pid 7) is killed by signal: Terminated. ", 1),
    ],
)
def test_a_death_for_want_of_memory_has_the_code_of_memory(why: str, code: int) -> None:
    with pytest.raises(FdlabError, match="has died") as caught, worker_deaths():
        raise RuntimeError(why)
    assert caught.value.code == code

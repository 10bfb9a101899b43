"""Jobs that need each other, in worker processes, under one progress line with time left.

A worker is started once and keeps its imports; it runs one job at a time on ``threads`` threads.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any

from fdlab.errors import INTERRUPTED, FdlabError
from fdlab.progress import Progress

_reports: Any = None


@dataclass(frozen=True)
class Job:
    """One call of a module-level function in a worker.

    Args:
        call: the function. keywords: its arguments.
        needs: names of the jobs that must be finished before this one.
        cost: its work in any unit that is the same for all jobs; the progress bar counts these units.
    """

    call: Callable[..., Any]
    keywords: dict[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    cost: int = 1


def report(units: int) -> None:
    """Tells the progress bar, from inside a job, that ``units`` of its cost are done."""
    if _reports is not None:
        _reports.put(units)


def _begin(reports: Any, threads: int) -> None:
    global _reports
    _reports = reports
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides; it then sends SIGTERM
    threading.Thread(target=_leave_with_parent, args=(os.getppid(),), daemon=True).start()
    import torch

    torch.set_num_threads(threads)


def _leave_with_parent(parent: int) -> None:
    # A killed parent cannot stop its workers, and two writers must never share a run.
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def run_jobs(
    jobs: Mapping[str, Job], *, workers: int, label: str, quiet: bool = False, threads: int = 1
) -> dict[str, Any]:
    """Runs every job after those that it needs and returns their results by name.

    The costliest of the jobs that are ready begins first. The first error stops what has not begun.

    Raises:
        FdlabError: as a job raised it; code 130 on Ctrl-C, with every finished job kept.
    """
    context = multiprocessing.get_context("spawn")
    reports = context.Queue()
    total = sum(job.cost for job in jobs.values())
    results: dict[str, Any] = {}
    pool = ProcessPoolExecutor(workers, context, _begin, (reports, threads))
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler) if main else None
    try:
        with Progress(label, total, quiet=quiet) as progress:
            _drive(jobs, workers, pool, results, lambda names: _count(reports, progress, names))
            progress.done = progress.total
            progress.advance(0)
    except KeyboardInterrupt:
        _terminate(pool)
        raise FdlabError(
            f"Stopped with {len(results)} of {len(jobs)} stages finished.",
            "Their results are kept, and the running ones saved their state.",
            "Give the same command again to continue.",
            code=INTERRUPTED,
        ) from None
    except BrokenProcessPool:
        raise FdlabError(
            "A worker process died.",
            "It was killed or ran out of memory; finished stages are kept.",
            "Give the same command again to continue.",
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        if main:
            signal.signal(signal.SIGTERM, before)
    return results


def _drive(
    jobs: Mapping[str, Job], workers: int, pool: Executor, results: dict[str, Any], tell: Callable[[str], None]
) -> None:
    """Fills ``results``; ``tell`` is called with the names of the running jobs, several times a second."""
    waiting = dict(jobs)
    running: dict[Future[Any], str] = {}
    while waiting or running:
        ready = [name for name, job in waiting.items() if all(need in results for need in job.needs)]
        ready.sort(key=lambda name: -jobs[name].cost)
        for name in ready[: workers - len(running)]:
            job = waiting.pop(name)
            running[pool.submit(job.call, **job.keywords)] = name
        done, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
        tell(", ".join(sorted(running.values())))
        for future in done:
            results[running.pop(future)] = future.result()


def _count(reports: Any, progress: Progress, note: str) -> None:
    units = 0
    with contextlib.suppress(queue.Empty):
        while True:
            units += reports.get_nowait()
    if units:
        progress.advance(units, note)


def _terminate(pool: ProcessPoolExecutor) -> None:
    # A training catches SIGTERM, finishes its step, saves and leaves.
    for process in list((pool._processes or {}).values()):
        process.terminate()

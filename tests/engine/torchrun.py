"""Starts fdlab under torchrun with gloo ranks on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def start(words: list[str], ranks: int = 2) -> subprocess.Popen[str]:
    """``python -m fdlab WORDS``, under torchrun where there are several ranks."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "FDLAB_RANK_TIMEOUT": "180",
        "GLOO_SOCKET_IFNAME": "lo",
        "TORCHELASTIC_SIGNALS_TO_HANDLE": "SIGTERM,SIGINT,SIGUSR1",
    }
    run = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    head = [sys.executable, *(run if ranks > 1 else []), "-m", "fdlab"]
    return subprocess.Popen(
        head + words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finish(words: list[str], ranks: int = 2, seconds: float = 180) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a run to its end."""
    process = start(words, ranks)
    try:
        out, said = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        raise
    return process.returncode, out, said


def sets(**values: object) -> list[str]:
    """``--set`` words; two underscores stand for a dot."""
    return [word for key, value in values.items() for word in ("--set", f"{key.replace('__', '.')}={value}")]

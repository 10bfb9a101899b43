"""Opening a ViT-B file: time beside stock timm given the name, and peak memory, each in a fresh process.

``python -m tests.benchmarks.checkpoints`` prints the table. The file is generated: no published one is needed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Memory in a fresh process: what opening adds to the process's peak. Mapped pages of the file count.
PEAK = """
import sys
import timm, torch
import fdlab.checkpoints.open
from tests.benchmarks.checkpoints import OPENERS, high_water
before = high_water()
kept = OPENERS[sys.argv[1]](sys.argv[2])
print(high_water() - before)
"""


def by_fdlab(path: str) -> object:
    """The file and nothing else; recognised, checked and hashed."""
    from fdlab.checkpoints.open import open_model

    return open_model(path)


def by_timm(path: str) -> object:
    """Stock torch and timm, told the name."""
    import timm
    import torch

    module = timm.create_model("vit_base_patch16_224", num_classes=0)
    module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return module.eval()


OPENERS = {"fdlab": by_fdlab, "timm": by_timm}


def high_water() -> int:
    """The process's peak in bytes (Linux). ``ru_maxrss`` would start at the parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def make_file(path: Path) -> Path:
    """A flat ViT-B/16 file in DINO's layout, about 343 MB."""
    import timm
    import torch

    torch.manual_seed(0)
    module = timm.create_model("vit_base_patch16_224", num_classes=0)
    torch.save(module.state_dict(), path)
    return path


def seconds(path: Path, rounds: int = 3) -> dict[str, float]:
    """The least of several openings each, taken in turns in one process after a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in OPENERS}
    for turn in range(rounds + 1):
        for name, opener in OPENERS.items():
            start = time.perf_counter()
            opener(str(path))
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: min(values) for name, values in times.items()}


def peak_memory(path: Path, opener: str) -> int:
    """Bytes that opening adds to a fresh process's peak."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, opener, str(path)],
        check=True,
        capture_output=True,
        text=True,
        timeout=600,
        cwd=Path(__file__).parents[2],
    )
    return int(done.stdout.splitlines()[-1])


def main() -> None:
    """Prints the table."""
    with tempfile.TemporaryDirectory() as folder:
        path = make_file(Path(folder) / "vit_b.pth")
        size = path.stat().st_size
        taken = seconds(path)
        print(f"file: {size / 1e6:.0f} MB\n{'opener':<8}{'seconds':>9}{'peak / file':>13}")
        for name in OPENERS:
            print(f"{name:<8}{taken[name]:>9.2f}{peak_memory(path, name) / size:>13.2f}")


if __name__ == "__main__":
    main()

"""What is loaded before a command can answer: seconds on a clock would say it only of this machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LOADED = """
import sys, runpy
sys.argv = ["fdlab", *sys.argv[1:]]
try:
    runpy.run_module("fdlab", run_name="__main__")
except SystemExit:
    pass
names = ("torch", "timm", "pandas", "matplotlib", "torch._dynamo", "sympy")
print("LOADED " + " ".join(name for name in names if name in sys.modules))
"""


def loaded(*words: str, cwd: Path) -> set[str]:
    done = subprocess.run([sys.executable, "-c", LOADED, *words], cwd=cwd, capture_output=True, text=True, check=False)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("LOADED")]
    return set(line.split()[1:])


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["recipes"],
        ["runs"],
        ["explain", "distance"],
        ["compare", "--no-such-option"],
        ["inspect", "nofile.pt"],
        ["compare", "a=net.safetensors", "b=there/is/none"],
        ["diagnose", "attention", "../absent.pth@teacher?heads=2"],
    ],
    ids=" ".join,
)
def test_what_needs_no_model_loads_neither_torch_nor_timm(words: list[str], tmp_path: Path) -> None:
    assert not loaded(*words, cwd=tmp_path) & {"torch", "timm", "matplotlib"}


def test_opening_a_model_leaves_the_compiler_out(tmp_path: Path) -> None:
    found = loaded("inspect", "random:test_vit", cwd=tmp_path)
    assert {"torch", "timm"} <= found
    assert not found & {"torch._dynamo", "sympy"}


AFTERWARDS = """
import sys
import fdlab, timm, torch
assert "torch._dynamo" not in sys.modules
module = timm.create_model("test_vit", num_classes=0).eval()
images = torch.rand(2, 3, 160, 160)
with torch.no_grad():
    plain = module(images)
    torch.optim.AdamW(module.parameters())
    assert "eval_frame" in dir(sys.modules["torch._dynamo"])  # the real one
    compiled = torch.compile(module, backend="eager")(images)
assert torch.equal(plain, compiled)
from torchvision.ops import roi_align
boxes = torch.tensor([[0.0, 0.0, 0.0, 8.0, 8.0]])
assert roi_align(torch.rand(1, 1, 16, 16), boxes, 2).shape == (1, 1, 2, 2)
marked = sys.modules["fdlab._timm"]._disable(lambda x: x + 1)
assert torch.compile(lambda x: marked(x) * 2, backend="eager")(torch.ones(2)).tolist() == [4.0, 4.0]
print(timm.__spec__.name, timm.__loader__ is timm.__spec__.loader, type(timm.__loader__).__name__)
"""


def test_the_compiler_is_the_real_one_afterwards(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", AFTERWARDS], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["timm", "True", "SourceFileLoader"]


BEFORE = """
import sys, torch._dynamo
before = sys.modules['torch._dynamo']
import fdlab, timm
assert sys.modules['torch._dynamo'] is before
"""


def test_a_compiler_that_is_loaded_stays(tmp_path: Path) -> None:
    assert subprocess.run([sys.executable, "-c", BEFORE], cwd=tmp_path, check=False).returncode == 0

"""What is installed from the wheel works without the checkout: all its data is there, and its version is one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fdlab.version import __version__

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's files; what fdlab depends on is the environment's."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(source)], check=True)  # a build leaves nothing in the checkout
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    built = [*pip, "wheel", "--no-deps", "-w", str(folder), str(source)]
    done = subprocess.run(built, capture_output=True, text=True, check=False)
    if done.returncode and "Could not find a version" in done.stderr:
        pytest.skip("no package index here: setuptools cannot be had for the build")
    assert done.returncode == 0, done.stderr
    target = folder / "site"
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(target)
    return target


@pytest.mark.slow
def test_the_wheel_holds_all_files_of_the_package(installed: Path) -> None:
    listed = subprocess.run(["git", "ls-files", "fdlab"], cwd=ROOT, capture_output=True, text=True, check=True)
    missing = [name for name in listed.stdout.split() if not (installed / name).is_file()]
    assert not missing


@pytest.mark.slow
def test_commands_work_without_the_checkout(installed: Path, tmp_path: Path) -> None:
    own = {**os.environ, "PYTHONPATH": str(installed), "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}

    def run(*words: str) -> str:
        command = [sys.executable, "-m", "fdlab", *words]
        done = subprocess.run(command, cwd=tmp_path, env=own, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = [sys.executable, "-c", "import fdlab; print(fdlab.__file__)"]
    there = subprocess.run(where, cwd=tmp_path, env=own, capture_output=True, text=True, check=True).stdout
    assert there.startswith(str(installed))
    assert "paper/clip-b-300ep" in run("recipes")
    assert "px" in run("explain", "distance")
    few = ("random:test_vit", "--data", "photos")
    run("diagnose", "attention", *few, "--images", "4", "-o", "report", "--quiet")
    assert (tmp_path / "report/index.html").stat().st_size > 50_000
    run("explore", *few, "--images", "1", "-o", "look", "--quiet")
    run("demo", "--minutes", "0.05", "-o", "demo", "--quiet")
    assert (tmp_path / "demo/index.html").is_file()


def test_the_version_is_one() -> None:
    stated = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    assert stated is not None and stated[1] == __version__

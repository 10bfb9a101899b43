"""A cut file, a changed digit and a flipped bit are found in records and reports; own folders never collide."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from fdlab.errors import NOT_UNDERSTOOD, FdlabError
from fdlab.records.run_folder import own_folder
from fdlab.records.seal import SEAL, damaged, seal
from fdlab.records.store import FILES, Record, Store
from fdlab.records.table import frame, write_table
from fdlab.report.folder import read_report
from fdlab.report.report import Report
from fdlab.study.publish import write_report

ROWS = [{"model": f"m{n}", "probe": "attention", "metric": "nmi", "value": n / 7, "n": 9} for n in range(5)]


def flipped(content: bytes, place: float) -> bytes:
    changed = bytearray(content)
    changed[int(place * (len(content) - 1))] ^= 4
    return bytes(changed)


DAMAGE = {
    "half": lambda content: content[: len(content) // 2],
    "a row less": lambda content: b"\n".join(content.split(b"\n")[:-2]) + b"\n",
    "a digit": lambda content: content.replace(b"1", b"2", 1),
    "first bits": lambda content: flipped(content, 0.0),
    "middle bits": lambda content: flipped(content, 0.5),
    "last bits": lambda content: flipped(content, 1.0),
    "empty": lambda content: b"",
    "more": lambda content: content + b"\n",
}


@pytest.mark.parametrize("name", [*FILES, SEAL])
@pytest.mark.parametrize("damage", DAMAGE)
def test_every_damage_to_a_record_is_found(name: str, damage: str, tmp_path: Path) -> None:
    path = Record(frame(ROWS), {"nmi": np.arange(9.0)}, {"seed": 1, "label": "m1"}).save(tmp_path) / name
    assert Record.load(tmp_path).manifest["seed"] == 1
    before, after = path.read_bytes(), DAMAGE[damage](path.read_bytes())
    if after == before or (name == SEAL and damage == "more"):
        pytest.skip("this file has nothing to change that way")
    path.write_bytes(after)
    with pytest.raises(FdlabError, match="damaged"):
        Record.load(tmp_path)


@pytest.mark.parametrize("name", ["table.csv", "facts.json"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_every_damage_to_a_report_is_found(name: str, damage: str, tmp_path: Path) -> None:
    write_report(tmp_path, Report(frame(ROWS), {"title": "A 1st", "models": {"m1": {"source": "x"}}}))
    assert len(read_report(tmp_path).table) == len(ROWS)
    path = tmp_path / name
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    with pytest.raises(FdlabError, match="damaged") as caught:
        read_report(tmp_path)
    assert caught.value.code == NOT_UNDERSTOOD
    assert name in caught.value.why
    assert SEAL in caught.value.fix


def test_a_damaged_report_is_written_again_by_the_same_command(tmp_path: Path) -> None:
    report = Report(frame(ROWS), {"title": "A"})
    write_report(tmp_path, report)
    whole = (tmp_path / "table.csv").read_bytes()
    (tmp_path / "table.csv").write_bytes(whole[:-30])
    write_report(tmp_path, report)
    assert (tmp_path / "table.csv").read_bytes() == whole
    assert not damaged(tmp_path)


def test_an_older_folder_without_checksums_is_read_and_a_new_table_ends_old_checksums(tmp_path: Path) -> None:
    Record(frame(ROWS), {}, {"seed": 1}).save(tmp_path)
    (tmp_path / SEAL).unlink()
    assert len(Record.load(tmp_path).table) == len(ROWS)
    write_report(tmp_path / "r", Report(frame(ROWS), {}))
    write_table(tmp_path / "r" / "table.csv", frame(ROWS[:2]))
    assert len(read_report(tmp_path / "r").table) == 2


def test_the_checksums_are_those_of_sha256sum(tmp_path: Path) -> None:
    (tmp_path / "a b.txt").write_text("x")
    seal(tmp_path, [tmp_path / "a b.txt"])
    assert subprocess.run(["sha256sum", "-c", SEAL], cwd=tmp_path, capture_output=True).returncode == 0


def test_no_two_labels_share_a_folder() -> None:
    labels = ["ViT-B/16", "ViT-B 16", "ViT_B.16", "ViT-B-16", "vit-b-16", "a", "A", "..", ".", "", "/", "é", "e\u0301"]
    labels += [
        "x" * 10_000,
        "x" * 10_001,
        own_folder("ViT-B/16"),
        "\udcff",
        "\udcfe",
        "日" * 100,
        "日" * 101,
        "-a",
        "a-",
    ]
    folders = [own_folder(label) for label in labels]
    assert len({folder.lower() for folder in folders}) == len(labels)
    assert max(len(folder.encode()) for folder in folders) < 100
    assert not any(folder in (".", "..", "") or "/" in folder for folder in folders)


@pytest.mark.parametrize("place", ["file", "/proc/fdlab", "/dev/null/store"])
def test_a_store_that_cannot_be_written_to_keeps_nothing_and_says_so(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    store = Store(tmp_path / place if place == "file" else Path(place))
    with pytest.warns(UserWarning, match="keeps nothing of this"):
        store.put({"probe": "x"}, Record(frame(ROWS), {}, {}))
    assert store.get({"probe": "x"}) is None


def test_figures_are_the_same_bytes_measured_and_read_again(tmp_path: Path) -> None:
    rows = [{**row, "value": row["value"] + 1e-13, "block": n, "depth": (n + 1) / 7} for n, row in enumerate(ROWS)]
    for n, row in enumerate(rows):
        row |= {"model": "m", "low": row["value"] - n / 9, "high": row["value"] + n / 9}
    write_report(tmp_path / "a", Report(frame(rows), {"title": "A"}))
    write_report(tmp_path / "b", read_report(tmp_path / "a"))
    drawn = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a" / "figures").rglob("*.*"))
    for name in [*drawn, Path("index.html")]:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name

"""The demo: equal commands give equal numbers, whatever the number of workers; it continues; it reports honestly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fdlab.errors import FdlabError
from fdlab.experiments.demo import demo
from fdlab.experiments.digits import CELLS, scaled
from fdlab.records.table import read_table
from fdlab.study.parallel import Job, run_jobs


def double(x: int) -> int:
    return 2 * x


def fail() -> None:
    raise FdlabError("no", "because", "do", code=3)


def test_steps_scale_by_a_fixed_rule() -> None:
    assert scaled(350, 5) == 350
    assert scaled(350, 2.5) == 175
    assert scaled(350, 0.05) == 10


def test_jobs_wait_for_what_they_need_and_errors_come_through() -> None:
    jobs = {"b": Job(double, {"x": 2}, ("a",)), "a": Job(double, {"x": 1})}
    assert run_jobs(jobs, workers=2, label="t", quiet=True) == {"a": 2, "b": 4}
    with pytest.raises(FdlabError) as caught:
        run_jobs({"a": Job(fail), "b": Job(double, {"x": 1}, ("a",))}, workers=1, label="t", quiet=True)
    assert caught.value.code == 3
    assert str(caught.value) == "no\nbecause\ndo"


@pytest.mark.slow
def test_equal_commands_give_equal_numbers_and_a_second_run_trains_nothing(tmp_path: Path) -> None:
    first = demo(tmp_path / "a", minutes=0.05, quiet=True)
    demo(tmp_path / "b", minutes=0.05, workers=1, quiet=True)
    table, again = ((tmp_path / n / "table.csv").read_text() for n in "ab")
    assert table == again
    stamp = {p: p.stat().st_mtime_ns for p in (tmp_path / "a" / "runs").rglob("*") if p.is_file()}
    demo(tmp_path / "a", minutes=0.05, quiet=True)
    assert stamp == {p: p.stat().st_mtime_ns for p in (tmp_path / "a" / "runs").rglob("*") if p.is_file()}
    with pytest.raises(FdlabError, match="other settings"):
        demo(tmp_path / "a", minutes=0.05, seed=1, quiet=True)
    check_report(tmp_path / "a", first)


def check_report(folder: Path, result: dict) -> None:
    facts = json.loads((folder / "facts.json").read_text())
    table = read_table(folder / "table.csv")
    labels = [cell.label for cell in CELLS]
    assert (table["seed"] == facts["seed"]).all(), "a row without its seed would be joined with other seeds' rows"
    assert set(table.query("probe == 'curve'")["model"]) == {cell.label for cell in CELLS if not cell.untrained}
    assert facts["order"] == labels
    for metric in ("distance", "distance_spread", "head_similarity", "entropy", "nmi", "r2_relative", "r2_absolute"):
        rows = table[(table["probe"] == "attention") & (table["metric"] == metric)]
        assert set(rows["model"]) == set(labels), metric
    for metric in ("effective_rank", "singular_value", "uniformity"):
        assert set(table[table["metric"] == metric]["model"]) == set(labels), metric
    accuracy = table[(table["probe"] == "training") & (table["metric"] == "accuracy") & (table["reference"] == "")]
    assert sorted(accuracy["model"]) == sorted(labels)
    assert accuracy["low"].notna().all()
    read_out = table[table["metric"] == "teacher_r2"].set_index("model")["value"]
    assert read_out["contrastive teacher"] > 0.99
    assert facts["splits"] == {"labelled": 200, "validation": 400, "test": 500}
    assert set(facts["options"]["distilled, paper's student"]) == {"bias_scale 10"}
    asked = {finding["question"] for finding in facts["findings"]}
    assert {"accuracy", "reach", "spread", "alike", "breadth", "follows"} <= asked
    paired = table[(table["reference"] == "contrastive teacher") & (table["metric"] == "distance")]
    assert set(paired["model"]) >= {"distilled, same design", "distilled, paper's student"}
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert page.index("Which model names more test images rightly?") < page.index(
        "Attention distance of every head</h2>"
    )
    for note in facts["notes"]:
        assert note[:40].split("'")[0] in page
    shown = ("ruler", "attention_distance", "head_similarity", "position", "features", "feature_spectrum")
    inside = ("averaged_maps", "bias_maps", "attribution_curves", "head_effects", "cka")
    for figure in (*shown, *inside, "finetune", "teacher", "curves"):
        for ending in ("pdf", "svg", "png"):
            assert (folder / "figures" / f"{figure}.{ending}").stat().st_size > 1000
    assert len(result["summary"]) == len(labels)

"""``fdlab claims`` and ``fdlab rank`` as a user meets them, on simulated cohorts whose answers are known."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Callable
from math import factorial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest

from fdlab.cli.app import main
from fdlab.compare.hypotheses import packaged_claims
from fdlab.records.table import frame, read_table, write_table
from tests.compare.simulated_cohort import TRUE, evidence, members


class Done(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def fdlab(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """The command line in this process: its exit code and what it printed."""
    monkeypatch.setenv("COLUMNS", "300")

    def run(*words: str | Path, code: int = 0) -> Done:
        monkeypatch.setattr(sys, "argv", ["fdlab", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main()
        done = Done(int(left.value.code or 0), *capsys.readouterr())
        assert done.code == code, done
        assert "Traceback" not in done.err
        return done

    return run


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """Three seeds of teachers, students and every control; every student is at 9, its teacher and controls at 5."""
    folder, models = tmp_path / "report", members(3)
    folder.mkdir()
    write_table(folder / "table.csv", evidence(models, {"accuracy": TRUE, "distance": TRUE}, 0.05).table)
    facts = {"cohort": [model.model_dump(exclude_defaults=True) for model in models]}
    (folder / "facts.json").write_text(json.dumps(facts))
    return folder


def ranked(folder: Path, count: int) -> Path:
    """``count`` models of three families: ``knn`` orders them as ``accuracy`` does, ``entropy`` the other way round."""
    columns = {"accuracy": 0.1, "knn": 0.05, "entropy": -0.05}
    rows = [
        {"model": f"m{i}", "probe": "made", "metric": name, "seed": 0, "value": 0.5 + step * i}
        for name, step in columns.items()
        for i in range(count)
    ]
    folder.mkdir()
    write_table(folder / "table.csv", frame(rows))
    cohort = [{"label": f"m{i}", "source": "x", "family": f"f{i % 3}"} for i in range(count)]
    (folder / "facts.json").write_text(json.dumps({"cohort": cohort}))
    return folder


MINE = """
[[claim]]
id = "mine"
statement = "Distilling raises the distance."
first = { family = "distilled", own_design = false, teacher = "contrastive" }
minus = "teacher"
controls = ["random-teacher"]
measures = [{ metric = "distance", direction = "up" }]

[[claim]]
id = "opposite"
statement = "Distilling lowers the distance."
first = { family = "distilled", own_design = false, teacher = "contrastive" }
minus = "teacher"
measures = [{ metric = "distance", direction = "down" }]

[[claim]]
id = "elsewhere"
statement = "Somebody else's students are better."
first = { family = "image-text" }
minus = "teacher"
measures = [{ metric = "accuracy", direction = "up" }]
"""


def test_claims_prints_and_writes_the_verdicts_that_the_numbers_have(
    fdlab: Callable[..., Done], report: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(MINE)
    before = (report / "table.csv").read_bytes()
    done = fdlab("claims", report, "--claims", mine)
    lines = {line.split()[1]: line for line in done.out.splitlines() if len(line.split()) > 1}
    assert "supported" in lines["mine"]
    assert "distance +4.0 (+3." in lines["mine"]
    assert "3 seeds, p" in lines["mine"]
    assert "does not hold" in lines["opposite"]
    assert "Not tested: elsewhere: the cohort has no model with family image-text." in done.out
    assert f"Verdicts: {report / 'claims.csv'}, {report / 'index.html'}" in done.out.replace("\n", "")
    found = pd.read_csv(report / "claims.csv").set_index("id")
    assert found["verdict"].to_dict() == {"mine": "supported", "opposite": "does not hold", "elsewhere": "not tested"}
    assert found.loc["mine", "effect"] == pytest.approx(4.0, abs=0.2)
    assert "Distilling raises the distance." in (report / "index.html").read_text()
    assert (report / "table.csv").read_bytes() == before  # judged, not measured


def test_claims_as_json_quiet_and_of_the_paper(fdlab: Callable[..., Done], report: Path) -> None:
    listed = {row["id"]: row for row in json.loads(fdlab("claims", report, "--json").out)}
    assert list(listed) == [claim.id for claim in packaged_claims()]
    assert listed["H1"]["verdict"] == "supported"  # a student beats its contrastive or supervised teacher
    assert listed["H2"]["verdict"] == "does not hold"  # a masked teacher's student is no better; here it is
    assert listed["H3"]["verdict"] == "not tested"  # no other target was distilled
    assert listed["H3"]["effect"] is None
    quiet = fdlab("claims", report / "table.csv", "--cohort", _cohort(report), "--quiet")
    assert quiet.out.strip() == str(report / "claims.csv")  # a table alone has no page
    assert quiet.err == ""


def _cohort(report: Path) -> Path:
    lines = []
    for model in json.loads((report / "facts.json").read_text())["cohort"]:
        lines += ["[[model]]", *(f"{key} = {json.dumps(value)}" for key, value in model.items())]
    path = report.parent / "cohort.toml"
    path.write_text("\n".join(lines))
    return path


def test_claims_shows_a_file_to_begin_with(fdlab: Callable[..., Done], report: Path, tmp_path: Path) -> None:
    shown = fdlab("claims", "--show").out
    assert len(tomllib.loads(shown)["claim"]) == len(packaged_claims())
    (tmp_path / "copy.toml").write_text(shown)
    copied = json.loads(fdlab("claims", report, "--claims", tmp_path / "copy.toml", "--json").out)
    assert copied == json.loads(fdlab("claims", report, "--json").out)
    assert "No report is named." in fdlab("claims", code=2).err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[claim]\n", "are no TOML"),
        ("", "are not right"),
        (MINE.replace("minus", "minsu", 1), "minsu"),
        (MINE.replace('"up"', '"sideways"', 1), "mine.measures.0.direction"),
        (MINE.replace('"distance"', '"distanse"', 1), "Did you mean 'distance'"),
        (MINE.replace('"opposite"', '"mine"'), "Two claims"),
        (None, "cannot be read"),
    ],
    ids=["no TOML", "empty", "unknown key", "unknown direction", "unknown metric", "two of one id", "absent"],
)
def test_a_broken_claims_file_is_refused_and_nothing_is_written(
    fdlab: Callable[..., Done], report: Path, tmp_path: Path, text: str | None, says: str
) -> None:
    if text is not None:
        (tmp_path / "mine.toml").write_text(text)
    done = fdlab("claims", report, "--claims", tmp_path / "mine.toml", code=2)
    assert says in done.err
    assert done.out == ""
    assert sorted(path.name for path in report.iterdir()) == ["facts.json", "table.csv"]


@pytest.mark.parametrize("verb", ["claims", "rank"])
def test_a_report_that_is_none_or_says_too_little(
    fdlab: Callable[..., Done], report: Path, tmp_path: Path, verb: str
) -> None:
    assert "is no report" in fdlab(verb, tmp_path / "absent", code=3).err
    assert "absent.csv" in fdlab(verb, tmp_path / "absent.csv", code=3).err
    assert "whose teacher" in fdlab(verb, report / "table.csv", code=2).err  # a table alone knows no cohort
    assert "absent.toml" in fdlab(verb, report, "--cohort", tmp_path / "absent.toml", code=2).err
    (tmp_path / "other.toml").write_text('[[model]]\nlabel = "somebody"\nsource = "x"\n')
    assert "No model of the cohort" in fdlab(verb, report, "--cohort", tmp_path / "other.toml", code=2).err
    (report / "facts.json").write_text("{")
    assert "facts.json cannot be read" in fdlab(verb, report, code=3).err
    (report / "table.csv").write_text("model,value\na,1\n")
    assert "table.csv" in fdlab(verb, report, code=3).err


def test_rank_prints_and_writes_known_rank_correlations(fdlab: Callable[..., Done], tmp_path: Path) -> None:
    done = fdlab("rank", ranked(tmp_path / "six", 6))
    lines = {line.split()[1]: line for line in done.out.splitlines() if len(line.split()) > 1}
    assert "+1.00 (" in lines["knn"]
    assert "-1.00 (" in lines["entropy"]
    p = 2 / factorial(6)  # one order of 720 and its reverse
    assert f"{2 * p:.2g}" in lines["knn"]  # corrected over two measures
    page = tmp_path / "six" / "rank" / "index.html"
    assert f"Report: {page}" in done.out
    assert "The models by accuracy: m5 1; m4 0.9; m3 0.8;" in page.read_text()
    assert "Kendall" in page.read_text()
    table = read_table(page.with_name("table.csv"))
    taus = table[table["metric"] == "kendall_tau"].set_index("objective")["value"]
    assert taus.to_dict() == {"knn": 1.0, "entropy": -1.0}


def test_rank_as_json_of_one_measure_into_another_folder(fdlab: Callable[..., Done], tmp_path: Path) -> None:
    report = ranked(tmp_path / "six", 6)
    asked: list[Any] = ["rank", report, "--measures", "knn", "-o", tmp_path / "out"]
    rows = json.loads(fdlab(*asked, "--json").out)
    assert {row["objective"] for row in rows if row["metric"] == "kendall_p_holm"} == {"knn"}
    p = next(row["value"] for row in rows if row["metric"] == "kendall_p_holm")
    assert p == pytest.approx(2 / factorial(6))  # chosen in advance: one measure, nothing to correct
    assert fdlab(*asked, "--quiet").out.strip() == str(tmp_path / "out" / "index.html")
    assert not (report / "rank").exists()


def test_rank_says_what_it_lacks(fdlab: Callable[..., Done], report: Path, tmp_path: Path) -> None:
    four = fdlab("rank", ranked(tmp_path / "four", 4), "--measures", "knn")
    assert "5 are the fewest" in four.out
    two = ranked(tmp_path / "two", 2)
    assert "a ranking needs 3" in fdlab("rank", two, code=2).err
    six = ranked(tmp_path / "six", 6)
    assert "Did you mean 'knn'" in fdlab("rank", six, "--measures", "kn", code=2).err
    assert "The score 'loss' is not" in fdlab("rank", six, "--score", "loss", code=2).err
    write_table(two / "table.csv", frame([{"model": "m0", "probe": "made", "metric": "knn", "value": 1.0}]))
    assert "a ranking needs 3" in fdlab("rank", two, code=2).err
    assert not (six / "rank").exists()

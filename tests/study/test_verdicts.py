"""``fdlab claims`` on the committed report of three seeds and on wrong input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from fdlab.compare.hypotheses import packaged_claims
from fdlab.errors import FdlabError
from fdlab.records.table import frame, read_table, write_table
from fdlab.report.report import Report
from fdlab.study.publish import write_report
from fdlab.study.verdicts import answer_text, claims, untested

DIGITS = Path(__file__).resolve().parents[2] / "reports" / "digits"


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """Accuracies and position shares alone: drawing the other figures takes long."""
    folder = tmp_path / "r"
    folder.mkdir()
    shutil.copy(DIGITS / "facts.json", folder)
    table = read_table(DIGITS / "table.csv")
    kept = (table["probe"] == "training") | table["metric"].isin(["r2_relative", "r2_absolute"])
    write_table(folder / "table.csv", table[kept])
    return folder


def test_verdicts_of_the_digits_are_those_of_its_table(report: Path) -> None:
    result = claims(report)
    listed = pd.read_csv(report / "claims.csv")
    assert listed["id"].nunique() == len(packaged_claims())
    found = listed.drop_duplicates("id").set_index("id")
    table = read_table(report / "table.csv")
    table = table[(table["probe"] == "training") & (table["metric"] == "accuracy") & (table["reference"] == "")]
    wide = table.pivot_table(index="seed", columns="model", values="value")
    change = wide["distilled, paper's student"] - wide["contrastive teacher"]
    assert found.loc["H1", "effect"] == pytest.approx(change.mean())
    assert (found.loc["H1", "n"], found.loc["H1", "unit"]) == (3, "seeds")
    half = 4.302653 * change.std() / 3**0.5  # t of two degrees of freedom
    assert found.loc["H1", "high"] == pytest.approx(change.mean() + half, rel=1e-5)
    assert found.loc["H1", "verdict"] == ("undecided" if abs(change.mean()) < half else found.loc["H1", "verdict"])
    controls = pd.read_csv(report / "contrasts.csv").query("id == 'H9' and role == 'control'")
    assert set(controls["compared"].str.partition(":")[0]) == {"own-design"}
    page = (report / "index.html").read_text()
    assert "H1. A distilled student" in page
    assert "claims that these records cannot test" in page
    assert [one["id"] for one in json.loads((report / "facts.json").read_text())["claims"]] == list(found.index)
    assert found.loc["H1", "group"] == "distilled, paper's student" and found.loc["H1", "freedom"] == 2
    assert result["page"] == report / "index.html"


def test_the_same_report_again_keeps_its_verdicts(report: Path) -> None:
    table = frame(
        [
            {"model": label, "metric": "accuracy", "probe": "training", "seed": seed, "value": 0.5 + seed / 50 + gain}
            for label, gain in (("t", 0.0), ("s", 0.1))
            for seed in range(3)
        ]
    )
    cohort = [
        {"label": "t", "source": "x", "family": "contrastive"},
        {"label": "s", "source": "x", "family": "distilled", "pair_of": "t"},
    ]
    facts = {"cohort": cohort, "notes": []}
    out = report.parent / "made"
    write_report(out, Report(table, facts))
    claims(out)
    write_report(out, Report(table, facts))
    assert "H1. A distilled" in (out / "index.html").read_text()
    write_report(out, Report(table.assign(value=0.5), facts))  # other numbers: verdicts on the old ones are gone
    assert "H1. A distilled" not in (out / "index.html").read_text()


def test_ones_own_claims_and_more_tables(report: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(
        '[[claim]]\nid = "mine"\nstatement = "Learning raises the accuracy."\n'
        'first = { family = ["contrastive", "masked"] }\nminus = "untrained"\n'
        'measures = [{ metric = "made_up", direction = "up" }]\n'
    )
    with pytest.raises(FdlabError, match="no metric"):
        claims(report, file=mine)
    made = {"contrastive teacher": 3.0, "random, plain design": 1.0}
    rows = [
        {
            "model": label,
            "metric": "made_up",
            "probe": "mine",
            "seed": seed,
            "value": value + seed / 10 + value * seed / 99,
        }
        for label, value in made.items()
        for seed in range(4)
    ]
    write_table(tmp_path / "more.csv", frame(rows))
    found = claims(report, [tmp_path / "more.csv"], file=mine)["verdicts"][0]
    assert found.verdict == "supported"
    mine = {answer.group: answer for answer in found.answers}
    assert list(mine) == ["contrastive teacher"]  # the masked model was not measured


def test_a_report_that_does_not_say_who_is_whose_is_refused(report: Path, tmp_path: Path) -> None:
    (report / "facts.json").write_text("{}")
    with pytest.raises(FdlabError, match="whose teacher") as refused:
        claims(report)
    assert refused.value.code == 2
    cohort = tmp_path / "cohort.toml"
    cohort.write_text('[[model]]\nlabel = "somebody"\nsource = "x"\n')
    with pytest.raises(FdlabError, match="No model of the cohort"):
        claims(report, cohort=cohort)


def test_a_second_report_of_other_images_and_pairs_that_go_round_change_nothing(report: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(report, other)
    facts = json.loads((other / "facts.json").read_text())
    (other / "facts.json").write_text(json.dumps({**facts, "data": "other digits"}))
    before = {path: path.read_bytes() for path in report.iterdir() if path.is_file()}
    with pytest.raises(FdlabError, match="on other images") as refused:
        claims(report, [other])
    assert refused.value.code == 2
    members = [{"label": a, "source": "x", "family": "distilled", "pair_of": b} for a, b in (("a", "b"), ("b", "a"))]
    lines = ["[[model]]\n" + "\n".join(f'{key} = "{value}"' for key, value in m.items()) for m in members]
    (tmp_path / "cohort.toml").write_text("\n".join(lines))
    with pytest.raises(FdlabError, match="go round: a learned from b learned from a") as refused:
        claims(report, cohort=tmp_path / "cohort.toml")
    assert refused.value.code == 2
    assert {path: path.read_bytes() for path in report.iterdir() if path.is_file()} == before


def test_lines_say_the_answer_of_each_group_and_one_reason_for_all_that_lack_the_same(report: Path) -> None:
    verdicts = {verdict.claim.id: verdict for verdict in claims(report)["verdicts"]}
    text = answer_text(verdicts["H1"].answers[0])
    assert "points" in text and "3 seeds" in text and " after Holm" in text
    assert "points or more in accuracy in four of five studies" in text or verdicts["H1"].verdict != "undecided"
    lacking = dict(untested(list(verdicts.values())))
    assert any(len(names) > 1 for names in lacking.values())
    assert sum(map(len, lacking.values())) == sum(verdict.verdict == "not tested" for verdict in verdicts.values())

"""``fdlab rank`` writes a report of its own whose page and figure say what the table says."""

from __future__ import annotations

from pathlib import Path

import pytest

from fdlab.compare.cohort import Cohort, Member
from fdlab.experiments.two_factors import CELLS
from fdlab.experiments.values import cohort_of
from fdlab.randomness import stream
from fdlab.records.table import frame, read_table, write_table
from fdlab.study.ranking import rank, readable


@pytest.mark.parametrize(("n", "says"), [(4, "Too few lineages (4)"), (9, "1 of 2 measures differ from 0")])
def test_a_report_of_its_own(tmp_path: Path, n: int, says: str) -> None:
    draw = stream(0, "models")
    cohort = Cohort(
        model=[
            Member(label=f"m{i}", source="x", family=("mim", "random", "supervised")[i % 3], score=i / n)
            for i in range(n)
        ]
    )
    values = {"knn": [i + 0.1 for i in range(n)], "entropy": list(draw.normal(size=n))}
    rows = [
        {"model": f"m{i}", "probe": "features", "metric": metric, "value": float(column[i]), "seed": 0}
        for metric, column in values.items()
        for i in range(n)
    ]
    write_table(tmp_path / "table.csv", frame(rows))
    result = rank(tmp_path / "table.csv", cohort=cohort, untrained=True)
    assert result["page"] == tmp_path / "rank" / "index.html"
    table = read_table(tmp_path / "rank" / "table.csv")
    knn = table[(table["objective"] == "knn") & (table["metric"] == "kendall_tau")].iloc[0]
    assert (knn["value"], int(knn["n"])) == (1.0, n)
    assert says in (tmp_path / "rank" / "figures" / "ranking.txt").read_text()
    page = result["page"].read_text()
    assert "Kendall" in page and says in page
    lines = readable(result["ranking"])
    assert lines.iloc[0]["measure"] == "knn" and lines.iloc[0]["tau-b (95 %)"].startswith("+1.00")


def test_the_committed_study_has_too_few_lineages_and_shows_its_pairs(tmp_path: Path) -> None:
    result = rank(Path(__file__).parents[2] / "reports/cifar", cohort=cohort_of(CELLS), out=tmp_path / "rank")
    found = {one.metric: one for one in result["ranking"].ranks}
    assert {one.verdict for one in found.values()} == {"too few lineages (4)"}
    pairs = {name: found[name].within[:3] for name in ("knn", "trace_balanced", "eigenvalue_1_balanced")}
    assert pairs == {"knn": (10, 8, 18), "trace_balanced": (3, 15, 18), "eigenvalue_1_balanced": (4, 14, 18)}
    rounded = {name: round(found[name].within.tau, 2) for name in pairs}
    assert rounded == {"knn": 0.11, "trace_balanced": -0.67, "eigenvalue_1_balanced": -0.56}
    assert "Too few lineages (4)" in (tmp_path / "rank/figures/ranking.txt").read_text()

"""``fdlab predict`` writes a report of its own whose page and figure say what the table says."""

from __future__ import annotations

from pathlib import Path

import pytest

from fdlab.compare.cohort import Cohort, Member
from fdlab.randomness import stream
from fdlab.records.table import frame, read_table, write_table
from fdlab.study.prediction import predict, readable


@pytest.mark.parametrize(("n", "says"), [(4, "nothing can be told from 0"), (9, "of 2 measures are told from 0")])
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
    result = predict(tmp_path / "table.csv", cohort=cohort, untrained=True)
    assert result["page"] == tmp_path / "predict" / "index.html"
    table = read_table(tmp_path / "predict" / "table.csv")
    knn = table[(table["objective"] == "knn") & (table["metric"] == "kendall_tau")].iloc[0]
    assert (knn["value"], int(knn["n"])) == (1.0, n)
    assert says in (tmp_path / "predict" / "figures" / "prediction.txt").read_text()
    page = result["page"].read_text()
    assert "Kendall" in page and says in page
    lines = readable(result["prediction"])
    assert lines.iloc[0]["measure"] == "knn" and lines.iloc[0]["tau-b (95 %)"].startswith("+1.00")

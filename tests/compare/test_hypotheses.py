"""Files of claims: the packaged one is read, faults are named with the nearest word."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from fdlab.compare.hypotheses import packaged_claims, read_claims
from fdlab.errors import FdlabError

GOOD = """
[[claim]]
id = "A"
statement = "It rises."
first = { family = "distilled" }
minus = "teacher"
measures = [{ metric = "accuracy", direction = "up" }]
"""


def test_margins_are_read_in_the_metrics_own_numbers() -> None:
    sizes = {one.id: [measure.size for measure in one.measures] for one in packaged_claims()}
    assert sizes["H2"] == [0.005] and sizes["H1"] == [0.01]  # points of accuracy
    assert sizes["H7"] == [0.5, 0.2]  # px
    assert sizes["M2"] == [0.0, 0.1]  # decades


def test_the_packaged_file_is_one_that_users_can_read_and_extend(tmp_path: Path) -> None:
    text = resources.files("fdlab.compare").joinpath("claims.toml").read_text(encoding="utf-8")
    path = tmp_path / "mine.toml"
    path.write_text(text + GOOD)
    names = [claim.id for claim in read_claims(path)]
    assert names == [claim.id for claim in packaged_claims()] + ["A"]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('direction = "up"', 'direction = "upp"', "A.measures.0.direction"),
        ('direction = "up"', 'direction = "none"', "smallest effect"),
        ('direction = "up"', 'direction = "up", margin = "1"', "has no unit; write '1 points'"),
        ('direction = "up"', 'direction = "up", margin = "1 px"', "has the unit 'px'; write '1 points'"),
        ('direction = "up"', 'direction = "up", margin = "-1 points"', "no number above 0"),
        ('minus = "teacher"', 'minus = "teacher"\nlevels = ["a", "b"]', "at least three variants"),
        ('minus = "teacher"', 'minus = "teacher"\nthan = { variant = "" }', "need each other"),
        ('minus = "teacher"', 'minus = "techer"', "Did you mean"),
        ('metric = "accuracy"', 'metric = "acuracy"', "no metric. Did you mean 'accuracy'"),
        ("first =", "frist =", "Did you mean 'first'"),
        ('family = "distilled"', 'famly = "distilled"', "Did you mean 'family'"),
        ('measures = [{ metric = "accuracy", direction = "up" }]', "", "no measure that decides"),
        ('minus = "teacher"', 'minus = "teacher"\nblocks = "last"', "blocks are"),
        ("[[claim]]", "[[claim]", "no TOML"),
        (GOOD, "", "claim"),
        (GOOD, GOOD + GOOD, "id 'A'"),
    ],
)
def test_faults_are_named(tmp_path: Path, old: str, new: str, says: str) -> None:
    path = tmp_path / "claims.toml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(FdlabError) as found:
        read_claims(path)
    assert found.value.code == 2
    assert says in str(found.value)

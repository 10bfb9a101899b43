"""Cohort files: who is compared with whom, and what is wrong with a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from fdlab.compare.cohort import cohort_of, read_cohort
from fdlab.errors import FdlabError

GOOD = """
data = "digits"
[[model]]
label = "teacher"
source = "runs/a"
family = "contrastive"
[[model]]
label = "student"
source = "runs/b"
pair_of = "teacher"
control = "untrained"
[[model]]
label = "untrained"
source = "random:runs/b"
"""


def test_pairs_follow_the_file(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(GOOD)
    cohort = read_cohort(tmp_path / "c.toml")
    assert cohort.pairs() == [("student", "teacher"), ("student", "untrained")]
    cohort.baseline = "teacher"
    assert cohort.pairs() == [("student", "teacher"), ("untrained", "teacher"), ("student", "untrained")]


def test_the_first_model_is_the_baseline() -> None:
    assert cohort_of([("a", "x"), ("b", "y")]).pairs() == [("b", "a")]
    assert cohort_of([("a", "x"), ("b", "y")], "b").pairs() == [("a", "b")]
    assert cohort_of([("a", "x")]).pairs() == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("pair_of", "pairof"), "Did you mean 'pair_of'"),
        (('"teacher"\ncontrol', '"techer"\ncontrol'), "Did you mean 'teacher'"),
        (('label = "untrained"', 'label = "teacher"'), "Two models of the cohort are called 'teacher'"),
        (('source = "runs/a"\n', ""), "source: field required"),
        (('"digits"', "digits"), "is no TOML"),
    ],
)
def test_faults_are_named(change: tuple[str, str], message: str, tmp_path: Path) -> None:
    assert change[0] in GOOD
    (tmp_path / "c.toml").write_text(GOOD.replace(*change))
    with pytest.raises(FdlabError, match=message):
        read_cohort(tmp_path / "c.toml")
    with pytest.raises(FdlabError, match="cannot be read"):
        read_cohort(tmp_path / "absent.toml")

"""The registry of metrics: complete, plain, and helpful where a name is wrong."""

from __future__ import annotations

import subprocess
import sys
from importlib import resources

import pytest

from fdlab.errors import FdlabError
from fdlab.records.metrics import METRICS, find_metric
from fdlab.records.metrics.metric import FILES, read_metrics
from fdlab.records.metrics.names import MAPS, OF_MEAN, ORDERS

NEEDED = [
    "distance",
    "distance_ratio",
    "distance_spread",
    "distance_sd",
    "entropy",
    "nmi",
    "prefix_mass",
    "diagonality",
    "column_concentration",
    "r2_relative",
    "r2_absolute",
    "head_similarity",
    "head_similarity_centred",
    "head_divergence",
    "teacher_r2",
    "accuracy",
    "final_loss",
    "knn",
    "linear_probe",
    "eigenvalue_1",
    "eigenvalue_5",
    "eigenvalue_lowest",
    "trace",
    "negative_mass",
    "max_eigenvalue",
    "eigenvalue_1_balanced",
    "trace_embedding",
    "deletion_curve_gradients",
    "insertion_area_rollout",
    "deletion_gain_gradients",
    "completeness_error",
    "score_empty",
    "head_effect",
    "head_effect_share",
    "head_conductance",
]


@pytest.mark.parametrize("name", NEEDED)
def test_every_metric_is_explained(name: str) -> None:
    found = find_metric(name)
    assert found.name == name
    assert METRICS[name] is found
    for text in (found.label, found.formula, found.says, found.not_says, found.source):
        assert text
        assert "\\" not in text
    assert found.says.endswith(".")
    assert found.not_says.endswith(".")
    assert found.low is None or found.high is None or found.low < found.high


def test_every_measured_name_is_registered() -> None:
    from fdlab.measures.attention import ALL

    assert set(ALL) <= set(METRICS)


def test_every_file_is_registered_and_no_name_stands_twice() -> None:
    folder = resources.files("fdlab.records.metrics")
    assert {f"{name}.toml" for name in FILES} == {p.name for p in folder.iterdir() if p.name.endswith(".toml")}
    names = [m.name for file in FILES for m in read_metrics(folder.joinpath(f"{file}.toml").read_text())]
    assert names == list(METRICS)


def test_the_entries_use_the_names_that_the_code_uses() -> None:
    for order, words in ORDERS.items():
        assert words in METRICS[f"deletion_curve_{order}"].formula
    assert METRICS["moved_noise_to_rise"].formula.endswith(", ".join(MAPS.values()))
    assert OF_MEAN[0] == "entropy" and len(OF_MEAN) == 8


ENTRY = """
[text]
shared = "over all patches"
[[metric]]
name = "a"
label = "length"
unit = "px"
formula = "sum_{i<j} x_ij {shared}"
low = 0.0
says = "It is long."
not_says = "It is not wide."
source = "ours"
[[metric]]
each = [{ of = "a", kind = "mean" }, { of = "a", kind = "sum" }]
name = "{name}_{kind}"
formula = "{kind} of {formula}"
"""


def test_entries_take_shared_text_rows_and_the_fields_of_an_earlier_metric() -> None:
    first, mean, total = read_metrics(ENTRY)
    assert first.formula == "sum_{i<j} x_ij over all patches"
    assert (mean.name, mean.formula) == ("a_mean", "mean of sum_{i<j} x_ij over all patches")
    assert (total.name, total.unit, total.low, total.high, total.says) == ("a_sum", "px", 0.0, None, "It is long.")


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [("low =", "lowest =", TypeError), ('says = "It is long."', "", TypeError), ("{shared}", "{other}", KeyError)],
)
def test_a_faulty_entry_is_refused(old: str, new: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        list(read_metrics(ENTRY.replace(old, new, 1)))


def test_axis_label_has_the_unit() -> None:
    assert find_metric("distance").axis == "mean attention distance (px)"
    assert "(" not in find_metric("nmi").axis


def test_unknown_name_gives_the_nearest() -> None:
    with pytest.raises(FdlabError, match="Did you mean 'entropy'") as caught:
        find_metric("entropi")
    assert caught.value.code == 2


def test_no_torch_is_imported() -> None:
    code = "import sys, fdlab.records.metrics, fdlab.records.intervals; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""The registry of metrics: complete, plain, and helpful where a name is wrong."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fdlab.errors import FdlabError
from fdlab.records.metrics import METRICS, find_metric

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

"""The same classifier with other logits: its curvature differs, at one loss it is the same."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer

from fdlab.encoders.encoder import Encoder
from fdlab.errors import FdlabError
from fdlab.probes.hessian import measure_hessian
from fdlab.probes.objectives import build_objective
from fdlab.probes.objectives.equal_loss import parted
from fdlab.probes.sharpness import measure_sharpness
from fdlab.records.store import Record


def encoder(times: float = 1.0) -> Encoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        module = VisionTransformer(img_size=16, patch_size=8, embed_dim=8, depth=1, num_heads=2, num_classes=3).double()
    with torch.no_grad():
        for weight in module.head.parameters():  # type: ignore[union-attr]
            weight.mul_(200 * times)
    return Encoder.wrap(module, family="small")


def labelled() -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(0)).double()
    model = encoder()
    with torch.no_grad():
        return images, model.module(model.normalise(images)).argmax(-1)  # what it says itself: any loss can be reached


def top(record: Record) -> float:
    return float(record.table.loc[record.table["metric"] == "eigenvalue_1", "value"].iloc[0])


def test_scaled_logits_have_another_curvature_and_the_same_one_at_one_loss() -> None:
    images, labels = labelled()
    found = {
        (objective, times): measure_hessian(
            encoder(times), images, label="a", labels=labels, objective=objective, k=1, probes=0
        )
        for objective in ("classifier", "classifier@0.3")
        for times in (1.0, 3.0)
    }
    assert abs(math.log(top(found["classifier", 1.0]) / top(found["classifier", 3.0]))) > 0.1
    assert top(found["classifier@0.3", 1.0]) == pytest.approx(top(found["classifier@0.3", 3.0]), rel=1e-4)
    for times in (1.0, 3.0):
        record = found["classifier@0.3", times]
        rows = record.table.set_index("metric")
        assert rows.loc["objective_loss", "value"] == pytest.approx(0.3, abs=1e-6)
        assert "logits scaled to a mean loss of 0.3" in str(rows.loc["objective_loss", "objective"])
    scales = [found["classifier@0.3", times].manifest["logit_scale"] for times in (1.0, 3.0)]
    assert scales[0] == pytest.approx(3 * scales[1])


def test_sharpness_at_one_loss_is_that_of_the_same_classifier_with_other_logits() -> None:
    images, labels = labelled()
    first, second = (
        measure_sharpness(
            encoder(times), images, label="a", labels=labels, objective="classifier@0.3", part="average", directions=2
        ).table.set_index("metric")["value"]
        for times in (1.0, 3.0)
    )
    assert float(first["sharpness_average"]) == pytest.approx(float(second["sharpness_average"]), rel=1e-4)


def test_the_scale_is_the_one_at_which_the_loss_is_as_asked() -> None:
    images, labels = labelled()
    model = encoder()
    made = build_objective("classifier@0.7", model, images, labels)
    with torch.no_grad():
        logits = model.module(model.normalise(images)) * made.facts["logit_scale"]
    assert float(F.cross_entropy(logits, labels)) == pytest.approx(0.7, abs=1e-9)


def test_losses_that_cannot_be_are_refused() -> None:
    images, labels = labelled()
    with pytest.raises(FdlabError, match="No scale") as caught:
        build_objective("classifier@1.2", encoder(), images, labels)  # a guess has log 3 = 1.099
    assert "1.1, that of a guess" in str(caught.value.why)
    with pytest.raises(FdlabError, match="No scale"):
        build_objective("classifier@0.3", encoder(), images, (labels + 1) % 3)  # all wrong
    for name in ("mim@0.5", "classifier@", "classifier@-1", "linear-probe@x", "distill@0.2"):
        with pytest.raises(FdlabError, match="is not understood"):
            parted(name)
    with pytest.raises(FdlabError, match="There is no objective"):
        build_objective("clasifier", encoder(), images, labels)

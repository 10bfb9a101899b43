"""``fdlab compare`` on real files: one table, no second forward pass, nothing else deleted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

import fdlab
from fdlab.compare.cohort import Cohort, Member
from fdlab.encoders.encoder import Encoder
from fdlab.errors import FdlabError
from fdlab.probes.probe import find_probe
from fdlab.records.table import differences, read_table, values
from fdlab.study.comparison import compare, snapshots_of


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "one"
    overrides = {"run.steps": 6, "run.batch": 8, "save.snapshots": 2}
    return Path(fdlab.pretrain("digits/masked", data="digits[:64]", out=folder, overrides=overrides))


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FDLAB_STORE", str(tmp_path / "store"))


SETTINGS: dict[str, Any] = {"images": 33, "quiet": True, "probes": ("attention",)}


def test_a_comparison_is_one_table_and_a_second_one_passes_no_image(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "report"
    (out / "figures").mkdir(parents=True)
    (out / "mine.txt").write_text("stays")
    (out / "figures" / "mine.pdf").write_text("stays")
    (out / "table.csv").write_text("of an older report")
    models = [f"masked={run}", f"start=random:{run}"]
    first = compare(models, "digits#test", out, **SETTINGS)
    table = read_table(out / "table.csv")
    changes = differences(table)
    assert set(zip(changes["model"], changes["reference"], strict=True)) == {
        ("start", "masked"),
        ("masked", "random start"),
        ("start", "random start"),
    }
    same = changes[(changes["model"] == "start") & (changes["reference"] == "random start") & (changes["block"].isna())]
    assert (same["value"].abs() < 1e-6).all()  # the same untrained model under two names
    assert set(table[table["model"] == "masked"]["family"]) == {"mim"}
    assert not any("layout" in note or "same weights" in note for note in first["notes"])  # the run says what it is
    assert "Pair by pair" in (out / "index.html").read_text()
    assert (out / "latex" / "numbers.tex").read_text().count("Minus") > 10
    assert (out / "records" / "attention" / "masked" / "arrays.npz").is_file()

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("a forward pass")

    monkeypatch.setattr(Encoder, "tokens", refused)
    probe = find_probe("attention")
    monkeypatch.setattr("fdlab.probes.attention.PROBE", replace(probe, measure=refused))
    again = compare(models, "digits#test", out, **SETTINGS)
    assert again["table"].round(9).equals(first["table"].round(9)) or len(again["table"]) == len(first["table"])
    written = (out / "table.csv").read_bytes()
    compare(models, "digits#test", out, **SETTINGS)
    assert (out / "table.csv").read_bytes() == written
    assert (out / "mine.txt").read_text() == (out / "figures" / "mine.pdf").read_text() == "stays"


def test_a_cohort_names_pairs_families_and_controls(run: Path, tmp_path: Path) -> None:
    cohort = Cohort(
        model=[
            Member(label="run", source=str(run), family="mim", control="start"),
            Member(label="start", source=f"random:{run}"),
        ]
    )
    result = compare(cohort, "digits#test", tmp_path / "r", **SETTINGS)
    changes = differences(result["table"])
    assert set(zip(changes["model"], changes["reference"], strict=True)) == {("run", "start")}
    assert "random start" not in set(result["table"]["model"])
    assert set(result["table"][result["table"]["model"] == "run"]["family"]) == {"mim"}


def test_a_runs_snapshots_are_a_cohort(run: Path, tmp_path: Path) -> None:
    models = snapshots_of(run)
    assert len(models) == 3
    result = compare(models[:2], "digits#test", tmp_path / "r", control=False, **SETTINGS)
    assert set(differences(result["table"])["reference"]) == {models[0].split("=")[0]}
    with pytest.raises(FdlabError, match="kept no snapshots"):
        snapshots_of(tmp_path)


def test_one_model_alone_and_unknown_names(run: Path, tmp_path: Path) -> None:
    result = compare([f"a={run}"], "digits#test", tmp_path / "r", control=False, **SETTINGS)
    assert differences(result["table"]).empty
    with pytest.raises(FdlabError, match="Did you mean 'attention'"):
        compare([f"a={run}"], "digits#test", tmp_path / "r", **{**SETTINGS, "probes": ("atention",)})
    with pytest.raises(FdlabError, match="baseline is 'b'"):
        compare([f"a={run}"], "digits#test", tmp_path / "r", baseline="b", **SETTINGS)


def test_attribution_is_compared_in_shares_of_the_score(run: Path, tmp_path: Path) -> None:
    models = [f"masked={run}", f"start=random:{run}"]
    result = compare(models, "digits#test", tmp_path / "r", images=6, quiet=True, probes=("attribution",))
    changes = differences(result["table"])
    pair = (changes["model"] == "start") & (changes["reference"] == "masked")
    own = changes[pair].set_index("metric")
    plain = values(result["table"]).set_index(["model", "metric"])["value"].sort_index()
    for metric in ("deletion_area_random", "insertion_gain_gradients"):
        expected = plain["start", metric] - plain["masked", metric]
        assert own.loc[metric, "value"] == pytest.approx(expected, abs=1e-6)
        assert own.loc[metric, "low"] < own.loc[metric, "high"]
    assert "head_effect_share" in own.index
    assert not {"head_effect", "score_whole"} & set(own.index)
    same = changes[(changes["model"] == "start") & (changes["reference"] == "random start")]
    assert (same["value"].abs() < 1e-6).all()


def test_how_much_of_a_teacher_is_read_out_is_compared(run: Path, tmp_path: Path) -> None:
    models = [f"itself={run}", f"start=random:{run}"]
    settings = {**SETTINGS, "images": 32, "control": False, "teacher": str(run)}
    result = compare(models, "digits#test", tmp_path / "r", **{**settings, "probes": ("features",)})
    table = result["table"][result["table"]["metric"] == "teacher_r2"]
    change, own = differences(table), values(table)
    final = {name: part["value"].item() for name, part in own[own["block"].isna()].groupby("model")}
    difference = change[change["block"].isna()].iloc[0]
    assert (difference["model"], difference["reference"]) == ("start", "itself")
    assert difference["value"] == pytest.approx(final["start"] - final["itself"], abs=1e-6)
    assert difference["high"] < 0
    assert change["block"].dropna().tolist() == own[own["model"] == "start"]["block"].dropna().tolist() == [0, 1, 2, 3]
    shown = result["pairs"]["metric"].tolist()
    assert "teacher features explained (R2)" in shown  # of the final tokens, no mean over late blocks
    assert "effective rank, late blocks" not in shown and "cosine between tokens of an image, late blocks" in shown
    with pytest.raises(FdlabError, match="for the probe features"):
        compare(models, "digits#test", tmp_path / "r", **settings)


def test_what_any_part_of_a_probe_left_out_is_kept() -> None:
    from fdlab.study.diagnosis import _joined_manifest

    parts = [{"label": "m", "not_measured": ["a", "b"]}, {"label": "m", "not_measured": ["b", "c"], "remarks": ["d"]}]
    joined = _joined_manifest(parts)
    assert joined["not_measured"] == ["a", "b", "c"]
    assert joined["remarks"] == ["d"]
    assert joined["parts"] == parts


@pytest.mark.slow
def test_five_architectures_are_aligned_by_relative_depth_and_it_is_said(tmp_path: Path) -> None:
    """160 and 224 px; patches of 16, 14 and 4; class token, register or none; windows; layer scale, rotary, bias."""
    depths = {
        "vit_tiny_patch16_224": 12,
        "test_vit2": 8,
        "eva02_tiny_patch14_224": 12,
        "swin_tiny_patch4_window7_224": 12,
        "test_vit_relpos": 9,
    }
    models = [f"{name}=random:{name}" for name in depths]
    settings: dict[str, Any] = {"images": 8, "quiet": True, "probes": ("attention",)}
    result = compare(models, "photos", tmp_path / "r", **settings)
    page, first = (tmp_path / "r" / "index.html").read_text(), next(iter(depths))
    table, changes = values(result["table"]), differences(result["table"])
    entropy = table[(table["metric"] == "entropy") & table["head"].notna()]
    late = entropy[entropy["depth"] > 0.5].groupby("model")["value"].mean()
    for name, depth in depths.items():
        own = entropy[entropy["model"] == name]
        np.testing.assert_allclose(sorted(own["depth"].unique()), np.arange(1, depth + 1) / depth)
        assert name in page
        if name == first:
            continue
        change = changes[(changes["model"] == name) & (changes["metric"] == "entropy")]
        assert set(change["reference"]) == {first}
        assert change["block"].notna().sum() == (12 if depth == 12 else 0)
        sentence = f"{name} and {first} have different depths: their last halves are compared."
        assert any(sentence in note for note in result["notes"]) == (depth != 12)
        assert (sentence in page) == (depth != 12)
        if not name.startswith("swin"):  # stages have unlike numbers of heads
            expected = late[name] - late[first]
            assert change[change["block"].isna()]["value"].iloc[0] == pytest.approx(expected, abs=1e-5)


def test_one_file_twice_and_families_that_nobody_stated_are_said(tmp_path: Path) -> None:
    module = VisionTransformer(img_size=32, patch_size=8, embed_dim=192, depth=2, num_heads=3, num_classes=10)
    torch.save(module.state_dict(), tmp_path / "deit.pth")
    cohort = Cohort(
        model=[
            Member(label="a", source=str(tmp_path / "deit.pth")),
            Member(label="b", source=str(tmp_path / "deit.pth"), family="contrastive"),
        ]
    )
    notes = compare(cohort, "digits#test", tmp_path / "out", control=False, **SETTINGS)["notes"]
    assert "The same weights under several names: a, b." in notes
    (unknown,) = [note for note in notes if "unknown" in note]
    assert unknown.startswith("The family of a is unknown") and "cohort" in unknown
    families = read_table(tmp_path / "out" / "table.csv").groupby("model")["family"].first().to_dict()
    assert families == {"a": "unknown", "b": "contrastive"}

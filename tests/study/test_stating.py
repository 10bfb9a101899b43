"""What a comparison of two small files states is what its table's paired rows hold, on the page and in LaTeX too."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

import fdlab
from fdlab.cli.show import findings as lines
from fdlab.compare.paired import UNPAIRED, paired_shares
from fdlab.compare.significance import beyond, holm
from fdlab.records.estimate import Estimate
from fdlab.records.store import Record
from fdlab.records.table import CONTROL, differences, read_table
from fdlab.study.comparison import compare
from fdlab.study.diagnosis import diagnose

NUMBER = r"(−?\d+\.\d+)"


@pytest.fixture
def report(shared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], Path]:
    monkeypatch.setenv("FDLAB_STORE", str(tmp_path / "store"))
    base = shared("data/trained")
    names = {
        "tuned": "vit_d12_w72_p2_cifar10_mae_finetuned.pth",
        "scratch": "vit_d12_w72_p2_cifar10_scratch.safetensors",
    }
    models = [f"{label}={base / name}" for label, name in names.items()]
    settings: dict[str, Any] = {"images": 33, "quiet": True, "probes": ("attention",)}
    return compare(models, "digits#test", tmp_path / "r", **settings), tmp_path / "r"


def test_findings_are_the_paired_rows_of_the_table(report: tuple[dict[str, Any], Path]) -> None:
    result, out = report
    facts = json.loads((out / "facts.json").read_text())["findings"]
    assert facts == json.loads(json.dumps(result["findings"])) and len(facts) > 10
    changes = differences(read_table(out / "table.csv"))
    changes = changes[changes["block"].isna()].set_index(["model", "reference", "metric"])
    tested = [fact for fact in facts if fact["rule"] != "unclear all"]
    adjusted = dict(zip(map(id, tested), holm([fact["p"] for fact in tested]), strict=True))
    assert {fact["comparisons"] for fact in tested} == {len(tested)}
    pairs = {(fact["model"], fact["reference"]) for fact in tested}
    assert pairs == {("scratch", "tuned"), ("tuned", CONTROL), ("scratch", CONTROL)}
    for fact in tested:
        row = changes.loc[(fact["model"], fact["reference"], fact["metric"])]
        own = [fact[name] for name in ("value", "low", "high", "n")]
        assert own == pytest.approx([float(row[name]) for name in ("value", "low", "high", "n")], rel=1e-8)
        assert fact["p"] == pytest.approx(beyond(Estimate(*own[:3], 33), 0.0, above=own[0] > 0))
        assert fact["p_holm"] == pytest.approx(adjusted[id(fact)])
        clear = fact["p_holm"] < 0.05 and (row["low"] > 0 or row["high"] < 0)
        assert fact["rule"] in (("differs", "alike") if clear else ("alike", "unclear", "uncorrected"))
        if fact["rule"] == "differs":
            value, low, high = re.findall(NUMBER, fact["sentence"])[:3]
            ends = sorted(abs(float(row[name])) for name in ("low", "high"))
            assert [float(value), float(low), float(high)] == pytest.approx([abs(own[0]), *ends], abs=0.05)
            words = ("farther", "broader", "more") if own[0] > 0 else ("nearer", "less", "narrower")
            assert any(word in fact["sentence"].split("untrained")[0] for word in words)


def test_page_latex_and_terminal_state_the_same(report: tuple[dict[str, Any], Path]) -> None:
    result, out = report
    page = html.unescape((out / "index.html").read_text())
    latex = (out / "latex" / "findings.tex").read_text()
    printed = list(lines(result["findings"]))
    assert max(map(len, printed)) <= 80
    joined = " ".join(" ".join(printed).split())
    headlines = [fact["sentence"] for fact in result["findings"] if fact["headline"]]
    assert len(headlines) == 5
    for sentence in headlines:
        assert sentence in page and sentence in joined
        assert sentence.replace("−", r"\ensuremath{-}").replace("_", r"\_") in latex
    assert page.index("<h1>") < page.index(headlines[0]) < page.index("<figure")
    assert "What was found" not in page and "from measuring</summary>" in page
    assert "family not stated" in page


def test_diagnose_states_findings_of_several_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FDLAB_STORE", str(tmp_path / "store"))
    settings: dict[str, Any] = {"images": 8, "quiet": True, "control": False}
    models = ["a=random:test_vit", "b=random:test_vit2"]
    result = diagnose("attention", models, "digits#test", tmp_path / "two", **settings)
    assert {(fact["model"], fact["reference"]) for fact in result["findings"]} == {("b", "a")}
    spoken = [fact["sentence"] for fact in result["findings"] if fact["rule"] != "undefined"]
    assert len(spoken) > 3 and all(sentence.startswith("With only 8 images: ") for sentence in spoken)
    assert diagnose("attention", models[:1], "digits#test", tmp_path / "one", **settings)["findings"] == []


def test_fine_tunings_are_compared_by_their_answers_to_the_test_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FDLAB_STORE", str(tmp_path / "store"))
    overrides = {
        "run.batch": 16,
        "data.validation": 0,
        "data.per_class": 5,
        "classify.model": "random:test_vit",
        "data.size": 48,
    }
    runs = {}
    for name, steps, test in (
        ("short", 1, "digits#test[:200]"),
        ("long", 8, "digits#test[:200]"),
        ("other", 1, "digits#test[:90]"),
    ):
        settings = {**overrides, "run.steps": steps}
        runs[name] = Path(
            fdlab.finetune(
                "digits/finetune", data="digits#train[:300]", test=test, out=tmp_path / name, overrides=settings
            )
        )
    right = {name: Record.load(run / "record").arrays["accuracy"] for name, run in runs.items()}
    own = {name: json.loads((run / "run.json").read_text()) for name, run in runs.items()}
    assert {name: int(answers.sum()) for name, answers in right.items()} == {n: own[n]["correct"] for n in own}
    models = [f"{name}={run}" for name, run in runs.items()]
    settings = {"images": 8, "quiet": True, "probes": ("attention",), "control": False}
    result = compare(models, "digits#test", tmp_path / "r", **settings)
    rows = differences(result["table"])
    rows = rows[rows["metric"] == "accuracy"].set_index("model")
    expected = paired_shares(right["long"], right["short"])
    assert rows.loc["long", ["value", "low", "high"]].astype(float).tolist() == pytest.approx(list(expected[:3]))
    assert rows.loc["other", "objective"] == UNPAIRED and rows.loc["other", "n"] == 90
    said = {f["model"]: f for f in result["findings"] if f["question"] == "accuracy" and f["rule"] != "unclear all"}
    assert said["long"]["paired"] and not said["other"]["paired"]
    if said["other"]["rule"] != "under-trained":
        assert "unpaired" in said["other"]["sentence"]

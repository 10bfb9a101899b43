"""What a verb hands on: every option under the name of its setting, and the command as it was typed."""

from __future__ import annotations

import importlib
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fdlab.cli.app import app

# verb -> the function that it calls
CALLED = {
    "diagnose": "fdlab.study.diagnosis:diagnose",
    "compare": "fdlab.study.comparison:compare",
    "explore": "fdlab.study.explore:explore",
    "trainability": "fdlab.study.trainability:trainability",
    "rank": "fdlab.study.ranking:rank",
    "sweep": "fdlab.study.sweep:sweep",
    "evaluate": "fdlab.study.evaluate:evaluate",
    "demo": "fdlab.experiments.demo:demo",
}


def handed_on(line: str, monkeypatch: pytest.MonkeyPatch) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a command line hands to the function behind it, which is not run."""
    words = shlex.split(line)
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def listen(*values: Any, **named: Any) -> None:
        seen.append((values, named))
        raise SystemExit(0)

    monkeypatch.setattr("fdlab.cli.given._there", lambda source: None)  # the files are not there
    module, name = CALLED[words[0]].split(":")
    monkeypatch.setattr(importlib.import_module(module), name, listen)
    monkeypatch.setattr(sys, "argv", ["/somewhere/fdlab", *words])
    done = CliRunner().invoke(app, words)
    assert seen, done.output
    return seen[0]


COMMON = {"control": False, "seed": 3, "device": "cuda", "fresh": True, "quiet": True, "images": 40}
COMMON_WORDS = "--images 40 --seed 3 --device cuda --fresh --quiet --no-control -o o"


@pytest.mark.parametrize(
    ("line", "settings"),
    [
        (
            "attention 'a=my model.pth' b.pth --data 'my photos/' --tolerance 0.0001234567 --maps --batch 7",
            {"models": ["a=my model.pth", "b.pth"], "data": "my photos/", "tolerance": 0.0001234567, "maps": True,
             "batch": 7},
        ),
        (
            "attention a --no-renormalise",
            {"data": "photos", "tolerance": 0.02, "maps": False, "renormalise": False, "batch": 32},
        ),
        (
            "attribution a --part heads --target label --order rollout --order gradients --steps 7 --gradient-steps 9",
            {"data": "photos", "parts": ["heads"], "target": "label", "orders": ["gradients", "rollout"], "steps": 7,
             "gradient_steps": 9, "batch": 8},
        ),
        (
            "attribution a",
            {"data": "photos", "parts": ["curves", "heads"], "target": "auto", "steps": 20, "gradient_steps": 50,
             "batch": 8},
        ),
        (
            "features a --metric cka --metric knn --pooling patches --pooling attentive --teacher t.pth",
            {"data": "photos", "metrics": ["cka", "knn"], "pooling": ["attentive", "patches"], "teacher": "t.pth",
             "batch": 32},
        ),
        ("features a", {"data": "photos", "batch": 32}),  # defaults are no part of the stored question
        (
            "hessian a --objective distill --teacher t --part blocks --part whole --matrix ggn --parameters all --k 3 "
            "--probes 0 --minibatch 8 --micro-batch 4",
            {"data": "digits", "objective": "distill", "teacher": "t", "parts": ["blocks", "whole"], "matrix": "ggn",
             "parameters": "all", "k": 3, "probes": 0, "minibatch": 8, "batch": 4},
        ),
        (
            "landscape a --what plane --adaptive --points 41 --span 0.5 --directions 3 --to b --micro-batch 4",
            {"data": "digits", "what": "plane", "adaptive": True, "points": 41, "span": 0.5, "directions": 3, "to": "b",
             "objective": "linear-probe", "teacher": "", "parameters": "encoder", "batch": 4},
        ),
        (
            "sharpness a --part control --directions 3 --steps 2 --radius 1 --radius-adaptive 2 --radius-worst 3 "
            "--radius-adaptive-worst 4 --parameters all",
            {"data": "digits", "parts": ["control"], "directions": 3, "steps": 2, "radius": 1.0, "radius_adaptive": 2.0,
             "radius_worst": 3.0, "radius_adaptive_worst": 4.0, "objective": "linear-probe", "teacher": "",
             "parameters": "all", "batch": 32},
        ),
    ],
)  # fmt: skip
def test_diagnose_hands_on_all_its_options(
    line: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    values, named = handed_on(f"diagnose {line} {COMMON_WORDS}", monkeypatch)
    assert values == (line.split()[0],)
    assert named.pop("command") == shlex.join(["fdlab", "diagnose", *shlex.split(f"{line} {COMMON_WORDS}")])
    assert named == {"models": ["a"], "out": Path("o"), **COMMON, **settings}


@pytest.mark.parametrize(("what", "control"), [("line", True), ("plane", True), ("interpolation", False)])
def test_a_path_between_two_models_has_no_control(what: str, control: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    _, named = handed_on(f"diagnose landscape a --what {what}", monkeypatch)
    assert named["control"] is control


@pytest.mark.parametrize(
    ("line", "values", "named"),
    [
        (
            "compare a b=c --data d --baseline a --probes attention,knn, --teacher t --batch 7 --explore "
            + COMMON_WORDS,
            (["a", "b=c"], "d", Path("o")),
            {"probes": ["attention", "knn"], "baseline": "a", "teacher": "t", "batch": 7, "explorer": True, **COMMON},
        ),
        (
            "explore a b=c --data d --images 2 --blocks 1,3 --max-mb 4 --exact --teach --seed 3 -o o "
            "--device cuda --quiet",
            (["a", "b=c"], "d", Path("o")),
            {"images": 2, "blocks": [1, 3], "max_mb": 4.0, "exact": True, "teach": True, "seed": 3, "device": "cuda",
             "quiet": True},
        ),
        (
            "trainability a b --recipe r --data d --test t --rates 1e-3,2 --seeds 2 --seed 3 --set optim.lr=1 "
            "--along 4 --images 40 --device cuda --workers 5 -o o --quiet",
            (["a", "b"], Path("o")),
            {"recipe": "r", "rates": [0.001, 2.0], "seeds": 2, "seed": 3, "along": 4, "images": 40, "device": "cuda",
             "overrides": {"optim.lr": 1, "data.source": "d", "data.test": "t"}, "workers": 5, "quiet": True},
        ),
        (
            "rank r --with s --score knn --measures a,b --cohort c --blocks all --untrained -o o",
            (Path("r"), [Path("s")]),
            {"score": "knn", "measures": ["a", "b"], "cohort": Path("c"), "blocks": "all", "untrained": True,
             "out": Path("o")},
        ),
        (
            "demo -o o --seed 3 --minutes 2 --workers 5 --quiet",
            (Path("o"),),
            {"seed": 3, "minutes": 2.0, "workers": 5, "quiet": True},
        ),
    ],
    ids=lambda value: value.split()[0] if isinstance(value, str) else "",
)  # fmt: skip
def test_verbs_that_make_a_page_hand_on_their_options_and_the_typed_command(
    line: str, values: tuple[Any, ...], named: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    got = handed_on(line, monkeypatch)
    assert got == (values, {**named, "command": f"fdlab {line}"})


@pytest.mark.parametrize(
    ("line", "values", "named"),
    [
        (
            "sweep r --over optim.lr=1,2 --seeds 2 --seed 3 --set run.steps=4 --config c --workers 5 --part 2/8 -o o",
            ("r", {"optim.lr": [1, 2]}, Path("o")),
            {"seeds": 2, "seed": 3, "overrides": {"run.steps": 4}, "config": "c", "workers": 5, "part": (2, 8),
             "quiet": False},
        ),
        (
            "evaluate knn a --data d --test t --k 5 --pool class --images 40 --seed 3 --device cuda",
            ("knn", ["a"], "d", "t"),
            {"k": 5, "pool": "class", "images": 40, "seed": 3, "device": "cuda", "quiet": False},
        ),
        (
            "evaluate linear a --data d --test t --pool class --images 40 --seed 3 --device cuda --quiet",
            ("linear", ["a"], "d", "t"),
            {"pool": "class", "images": 40, "seed": 3, "device": "cuda", "quiet": True},
        ),
    ],
    ids=["sweep", "knn", "linear"],
)  # fmt: skip
def test_other_verbs_hand_on_their_options(
    line: str, values: tuple[Any, ...], named: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert handed_on(line, monkeypatch) == (values, named)

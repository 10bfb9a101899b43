"""The command line that a page shows asks its question again."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from typer.testing import CliRunner

from fdlab.cli.app import app
from fdlab.study import diagnosis

NO_QUESTION = ("batch", "device", "fresh", "quiet", "out")  # what changes no number


def asked(words: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the command line hands on, without measuring."""
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def listen(probe: str, models: Any, data: str, out: Any, **given: Any) -> None:
        seen.append(((probe, list(models), data), {k: v for k, v in given.items() if k not in NO_QUESTION}))
        raise SystemExit(0)

    monkeypatch.setattr(diagnosis, "diagnose", listen)
    done = CliRunner().invoke(app, words)
    assert seen, done.output
    return seen[0]


@pytest.mark.parametrize(
    "line",
    [
        "attention 'a=my model.pth' b.pth --data 'my photos/' --images 40 --seed 3 --tolerance 0.0001234567 --maps",
        "attention a.pth --no-renormalise --no-control",
        "attribution a.pth --part heads --target label --order rollout --order gradients --steps 7",
        "features a.pth --metric cka --metric knn --pooling attentive --pooling class --teacher t.pth",
        "hessian a.pth --objective distill --teacher t.pth --part blocks --part whole --matrix ggn --k 3 --probes 0",
        "landscape a.pth --what plane --adaptive --points 41 --span 0.5 --seed 1",
        "landscape a.pth --what interpolation --to b.pth",
        "sharpness a.pth --part control --radius-adaptive-worst 0.25 --directions 3",
    ],
)
def test_the_shown_command_asks_the_same_question(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (probe, models, data), given = asked(["diagnose", *shlex.split(line)], monkeypatch)
    settings = {name: value for name, value in given.items() if name not in ("images", "seed")}
    shown = shlex.split(diagnosis.command_of(probe, models, data, given["images"], given["seed"], settings))
    assert shown[:2] == ["fdlab", "diagnose"]
    assert asked(shown[1:], monkeypatch) == ((probe, models, data), given)

"""``py:FILE.py:FUNCTION``: the user's own code builds the model, runs where a command names it and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import fdlab
from fdlab.checkpoints.own_code import _SAID
from fdlab.checkpoints.sources import parse_label
from fdlab.cli.app import app
from fdlab.data.sources import open_data
from fdlab.errors import FdlabError
from fdlab.records.table import CONTROL

CODE = """
import torch
from torch import nn
from helper import WIDTH

class Net(nn.Module):
    def __init__(self, depth):
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 8, 8)
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 32, batch_first=True, norm_first=True)
        self.enc = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)

    def forward(self, images):
        return self.enc(self.patches(images).flatten(2).transpose(1, 2))

def build(depth=2, trained=True):
    net = Net(depth)
    if trained:
        with torch.no_grad():
            for p in net.parameters():
                p.mul_(1.5)
    return net, {"image_size": 32, "mean": (0.5,) * 3, "std": (0.5,) * 3}

def fixed():
    return Net(1)

def broken():
    raise ValueError("no weights here")

def text():
    return "a module"
"""


@pytest.fixture
def code(tmp_path: Path) -> str:
    (tmp_path / "nets.py").write_text(CODE)
    (tmp_path / "helper.py").write_text("WIDTH = 16\n")
    return str(tmp_path / "nets.py")


def test_a_function_of_a_file_is_a_model(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = fdlab.open_model(f"py:{code}:build#depth=3")
    info = encoder.info
    assert (info.depth, info.image_size, info.mean, info.attention) == (3, 32, (0.5,) * 3, "complete")
    assert "sha256" in info.container and "depth=3" in info.container
    assert f"Runs build of {code}." in capsys.readouterr().err
    assert parse_label(f"py:{code}:build#depth=3") == ("build", f"py:{code}:build#depth=3")
    assert parse_label(f"mine=py:{code}:build#depth=3") == ("mine", f"py:{code}:build#depth=3")
    assert fdlab.open_model(f"py:{code}:fixed?image_size=64").info.grid == (8, 8)


def test_the_untrained_form_is_built_by_the_same_function(code: str) -> None:
    trained, one = (fdlab.open_model(f"{kind}py:{code}:build") for kind in ("", "random:"))
    again, other = (fdlab.open_model(f"random:py:{code}:build", seed=seed) for seed in (0, 1))
    assert one.info.kind == "random" and one.info.source.startswith("random:py:")
    assert one.info.sha256 == again.info.sha256 != other.info.sha256 != trained.info.sha256
    with pytest.raises(FdlabError, match="trained=True"):
        fdlab.open_model(f"random:py:{code}:fixed")


def test_it_is_measured_compared_and_controlled(code: str) -> None:
    table = fdlab.measure("attention", [f"mine=py:{code}:build"], "digits", images=4, random_control=True)
    assert set(table["model"]) == {"mine", CONTROL}


def test_what_fails_says_where(code: str) -> None:
    for source, words in (
        (f"py:{code}:broken", r"broken of (.|\n)*nets\.py:28: ValueError: no weights here"),
        (f"py:{code}:nothing", "has no function 'nothing'"),
        ("py:missing.py:build", "does not exist"),
        (f"py:{code}:text", "returned str"),
        ("py:build", "names no function"),
        (f"py:{code}:build#depth", "is no argument"),
        ("py:no_such_package.nets:build", "ModuleNotFoundError"),
        ("live:Net-0123456789ab", "another process"),
    ):
        with pytest.raises(FdlabError, match=words):
            fdlab.open_model(source)
    with pytest.raises(FdlabError, match="built by your own code"):
        fdlab.open_model(f"py:{code}:build", heads=2)


def test_inspect_prints_what_was_inferred(code: str) -> None:
    result = CliRunner().invoke(app, ["inspect", f"py:{code}:build"])
    assert result.exit_code == 0, result.output
    for words in ("image size 32x32: given", "attention: complete", "0 prefix tokens, 4 x 4 patches"):
        assert words in result.output


def test_a_module_teaches_and_stays_as_it_was(code: str, tmp_path: Path) -> None:
    encoder = fdlab.open_model(f"py:{code}:build")
    module = encoder.module.train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    settings = {"run.steps": 2, "run.batch": 8}
    teacher = fdlab.wrap(module, image_size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    run = fdlab.distill(teacher=teacher, data="digits", out=tmp_path / "run", overrides=settings)
    assert (run / "student.safetensors").is_file()
    assert all(part.training for part in module.modules()) and all(p.requires_grad for p in module.parameters())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    again = fdlab.distill(teacher=f"py:{code}:build", data="digits", out=tmp_path / "two", overrides=settings)
    assert fdlab.open_model(again).info.sha256 == fdlab.open_model(run).info.sha256


def test_a_convolutional_teacher_gives_its_map_in_row_order() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.BatchNorm2d(8), nn.ReLU())
    encoder = fdlab.wrap(module, image_size=32)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        wanted = module.eval()(images)
    assert encoder.info.grid == (4, 4)
    assert torch.equal(encoder.tokens(images).transpose(1, 2).unflatten(2, (4, 4)), wanted)


def test_a_convolutional_network_is_fine_tuned_and_opens_at_its_size(tmp_path: Path) -> None:
    settings = {"run.steps": 2, "run.batch": 8}
    run = fdlab.finetune(
        model="random:resnet10t", data="digits#train", test="digits#test", out=tmp_path / "run", overrides=settings
    )
    encoder = fdlab.open_model(run)
    assert encoder.info.attention.startswith("none") and encoder.info.image_size == 24
    assert encoder.tokens(torch.randn(1, 3, 24, 24)).shape[1] == encoder.info.grid[0] * encoder.info.grid[1]


def test_a_module_of_ones_own_code_is_fine_tuned_and_opens_beside_its_code(code: str, tmp_path: Path) -> None:
    source, settings = f"py:{code}:build#depth=1", {"run.steps": 3, "run.batch": 8, "optim.layer_decay": 0.5}
    run = fdlab.finetune(
        model=source, data="digits#train", test="digits#test[:64]", out=tmp_path / "run", overrides=settings
    )
    weights = fdlab.open_model(f"{source}@{run}")
    start = fdlab.open_model(source)
    assert weights.info.sha256 != start.info.sha256 and weights.info.source == f"{source}@{run}"
    classifier = fdlab.load_classifier(f"{source}@{run}")
    test = open_data("digits#test[:64]")
    right = sum(int((logits.argmax(1) == labels).sum()) for logits, labels, _ in classifier.scores(test))
    assert right == json.loads((run / "run.json").read_text())["correct"]
    assert (run / "README.md").is_file() and parse_label(f"{source}@{run}")[0] == "run"


def test_a_run_of_ones_own_code_never_runs_it_by_itself(
    code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"run.steps": 1, "run.batch": 8}
    run = fdlab.finetune(model=f"py:{code}:build", data="digits#train", out=tmp_path / "run", overrides=settings)
    _SAID.clear()
    capsys.readouterr()
    for opened in (fdlab.open_model, fdlab.load_classifier):
        with pytest.raises(FdlabError, match="Name the code too") as caught:
            opened(str(run))
        assert caught.value.code == 3
    assert "Runs" not in capsys.readouterr().err
    with pytest.raises(FdlabError, match="does not fit Net") as caught:
        fdlab.open_model(f"py:{code}:build#depth=3@{run}")
    assert "is missing" in caught.value.why


def test_weights_of_ones_own_loop_are_read_beside_the_code(code: str, tmp_path: Path) -> None:
    module = fdlab.open_model(f"py:{code}:build").module
    for content in (module.state_dict(), {"state_dict": module.state_dict(), "epoch": 3}):
        torch.save(content, tmp_path / "mine.pt")
        found = fdlab.open_model(f"py:{code}:build@{tmp_path / 'mine.pt'}").module.state_dict()
        assert all(torch.equal(found[name], value) for name, value in module.state_dict().items())


def test_a_module_of_this_process_is_not_fine_tuned_into_a_folder_that_cannot_be_opened(
    code: str, tmp_path: Path
) -> None:
    module = fdlab.wrap(fdlab.open_model(f"py:{code}:build").module, image_size=24)
    with pytest.raises(FdlabError, match="cannot be fine-tuned here"):
        fdlab.finetune(model=module, data="digits#train", out=tmp_path / "run")


def test_a_student_of_a_convolutional_teacher_has_heads_of_its_own(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 48, 8, 8), nn.BatchNorm2d(48), nn.ReLU())
    settings = {"run.steps": 2, "run.batch": 8}
    teacher = fdlab.wrap(module, image_size=24)
    run = fdlab.distill(teacher=teacher, data="digits#train", out=tmp_path / "run", overrides=settings)
    student = fdlab.open_model(run)
    assert (student.info.heads, student.info.width, student.info.grid) == (3, 48, (3, 3))
    assert any("no heads to take over" in note for note in json.loads((run / "run.json").read_text())["notes"])


def test_modules_are_compared_beside_sources(code: str, tmp_path: Path) -> None:
    from fdlab.study.comparison import compare

    module = fdlab.open_model(f"py:{code}:build").module.train()
    mine = fdlab.wrap(module, image_size=32)
    models = {"mine": mine, "code": f"py:{code}:build"}
    found = compare(models, "digits", tmp_path / "out", images=4, probes=("attention",), control=False, quiet=True)
    assert set(found["table"]["model"]) == {"mine", "code"}
    assert all(part.training for part in module.modules())

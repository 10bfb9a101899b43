"""Several ranks, one run: the same losses, one writer, all stop together."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fdlab.engine.distributed import Ranks
from fdlab.records.run_folder import RunFolder
from fdlab.study.training import plan, run

# Tests are no package (importlib mode), so a neighbour is loaded by its path.
_spec = importlib.util.spec_from_file_location("torchrun", Path(__file__).with_name("torchrun.py"))
assert _spec is not None
torchrun = importlib.util.module_from_spec(_spec)
assert _spec.loader is not None
_spec.loader.exec_module(torchrun)
finish, sets, start = torchrun.finish, torchrun.sets, torchrun.start


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "teacher"
    return run(plan("digits/contrastive", options={"run.steps": 2, "run.batch": 16}), folder, quiet=True)


WATCHED: dict[str, object] = {
    "data__source": "digits#train[:160]", "data__resident": "on", "watch__every": 1, "watch__images": 64,
    "watch__probe_every": 1, "watch__probe_images": 16,
}  # fmt: skip


def words(teacher: Path, out: Path, **more: object) -> list[str]:
    common: dict[str, object] = {
        "run__steps": 20,
        "run__batch": 16,
        "run__log_every": 1,
        "distill__mask": 0.5,
        "distill__mask_loss": "all",
        "distill__student__drop_path": 0.1,
    }
    return ["distill", "digits/distill", "--teacher", str(teacher), "-o", str(out), *sets(**{**common, **more})]


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in RunFolder(folder).read_log() if "loss" in line]


@pytest.mark.parametrize(("count", "size", "ranks"), [(10, 4, 2), (1, 256, 3), (1000, 256, 2), (0, 8, 2), (9, 3, 1)])
def test_each_sample_is_evaluated_by_one_rank_and_all_have_as_many_turns(count: int, size: int, ranks: int) -> None:
    turns = [list(Ranks(rank, ranks).turns(count, size)) for rank in range(ranks)]
    assert len({len(each) for each in turns}) == 1
    assert sorted(place for each in turns for piece in each for place in piece) == list(range(count))
    assert all(len(piece) <= size for each in turns for piece in each)


def test_shares_of_ranks_and_parts_tile_the_batch() -> None:
    found = [share for rank in range(3) for share in Ranks(rank, 3).shares(24, 2)]
    assert [(share.start, share.stop) for share in found if share] == [(i, i + 4) for i in range(0, 24, 4)]
    assert Ranks().shares(24, 1) == [None]


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", [{}, {"run__accumulate": 2, **WATCHED}, {"run__strategy": "fsdp"}], ids=["ddp", "ddp in parts", "fsdp"]
)
def test_two_ranks_give_the_losses_of_one(tmp_path: Path, teacher: Path, more: dict[str, object]) -> None:
    """Drop path 0.1 and masks on, the same batch of 16: 20 losses equal to 1e-5."""
    alone = {key: value for key, value in more.items() if key != "run__strategy"}
    assert finish(words(teacher, tmp_path / "one", **alone), ranks=1)[0] == 0
    code, out, said = finish(words(teacher, tmp_path / "two", **more))
    assert code == 0, said
    assert out.count(str(tmp_path / "two")) == 1  # one rank prints
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) == 20
    assert one == pytest.approx(two, rel=1e-5)
    first, second = (load_file(tmp_path / name / "student.safetensors") for name in ("one", "two"))
    assert first.keys() == second.keys()
    assert all(torch.allclose(first[key], second[key], atol=1e-4) for key in first)
    facts = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("one", "two")]
    assert facts[0]["test_loss"] == pytest.approx(facts[1]["test_loss"], rel=1e-4)
    if "watch__every" in more:  # two epochs of ten steps
        assert facts[0]["target_cosine"] == pytest.approx(facts[1]["target_cosine"], rel=1e-4)
        assert [len(list((tmp_path / name / "probes").iterdir())) for name in ("one", "two")] == [2, 2]


@pytest.mark.slow
def test_mixed_images_and_accuracy_are_those_of_one_rank(tmp_path: Path) -> None:
    own = sets(
        run__steps=6, run__batch=16, run__log_every=1, classify__mix__mixup=0.8, classify__mix__cutmix=1.0,
        classify__mix__erase=0.25,
    )  # fmt: skip
    run(plan("digits/contrastive", options={"run.steps": 2, "run.batch": 16}), tmp_path / "start", quiet=True)
    for ranks in (1, 2):
        code, _, said = finish(["finetune", str(tmp_path / "start"), "-o", str(tmp_path / f"r{ranks}"), *own], ranks)
        assert code == 0, said
    assert losses(tmp_path / "r1") == pytest.approx(losses(tmp_path / "r2"), rel=1e-5)
    facts = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("r1", "r2")]
    assert facts[0]["count"] == facts[1]["count"]
    assert facts[0]["correct"] == facts[1]["correct"]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_stop_request_saves_once_on_all_ranks_and_continues_bitwise(
    tmp_path: Path, teacher: Path, strategy: str
) -> None:
    own = {"run__strategy": strategy, "run__steps": 60, "save__every": 50}
    assert finish(words(teacher, tmp_path / "whole", **own))[0] == 0
    process = start(words(teacher, tmp_path / "cut", **own))
    wait_for(lambda: len(losses(tmp_path / "cut")) >= 5, process)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert "the state is saved" in said
    assert not RunFolder(tmp_path / "cut").finished
    code, _, said = finish(words(teacher, tmp_path / "cut", **own))
    assert code == 0, said
    whole, again = (load_file(tmp_path / name / "student.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[key], again[key]) for key in whole)
    assert losses(tmp_path / "whole") == losses(tmp_path / "cut")


@pytest.mark.slow
def test_when_a_rank_dies_all_stop_and_the_run_continues(tmp_path: Path, teacher: Path) -> None:
    own = {"run__steps": 400, "save__every": 2}
    process = start(words(teacher, tmp_path / "cut", **own))
    wait_for(lambda: len(losses(tmp_path / "cut")) >= 3, process)
    os.kill(children(process.pid)[-1], signal.SIGKILL)
    assert process.wait(timeout=60) != 0
    process.communicate()
    done = len(losses(tmp_path / "cut"))
    assert 0 < done < 400
    cut = torch.load(RunFolder(tmp_path / "cut").last, weights_only=True)["step"]
    process = start(words(teacher, tmp_path / "cut", **own))
    wait_for(lambda: len(losses(tmp_path / "cut")) > cut + 2, process)
    process.send_signal(signal.SIGTERM)
    assert "the state is saved" in process.communicate(timeout=60)[1]


@pytest.mark.slow
def test_what_ranks_cannot_do_is_refused(tmp_path: Path, teacher: Path) -> None:
    code, _, said = finish(words(teacher, tmp_path / "odd", run__batch=15))
    assert code != 0
    assert "has no 2 equal parts" in said
    code, _, said = finish(words(teacher, tmp_path / "f", run__strategy="fsdp"), ranks=1)
    assert code == 2
    assert "there is one process" in said


def children(parent: int) -> list[int]:
    """The ranks of a torchrun."""
    tasks = Path(f"/proc/{parent}/task").glob("*/children")
    return sorted(int(pid) for task in tasks for pid in task.read_text().split())


def wait_for(ready, process) -> None:  # type: ignore[no-untyped-def]
    end = time.monotonic() + 60
    while not ready():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.01)

"""The Python face: its names are listed, its verbs say what they take, and importing it loads nothing heavy."""

from __future__ import annotations

import inspect
import pydoc
from pathlib import Path
from typing import Any

import pytest

import fdlab
from fdlab.records.run_folder import RunFolder
from fdlab.study import training


def test_dir_and_help_list_every_public_name() -> None:
    assert {"open_model", "measure", "distill", "FdlabError", "Encoder"} <= set(fdlab.__all__)
    assert set(fdlab.__all__) <= set(dir(fdlab))
    for name in fdlab.__all__:
        assert getattr(fdlab, name) is not None
    page = pydoc.render_doc(fdlab, renderer=pydoc.plaintext)
    for name in set(fdlab.__all__) - {"__version__"}:
        assert f"{name}(" in page, name
    with pytest.raises(AttributeError, match="no attribute 'distil'"):
        _ = fdlab.distil  # type: ignore[attr-defined]


def test_pickers_of_names_import_nothing_heavy() -> None:
    from tests.test_house import modules_after

    assert not {"torch", "pandas"} & modules_after("import fdlab; dir(fdlab)")


@pytest.mark.parametrize(
    ("verb", "own"), [(fdlab.pretrain, set()), (fdlab.distill, {"teacher"}), (fdlab.finetune, {"model"})]
)
def test_the_three_trainings_name_and_explain_their_arguments(verb: Any, own: set[str]) -> None:
    parameters = inspect.signature(verb).parameters
    shared = {"recipe", "data", "test", "out", "overrides", "config", "seed", "device", "quiet", "settings"}
    assert set(parameters) == shared | own
    assert parameters["out"].default is inspect.Parameter.empty
    for name in own | {"recipe", "settings"}:
        assert f"{name}:" in verb.__doc__
    assert "Example:" in verb.__doc__


def test_type_checkers_may_read_the_package() -> None:
    assert Path(fdlab.__file__).with_name("py.typed").is_file()


class Planned(Exception):
    """Stops a verb before it trains."""


@pytest.fixture
def resolved(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a call of a verb would train: its resolved settings by dotted key, and the arguments of ``run``."""

    def settings_of(verb: Any, *values: Any, **named: Any) -> dict[str, Any]:
        seen: dict[str, Any] = {}

        def stop(planned: Any, out: Any, *, quiet: bool) -> None:
            seen.update({key: value for key, value, _ in planned.describe()}, out=out, quiet=quiet)
            raise Planned

        monkeypatch.setattr(training, "run", stop)
        with pytest.raises(Planned):
            verb(*values, **named)
        return seen

    return settings_of


def test_arguments_become_settings(resolved: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[optim]\nlr = 0.25\n[run]\nbatch = 7\n")
    shared: dict[str, Any] = {"data": tmp_path / "images", "test": "digits#test", "out": tmp_path / "run", "seed": 0}
    shared |= {"device": "cpu", "config": tmp_path / "mine.toml", "overrides": {"optim.lr": 0.5, "run.seed": 9}}
    expected = {
        "data.source": str(tmp_path / "images"),
        "data.test": "digits#test",
        "run.seed": 0,  # an argument comes after overrides
        "run.device": "cpu",
        "run.batch": 7,  # config comes after the recipe
        "optim.lr": 0.5,  # overrides come after config
        "out": tmp_path / "run",
        "quiet": False,
    }
    for verb, own, extra in (
        (fdlab.pretrain, {"recipe": "digits/contrastive", "temperature": 0.5}, {"contrastive.temperature": 0.5}),
        (
            fdlab.distill,
            {"recipe": "digits/distill", "teacher": tmp_path, "beta": 3.0},
            {"distill.teacher": str(tmp_path), "distill.beta": 3.0},
        ),
        (
            fdlab.finetune,
            {"recipe": "digits/finetune", "model": "m", "smoothing": 0.0},
            {"classify.model": "m", "classify.smoothing": 0.0},
        ),
    ):
        settings = resolved(verb, quiet=False, **own, **shared)
        assert {key: settings[key] for key in expected | extra} == expected | extra


def test_what_is_not_said_stays_as_the_recipe_has_it(resolved: Any) -> None:
    settings = resolved(fdlab.distill, teacher="t", out="x")
    recipe = {
        key: value for key, value, _ in training.plan("digits/distill", options={"distill.teacher": "t"}).describe()
    }
    assert {key: settings[key] for key in recipe} == recipe
    assert settings["quiet"] is True
    own_images = resolved(fdlab.finetune, "digits/finetune", model="m", data="photos", out="x")
    assert own_images["data.test"] == ""  # never judged on the recipe's test images


def test_another_recipe_by_position_and_its_own_settings(resolved: Any) -> None:
    assert resolved(fdlab.pretrain, "digits/masked", out="x", **{"run.seed": 3})["run.seed"] == 3
    assert resolved(fdlab.pretrain, "digits/masked", out="x", ratio=0.25)["masked.ratio"] == 0.25


def test_a_verb_refuses_the_recipe_of_another_task() -> None:
    with pytest.raises(fdlab.FdlabError) as caught:
        fdlab.distill("digits/masked", teacher="t", out="x")
    assert caught.value.code == 2


def test_pretrain_trains_and_returns_the_folder(tmp_path: Path) -> None:
    small = {"run.steps": 2, "run.batch": 8, "contrastive.model.depth": 1}
    folder = fdlab.pretrain(data="digits[:32]", out=tmp_path / "run", overrides=small, seed=4)
    assert folder == tmp_path / "run"
    assert RunFolder(folder).facts()["seed"] == 4
    assert (folder / "encoder.safetensors").is_file()

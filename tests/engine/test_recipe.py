"""Recipes: precedence, faults with the nearest key, all packaged ones valid."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fdlab.engine import recipe as recipes
from fdlab.errors import FdlabError
from fdlab.tasks.base import find_task


def resolved(layers: dict, task: str = "distill") -> recipes.Recipe:
    return recipes.resolve(layers, find_task(task).Settings, task)


@pytest.mark.parametrize("name", recipes.names())
def test_every_packaged_recipe_resolves_and_reads_back(name: str, tmp_path: Path) -> None:
    tables = recipes.read(name)
    recipe = resolved({"recipe": tables}, tables["task"])
    assert recipe.about
    path = tmp_path / "resolved.toml"
    path.write_text(recipe.as_toml())
    again = resolved({"recipe": recipes.read(str(path))}, recipe.task)
    assert again.model_dump() == recipe.model_dump()
    assert recipes.differences(recipe.as_toml(), recipe) == []


def test_later_layers_win_and_each_value_knows_its_source() -> None:
    layers = {
        "recipe": recipes.read("digits/distill"),
        "--config": {"optim": {"lr": 1e-3}},
        "--set": recipes.nested(recipes.parse_overrides(["optim.lr=3e-4", "run.steps=7"])),
    }
    recipe = resolved(layers)
    assert recipe.optim.lr == 3e-4
    origin = {key: source for key, _, source in recipes.sources(recipe, layers)}
    assert origin["optim.lr"] == "--set"
    assert origin["run.batch"] == "recipe"
    assert origin["optim.floor"] == "default"


def test_all_faults_at_once_with_the_nearest_key() -> None:
    with pytest.raises(FdlabError) as caught:
        resolved({"--set": recipes.nested({"optim.lrr": 1, "run.batch": 0, "distill.betaa": 2})})
    text = str(caught.value)
    assert caught.value.code == 2
    assert "'optim.lr'" in text
    assert "run.batch" in text
    assert "'distill.beta'" in text
    assert "3 settings" in text


def test_a_recipe_of_another_task_and_an_unknown_one_are_refused() -> None:
    with pytest.raises(FdlabError, match="for the task 'masked'"):
        resolved({"recipe": recipes.read("digits/masked")})
    with pytest.raises(FdlabError, match="Did you mean 'digits/masked'"):
        recipes.read("digits/maskd")


def test_changed_settings_are_named_and_free_ones_are_not() -> None:
    old = resolved({"recipe": recipes.read("digits/distill")})
    new = resolved({"recipe": recipes.read("digits/distill"), "--set": {"optim": {"lr": 1.0}, "run": {"workers": 2}}})
    assert recipes.differences(old.as_toml(), new) == ["optim.lr: 0.002, now 1.0"]


@given(
    st.recursive(
        st.integers() | st.booleans(), lambda c: st.dictionaries(st.sampled_from("abc"), c, min_size=1), max_leaves=8
    )
)
def test_flat_and_nested_are_inverse(tree: object) -> None:
    tables = tree if isinstance(tree, dict) else {"a": tree}
    assert recipes.nested(recipes.flat(tables)) == tables

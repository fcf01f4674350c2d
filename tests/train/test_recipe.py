"""Recipes: what is shipped is valid and says why; what is wrong is refused by name."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import stepclip.train
from stepclip.cache import StepclipError
from stepclip.train import Recipe, list_recipes, load_recipe

FOLDER = Path(stepclip.train.__file__).parent / "recipes"


@pytest.mark.parametrize("name", ["benchlab", "weaksvr-corrected"])
def test_shipped_recipes_state_every_knob_with_a_reason(name):
    assert name in list_recipes()
    recipe = load_recipe(name)
    text = (FOLDER / f"{name}.yaml").read_text()
    tree = yaml.safe_load(text)
    stated = {"name", "seed"} | {
        f"{s}.{k}" for s, part in tree.items() if isinstance(part, dict) for k in part
    }
    assert stated == set(recipe.flat())
    knobs = [line for line in text.splitlines() if re.match(r"  \w", line)]
    assert len(knobs) > 30 and [line for line in knobs if "# " not in line] == []


def test_printed_and_read_again_it_is_the_same(tmp_path):
    recipe = load_recipe("benchlab", ["optim.lr=1e-4", "data.val_tasks=2", "name='x: y # z'"])
    (tmp_path / "a.yaml").write_text(str(recipe))
    again = load_recipe(tmp_path / "a.yaml")
    assert again == recipe and again.optim.lr == 1e-4 and again.name == "x: y # z"
    assert recipe.difference(again) == []
    assert load_recipe("benchlab", ["seed=4"]).difference(load_recipe("benchlab")) == [("seed", 4, 0)]


def test_overrides():
    recipe = load_recipe(
        "benchlab",
        ["optim.lr=3e-5", "model.pooling=mean", "data.same_task=true", "model.cls=true", "optim.clip=2"],
    )
    assert (recipe.optim.lr, recipe.model.pooling, recipe.data.same_task) == (3e-5, "mean", 1.0)
    assert recipe.model.cls is True and recipe.optim.clip == 2.0


def test_a_short_file_takes_the_defaults(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("train:\n  epochs: 3\n")
    assert load_recipe(path).train.epochs == 3 and load_recipe(path).name == "mine"
    assert load_recipe(str(path), ["seed=2"]) == Recipe(name="mine", seed=2, train={"epochs": 3})


@pytest.mark.parametrize(
    ("override", "found", "expected"),
    [
        ("model.widht=3", "unknown key 'model.widht' (did you mean 'width'?)", "frames, width"),
        ("modle.width=3", "unknown key 'modle' (did you mean 'model'?)", "one of name, seed"),
        ("lr=1e-4", "unknown key 'lr' (it belongs in 'optim.lr')", "optim"),
        ("optim.lr=fast", "optim.lr = 'fast'", "number"),
        ("optim.lr=.nan", "optim.lr = nan", "finite"),
        ("train.epochs=true", "train.epochs = True", "integer"),
        ("train.epochs=2.5", "train.epochs = 2.5", "integer"),
        ("train.epochs='3'", "train.epochs = '3'", "integer"),
        ("model.cls=1", "model.cls = 1", "boolean"),
        ("model.pooling=max", "model.pooling = 'max'", "'flatten', 'mean' or 'attention'"),
        ("data.batch=0", "data.batch = 0", "greater than or equal to 1"),
        ("data.same_task=1.5", "data.same_task = 1.5", "less than or equal to 1"),
        ("model=null", "model = None", "section"),
        ("optim=3", "optim = 3", "section"),
        ("name.x=3", "'name' is a value", "section"),
        ("epochs", "the override 'epochs'", "key=value"),
        ("=3", "the override '=3'", "key=value"),
    ],
)
def test_faults_name_key_value_and_what_was_expected(override, found, expected):
    with pytest.raises(StepclipError) as caught:
        load_recipe("benchlab", [override])
    assert found in caught.value.found and expected in caught.value.expected


def test_every_fault_is_told_at_once():
    with pytest.raises(StepclipError) as caught:
        load_recipe("benchlab", ["data.batch=0", "optim.rate=1"])
    assert "data.batch = 0" in caught.value.found and "optim.rate" in caught.value.found


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "model: [", "a: b: c", "\x00", "3"])
def test_files_that_are_no_recipe(tmp_path, text):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(StepclipError, match=r"a\.yaml"):
        load_recipe(path)
    path.write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(StepclipError, match="cannot be read"):
        load_recipe(path)


def test_unknown_recipes_are_refused_with_the_nearest_name(tmp_path):
    with pytest.raises(StepclipError, match="did you mean 'benchlab'"):
        load_recipe("benchlap")
    with pytest.raises(StepclipError, match="no recipe"):
        load_recipe(tmp_path)


def test_names_load_on_first_use_and_the_room_is_light():
    code = "import sys, stepclip.train; stepclip.train.load_recipe('benchlab'); print('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "False\n"
    )
    assert all(hasattr(stepclip.train, name) for name in stepclip.train.__all__)
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        stepclip.train.fitt  # noqa: B018

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
from stepclip.train import list_recipes, load_recipe
from stepclip.train.weaksvr.knobs import WeakSVRRecipe

FOLDER = Path(stepclip.train.__file__).parent / "recipes"


@pytest.mark.parametrize("name", list_recipes())
def test_shipped_recipes_give_a_reason_for_every_knob_they_state(name):
    recipe = load_recipe(name)
    text = (FOLDER / f"{name}.yaml").read_text()
    tree = yaml.safe_load(text)
    knobs = [line for line in text.splitlines() if re.match(r"  \w", line)]
    assert recipe.name == name and [line for line in knobs if "# " not in line] == []
    stated = {f"{s}.{k}": v for s, part in tree.items() if isinstance(part, dict) for k, v in part.items()}
    flat = recipe.flat()
    assert all(flat[key] == pytest.approx(value) for key, value in stated.items())
    if "base" not in tree:
        assert stated.keys() | {"name", "seed", "method"} == set(flat)
    else:  # the rest is the base's
        base = load_recipe(tree["base"]).flat()
        own = ("name", "seed", "method")
        assert all(flat[k] == base[k] for k in flat if k not in stated and k not in own)


def test_the_released_knobs():
    """`methods/weaksvr.md` 8.4 and 4.7, knob by knob."""
    official = load_recipe("weaksvr-official").flat()
    want = {
        "data.padding": "mean", "data.pad_to": 20, "data.items": 800, "data.batch": 32,
        "loss.fine_form": "official", "loss.labels": "sort", "loss.gumbel": True, "loss.coarse_form": "plain",
        "loss.coarse_group": 8, "loss.coarse": 1.0, "loss.fine": 1.0, "loss.fine_text": 1.0,
        "model.attention_scale": "width", "model.position_std": 1.0, "model.cls_std": 0.02,
        "model.input_norm": "none", "model.residual": False, "model.hidden": True, "model.depth": 2,
        "optim.kind": "adamw", "optim.lr": 5e-4, "optim.weight_decay": 0.01, "optim.decay": "all",
        "optim.schedule": "epoch", "optim.warmup": 0.0, "optim.clip": 0.0, "optim.final_lr": 0.01,
        "train.epochs": 300, "evaluate.distance": "pooled",
    }  # fmt: skip
    assert {key: official[key] for key in want} == want
    schedules = {"csv": (800, 300), "diving48": (5000, 300), "coin": (1200, 300), "svip": (1600, 60)}
    for name, (items, epochs) in schedules.items():
        recipe = load_recipe(name)
        assert (recipe.data.items, recipe.train.epochs, recipe.data.batch) == (items, epochs, 32)
    svip = load_recipe("svip")
    assert (svip.optim.kind, svip.optim.lr, svip.data.pairs) == ("adam", 1e-4, True)
    assert svip.optim.lr * svip.optim.final_lr == pytest.approx(1e-6)


def test_a_base_is_laid_under_and_must_end(tmp_path):
    (tmp_path / "low.yaml").write_text("base: benchlab\noptim: {lr: 0.5}\ndata: {batch: 3}\n")
    (tmp_path / "top.yaml").write_text("base: low.yaml\noptim: {warmup: 0.0}\n")
    top = load_recipe(tmp_path / "top.yaml", ["data.batch=5"])
    assert (top.optim.lr, top.optim.warmup, top.data.batch, top.name) == (0.5, 0.0, 5, "top")
    assert top.model == load_recipe("benchlab").model
    (tmp_path / "low.yaml").write_text("base: top.yaml\n")
    with pytest.raises(StepclipError, match="its own base"):
        load_recipe(tmp_path / "top.yaml")
    (tmp_path / "low.yaml").write_text("base: benchlap\n")
    with pytest.raises(StepclipError, match="did you mean 'benchlab'"):
        load_recipe(tmp_path / "top.yaml")
    (tmp_path / "low.yaml").write_text("base: [1]\n")
    with pytest.raises(StepclipError, match=r"base = \[1\]"):
        load_recipe(tmp_path / "top.yaml")


@pytest.mark.parametrize(
    ("overrides", "knob"),
    [
        (["loss.fine_form=official"], "loss.labels"),
        (["loss.fine_form=official", "loss.labels=sort", "loss.teacher=true"], "loss.teacher"),
        (["data.padding=mean"], "data.padding"),
        (["loss.teacher=true", "optim.ema=0"], "optim.ema"),
        (["loss.sequence=1"], "data.pairs"),
        (["data.pairs=true", "data.same_task=0", "data.batch=7"], "data.batch"),
        (["loss.coarse_group=7"], "data.batch"),
        (["model.text=false", "model.residual=false"], "model.text"),
        (["loss.coarse=0", "loss.fine=0", "loss.fine_text=0"], "loss.coarse"),
        (["evaluate.select=val"], "evaluate.every"),
        (["train.patience=2"], "evaluate.every"),
        (["train.cuda_graph=true", "train.precision=fp16"], "train.precision"),
    ],
)
def test_knobs_that_do_not_fit_together_are_named(overrides, knob):
    with pytest.raises(StepclipError) as caught:
        load_recipe("benchlab", overrides)
    assert caught.value.found.startswith(f"{knob} does not fit") and f"{knob}: " in caught.value.expected


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
    assert load_recipe(str(path), ["seed=2"]) == WeakSVRRecipe(name="mine", seed=2, train={"epochs": 3})


@pytest.mark.parametrize(
    ("override", "found", "expected"),
    [
        ("model.widht=3", "unknown key 'model.widht' (did you mean 'width'?)", "frames, width"),
        ("modle.width=3", "unknown key 'modle' (did you mean 'model'?)", "one of name, method, seed"),
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

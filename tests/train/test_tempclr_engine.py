"""TempCLR through the engine: recipes train, stages follow each other, runs are taken up, processes share a
step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stepclip.cache import FeatureStore, FeatureWriter, StepclipError
from stepclip.evaluate.embed import embed
from stepclip.train import fit, list_recipes, load_checkpoint, load_recipe

from .conftest import Made

RECIPES = [name for name in list_recipes() if "tempclr" in name]
SMALL = [
    "data.batch=6", "data.shortest=1", "data.longest=4", "model.window=6", "model.reach=5", "model.width=16",
    "model.depth=1", "model.heads=2", "train.epochs=4", "stages.first=2", "train.log_every=1",
    "train.save_every=1", "train.keep=9", "train.precision=fp32", "optim.lr=0.003", "stages.rate=1.0",
]  # fmt: skip


def run(made: Made, out: Path, *overrides: str, name: str = "tempclr-corrected", **more: Any) -> Any:
    recipe = load_recipe(name, [*SMALL, *overrides])
    return fit(recipe, made.store, made.manifest, out, device="cpu", progress=False, **more)


def log(path: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]
    return [row for row in rows if "loss" in row]


def state(path: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(path).model.state_dict()


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_and_is_found_again(made: Made, tmp_path: Path, name: str) -> None:
    recipe = load_recipe(name)
    first = 2 if recipe.loss.unit else 0
    result = run(made, tmp_path / "run", "data.neighbours=8", f"stages.first={first}", name=name)
    assert result.steps == 4 * (27 // 6)
    rows = log(tmp_path / "run")
    assert set(recipe.loss.terms) <= set(rows[0])
    checkpoint = load_checkpoint(tmp_path / "run")
    with FeatureStore.open(made.store) as store:
        ids = store.video_ids[:4]
        found = embed(checkpoint, store, ids, "cpu")
        assert found.frames.shape == (sum(map(store.length, ids)), 16) and found.video.shape == (4, 16)
        words = sorted({w for row in made.manifest for w in row.steps})[:3]
        assert found.embed_texts(store, words, "step").shape == (3, 16)


def test_stage_a_learns_units_and_stage_b_layer_norms(made: Made, tmp_path: Path) -> None:
    """Loss is the unit loss alone in stage A, both weighed in stage B, where nothing but norms and tau
    moves."""
    run(made, tmp_path / "run")
    rows = log(tmp_path / "run")
    half = len(rows) // 2
    for row in rows[:half]:
        assert row["loss"] == pytest.approx(row["unit"], rel=1e-5)
    for row in rows[half:]:
        assert row["loss"] == pytest.approx(0.3 * row["unit"] + 0.7 * row["sequence"], rel=1e-5)
    folders = sorted(
        (p for p in (tmp_path / "run" / "checkpoints").iterdir() if p.name.isdigit()),
        key=lambda p: int(p.name),
    )
    before, after = state(folders[1]), state(folders[-1])
    model = load_checkpoint(tmp_path / "run").model
    norms = {id(p) for p in model.norms()}
    free = {n for n, p in model.named_parameters() if id(p) in norms} | {"log_tau"}
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved <= free and len(moved) > 1
    first = state(folders[0])
    assert {
        name for name in before if not torch.equal(before[name], first[name])
    } - free  # stage A moved the rest


@pytest.mark.parametrize("cut", [7, *(pytest.param(cut, marks=pytest.mark.slow) for cut in (3, 10))])
def test_a_run_that_is_taken_up_ends_as_an_unbroken_one(made: Made, tmp_path: Path, cut: int) -> None:
    """Cut in stage A, at its end, in stage B."""
    run(made, tmp_path / "whole")
    run(made, tmp_path / "parts", stop_after=cut)
    run(made, tmp_path / "parts", resume=True)
    for key, value in state(tmp_path / "whole").items():
        assert torch.equal(state(tmp_path / "parts")[key], value), key


def test_stage_b_alone_starts_from_a_run(made: Made, tmp_path: Path) -> None:
    run(made, tmp_path / "a", "loss.sequence=0.0", "train.epochs=2")
    run(
        made,
        tmp_path / "b",
        f"train.init={tmp_path / 'a'}",
        "stages.first=0",
        "train.epochs=1",
        "optim.lr=1e-9",
    )
    for key, value in state(tmp_path / "a").items():
        torch.testing.assert_close(state(tmp_path / "b")[key], value, atol=1e-6, rtol=1e-6)


def test_the_video_form_and_the_labelled_rows_train(made: Made, tmp_path: Path) -> None:
    run(made, tmp_path / "videos", "loss.videos=0.5", "loss.side=both", "loss.granularity=both")
    assert log(tmp_path / "videos")[-1]["videos"] > 0
    rows = [
        "data.units=rows",
        "data.spans=given",
        "loss.naming=0.88",
        "loss.sequence=0.12",
        "loss.unit=0.0",
        "stages.first=0",
    ]
    run(made, tmp_path / "rows", *rows)
    for row in log(tmp_path / "rows"):
        assert row["loss"] == pytest.approx(0.88 * row["naming"] + 0.12 * row["sequence"], rel=1e-5)


def test_videos_against_videos_need_no_sentences(made: Made, tmp_path: Path) -> None:
    """A cache without texts trains the video-video form; what needs sentences says what is missing."""
    with (
        FeatureStore.open(made.store) as store,
        FeatureWriter(tmp_path / "bare", store.fingerprint, dim=store.dim) as writer,
    ):
        for video_id in store.video_ids:
            one = store[video_id]
            writer.add(video_id, np.array(one.features), one.times, one.duration)
    bare = Made(tmp_path / "bare", made.manifest.without_truth(), made.labels)
    alone = ["loss.videos=1.0", "loss.sequence=0.0", "loss.unit=0.0", "stages.first=0"]
    run(bare, tmp_path / "run", *alone, "data.spans=uniform", "loss.rivals=false", "train.epochs=24")
    losses = [row["videos"] for row in log(tmp_path / "run")]
    assert sum(losses[-24:]) < sum(losses[:24])
    with FeatureStore.open(tmp_path / "bare") as store:
        assert (
            embed(load_checkpoint(tmp_path / "run"), store, store.video_ids[:2], "cpu")
            .frames.isfinite()
            .all()
        )
    for asked in (["loss.sequence=0.5"], ["data.spans=visit-all"]):
        with pytest.raises(StepclipError, match="text"):
            run(bare, tmp_path / "not", *alone, "data.spans=uniform", *asked)


@pytest.mark.slow
def test_training_reads_no_step_times_unless_asked(made: Made, tmp_path: Path) -> None:
    bare = Made(made.store, made.manifest.without_truth(), made.labels)
    run(made, tmp_path / "with", "train.epochs=3")
    run(bare, tmp_path / "without", "train.epochs=3")
    for key, value in state(tmp_path / "with").items():
        assert torch.equal(state(tmp_path / "without")[key], value), key
    with pytest.raises(StepclipError, match="no step times"):
        run(bare, tmp_path / "asked", "data.spans=given")


_PROCESS = """
import sys
from stepclip.cache import Manifest
from stepclip.train import fit, load_recipe
store, manifest, out, *overrides = sys.argv[1:]
fit(load_recipe("tempclr-corrected", overrides), store, Manifest.read(manifest), out, device="cpu",
progress=False)
"""


@pytest.mark.slow
def test_two_processes_train_to_the_loss_and_gradients_of_one(made: Made, tmp_path: Path) -> None:
    """torchrun with gloo, each process half of every batch, against one with all of it: both stages."""
    overrides = [*SMALL, "model.dropout=0", "optim.clip=0", "optim.lr=0.001"]
    (tmp_path / "run.py").write_text(_PROCESS)
    made.manifest.write(tmp_path / "manifest")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    inputs = [str(tmp_path / "run.py"), str(made.store), str(tmp_path / "manifest"), str(tmp_path / "two")]
    done = subprocess.run(
        [sys.executable, *torchrun, *inputs, *overrides],
        capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    run(made, tmp_path / "one", "model.dropout=0", "optim.clip=0", "optim.lr=0.001")
    one, two = log(tmp_path / "one"), log(tmp_path / "two")
    assert len(one) == len(two) >= 6
    for a, b in zip(one, two, strict=True):
        for key in a.keys() - {"seconds", "videos_per_s"}:
            assert b[key] == pytest.approx(a[key], rel=1e-3, abs=1e-5), key
    for key, value in state(tmp_path / "one").items():
        torch.testing.assert_close(state(tmp_path / "two")[key], value, atol=2e-4, rtol=1e-2)

"""The engine: every recipe trains, evaluations select and stop, what diverges is kept, processes share a
step."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stepclip.cache import StepclipError
from stepclip.train import fit, list_recipes, load_checkpoint, load_recipe
from stepclip.train.checkpoint import find_checkpoint

SMALL = [
    "data.batch=8", "data.items=0", "model.frames=8", "model.width=32", "model.heads=2", "model.head_dim=16",
    "train.epochs=2", "train.log_every=2", "train.save_every=1", "train.precision=fp32", "optim.lr=0.001",
    "evaluate.every=0", "evaluate.select=last",
]  # fmt: skip


def quiet(recipe, made, out, **more):
    return fit(recipe, made.store, made.manifest, out, device="cpu", progress=False, **more)


def log(run: Path, key: str = "loss") -> list[dict]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [row for row in rows if key in row]


@pytest.mark.parametrize("name", [n for n in list_recipes() if load_recipe(n).method == "weaksvr"])
def test_every_recipe_trains_and_is_found_again(made, tmp_path, name):
    recipe = load_recipe(name, SMALL)
    result = quiet(recipe, made, tmp_path / "run")
    assert result.steps == 2 * (27 // 8) or recipe.data.pairs
    rows, checkpoint = log(tmp_path / "run"), load_checkpoint(tmp_path / "run")
    asked = {
        "coarse": recipe.loss.coarse, "fine": recipe.loss.fine, "script": recipe.loss.script,
        "classes": recipe.loss.classes, "sequence": recipe.loss.sequence,
    }  # fmt: skip
    assert {part for part in asked if part in rows[0]} == {part for part, weight in asked.items() if weight}
    model = checkpoint.model
    assert model.text == (name != "svip") and model.classes == (9 if recipe.loss.classes else 0)
    out = model(torch.randn(1, 8, 16))
    assert out.video.shape == (1, 16 if model.text else 128)
    assert checkpoint.meta["selection"] == {"by": "last", "step": result.steps}


@pytest.mark.parametrize("labels", ["sort", "viterbi", "split"])
def test_the_official_labels_train(made, tmp_path, labels):
    recipe = load_recipe("weaksvr-official", [*SMALL, f"loss.labels={labels}", "train.epochs=1"])
    assert quiet(recipe, made, tmp_path / "run").steps == 3


@pytest.mark.parametrize(
    "extra",
    [
        ["loss.labels=soft-prior", "loss.teacher=true", "optim.ema=0.9", "loss.gumbel=true", "loss.tau=0.5"],
        ["loss.labels=split", "loss.coarse_form=mil", "loss.task_negatives=2", "loss.script=1.0"],
        ["data.pairs=true", "data.same_task=0", "loss.classes=1.0", "loss.sequence=0.5"],
    ],
)
def test_the_options_resume_to_the_bit(made, recipe_with, tmp_path, extra):
    recipe = recipe_with("train.epochs=3", "data.feature_noise=0.2", "model.dropout=0.1", *extra)
    whole = quiet(recipe, made, tmp_path / "whole")
    quiet(recipe, made, tmp_path / "parts", stop_after=4)
    quiet(recipe, made, tmp_path / "parts", resume=True)
    a, b = (load_checkpoint(tmp_path / run).model.state_dict() for run in ("whole", "parts"))
    assert whole.steps >= 9 and all(torch.equal(a[key], b[key]) for key in a)


def test_the_teacher_is_the_average_of_the_weights(made, recipe_with, tmp_path, monkeypatch):
    """What it answers is what the saved, averaged weights answer."""
    from stepclip.train.step import Step

    steps = []
    advance = Step._advance

    def watched(self, inputs):
        with self.averaged():
            self.model.eval()
            averaged = self.model(torch.ones(1, 8, 16)).frames
            self.model.train()
        steps.append((self.teacher(torch.ones(1, 8, 16)).frames - averaged).abs().max().item())
        advance(self, inputs)

    monkeypatch.setattr(Step, "_advance", watched)
    recipe = recipe_with("train.epochs=2", "optim.ema=0.9", "loss.teacher=true", "model.dropout=0.2")
    quiet(recipe, made, tmp_path / "run")
    assert len(steps) == 6 and max(steps) < 1e-5


def watch_of(values):
    """A hook that answers with the next value, and remembers what it saw."""
    seen = []

    def watch(model, step):
        torch.rand(7)  # the run's generator must not move
        assert not model.training
        seen.append((step, {k: v.clone() for k, v in model.state_dict().items()}))
        return {"auc": values[len(seen) - 1], "wdr": 1.0}

    return watch, seen


def test_the_best_on_validation_counts_and_is_kept(made, recipe_with, tmp_path):
    recipe = recipe_with("evaluate.every=1", "evaluate.select=val", "train.keep=1", "optim.ema=0.9")
    watch, seen = watch_of([0.5, 0.7, 0.6, 0.7, 0.3, 0.2])
    quiet(recipe, made, tmp_path / "run", watch=watch)
    assert [step for step, _ in seen] == [3, 6, 9, 12, 15, 18]
    checkpoint = load_checkpoint(tmp_path / "run")
    assert checkpoint.step == 6 and find_checkpoint(tmp_path / "run", newest=True).name == "00000018"
    assert all(torch.equal(checkpoint.model.state_dict()[k], v) for k, v in seen[1][1].items())
    assert checkpoint.meta["selection"] == {"by": "val", "metric": "auc", "value": 0.7, "step": 6}
    assert checkpoint.metrics["watched_wdr"] == 1.0
    assert [row["watched_auc"] for row in log(tmp_path / "run", "watched_auc")] == [
        0.5, 0.7, 0.6, 0.7, 0.3, 0.2
    ]  # fmt: skip
    # the evaluations do not touch the training
    quiet(recipe_with("train.keep=1", "optim.ema=0.9"), made, tmp_path / "plain")
    a = load_checkpoint(find_checkpoint(tmp_path / "run", newest=True)).model.state_dict()
    b = load_checkpoint(tmp_path / "plain").model.state_dict()
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_choice_by_the_test_says_so(made, recipe_with, tmp_path):
    recipe = recipe_with("evaluate.every=2", "evaluate.select=best-on-test")
    watch, _ = watch_of([0.5, 0.9, 0.1])
    quiet(recipe, made, tmp_path / "run", watch=watch)
    checkpoint = load_checkpoint(tmp_path / "run")
    assert checkpoint.meta["selection"]["by"] == "best-on-test" and checkpoint.step == 12
    assert "test figures are optimistic" in (checkpoint.path / "README.md").read_text()


def test_no_better_evaluation_stops_the_run_early_also_across_a_resume(made, recipe_with, tmp_path):
    recipe = recipe_with("evaluate.every=1", "train.patience=2")
    watch, seen = watch_of([0.5, 0.4, 0.3, 0.9])
    result = quiet(recipe, made, tmp_path / "run", watch=watch)
    assert result.steps == 9 and len(seen) == 3 and "2 evaluations no better than auc 0.5000" in str(result)
    assert load_checkpoint(tmp_path / "run").step == 9
    watch, seen = watch_of([0.5, 0.4, 0.3, 0.9])
    quiet(recipe, made, tmp_path / "parts", watch=watch, stop_after=6)
    result = quiet(recipe, made, tmp_path / "parts", watch=watch, resume=True)
    assert result.steps == 9 and result.stopped


def test_evaluations_without_a_hook_or_a_figure_are_refused(made, recipe_with, tmp_path):
    with pytest.raises(StepclipError, match="nothing that evaluates"):
        quiet(recipe_with("evaluate.every=1"), made, tmp_path / "run")
    with pytest.raises(StepclipError, match="without 'auc'"):
        quiet(recipe_with("evaluate.every=1"), made, tmp_path / "run", watch=lambda model, step: {"f1": 1.0})


def test_a_run_that_diverges_stops_and_keeps_its_state(made, recipe_with, tmp_path):
    run, recipe = tmp_path / "run", recipe_with("train.diverged=1.2", "optim.ema=0", "train.epochs=12")
    quiet(recipe, made, run, stop_after=30)
    state_file = load_checkpoint(run).path / "state.pt"
    state = torch.load(state_file, weights_only=True)
    state["model"]["pool.linear.weight"].mul_(-1)  # what it learned, turned round
    state["model"]["pool.linear.bias"].mul_(-1)
    torch.save(state, state_file)
    with pytest.raises(StepclipError, match=r"the loss grew from .* at step \d+; its videos: ") as caught:
        quiet(recipe, made, run, resume=True)
    folder = Path(caught.value.expected.split("the state that failed is in ")[1])
    assert folder.parent == tmp_path / "run" / "diverged"
    kept = load_checkpoint(folder)
    assert kept.step > 0 and len(caught.value.found.split("videos: ")[1].split(", ")) == 8
    assert not (tmp_path / "run" / "checkpoints" / folder.name).exists()
    # asked not to look, it goes on
    shutil.copytree(kept.path, tmp_path / "wild" / "checkpoints" / "00000031")
    wild = recipe_with("train.diverged=0", "optim.ema=0", "train.epochs=12")
    assert quiet(wild, made, tmp_path / "wild", resume=True).steps == 36
    assert quiet(recipe_with("train.epochs=1"), made, tmp_path / "run", overwrite=True).steps == 3
    assert not (tmp_path / "run" / "diverged").exists()


def test_what_lies_beside_the_weights(made, recipe_with, tmp_path):
    quiet(recipe_with("train.epochs=2"), made, tmp_path / "run")
    folder = load_checkpoint(tmp_path / "run").path
    card = (folder / "README.md").read_text()
    for word in ("# benchlab, step 6 of 6", "no times, no labels", "encoder.name | made", "prior", "seed 0"):
        assert word in card, word
    events = list((tmp_path / "run" / "tensorboard").glob("events.*"))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(events[0])).Reload()
    written = {e.step: e.value for e in board.Scalars("train/loss")}
    assert written == pytest.approx({row["step"]: row["loss"] for row in log(tmp_path / "run")})


def test_half_precision_wants_a_gpu(made, recipe_with, tmp_path):
    with pytest.raises(StepclipError, match="fp16 on cpu"):
        quiet(recipe_with("train.precision=fp16"), made, tmp_path / "run")


_PROCESS = """
import sys
from pathlib import Path
from stepclip.cache import Manifest
from stepclip.train import fit, load_recipe
store, manifest, out = map(Path, sys.argv[1:4])
fit(load_recipe("benchlab", sys.argv[4:]), store, Manifest.read(manifest), out, device="cpu", progress=False)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "extra",
    [
        ["loss.labels=prior", "data.feature_noise=0.3", "loss.task_negatives=2"],
        ["data.pairs=true", "data.same_task=0", "loss.classes=1.0", "loss.sequence=1.0"],
    ],
)
def test_two_processes_train_to_the_loss_and_gradients_of_one(made, recipe_with, tmp_path, extra):
    """torchrun with gloo, each process half of every batch, against one with all of it."""
    overrides = [
        "data.batch=8", "model.frames=8", "model.width=32", "model.heads=2", "model.head_dim=16",
        "train.epochs=2", "train.log_every=1", "train.precision=fp32", "optim.lr=0.001", "model.dropout=0",
        "optim.clip=0", *extra,
    ]  # fmt: skip
    (tmp_path / "run.py").write_text(_PROCESS)
    made.manifest.write(tmp_path / "manifest")
    inputs = [str(made.store), str(tmp_path / "manifest")]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, *torchrun, str(tmp_path / "run.py"), *inputs, str(tmp_path / "two"), *overrides],
        capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    fit(load_recipe("benchlab", overrides), made.store, made.manifest, tmp_path / "one", device="cpu",
        progress=False)  # fmt: skip
    one, two = log(tmp_path / "one"), log(tmp_path / "two")
    assert len(one) == len(two) >= 6
    for a, b in zip(one, two, strict=True):
        for key in a.keys() - {"seconds", "videos_per_s"}:  # grad_norm among them: AdamW hides a factor
            assert b[key] == pytest.approx(a[key], rel=2e-4, abs=1e-6), key
    first, second = (load_checkpoint(tmp_path / run) for run in ("one", "two"))
    for key, value in first.model.state_dict().items():
        torch.testing.assert_close(second.model.state_dict()[key], value, atol=2e-5, rtol=1e-3)
    assert (first.meta["processes"], second.meta["processes"]) == (1, 2)

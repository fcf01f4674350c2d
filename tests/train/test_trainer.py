"""`fit` from the outside: what it leaves on disk, that it learns, goes on to the bit, and refuses what it
should."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from stepclip.cache import FeatureStore, FeatureWriter, Fingerprint, Manifest, StepclipError
from stepclip.train import fit, load_checkpoint
from stepclip.train.alignment import monotone
from stepclip.train.console import pick_device
from stepclip.train.loop import Loop
from stepclip.train.losses import unit
from stepclip.train.recipe import load_recipe
from stepclip.train.weaksvr.sampling import dense_rows


def weights(run):
    return {k: v.clone() for k, v in load_checkpoint(run).model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def log(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def quiet(recipe, made, out, **more):
    return fit(recipe, made.store, made.manifest, out, device="cpu", progress=False, **more)


def test_a_run_learns_and_leaves_what_the_page_says(made, small, tmp_path, capsys):
    run = tmp_path / "run"
    result = fit(small, made.store, made.manifest, run, device="cpu")
    said = capsys.readouterr().err
    assert all(
        word in said for word in ("cpu", "fp32", "recipe benchlab", "27 videos, 9 procedures, 3 tasks")
    )
    assert result.videos == 27 and result.steps == 6 * (27 // 8) and "trained 18 steps" in str(result)
    losses = [row["loss"] for row in log(run) if "loss" in row]
    assert losses[-1] < losses[0] - 0.5
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["00000012", "00000018", "last"]
    assert load_recipe(run / "recipe.yaml") == small
    checkpoint = load_checkpoint(run)
    assert checkpoint.step == 18 and checkpoint.recipe == small and not checkpoint.model.training
    assert checkpoint.fingerprint == FeatureStore.open(made.store).fingerprint
    assert checkpoint.metrics["loss"] == result.loss
    assert load_checkpoint(run / "checkpoints" / "00000012").step == 12


def test_step_times_and_other_splits_do_not_reach_training(made, small, tmp_path):
    quiet(small, made, tmp_path / "a")
    kept = [row for row in made.manifest if row.split == "train"]
    blind = Manifest(tuple(replace(row, step_start=None, step_end=None) for row in kept))
    fit(small, made.store, blind, tmp_path / "b", device="cpu", progress=False)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_the_trained_frames_find_their_steps(made, recipe_with, tmp_path):
    """Unseen tasks: the alignment of the trained frame embeddings against the hidden truth."""
    quiet(recipe_with("train.epochs=20"), made, tmp_path / "run")
    model = load_checkpoint(tmp_path / "run").model
    store = FeatureStore.open(made.store)
    hits = total = 0
    for row in made.manifest.split("test"):
        features = torch.tensor(np.asarray(store[row.video_id].features), dtype=torch.float32)
        rows, own = dense_rows(len(features), model.frames)
        with torch.no_grad():
            h = model(features[rows]).frames
        frames = torch.empty(len(features), h.shape[-1])
        frames[rows[own]] = h[own]
        sim = unit(frames) @ unit(torch.tensor(store.text(row.steps, "step"))).T
        hits += int((monotone(sim, visit_all=True).numpy() == made.labels[row.video_id]).sum())
        total += len(features)
    assert hits / total > 0.85


@pytest.mark.parametrize("extra", [[], ["optim.ema=0", "loss.labels=viterbi", "data.same_task=0"]])
def test_a_resumed_run_ends_with_the_same_weights(made, recipe_with, tmp_path, extra):
    recipe = recipe_with(*extra)
    quiet(recipe, made, tmp_path / "whole")
    first = quiet(recipe, made, tmp_path / "parts", stop_after=7)  # in the middle of an epoch
    assert first.steps == 7
    for _ in range(2):
        result = quiet(recipe, made, tmp_path / "parts", resume=True, stop_after=6)
    assert result.steps == 18
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    a, b = ([r["step"] for r in log(tmp_path / p) if "loss" in r] for p in ("whole", "parts"))
    assert set(a) <= set(b) and b == sorted(set(b))
    # nothing is left to do: the same again
    assert quiet(recipe, made, tmp_path / "parts", resume=True).steps == 18


def test_a_killed_run_leaves_lines_that_a_resume_cuts(made, small, tmp_path):
    run = tmp_path / "run"
    quiet(small, made, run, stop_after=6)
    with open(run / "log.jsonl", "a") as file:
        file.write('{"step": 8, "loss": 1}\n{"step": 9, "lo')
    (run / "checkpoints" / ".00000009.1.abc.tmp").mkdir()
    quiet(small, made, run, resume=True)
    steps = [row["step"] for row in log(run) if "loss" in row]
    assert steps == sorted(set(steps)) and steps[-1] == 18


def test_seeds_repeat_and_differ(made, recipe_with, tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        torch.rand(5)  # the caller's generator is neither used nor moved
        before = torch.get_rng_state()
        quiet(recipe_with(f"seed={seed}", "train.epochs=2"), made, tmp_path / name)
        assert torch.equal(before, torch.get_rng_state())
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_the_average_is_what_is_kept(made, recipe_with, tmp_path):
    quiet(recipe_with("optim.ema=0.9"), made, tmp_path / "run")
    folder = load_checkpoint(tmp_path / "run").path
    raw = torch.load(folder / "state.pt", weights_only=True)["model"]
    assert not same(raw, weights(tmp_path / "run"))


def test_a_run_is_never_overwritten_unasked(made, recipe_with, tmp_path):
    run, short = tmp_path / "run", recipe_with("train.epochs=1")
    quiet(short, made, run)
    before = weights(run)
    with pytest.raises(StepclipError, match="there already"):
        quiet(short, made, run)
    (run / "results.json").write_text("{}")
    quiet(recipe_with("train.epochs=1", "seed=9"), made, run, overwrite=True)
    assert not same(before, weights(run)) and (run / "results.json").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_is_no_run_is_left_alone(made, small, tmp_path, overwrite):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StepclipError, match=r"no run: it holds thesis\.tex"):
        quiet(small, made, tmp_path, overwrite=overwrite)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_resume_with_another_recipe_or_cache_is_refused_with_the_difference(
    made, recipe_with, make_cache, tmp_path
):
    run = tmp_path / "run"
    quiet(recipe_with(), made, run, stop_after=3)
    with pytest.raises(StepclipError, match=r"optim\.lr  run: 0\.001  now: 0\.002"):
        quiet(recipe_with("optim.lr=0.002"), made, run, resume=True)
    other = make_cache(tmp_path / "other", seed=1)
    with pytest.raises(StepclipError, match="seed") as caught:
        quiet(recipe_with(), other, run, resume=True)
    assert "another cache" in str(caught.value)
    fewer = replace(made, manifest=made.manifest.select(row.video_id for row in list(made.manifest)[3:]))
    with pytest.raises(StepclipError, match="other videos"):
        quiet(recipe_with(), fewer, run, resume=True)
    # what does not change the weights may change
    quiet(recipe_with("train.log_every=1", "name=renamed"), made, run, resume=True)


def test_nothing_to_resume(made, small, tmp_path):
    with pytest.raises(StepclipError, match="no run to resume"):
        quiet(small, made, tmp_path / "none", resume=True)


def test_a_loss_that_is_not_finite_stops_the_run_and_spares_the_checkpoints(made, recipe_with, tmp_path):
    run, recipe = tmp_path / "run", recipe_with()
    quiet(recipe, made, run, stop_after=5)
    before, last = weights(run), load_checkpoint(run).path
    state = torch.load(last / "state.pt", weights_only=True)
    state["model"]["output.weight"].fill_(float("nan"))
    torch.save(state, last / "state.pt")
    with pytest.raises(StepclipError, match=r"not finite at step 5; its videos: \d\.\d/\d") as caught:
        quiet(recipe, made, run, resume=True)
    assert len(caught.value.found.split("videos: ")[1].split(", ")) == 8
    assert same(before, weights(run)) and load_checkpoint(run).path == last
    with pytest.raises(StepclipError, match="not finite"):
        quiet(recipe_with("optim.lr=1e30", "optim.warmup=0", "optim.clip=0"), made, tmp_path / "wild")


def test_held_out_tasks_are_watched_not_trained_on(made, recipe_with, tmp_path):
    result = quiet(recipe_with("data.val_tasks=1", "train.epochs=2"), made, tmp_path / "run")
    assert result.videos == 18
    rows = log(tmp_path / "run")
    assert "held out" in rows[0]["says"][1] and any("held_out_loss" in row for row in rows)
    with pytest.raises(StepclipError, match="3 of 3"):
        quiet(recipe_with("data.val_tasks=3"), made, tmp_path / "none")


def test_a_manifest_without_splits_trains_on_everything(made, recipe_with, tmp_path):
    rows = tuple(replace(row, split="") for row in made.manifest)
    assert (
        quiet(recipe_with("train.epochs=1"), replace(made, manifest=Manifest(rows)), tmp_path / "a").videos
        == 36
    )
    rows = tuple(replace(row, split="test") for row in made.manifest)
    with pytest.raises(StepclipError, match="no video of the split 'train'"):
        quiet(recipe_with(), replace(made, manifest=Manifest(rows)), tmp_path / "b")


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_two_tiny_videos_train(recipe_with, tmp_path, frames, made):
    """Fewer videos than a batch, fewer rows than a view, one-step scripts."""
    rows = list(made.manifest)[:2]
    rows = [replace(row, steps=row.steps[:1], step_start=None, step_end=None) for row in rows]
    rng = np.random.default_rng(0)
    with FeatureWriter(tmp_path / "f", Fingerprint({"a": 1}), dim=12) as writer:
        for row in rows:
            writer.add(
                row.video_id,
                rng.normal(size=(frames, 12)).astype(np.float16),
                np.arange(frames) / 2,
                frames / 2,
            )
        for kind in ("step", "paragraph"):
            names = sorted({row.steps[0] for row in rows})
            writer.add_text(names, rng.normal(size=(len(names), 10)).astype(np.float32), kind)
    result = fit(
        recipe_with(), tmp_path / "f", Manifest(tuple(rows)), tmp_path / "run", device="cpu", progress=False
    )
    assert result.steps == 6 and np.isfinite(result.loss)
    assert load_checkpoint(tmp_path / "run").model(torch.randn(1, 8, 12)).video.shape == (1, 10)


def test_videos_and_texts_without_features(made, recipe_with, tmp_path):
    extra = replace(next(iter(made.manifest)), video_id="ghost")
    quiet(
        recipe_with("train.epochs=1"),
        replace(made, manifest=Manifest((*made.manifest, extra))),
        tmp_path / "a",
    )
    assert "1 of 28 training videos have no features" in log(tmp_path / "a")[0]["says"][1]
    with pytest.raises(StepclipError, match="no video"):
        quiet(recipe_with(), replace(made, manifest=Manifest((extra,))), tmp_path / "b")
    rows = [replace(row, steps=("fly to the moon",), step_start=None, step_end=None) for row in made.manifest]
    with pytest.raises(StepclipError, match="fly to the moon"):
        quiet(recipe_with(), replace(made, manifest=Manifest(tuple(rows))), tmp_path / "c")
    assert not (tmp_path / "b").exists() and not (tmp_path / "c").exists()


def test_damaged_checkpoints_say_so(made, recipe_with, tmp_path):
    run = tmp_path / "run"
    quiet(recipe_with("train.epochs=4"), made, run)
    last = load_checkpoint(run).path
    for name, damage in (
        ("model.safetensors", lambda p: p.write_bytes(p.read_bytes()[:-100])),
        ("model.safetensors", lambda p: p.write_bytes(b"")),
        ("model.safetensors", lambda p: p.unlink()),
        ("meta.json", lambda p: p.write_text("{}")),
        ("recipe.yaml", lambda p: p.write_text("name: [")),
        ("recipe.yaml", lambda p: p.unlink()),
    ):
        shutil.copytree(last, tmp_path / "copy", dirs_exist_ok=True)
        damage(tmp_path / "copy" / name)
        with pytest.raises(StepclipError, match=name.replace(".", r"\.")):
            load_checkpoint(tmp_path / "copy")
    (last / "state.pt").write_bytes(b"\x00" * 100)
    with pytest.raises(StepclipError, match=r"state\.pt is missing or damaged"):
        quiet(recipe_with("train.epochs=4"), made, run, resume=True)
    shutil.rmtree(last)  # the pointer points to nothing: the one before
    assert load_checkpoint(run).step == 6
    with pytest.raises(StepclipError, match="no folder"):
        load_checkpoint(tmp_path / "nothing")
    with pytest.raises(StepclipError, match="no checkpoint"):
        load_checkpoint(made.store)


def test_bf16_trains(made, recipe_with, tmp_path):
    result = quiet(recipe_with("train.precision=bf16", "train.epochs=2"), made, tmp_path / "run")
    assert np.isfinite(result.loss)
    assert all(v.dtype == torch.float32 for v in weights(tmp_path / "run").values())


def test_an_unknown_device_is_refused(made, small, tmp_path):
    with pytest.raises(StepclipError, match="toaster"):
        fit(small, made.store, made.manifest, tmp_path / "run", device="toaster", progress=False)
    assert pick_device("auto").type in ("cpu", "cuda")


class Waits(TorchDispatchMode):
    """Notes every operation that reads from the device, at which a GPU's host would wait."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.name().split("::")[1].split(".")[0] in (
            "_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique_dim", "_unique2"
        ):  # fmt: skip
            self.seen.append(func.name())
        if any(isinstance(i, torch.Tensor) and i.dtype == torch.bool for i in _indices(func, args)):
            self.seen.append("boolean index")
        return func(*args, **(kwargs or {}))


def _indices(func, args):
    return args[1] if func.name().startswith("aten::index.") else ()


@pytest.mark.parametrize(
    "extra",
    [
        ["loss.labels=viterbi", "loss.task_negatives=2", "loss.teacher=true"],
        ["loss.labels=split", "loss.gumbel=true"],
        ["loss.labels=uniform", "loss.script=1.0", "data.feature_noise=0.1"],
        ["data.pairs=true", "data.same_task=0", "loss.classes=1.0", "loss.sequence=1.0"],
        ["loss.fine_form=official", "loss.labels=split", "loss.gumbel=true", "data.padding=mean"],
        ["loss.fine_form=official", "loss.labels=sort", "loss.coarse_group=4", "optim.decay=all"],
    ],
)
def test_no_step_waits_for_the_device(made, recipe_with, tmp_path, extra):
    """Of all that is this room's; the alignment kernels answer for themselves, and have a stand-in here."""
    waits, counts = Waits(), []
    step = Loop.one_step

    def watched(self):
        self.inputs(self.step)  # planned once an epoch, on the host
        with waits:
            step(self)
        counts.append(len(waits.seen))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "one_step", watched)
        labels = import_module("stepclip.train.losses.pseudo_labels")
        patch.setattr(labels, "monotone", lambda s, *_, **__: s.argmax(2))
        scripts = import_module("stepclip.train.losses.script_order")
        patch.setattr(scripts, "soft_monotone", lambda s, *_, **__: s.amax(3).sum(2))
        quiet(recipe_with("train.epochs=1", "optim.ema=0.9", *extra), made, tmp_path / "run")
    assert len(counts) >= 3 and waits.seen == []
    with waits:  # the net catches
        float(torch.ones(1)), torch.ones(2)[torch.tensor([True, False])]
    assert len(waits.seen) >= 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_python_drops_ends_the_run_all_the_same(capfd: pytest.CaptureFixture[str]) -> None:
    """It strikes while a destructor runs, where exceptions are printed and forgotten."""
    import os
    import signal

    from stepclip.train.console import interruptible

    class Deaf:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000):
                pass

    before = signal.getsignal(signal.SIGINT)
    steps = 0
    with pytest.raises(KeyboardInterrupt), interruptible() as check:
        while steps < 5:
            check()
            steps += 1
            if steps == 2:
                thing = Deaf()
                del thing
    assert steps == 2 and signal.getsignal(signal.SIGINT) is before

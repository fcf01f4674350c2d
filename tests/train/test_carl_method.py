"""CARL through the engine: what a run leaves, that it learns, goes on to the bit, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from stepclip.cache import FeatureStore, FeatureWriter, Fingerprint, Manifest, StepclipError, VideoRow
from stepclip.train import fit, load_checkpoint, load_recipe
from stepclip.train.carl.data import ViewSet
from stepclip.train.carl.knobs import CarlData
from stepclip.train.carl.method import group_pairs, start
from stepclip.train.method import Setting

TINY = [
    "data.batch=8", "data.frames=8", "model.hidden=24", "model.width=16", "model.heads=2", "model.mlp=32",
    "model.depth=1", "model.embedding=16", "model.projection=16", "train.epochs=6", "train.log_every=2",
    "train.save_every=2", "train.precision=fp32", "optim.lr=0.003",
]  # fmt: skip


def recipe_of(name="carl-corrected", *overrides):
    return load_recipe(name, [*TINY, *overrides])


def method_of(made, recipe):
    store = FeatureStore.open(made.store)
    rows = [row for row in made.manifest if row.split == "train"]
    return start(recipe, Setting(store, rows, (), torch.device("cpu")))


def quiet(recipe, made, out, **more):
    return fit(recipe, made.store, made.manifest.without_truth(), out, device="cpu", progress=False, **more)


def weights(run):
    return load_checkpoint(run).model.state_dict()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["carl-corrected", "carl-official", "carl-weak", "stepclip-carl", "tcc", "tcn"]
)
def test_every_recipe_learns(made, tmp_path, name):
    result = quiet(recipe_of(name, "train.epochs=12"), made, tmp_path / name)
    rows = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < losses[0] and np.isfinite(losses).all() and result.videos == 27
    checkpoint = load_checkpoint(tmp_path / name)
    assert checkpoint.recipe.method == "carl" and not checkpoint.model.training


def test_a_resumed_run_is_the_unbroken_one(made, tmp_path):
    recipe = recipe_of("carl-weak")
    quiet(recipe, made, tmp_path / "whole")
    quiet(recipe, made, tmp_path / "broken", stop_after=7)
    quiet(recipe, made, tmp_path / "broken", resume=True)
    whole, broken = weights(tmp_path / "whole"), weights(tmp_path / "broken")
    assert all(torch.equal(whole[name], broken[name]) for name in whole)


def test_an_epoch_follows_from_the_seed(made):
    plans = [
        method_of(made, recipe_of("carl-corrected", f"seed={s}")).plan(e) for s, e in ((1, 3), (1, 3), (1, 4))
    ]
    assert all(torch.equal(a, b) for a, b in zip(plans[0], plans[1], strict=True))
    assert not torch.equal(plans[0][1], plans[2][1])
    order = plans[0][0]
    assert order.shape == (3, 8) and len(set(order.flatten().tolist())) == 24


def test_videos_of_one_label_stand_together(made):
    method = method_of(made, recipe_of("carl-weak", "data.group=4", "loss.weak_warmup=0.5"))
    labels = method.data.labels
    for epoch in (0, 5):
        order, _, counts = method.plan(epoch)
        assert (
            labels[order].view(len(order), -1, 4).amax(-1) == labels[order].view(len(order), -1, 4).amin(-1)
        ).all()
        assert counts.tolist() == [float(epoch == 5)] * len(order)
    pairs = group_pairs(8, 4)
    assert pairs.shape == (2, 12) and (pairs[0] // 4 == pairs[1] // 4).all() and (pairs[0] < pairs[1]).all()


def test_the_weak_loss_waits_for_its_warmup(made):
    method = method_of(made, recipe_of("carl-weak", "loss.weak_warmup=0.5"))
    for epoch, waits in ((0, True), (5, False)):
        inputs = tuple(part[0] for part in method.plan(epoch))
        terms = method.terms(method.model, inputs)
        assert (terms["weak"].item() == 0) == waits and terms["contrast"].item() > 0


def test_the_loss_of_videos_held_out_is_watched(made, tmp_path):
    quiet(
        recipe_of("carl-weak", "data.val_tasks=1", "train.epochs=2", "data.batch=4"), made, tmp_path / "run"
    )
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    held = [row["held_out_loss"] for row in rows if "held_out_loss" in row]
    assert (
        held
        and all(np.isfinite(held))
        and load_checkpoint(tmp_path / "run").metrics["held_out_loss"] == held[-1]
    )


_PROCESS = """
import sys
from stepclip.cache import Manifest
from stepclip.train import fit, load_recipe
store, manifest, out, *overrides = sys.argv[1:]
fit(load_recipe("carl-weak", overrides), store, Manifest.read(manifest), out, device="cpu", progress=False)
"""


@pytest.mark.slow
def test_two_processes_train_to_the_loss_and_gradients_of_one(made, tmp_path):
    """torchrun with gloo: the norm of both processes' frames, the contrast of the whole batch, its pairs."""
    overrides = [*TINY, "model.dropout=0", "optim.clip=0", "optim.lr=0.001", "train.epochs=2",
                 "train.log_every=1", "loss.weak_warmup=0", "loss.negatives=batch_noself"]  # fmt: skip
    (tmp_path / "run.py").write_text(_PROCESS)
    made.manifest.write(tmp_path / "manifest")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    inputs = [str(tmp_path / "run.py"), str(made.store), str(tmp_path / "manifest"), str(tmp_path / "two")]
    done = subprocess.run(
        [sys.executable, *torchrun, *inputs, *overrides],
        capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    quiet(load_recipe("carl-weak", overrides), made, tmp_path / "one")
    logs = ((tmp_path / run / "log.jsonl").read_text().splitlines() for run in ("one", "two"))
    one, two = ([row for row in map(json.loads, lines) if "loss" in row] for lines in logs)
    assert len(one) == len(two) >= 6
    for a, b in zip(one, two, strict=True):
        for key in a.keys() - {"seconds", "videos_per_s"}:
            assert b[key] == pytest.approx(a[key], rel=1e-3, abs=1e-5), key
    # not weight by weight: a bias before a norm does nothing, and Adam makes steps of its rounding
    first, second = (load_checkpoint(tmp_path / run).model for run in ("one", "two"))
    frames = torch.randn(2, 12, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        alike = torch.nn.functional.cosine_similarity(first(frames).frames, second(frames).frames, dim=-1)
    assert alike.min() > 0.999


def write(folder, lengths, fps, views=0, d=6):
    rng = np.random.default_rng(0)
    rows = []
    with FeatureWriter(folder, Fingerprint({"encoder.name": "made"}), dim=d, views=views) as writer:
        for i, n in enumerate(lengths):
            plain = rng.normal(size=(n, d)).astype(np.float16)
            copies = np.stack([plain + 10 * (k + 1) for k in range(views)]) if views else None
            writer.add(f"v{i}", plain, np.arange(n) / fps, n / fps, views=copies)
            rows.append(VideoRow(f"v{i}", f"/v{i}.mp4", "1", str(i % 2), "train", steps=("a", "b")))
    return FeatureStore.open(folder), Manifest(tuple(rows))


def test_the_prior_is_in_seconds_and_never_narrower_than_a_row(tmp_path):
    """The same second lies in the same place whatever the rate; a slow cache gets a wider prior."""
    for fps, wanted in ((25.0, 0.1265), (10.0, 0.1265), (2.0, 0.5)):
        store, manifest = write(tmp_path / str(fps), [40, 60], fps)
        data = ViewSet(store, list(manifest), CarlData(frames=8), torch.device("cpu"))
        index = torch.tensor([0, 1])
        batch = data.gather(index, torch.rand(2, 2, data.draws))
        assert batch.sigma.tolist() == pytest.approx([wanted] * 2, rel=1e-3)
        assert torch.allclose(batch.times, batch.rows / fps, atol=1e-4)
        rows = data.gather(index, torch.rand(2, 2, data.draws), clock="rows", sigma=10**0.5, least_sigma=0.0)
        assert torch.equal(rows.times, rows.rows.float()) and rows.sigma.tolist() == pytest.approx(
            [10**0.5] * 2
        )


def test_views_take_two_copies_of_the_cache(tmp_path):
    store, manifest = write(tmp_path / "copies", [30] * 6, 4.0, views=3)
    data = ViewSet(store, list(manifest), CarlData(frames=8), torch.device("cpu"))
    assert data.appearance == "cached"
    batch = data.gather(torch.arange(6).repeat(20), torch.rand(120, 2, data.draws))
    copies = (batch.frames.mean((2, 3)) / 10).round()  # copy k lies 10 (k + 1) higher
    assert (copies[:, 0] != copies[:, 1]).all() and set(copies.flatten().tolist()) == {1.0, 2.0, 3.0}
    plain = data.gather(torch.arange(6), torch.rand(6, 2, data.draws), changed=False)
    assert float(plain.frames.mean().abs()) < 1
    fitted = ViewSet(store, list(manifest), CarlData(frames=8, appearance="fitted"), torch.device("cpu"))
    moved = fitted.gather(torch.arange(6), torch.rand(6, 2, fitted.draws)).frames
    assert 10 < float(moved.mean()) < 30  # as far from the frames as the copies are


def test_features_on_the_disk_are_read_alike(made, tmp_path):
    recipe = recipe_of("carl-corrected", "data.appearance=none", "train.epochs=1")
    quiet(recipe, made, tmp_path / "a")
    quiet(
        recipe_of("carl-corrected", "data.appearance=none", "train.epochs=1", "data.features=mapped"),
        made,
        tmp_path / "b",
    )
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.allclose(a[name], b[name], atol=1e-6) for name in a)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["loss.contrast=0"], "loss.contrast"),
        (["loss.weak=0.5"], "data.group"),
        (["data.group=3"], "data.batch"),
        (["data.sampler=earlier"], "data.sampler"),
        (["model.heads=3"], "model.heads"),
        (["data.appearance=cached", "data.features=mapped"], "data.appearance"),
    ],
)
def test_what_does_not_fit_together_is_refused_by_name(overrides, says):
    with pytest.raises(StepclipError, match=says):
        recipe_of("carl-corrected", *overrides)


def test_what_the_data_lack_is_said(made, tmp_path):
    with pytest.raises(StepclipError, match="without augmented copies"):
        method_of(made, recipe_of("carl-corrected", "data.appearance=cached"))
    store, manifest = write(tmp_path / "short", [1, 30], 4.0)
    with pytest.raises(StepclipError, match="one frame"):
        ViewSet(store, list(manifest), CarlData(), torch.device("cpu"))
    store, manifest = write(tmp_path / "single", [30, 30], 4.0)
    with pytest.raises(StepclipError, match="procedure"):
        start(recipe_of("carl-weak"), Setting(store, list(manifest), (), torch.device("cpu")))

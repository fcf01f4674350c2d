"""Which checkpoint is evaluated: by name, by step, by validation, and on the test, marked as such."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stepclip.cache.errors import StepclipError
from stepclip.cache.manifest import Manifest
from stepclip.evaluate import evaluate, write_report
from stepclip.evaluate.selection import select_checkpoint, verification_auc
from stepclip.train.checkpoint import load_checkpoint, save_checkpoint
from stepclip.train.recipe import load_recipe
from stepclip.train.weaksvr.knobs import WeakSVRModel
from stepclip.train.weaksvr.model import StepModel

from .conftest import DIM, World, build_world

STEPS = (10, 200, 3000)


@pytest.fixture(scope="module")
def split_world() -> World:
    """Task 0 is the training, task 1 the validation, task 2 the test."""
    world = build_world(noise=0.6)
    names = {"0": "train", "1": "val", "2": "test"}
    videos = tuple(replace(v, split=names[v.task]) for v in world.manifest.videos)
    pairs = tuple(replace(p, split=names[p.video_a[0]]) for p in world.manifest.pairs)
    matching = tuple(replace(r, split=names[r.procedure[0]]) for r in world.manifest.matching)
    world.manifest = Manifest(videos, pairs, matching, "planted")
    return world


@pytest.fixture(scope="module")
def run(split_world: World, tmp_path_factory) -> Path:  # type: ignore[no-untyped-def]
    """Three checkpoints of random weights, oldest first: each has its own AUC on each split."""
    folder = tmp_path_factory.mktemp("runs") / "three"
    model = WeakSVRModel(frames=8, width=16, depth=1, heads=2, head_dim=8, residual=False)
    recipe = load_recipe("weaksvr-corrected").model_copy(update={"model": model})
    for seed, step in enumerate(STEPS):
        torch.manual_seed(seed)
        weights = StepModel(model, DIM, DIM).state_dict()
        meta = {"step": step, "fingerprint": split_world.store.fingerprint.fields, "metrics": {}}
        meta |= {"feature_dim": DIM, "text_dim": DIM, "stepclip": "0", "steps": STEPS[-1], "videos": 12}
        meta |= {"parameters": 1, "precision": "fp32", "digest": split_world.store.fingerprint.digest}
        save_checkpoint(
            folder / "checkpoints", recipe=recipe, weights=weights, state={}, meta=meta, keep=len(STEPS)
        )
    return folder


def aucs(run: Path, world: World, split: str) -> list[float]:
    part = world.manifest.split(split)
    return [
        verification_auc(run / "checkpoints" / f"{step:08d}", world.store, part, "cpu")  # type: ignore[arg-type]
        for step in STEPS
    ]


def selected(run: Path, world: World, which: str, split: str = "test"):  # type: ignore[no-untyped-def]
    return select_checkpoint(run, which, world.store, world.manifest, split, device="cpu")  # type: ignore[arg-type]


def test_the_quoted_auc_is_what_chooses(run: Path, split_world: World) -> None:
    whole = evaluate(run, split_world.store, split_world.manifest, device="cpu", progress=False)
    assert whole.headline()["auc"] == pytest.approx(aucs(run, split_world, "test")[-1])


def test_last_step_and_the_run_s_own(run: Path, split_world: World) -> None:
    for which in ("selected", "last"):
        path, found = selected(run, split_world, which)
        assert path.name == "00003000" and found.step == 3000 and not found.on_test and not found.tried
        assert str(found) == "last checkpoint (step 3000)"
    path, found = selected(run, split_world, "200")
    assert path.name == "00000200" and str(found) == "checkpoint of step 200" and found.label == "step-200"


def test_best_on_validation_and_on_the_test(run: Path, split_world: World) -> None:
    val, test = aucs(run, split_world, "val"), aucs(run, split_world, "test")
    assert len(set(val)) == len(set(test)) == 3 and np.argmax(val) != np.argmax(test), (
        "the seeds no longer differ"
    )
    path, found = selected(run, split_world, "best-val")
    assert int(path.name) == found.step == STEPS[int(np.argmax(val))]
    assert found.tried == tuple(zip(STEPS, val, strict=True)) and not found.on_test
    assert str(found) == f"checkpoint of step {found.step}: best of 3 kept on split 'val'"
    path, found = selected(run, split_world, "best-on-test")
    assert int(path.name) == STEPS[int(np.argmax(test))] and found.on_test
    assert str(found).endswith("best of 3 kept on split 'test', THE ONE REPORTED")
    _, found = selected(run, split_world, "best-val", "val")
    assert found.on_test  # what is reported is what chose it, whatever the split's name


def test_what_was_chosen_on_the_test_says_so_wherever_it_shows(
    run: Path, split_world: World, tmp_path: Path
) -> None:
    from rich.console import Console

    shown = {}
    for which in ("selected", "best-on-test"):
        found = evaluate(
            run, split_world.store, split_world.manifest, checkpoint=which, device="cpu", progress=False
        )
        as_json, as_text = found.save(tmp_path)
        page = write_report(run, found, out=tmp_path / found.file(".html", "report")).read_text()
        console = Console(width=100, record=True, file=io.StringIO())
        found.print(console)
        shown[which] = as_text.read_text(), page, console.export_text()
        saved = json.loads(as_json.read_text())["selection"]
        assert saved["on_test"] == (which == "best-on-test") and saved["step"] == found.selection.step
        rows = as_text.read_text().count("| trained (chosen on the test) |")
        assert rows == (
            sum(r.kind == "trained" for p in found.parts() for r in p.rows) if saved["on_test"] else 0
        )
    assert sorted(p.name for p in tmp_path.glob("results*.json")) == [
        "results-best-on-test.json",
        "results.json",
    ]
    for honest, marked in zip(shown["selected"], shown["best-on-test"], strict=True):
        assert "chosen on the test" in marked and "THE ONE REPORTED" in marked.replace("&#39;", "'")
        assert "chosen on the test" not in honest and "THE ONE REPORTED" not in honest


def test_what_training_recorded_is_believed(run: Path, split_world: World, tmp_path: Path) -> None:
    """A trainer that selects writes its choice down; the reader gives that checkpoint for the run. One that
    was only the newest then says which was the best, and is not it."""
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    last = copy / "checkpoints" / "00003000"
    meta = json.loads((last / "meta.json").read_text())
    for by, on_test in (("val", False), ("best-on-test", True), ("last", False)):
        (last / "meta.json").write_text(json.dumps(meta | {"selection": {"by": by, "step": 3000}}))
        path, found = selected(copy, split_world, "selected")
        assert path == last and found.on_test == on_test and found.label == ""
        assert selected(copy, split_world, "selected", "all")[1].on_test == (by != "last")
    (last / "meta.json").write_text(json.dumps(meta | {"selection": {"by": "val", "step": 3000}}))
    path, found = selected(copy, split_world, "best-val")
    assert path == last and not found.tried and "best on validation, while training" in str(found)
    assert load_checkpoint(copy).step == 3000
    (last / "meta.json").write_text(json.dumps(meta | {"selection": {"by": "val", "step": 200}}))
    assert str(selected(copy, split_world, "last")[1]) == "last checkpoint (step 3000)"
    assert selected(copy, split_world, "best-val")[1].tried


def test_faults(run: Path, split_world: World, tmp_path: Path) -> None:
    with pytest.raises(StepclipError, match=r"no checkpoint of step 7[\s\S]*10, 200, 3000"):
        selected(run, split_world, "7")
    with pytest.raises(StepclipError, match="did you mean 'best-val'"):
        selected(run, split_world, "best-vall")
    with pytest.raises(StepclipError, match="no folder"):
        selected(tmp_path / "nowhere", split_world, "last")
    world = replace(split_world, manifest=split_world.manifest.split("test"))
    with pytest.raises(StepclipError, match=r"no video of split 'val'[\s\S]*--checkpoint last"):
        selected(run, world, "best-val")
    one_sided = replace(
        split_world.manifest,
        pairs=tuple(p for p in split_world.manifest.pairs if p.matched or p.split != "val"),
    )
    with pytest.raises(StepclipError, match="no matched and unmatched pairs to choose by"):
        selected(run, replace(split_world, manifest=one_sided), "best-val")

"""Evaluations while training, through the stage that the command line calls: what selects, and on what."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from stepclip.cache import FeatureWriter, Fingerprint, Manifest, Pair, StepclipError, VideoRow
from stepclip.pipelines.paths import Layout
from stepclip.pipelines.stages import train_stage
from stepclip.pipelines.watch import pairs_of
from stepclip.train import load_checkpoint

DIM = 12
SMALL = [
    "data.batch=6", "model.frames=6", "model.width=32", "model.heads=2", "model.head_dim=16",
    "train.epochs=4", "train.log_every=1", "train.precision=fp32",
]  # fmt: skip


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Tasks 0-2 to train on, 3 for validation, 4 for the test; two procedures each, three videos of each."""
    rng = np.random.default_rng(0)
    words = {f"do {i}": rng.normal(size=DIM) for i in range(8)}
    rows, pairs = [], []
    layout = Layout(tmp_path)
    paths = layout.dataset("made")
    with FeatureWriter(paths.features, Fingerprint({"encoder.name": "made"}), dim=DIM) as writer:
        for task in range(5):
            split = {3: "val", 4: "test"}.get(task, "train")
            chosen = list(rng.choice(list(words), 4, replace=False))
            for procedure, steps in enumerate((chosen, chosen[::-1])):
                for person in range(3):
                    name = f"{task}.{procedure}/{person}"
                    clean = np.repeat([words[s] for s in steps], 4, axis=0)
                    shown = (clean + 0.5 * rng.normal(size=clean.shape)).astype(np.float16)
                    writer.add(name, shown, np.arange(16) / 4.0, 4.0)
                    rows.append(VideoRow(name, name, str(task), f"{task}.{procedure}", split, None, None,
                                         tuple(steps), None, None))  # fmt: skip
            if split != "train":
                names = [row.video_id for row in rows if row.task == str(task)]
                pairs += [Pair(names[0], names[1], True, "matched", split),
                          Pair(names[0], names[3], False, "order", split)]  # fmt: skip
        writer.add_text(list(words), np.stack(list(words.values())).astype(np.float32), "step")
        paragraphs = sorted({row.paragraph for row in rows})
        writer.add_text(paragraphs, rng.normal(size=(len(paragraphs), DIM)).astype(np.float32), "paragraph")
    Manifest(tuple(rows), tuple(pairs), name="made").write(paths.manifest)
    return layout


def trained(layout: Layout, *overrides: str) -> tuple[Path, list[float]]:
    run, _ = train_stage(layout, "made", "benchlab", "run", [*SMALL, *overrides], progress=False)
    rows = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    return run.folder, [row["watched_auc"] for row in rows if "watched_auc" in row]


@pytest.mark.parametrize("by", ["val", "best-on-test"])
def test_the_best_of_the_pairs_it_selects_by_is_kept(layout: Layout, by: str) -> None:
    folder, seen = trained(layout, "evaluate.every=1", f"evaluate.select={by}")
    assert len(seen) == 4 and all(0 <= auc <= 1 for auc in seen)
    kept = load_checkpoint(folder)
    assert kept.meta["selection"]["by"] == by and kept.meta["selection"]["value"] == max(seen)
    assert kept.step == 3 * (1 + seen.index(max(seen)))


def test_held_out_tasks_give_pairs_of_their_own(layout: Layout) -> None:
    folder, seen = trained(layout, "evaluate.every=2", "data.val_tasks=1")
    assert len(seen) == 2 and load_checkpoint(folder).meta["selection"]["by"] == "last"
    rows = [row for row in Manifest.read(layout.dataset("made").manifest) if row.task in ("0", "1")]
    pairs = pairs_of(rows, 0)
    assert sum(pair.matched for pair in pairs) == 12 and len(pairs) == 30  # 4 x 3 and 2 x 9
    assert all(pair.video_a.split(".")[0] == pair.video_b.split(".")[0] for pair in pairs)
    assert pairs == pairs_of(rows, 0)


def test_without_pairs_it_says_what_is_wanted(layout: Layout) -> None:
    paths = layout.dataset("made")
    whole = Manifest.read(paths.manifest)
    Manifest(whole.videos, (), name="made").write(paths.manifest)
    with pytest.raises(StepclipError, match="no pairs to evaluate on") as caught:
        trained(layout, "evaluate.every=1", "evaluate.select=val")
    assert "data.val_tasks=1" in caught.value.expected

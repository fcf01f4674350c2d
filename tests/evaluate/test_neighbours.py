"""Video-to-video search against a loop over videos."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from stepclip.cache.manifest import Manifest, VideoRow
from stepclip.evaluate import evaluate
from stepclip.evaluate.neighbours import groups, nearest_others

from .conftest import World
from .test_evaluation import by_name, planted


def test_nearest_others_is_the_loop() -> None:
    rng = np.random.default_rng(0)
    group = np.array([0, 0, 1, 1, 1, 2, 0, 3])  # 2 and 3 are alone
    points = rng.normal(size=(8, 3)) + 1.2 * group[:, None]
    found = nearest_others(np.linalg.norm(points[:, None] - points, axis=2), group)
    ranks = []
    for q in range(8):
        others = sorted((v for v in range(8) if v != q), key=lambda v: np.linalg.norm(points[q] - points[v]))
        same = [1 + k for k, v in enumerate(others) if group[v] == group[q]]
        if same:
            ranks.append(same[0])
    assert np.mean(ranks) > 1 and found.queries == len(ranks) == 6 and found.gallery == 7
    assert found.r1 == pytest.approx(np.mean(np.array(ranks) == 1))
    assert found.r5 == pytest.approx(np.mean(np.array(ranks) <= 5))
    assert found.mrr == pytest.approx(np.mean(1 / np.array(ranks)))
    flat = nearest_others(np.zeros((8, 8)), group)  # chance: 2 of 7 others are right, for each of six
    assert flat.r1 == pytest.approx(2 / 7)


def video(task: str, procedure: str) -> VideoRow:
    return VideoRow(f"{task}-{procedure}", "", task, procedure, steps=("a",))


def test_what_is_asked_for() -> None:
    assert groups([video("1", "x"), video("1", "x"), video("2", "x")])[0] == "procedure"
    what, group = groups([video("1", "x"), video("1", "y"), video("2", "z")])
    assert what == "task" and group.tolist() == [0, 0, 1]
    assert groups([video("1", "x"), video("1", "y")])[0] == ""  # one task: every answer would be right
    assert groups([video("1", "x"), video("2", "y")])[0] == groups([])[0] == ""


def test_the_table(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    results = evaluate(planted(world, "perfect"), world.store, world.manifest, device="cpu", progress=False)
    rows = by_name(results.neighbours)
    assert rows["alignment"].r1 == 1 and rows["dtw-raw"] == rows["alignment"]
    assert rows["chance"].r1 == rows["clock"].r1 == pytest.approx(2 / 35)
    assert "same procedure" in results.remarks["neighbours"][0]
    own = tuple(replace(v, procedure=v.video_id) for v in world.manifest.videos)  # everybody's own
    by_task = evaluate(
        planted(world, "perfect"), world.store, Manifest(own, name="own"), device="cpu", progress=False
    )
    assert "same task" in by_task.remarks["neighbours"][0]
    assert by_name(by_task.neighbours)["chance"].r1 == pytest.approx(11 / 35)
    monkeypatch.setattr("stepclip.evaluate.neighbours.CELLS", 1000)
    long = evaluate(planted(world, "perfect"), world.store, world.manifest, device="cpu", progress=False)
    assert "alignment" not in by_name(long.neighbours) and "dtw-raw" not in by_name(long.neighbours)
    assert [r.name for r in long.neighbours if r.headline] == ["pooled"]
    assert any("cells to align" in note for note in long.notes)

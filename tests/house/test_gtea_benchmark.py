"""The benchmark of transcripts at a tiny size: its measures against hand-made answers, its table whole."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def bench(project_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(project_root / "benchmarks"))
    before = set(sys.modules)
    yield import_module("bench_gtea")
    for name in {"bench_gtea", "machine", "readme"} - before:
        sys.modules.pop(name, None)


def test_frames_places_and_overlaps_are_counted(bench: Any) -> None:
    labels = {"v": np.array([0, 0, 1, 1, 1, 0, 0, 2])}
    split = bench.Split(1, Path(), ["a", "b", "c"], {}, {}, labels, ["v"])
    assert split.script("v").tolist() == [0, 1, 0, 2] and split.train == []
    perfect = bench.score(split, lambda v: np.array([0, 0, 1, 1, 1, 2, 2, 3]))
    assert perfect == {"frames": 1, "place": 1, "iou": 1}
    late = bench.score(
        split, lambda v: np.array([0, 0, 0, 0, 0, 0, 1, 3])
    )  # right name, wrong place: one frame
    assert (late["frames"], late["place"]) == (4 / 8, 3 / 8)
    assert late["iou"] == pytest.approx((2 / 6 + 0 + 0 + 1) / 4)
    scores = np.log(np.eye(3)[[0, 0, 1, 1, 0, 0, 0, 2]] + 0.01)
    assert bench.viterbi(scores, split.script("v")).tolist() == [0, 0, 1, 1, 2, 2, 2, 3]


@pytest.mark.slow
def test_the_benchmark_runs(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng, arrays = np.random.default_rng(0), {}
    looks = rng.normal(size=(11, 12))
    for split in (1, 2):
        for video in (f"S{person}_{dish}_C1" for person in (1, 2, 3) for dish in ("Tea", "Pealate")):
            labels = np.repeat(rng.permutation(11), rng.integers(4, 9, 11))
            path = f"split{split}/{video}"
            arrays[f"{path}/features"] = (looks[labels] + rng.normal(size=(len(labels), 12))).astype(
                np.float16
            )
            arrays[f"{path}/softmax"] = np.eye(11, dtype=np.float16)[labels]
            arrays[f"{path}/labels"] = labels
        arrays[f"split{split}/test_ids"] = np.array([f"S{split}_Tea_C1", f"S{split}_Pealate_C1"])
    np.savez(tmp_path / "gtea.npz", **arrays)
    monkeypatch.setattr(bench, "TRAINED", {bench.OURS: ("train.epochs=30", "model.frames=40")})
    result = bench.measure(tmp_path / "gtea.npz", tmp_path / "root", 2)
    rows = {row["name"]: row for row in result["rows"]}
    assert [len(rows[name]["figures"]) for name in ("uniform split", bench.OURS)] == [1, 2]

    def frames(name: str) -> float:
        return float(np.mean([split["frames"] for seed in rows[name]["figures"] for split in seed]))

    assert frames("Viterbi over the supplied scores") == 1
    assert frames(bench.OURS) > frames("uniform split") + 0.1
    bench.save(result, tmp_path)
    assert json.loads((tmp_path / "gtea.json").read_text()) == result
    table = (tmp_path / "gtea.md").read_text()
    assert all(f"{name} |" in table or f"{name}** |" in table for name in rows) and "±" in table
    assert table.count("P@1") == 1 and "recipe gtea, DTW" in table

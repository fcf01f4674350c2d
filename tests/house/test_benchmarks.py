"""The benchmarks run, at tiny sizes: what they compare holds the same features, what they say is whole."""

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
    """benchmarks/bench_cache.py, as it is when run as a script."""
    monkeypatch.syspath_prepend(str(project_root / "benchmarks"))
    before = set(sys.modules)
    yield import_module("bench_cache")
    for name in {"bench_cache", "cache_layouts", "cache_report", "machine", "rounds"} - before:
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_the_cache_benchmark_runs_and_leaves_nothing_behind(bench: Any, tmp_path: Path) -> None:
    sizes = bench.Sizes(
        rounds=2, videos=20, frames=12, dim=8, seconds=0.01, many=130, written=1 << 14, large=1 << 14
    )
    result = bench.run(tmp_path / "root", sizes)
    assert list((tmp_path / "root").iterdir()) == []
    bench.save(result, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "cache.json").read_text()) == result
    layouts = {row["name"]: row for row in result["reading"]["layouts"]}
    assert len(layouts) == 12
    for name, row in layouts.items():
        assert ("batches_share" in row) == ("tar" not in name) and ("load_share" in row) == (
            "each" not in name
        )
        for key in ("videos_per_s", "load_gb_per_s"):
            if key in row:
                low, high = row[key]["spread"]
                assert 0 < low <= row[key]["median"] <= high and len(row[key]["rounds"]) == 2
    assert layouts["one raw memmap"]["batches_share"]["median"] == 1
    assert result["opening"]["videos"] == 130 and result["memory"]["read_gb"] >= result["memory"]["gb"]
    assert {row["asked"] for row in result["asked"]} == {"≥ 0.8", "≥ 0.5", "< 1"}
    assert result["machine"]["cores"] and result["machine"]["h5py"]
    table = (tmp_path / "out" / "cache.md").read_text()
    assert all(name in table for name in layouts) and "FeatureWriter, shards of 64 MiB" in table
    assert (tmp_path / "out" / "cache.svg").read_text().count("asked: 0.") == 2


def test_a_layout_that_gives_other_features_stops_the_benchmark(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = bench.LAYOUTS[2]
    right = layout.video
    monkeypatch.setattr(layout, "video", lambda self, i: right(self, (i + 1) % 20))
    monkeypatch.setattr(bench, "LAYOUTS", bench.LAYOUTS[:3])
    with pytest.raises(AssertionError, match="not equal"):
        bench.reading(tmp_path, bench.Sizes(rounds=1, videos=20, frames=8, dim=8, seconds=0.01))


def test_the_verdict_is_that_of_the_medians(bench: Any) -> None:
    assert bench.measured([3.0, 1.0, 2.0])["median"] == 2 and bench.measured([3.0, 1.0])["spread"] == [1, 3]
    data = bench.Data.random(50, 129, 4)
    lengths = np.diff(data.offsets)
    assert len(data) == 50 and abs(lengths.mean() - 129) < 15 and lengths.min() > 90
    turns: list[str] = []
    found = bench.in_turn(3, {name: lambda name=name: turns.append(name) or 1.0 for name in "abc"})
    assert found == {name: [1.0] * 3 for name in "abc"}  # and a first round that counts for nothing
    assert [sorted(turns[i : i + 3]) for i in range(0, 12, 3)] == [["a", "b", "c"]] * 4


@pytest.mark.slow
def test_the_training_benchmark_runs(project_root: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.syspath_prepend(str(project_root / "benchmarks"))
    before = set(sys.modules)
    bench = import_module("bench_train")
    result = bench.run(bench.Sizes(rounds=1, batches=(8,), videos=50, frames=16, width=32))
    text = import_module("train_report").save(result, tmp_path)
    assert {row["kind"] for row in result["losses"]} == {"split", "viterbi", "sort"}
    assert all(row["ratio"] > 0 for row in result["losses"]) and result["steps"][0]["ratio"] > 0
    saved = json.loads((tmp_path / "train.json").read_text())
    assert [row["what"] for row in saved["asked"]] == [
        "split loss, times the released", "viterbi loss, times the released",
        "whole step with bf16, times the released", "minutes of the released CSV schedule",
    ]  # fmt: skip
    assert saved["whole"]["seconds"] == pytest.approx(
        7.5 * result["steps"][0]["times"][result["steps"][0]["fastest"]]["median"], abs=0.1
    )
    assert "released, split, fp32" in text and (tmp_path / "train.svg").exists()
    for name in {"bench_train", "train_report", "weaksvr_literal", "machine"} - before:
        sys.modules.pop(name, None)

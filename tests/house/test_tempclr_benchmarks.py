"""TempCLR's benchmarks in small: the two sides agree, and what is written is whole."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

NAMES = {
    *("bench_tempclr", "bench_tempclr_speed", "tempclr_literal"),
    *("bench_carl", "carl_report", "readme", "machine", "rounds"),
}


@pytest.fixture
def benchmarks(project_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(project_root / "benchmarks"))
    before = set(sys.modules)
    yield import_module
    for name in set(sys.modules) - before:
        if name in NAMES:
            sys.modules.pop(name)


@pytest.mark.slow
def test_the_speed_benchmark_compares_the_same_numbers(benchmarks: Any, tmp_path: Path) -> None:
    """It stops where the released structure and ours give another loss."""
    bench = benchmarks("bench_tempclr_speed")
    result = bench.run(bench.Sizes(rounds=1, quick=True))
    names = [row["name"] for row in result["rows"]]
    assert names[:3] == ["losses, soft-DTW", "losses, soft OTAM", "step, 5 frames, 64 x 1"]
    assert names[3:] in ([], ["step, 5 frames, 64 x 1, bf16"])  # where the processor has it
    assert all(row["times"] > 1 for row in result["rows"])
    bench.save(result, tmp_path)
    assert json.loads((tmp_path / "tempclr_speed.json").read_text()) == result
    assert (tmp_path / "tempclr_speed.svg").stat().st_size > 1000
    assert (tmp_path / "tempclr_speed.md").read_text().count("\n| ") == len(names)


@pytest.mark.slow
def test_gtea_knows_its_people_apart(benchmarks: Any, shared_data: Path) -> None:
    """Real features: order tells activities that the mean frame mixes up, and the controls are at chance."""
    found = benchmarks("bench_tempclr").gtea()
    assert found["chance"]["1-shot"] == pytest.approx(1 / 7)
    assert found["duration"]["3-shot"] < 0.3
    assert found["dtw-centred"]["R@1"] > found["dtw"]["R@1"] > found["mean-pool"]["R@1"]
    assert found["trained, by dtw"]["1-shot"] > 3 / 7  # chance: 1 / 7


def test_tables_are_written_from_the_runs(benchmarks: Any) -> None:
    bench = benchmarks("bench_tempclr")
    one = {
        "sequences": [
            {"name": n, "kind": "trained", "kept": {"r1": r}} for n, r in (("dtw", 0.5), ("otam", 0.25))
        ],
        "clips": [],
        "steps": [],
        "few_shot": [{"name": "dtw", "one": {"accuracy": 0.6}, "more": None}],
    }
    row = bench.figures("x", "trained", [one, {**one, "sequences": []}])
    assert row["R@1"] == [0.5, 0.0] and row["own task"] is None and row["few-shot"] == [0.6, 0.0]
    assert (
        bench.cell([0.5, 0.0]) == "50.0"
        and bench.cell([0.5, 0.02]) == "50.0 ± 2.0"
        and bench.cell(None) == "–"
    )
    other = {**one, "few_shot": [{"name": "dtw", "one": {"accuracy": 0.5}}]}
    assert bench.less([one], [other], "few_shot", "dtw", "one.accuracy") == [pytest.approx(0.1)]
    assert bench.less([one], [other], "few_shot", "dtw", "more.accuracy") == [None]

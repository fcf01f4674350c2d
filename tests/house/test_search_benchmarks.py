"""The benchmarks of search and check, and the plan at scale, run at tiny sizes and say what they found."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

NAMES = {"bench_search", "search_report", "simulate_scale", "machine", "made_index", "rounds"}


@pytest.fixture
def script(project_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """`script("bench_search")`: as it is when run as a script."""
    monkeypatch.syspath_prepend(str(project_root / "benchmarks"))
    before = set(sys.modules)
    yield import_module
    for name in NAMES - before:
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_the_search_benchmark_runs_and_leaves_nothing_behind(script, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    bench = script("bench_search")
    sizes = bench.Sizes(
        count=3000, dim=16, clusters=60, queries=40, rounds=1, candidates=40, steps=4, kinds=("ivf",),
        quick=True,
    )  # fmt: skip
    kept: list[int] = []
    result = bench.run(tmp_path / "root", sizes, lambda found: kept.append(len(found["approximate"])))
    assert kept == [0, 1] and not (tmp_path / "root").exists()
    bench.save(result, tmp_path / "out")
    read = json.loads((tmp_path / "out" / "search.json").read_text())
    assert [row["batch"] for row in read["exact"]["batches"]] == [1, 16, 256]
    for row in read["exact"]["batches"]:
        assert 0.2 < row["share"]["median"] < 5 and row["stepclip"]["median"] > 0
    (ivf,) = read["approximate"]
    for sort in ("moments", "sentences"):
        assert 0.8 <= ivf[sort]["recall"] <= 1 and ivf[sort]["256"]["times_exact"]["median"] > 0
    assert ivf["bytes"] > 3000 * 16 * (1 + 2) and all(
        ms["median"] > 0 for ms in read["re_ranking"]["ms"].values()
    )
    told = {row["asked"] for row in read["asked"]}
    assert {"≥ 0.95", "< 10"} <= told and all(isinstance(row["met"], bool) for row in read["asked"])
    table = (tmp_path / "out" / "search.md").read_text()
    assert "| ivf | sentences |" in table and "share of bare FAISS" in table
    assert "recall@10" in (tmp_path / "out" / "search.svg").read_text()


def test_the_plan_at_scale(script, project_root: Path) -> None:  # type: ignore[no-untyped-def]
    plan = script("simulate_scale")
    small = plan.Plan(videos=1000, seconds=10, fps=2, dim=8, gpus=2, cores=4, decode=100)
    assert small.frames == 20_000
    sizes = {what: value for what, value, _ in plan.storage(small)}
    assert sizes["features, float16"] == 20_000 * 24 and sizes["videos, exact"] == 1000 * 32
    decode, encode, bound = plan.extraction_hours(small, 10.0)
    assert decode == pytest.approx(1000 * 10 * 30 / 400 / 3600)
    assert encode == pytest.approx(20_000 / 20 / 3600) and bound == "encoding"
    # a fleet that loses nobody ends with the last group; one that does, later
    calm = plan.simulate_fleet(plan.Plan(taken=0.0, fail=0.0), 10.0)
    rough = plan.simulate_fleet(plan.Plan(taken=0.2, fail=0.0), 10.0)
    assert 9.7 < calm < 10.3 and rough > 1.1 * calm
    # a query alone takes its service time; shards and load make it wait
    median, _ = plan.simulate_search(1, 0.01, 0.01)
    assert median == pytest.approx(0.01, rel=0.1)
    _, few = plan.simulate_search(4, 0.01, 0.5, queries=5000)
    _, many = plan.simulate_search(32, 0.01, 0.5, queries=5000)
    assert 0.01 < few < many
    text = (project_root / "docs" / "scale.md").read_text()
    assert plan.BEGIN in text and "10,000,000 videos of 300 s" in text.split(plan.BEGIN)[1]

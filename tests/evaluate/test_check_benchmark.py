"""The benchmark of checks on the planted world: it measures what it says, controls fall behind."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stepclip.evaluate.embed import Embedded, embed_raw

from .conftest import World, build_world


@pytest.fixture
def bench(project_root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(project_root / "benchmarks"))
    before = set(sys.modules)
    yield import_module("bench_check")
    for name in {"bench_check", "check_report", "machine"} - before:
        sys.modules.pop(name, None)


def see(store: Any, ids: Any) -> Embedded:
    return embed_raw(store, ids, device="cpu")


@pytest.mark.slow
def test_the_benchmark_of_checks(bench: Any, tmp_path: Path) -> None:
    world: World = build_world(people=3, noise=0.2, seed=2)
    world.manifest = type(world.manifest)(
        tuple(_named(v) for v in world.manifest.videos), world.manifest.pairs, (), "planted"
    )
    train = [v for v in world.manifest.without_truth() if not v.video_id.endswith("p2")]
    test = [v for v in world.manifest if v.video_id.endswith("p2")]
    ways = {"raw": bench.Way(see, world.store, train, test)}
    made, pace = bench.made_faults(world.store, test, seed=1)
    assert pace == 0.25 and len(made) > 50
    found = bench.faults(ways, made, pace, world.store)
    assert [row["name"] for row in found["rows"]] == ["raw, script", "raw, references"]
    assert all(row["kinds"]["missing"]["f1"] > 0.7 for row in found["rows"])
    assert found["rows"][0]["border"] < found["uniform"]["border"]
    procedures = bench.other_procedures(ways)
    assert procedures["checks"] == 48 and procedures["rows"][0]["all"] > 0.9
    seen = {"trained": see(world.store, [v.video_id for v in test])}
    scripts = bench.script_search(seen, seen["trained"], world.store, test)
    best = {row["name"]: row for row in scripts["rows"]}
    vectors = best["best moment for each step (the recall)"]
    assert best["ordered, trained"]["r1"] > 0.9 and best["ordered, trained"]["orders_r1"] == 1
    assert vectors["r1"] < best["ordered, trained"]["r1"]
    pairs = bench.pairs({"raw": bench.Way(see, world.store, train, list(world.manifest))}, world.manifest)
    assert pairs["rows"][0]["auc"] > 0.9
    what = {"videos": 12, "train": 24, "recipe": "none", "seed": 1}
    result = {
        "what": what, "machine": {"cpu": "x", "cores": 1}, "scripts": scripts, "faults": found,
        "procedures": procedures, "pairs": pairs,
    }  # fmt: skip
    bench.save(result, tmp_path)
    table = (tmp_path / "check.md").read_text()
    assert "control: uniform split" in table and "report every step" in table and "nan" not in table
    assert (tmp_path / "check.svg").stat().st_size > 1000 and np.isfinite(pairs["rows"][0]["ece"])


def _named(video: Any) -> Any:
    """Procedures 0 to 3 as 1, 3 (another order), 4 (less) and 5 (more), as the bench numbers them."""
    from dataclasses import replace

    task, _, number = video.procedure.partition(".")
    return replace(video, procedure=f"{task}.{(1, 3, 4, 5)[int(number)]}")

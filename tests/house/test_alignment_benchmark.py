"""The alignment benchmark runs, at tiny sizes: its contenders find the same, what it says is whole."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

MODULES = ("bench_alignment", "alignment_contenders", "alignment_report", "machine", "rounds")


@pytest.fixture
def bench(project_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """benchmarks/bench_alignment.py, as it is when run as a script."""
    monkeypatch.syspath_prepend(str(project_root / "benchmarks"))
    before, threads = set(sys.modules), torch.get_num_threads()
    yield import_module("bench_alignment")
    torch.set_num_threads(threads)
    for name in set(MODULES) - before:
        sys.modules.pop(name, None)


def test_the_contenders_agree_and_the_report_is_whole(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # processes of their own are timed there; here it is the report that counts
    monkeypatch.setattr(bench, "starting", lambda: {"compiling": 5.0, "cached": 0.5, "again": 1e-3})
    size = bench.who.Size("z", "3 x 16, 6 frames, 4 steps", 3, 16, 6, 4)
    result = bench.run(rounds=1, patience=0.01, sizes=(size,))
    bench.save(result, tmp_path)
    assert json.loads((tmp_path / "alignment.json").read_text()) == json.loads(json.dumps(result))
    assert {row["operation"] for row in result["rows"]} == {"soft", "hard", "cost", "labels"}
    assert all(row["us"]["median"] > 0 and row["problems"] >= 1 for row in result["rows"])
    assert result["exact"][0]["soft value"] < 1e-5 and result["exact"][0]["gradient"] < 2e-5
    peers = set(result["what"]["peers"])
    assert peers | set(result["what"]["missing"]) == set(bench.who.PEERS)
    found = {row["what"]: row["met"] for row in result["asked"]}
    assert found["first call with compiled code on the disk, s"] and found["(z) gradient, largest error"]
    text = (tmp_path / "alignment.md").read_text()
    assert all(row["name"] in text for row in result["rows"])
    assert (tmp_path / "alignment.svg").stat().st_size > 5000


def test_a_contender_that_finds_something_else_stops_it(bench: Any) -> None:
    right = np.arange(5.0)
    bench.agree("hard", {"a": right, "b": right[:3]})
    with pytest.raises(AssertionError, match="wrong one"):
        bench.agree("hard", {"wrong one": right + 1, "b": right})
    with pytest.raises(AssertionError, match="wrong one"):
        bench.agree("labels", {"wrong one": np.zeros((5, 4)), "b": np.ones((5, 4))})


def test_the_committed_figures_meet_what_was_asked(project_root: Path) -> None:
    result = json.loads((project_root / "benchmarks" / "alignment.json").read_text())
    assert [row["what"] for row in result["asked"] if not row["met"]] == []
    assert not result["what"]["missing"] and result["machine"]["cpu"]
    readme = (project_root / "README.md").read_text()
    for row in result["rows"]:
        assert row["name"] in readme

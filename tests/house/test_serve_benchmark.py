"""The benchmark of the web page, in small: the real command answers every request; what is said adds up."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def bench(project_root: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    folder = project_root / "benchmarks"
    monkeypatch.syspath_prepend(str(folder))
    spec = importlib.util.spec_from_file_location("bench_serve", folder / "bench_serve.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "bench_serve", module)
    spec.loader.exec_module(module)
    return module


def test_in_small(bench: ModuleType, tmp_path: Path) -> None:
    result = bench.run(tmp_path, 300, 4, clients=3, seconds=2.0)
    kinds = result["kinds"]
    assert result["moments"] == 1200 and len(kinds) == 4
    assert sum(kind["count"] for kind in kinds.values()) == result["all"]["count"] > 20
    for figures in (result["all"], *kinds.values()):
        assert 0 < figures["p50"] <= figures["p95"] <= figures["p99"]
    assert result["requests_per_second"] == pytest.approx(result["all"]["count"] / 2.0, abs=0.1)
    bench.save({"exact": result}, tmp_path)
    assert (
        f"| exact | 300 | 1,200 | {result['requests_per_second']:.0f} " in (tmp_path / "serve.md").read_text()
    )
    assert (tmp_path / "serve.svg").stat().st_size > 1000

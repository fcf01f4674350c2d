"""CARL's benchmarks run, at tiny sizes: what they compare is the same loss, what they say is whole."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

MODULES = ("bench_carl", "carl_report", "readme", "bench_carl_speed", "carl_literal", "machine", "rounds")


@pytest.fixture
def benches(project_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(project_root / "benchmarks"))
    before = set(sys.modules)
    yield import_module
    for name in set(MODULES) - before:
        sys.modules.pop(name, None)


def test_the_literal_losses_are_ours(benches: Any, tmp_path: Path) -> None:
    """The benchmark itself refuses to time losses that differ."""
    speed = benches("bench_carl_speed")
    result = speed.run(speed.Sizes(rounds=1, batch=2, frames=10, dim=8))
    values = list(result["values"].values())
    assert max(values) - min(values) < 2e-3 and result["times_the_loop"] > 0
    speed.save(result, tmp_path)
    assert json.loads((tmp_path / "carl_speed.json").read_text())["what"]["batch"] == 2
    assert "times the loop (asked: 20" in (tmp_path / "carl_speed.md").read_text()


def record(method: str, row: str, seed: int, accuracy: float, ap5: float) -> dict[str, Any]:
    figures = {
        "accuracy_50": 0.4,
        "accuracy_10": 0.3,
        "ap10": 0.4,
        "ap15": 0.4,
        "linear": 0.4,
        "progression": None,
    }
    counts = {
        "videos": 9,
        "frames": 99,
        "phases": 4,
        "steps": 7,
        "protocol": "2 tasks; folds",
        "seconds": 1.0,
    }
    about = {"set": "benchlab", "method": method, "row": row, "seed": seed}
    return about | counts | figures | {"accuracy": accuracy, "ap5": ap5, "tau": 0.9}


def test_the_report_says_what_is_met_and_what_is_missed(benches: Any, tmp_path: Path) -> None:
    report = benches("carl_report")
    records = [record("CARL", "frames", s, 0.5 + s / 100, 0.42) for s in (0, 1)]
    records += [record("CARL", "content-free", s, 0.3, 0.3) for s in (0, 1)]
    records += [record("TCN", "frames", 0, 0.40, 0.3)]
    records += [record(name, name, 0, 0.44, 0.40) for name in ("raw", "clock", "clock + raw", "chance")]
    result = {"records": records, "machine": {"cpu": "a", "torch": "b", "scikit-learn": "c"}}
    report.save(result, tmp_path)
    said = (tmp_path / "carl.md").read_text()
    assert "CARL: accuracy +6.5 points over the best control, raw (asked: +5.0 or more; met)" in said
    assert "CARL: AP@5 +2.0 points over the best control, raw (asked: +5.0 or more; missed)" in said
    assert "TCN: accuracy -4.0 points over the best control, raw\n" in said
    assert "| **CARL** | trained | 2 | 50.5 ± 0.7 |" in said and "| clock + raw | control |  | 44.0 |" in said
    assert "–" in said  # what is undefined is no number
    assert (tmp_path / "carl.svg").read_text().count("<svg") == 1


def test_a_run_is_not_done_again(benches: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, made = benches("bench_carl"), []

    def once(root: Path, where: Any, method: str, recipe: str, overrides: list[str], controls: bool) -> Any:
        made.append((method, overrides[-1], controls))
        return [record(method, "frames", int(overrides[-1].split("=")[1]), 0.5, 0.5)]

    monkeypatch.setattr(bench, "one_run", once)
    places = [bench.Where("benchlab", tmp_path, (), (0, 1), ())]
    first = bench.run(tmp_path, places, ["CARL", "TCC"])
    assert made == [
        ("CARL", "seed=0", True),
        ("TCC", "seed=0", False),
        ("CARL", "seed=1", False),
        ("TCC", "seed=1", False),
    ]
    assert bench.run(tmp_path, places, ["CARL", "TCC"]) == first and len(made) == 4

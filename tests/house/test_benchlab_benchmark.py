"""The table of benchlab: what is finished is not run again, and each figure stands in its place."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

PARTS = ("verification", "matching", "localisation", "pseudo_labels")


@pytest.fixture
def bench(project_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """benchmarks/bench_benchlab.py, as it is when run as a script."""
    monkeypatch.syspath_prepend(str(project_root / "benchmarks"))
    before = set(sys.modules)
    yield import_module("bench_benchlab")
    for name in {"bench_benchlab", "benchlab_report", "machine", "readme"} - before:
        sys.modules.pop(name, None)


def results(seed: int, headline: str, labels: str, auc: float, right: float) -> dict[str, Any]:
    """What an evaluation gives, in the parts that the table reads."""

    def row(name: str, kind: str, **figures: Any) -> dict[str, Any]:
        return {"name": name, "kind": kind, "headline": name in (headline, labels), **figures}

    pairs = {"wdr": 0.25, "wdr_constant": 0.236, "by_kind": {"order": 0.5, "deletion": 0.6, "addition": 0.7}}
    found = {"frame_accuracy": 0.3, "iou": 0.2}
    controls = ("mean-pool", "flat", "dtw-raw", "dtw-centred", "duration", "clock", "chance")
    texts = (
        "paragraph",
        "script",
        "mean-pool",
        "script-raw",
        "script-centred",
        "duration",
        "clock",
        "chance",
    )
    steps = ("trained", "raw", "centred", "uniform", "chance")
    label_rows = {
        labels: right,
        "uniform": 0.5,
        "raw visit-all": 0.4,
        "centred visit-all": 0.45,
        "chance": 0.3,
    }
    return {
        "dataset": "benchlab", "split": "test", "videos": 10, "selection": {"rule": "last"},
        "verification": [
            row("pooled", "trained", auc=auc + 0.01 * seed, **pairs),
            row("alignment", "trained", auc=auc + 0.1 + 0.01 * seed, **pairs),
            *(row(name, "control", auc=0.55, **pairs) for name in controls),
        ],
        "matching": [row(name, "trained", acc1=0.2) for name in texts],
        "localisation": [row(name, "trained", **found) for name in steps],
        "pseudo_labels": [
            row(name, "trained", train={"frame_accuracy": value, "iou": 0.3}, split=None)
            for name, value in label_rows.items()
        ],
    }  # fmt: skip


@pytest.fixture
def entries(bench: Any) -> tuple[Any, ...]:
    wanted = {
        ("official", "coarse only"),
        ("official", "sort"),
        ("corrected", "coarse only"),
        (bench.OURS, ""),
    }
    return tuple(e for e in bench.ENTRIES if (e.group, e.name) in wanted or e.group == bench.OURS)


@pytest.fixture
def stages(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Training and evaluation that write down that they ran, and what they found."""
    import stepclip.pipelines.stages as real

    ran: list[str] = []
    where: dict[str, tuple[str, list[str]]] = {}

    def train(layout: Any, dataset: str, recipe: str, run: str, changed: list[str], overwrite: bool) -> None:
        assert overwrite
        ran.append(run)
        where[run] = (recipe, changed)
        (layout.run(run).folder / "checkpoints").mkdir(parents=True)

    def evaluated(layout: Any, dataset: str, run: str, report: bool, every_table: bool) -> tuple[None, Any]:
        recipe, changed = where[run]
        ours = recipe == bench.OURS
        seed = int(changed[-2].removeprefix("seed="))
        found = results(seed, "alignment" if ours else "pooled", "corpus" if ours else "sort", 0.6, 0.8)
        (layout.run(run).folder / "results.json").write_text(json.dumps(found))
        return None, type("Results", (), {"to_dict": lambda self: found})()

    monkeypatch.setattr(real, "train_stage", train)
    monkeypatch.setattr(real, "eval_stage", evaluated)
    monkeypatch.setattr(bench, "prepare", lambda *_: {"render": 0.0, "extract": 0.0})
    return ran


def test_what_is_finished_is_not_run_again(
    bench: Any, entries: Any, stages: list[str], tmp_path: Path
) -> None:
    assert bench.run(tmp_path, 5, 0, 2, (0, 2), entries) == {}  # a share, and no table of it
    assert 0 < len(stages) < 2 * len(entries)
    whole = bench.run(tmp_path, 5, 0, 2, entries=entries)
    assert len(stages) == len(set(stages)) == 2 * len(entries)
    assert not list(tmp_path.glob("runs/*/checkpoints"))
    assert bench.run(tmp_path, 5, 0, 2, entries=entries)["rows"] == whole["rows"]
    assert len(stages) == 2 * len(entries)
    other = tuple(bench.Entry(e.group, e.name, e.recipe, (*e.changed, "optim.lr=1e-5")) for e in entries[:1])
    bench.run(tmp_path, 5, 0, 2, entries=other)
    assert len(stages) == 2 * len(entries) + 2  # another recipe under the same name is run anew


def test_the_table_says_what_was_found_and_what_was_asked(
    bench: Any, entries: Any, stages: list[str], tmp_path: Path
) -> None:
    found = bench.run(tmp_path / "root", 5, 0, 2, entries=entries)
    report = import_module("benchlab_report")
    page = tmp_path / "page.md"
    page.write_text("above\n<!-- benchlab table -->\n<!-- /benchlab table -->\nbelow\n")
    table = report.save(found, tmp_path, (page,))
    assert table in page.read_text() and page.read_text().endswith("below\n")
    lines = {
        line["name"]: line for line in report.lines_of(found) if line["group"] in (bench.OURS, "controls")
    }
    assert lines["as it is"]["auc"] == pytest.approx([0.705, 0.005 * 2**0.5], abs=1e-6)
    assert lines["as it is"]["other"][0] == pytest.approx(0.605)
    assert lines["before training"]["labels"] is None and lines["as it is"]["labels"][0] == 0.8
    assert lines["clock, equal parts"]["labels"][0] == 0.5 and lines["mean of the frames"]["script"] is None
    verdicts = [(c["found"], c["met"]) for c in report.checks(found)]
    assert verdicts[:4] == [(10.0, True), (10.0, True), (1.6, True), (10.0, None)]
    assert verdicts[4:] == [(0.0, None), (0.0, None)]
    assert "| **as it is** | **70.5 ± 0.7** | 60.5 ± 0.7 |" in table and "0.236" in table
    assert json.loads((tmp_path / "benchlab.json").read_text())["asked"] == report.checks(found)
    assert (tmp_path / "benchlab.svg").read_text().count("before training") >= 1

"""The demo: its one table, what it refuses, and, slowly, the whole of it twice."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from stepclip.pipelines.demo import demo_table

from .conftest import Outcome, shell

Cli = Callable[..., Outcome]


def row(name: str, kind: str, headline: bool = False, **figures: Any) -> dict[str, Any]:
    return {"name": name, "kind": kind, "headline": headline, **figures}


def shown(results: dict[str, Any]) -> list[str]:
    text = io.StringIO()
    Console(file=text, width=100).print(demo_table(results))
    return [" ".join(line.split()) for line in text.getvalue().splitlines() if line.strip()]


def test_the_table_has_every_row_and_its_figures() -> None:
    lines = shown(
        {
            "verification": [
                row("combined", "trained", True, auc=0.9876, wdr=1.25),
                row("clock", "control", auc=0.5, wdr=None),
            ],
            "retrieval": [row("[red]", "control", r1=0.25, mrr=0.3333)],
            "matching": [],
            "localisation": [row("uniform", "control", frame_accuracy=0.5, iou=0.1234)],
        }
    )
    assert "same procedure? combined trained AUC 98.8 % WDR 1.250" in lines
    assert "clock control AUC 50.0 % WDR –" in lines
    assert "which video? [red] control R@1 25.0 % MRR 0.333" in lines, "data is never markup"
    assert "where is each step? uniform control frames 50.0 % IoU 12.3 %" in lines
    assert not any("of its task" in line for line in lines)


def test_a_demo_of_other_settings_is_not_overwritten(cli: Cli, tmp_path: Path) -> None:
    state = tmp_path / "data" / "benchlab" / "demo.json"
    state.parent.mkdir(parents=True)
    state.write_text(json.dumps({"people": 5, "seed": 0, "rendered": True}))
    done = cli("demo", "--root", tmp_path, "--people", "6")
    assert done.code == 2 and "5 people, seed 0" in done.err and "--root" in done.err
    assert json.loads(state.read_text())["people"] == 5


def test_a_dataset_of_that_name_is_not_touched(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "data" / "benchlab" / "manifest").mkdir(parents=True)
    done = cli("demo", "--root", tmp_path)
    assert done.code == 2 and "no demo made it" in done.err
    assert [path.name for path in (tmp_path / "data" / "benchlab").iterdir()] == ["manifest"]


@pytest.mark.slow
def test_the_whole_demo_twice(tmp_path: Path) -> None:
    words = ("demo", "--people", "2", "--root", tmp_path, "--quiet")
    first = shell(*words)
    assert first.code == 0, first.out + first.err
    for question in ("same procedure?", "which video?", "where is each step?"):
        assert first.out.count(question) == 1
    for control in ("mean-pool", "duration", "clock", "uniform"):
        assert control in first.out
    assert re.search(r"inputs.*\n.*\n.*\b140\b.*\b140\b.*\b0\b", first.out), "every video is accounted for"
    run = tmp_path / "runs" / "demo"
    results = json.loads((run / "results.json").read_text())
    assert results["split"] == "test" and results["headline"].keys() >= {"auc", "wdr", "r1", "iou"}
    assert results["about"]["recipe"]["name"] == "stepclip-weaksvr"  # the best for this bench
    assert (run / "report.html").stat().st_size > 10_000
    checkpoints = {path: path.stat().st_mtime_ns for path in (run / "checkpoints").rglob("*")}
    second = shell(*words)
    assert second.code == 0, second.out + second.err
    assert second.out.count("kept from before") == 5
    table = re.compile(r"question.*?(?=\nvideos, scripts)", re.S)
    assert table.search(second.out)[0] == table.search(first.out)[0]
    assert {path: path.stat().st_mtime_ns for path in (run / "checkpoints").rglob("*")} == checkpoints

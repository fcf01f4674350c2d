"""The benchmarks of extraction and decoding run, at tiny sizes; README has the tables of their figures."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def script(project_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """`script("bench_decode")`: as it is when run as a script."""
    monkeypatch.syspath_prepend(str(project_root / "benchmarks"))
    before = set(sys.modules)
    yield import_module
    for name in set(sys.modules) - before:
        if name in ("bench_decode", "bench_extract", "machine", "readme"):
            sys.modules.pop(name)


@pytest.mark.slow
def test_the_benchmark_of_extraction(script: Callable[[str], Any], tmp_path: Path) -> None:
    bench = script("bench_extract")
    how = argparse.Namespace(
        videos=2, seconds=1.5, rounds=2, alone=0.1, device="cpu", precision="auto", compile=False,
        cases=["embedded-360p"], scratch=str(tmp_path), quick=True,
    )  # fmt: skip
    result = bench.run(how)
    assert list(tmp_path.iterdir()) == []
    bench.save(result, tmp_path)
    assert json.loads((tmp_path / "extract.json").read_text()) == result
    row = result["cases"]["embedded-360p"]
    assert row["frames"] == 2 * 6 and row["precision"] == "fp32" and row["size"] == "640x360"
    assert set(row["frames_per_s"]) == {bench.LOOP, bench.ENGINE, bench.ALONE}
    for way, rate in row["frames_per_s"].items():
        assert min(row["rounds"][way]) <= rate <= max(row["rounds"][way]) and len(row["rounds"][way]) == 2
        assert row["processor_ms_per_frame"][way] > 0
    assert result["machine"]["cores"] and result["machine"]["torch"] and len(row["load average"]) == 2
    asked = {check["what"]: check for check in result["asked"]}
    assert asked["times faster"]["asked"] == 2 and asked["busy"]["asked"] == 0.9
    assert asked["busy"]["found"] == max(row["stages"][bench.ENGINE]["busy"].values())
    assert f"**{row['frames_per_s'][bench.ENGINE]:g} (" in (tmp_path / "extract.md").read_text()
    assert "stepclip extract" in (tmp_path / "extract.svg").read_text()


@pytest.mark.slow
def test_the_benchmark_of_decoding(script: Callable[[str], Any], tmp_path: Path) -> None:
    bench = script("bench_decode")
    result = bench.run(4.0, "160x90", 1)
    decoders = {row["decoder"] for row in result["rows"]}
    assert {"pyav", bench.READ_ALL, "decord", "ffmpeg"} <= decoders
    assert len(result["rows"]) == len(decoders) * len(bench.samplings()) * 2
    frames = {(row["sampling"], row["key_frame_every"]): row["frames"] for row in result["rows"]}
    assert frames["all", 60] == 120 and frames["4 frames/s", 250] == 16 and frames["8 frames", 60] == 8
    table = bench.overview(result)
    assert all(f"| {name} |" in table for name in decoders) and table.count(" / ") > len(decoders) * 5
    bench.chart(result, tmp_path / "decode.svg")
    assert "pyav, all read" in (tmp_path / "decode.svg").read_text()


@pytest.mark.parametrize(
    ("name", "module", "table"),
    [("extract", "bench_extract", "table"), ("decode", "bench_decode", "overview")],
)
def test_the_tables_of_the_readme_are_those_of_the_figures(
    script: Callable[[str], Any], project_root: Path, tmp_path: Path, name: str, module: str, table: str
) -> None:
    result = json.loads((project_root / "benchmarks" / f"{name}.json").read_text())
    copy = tmp_path / "README.md"
    copy.write_text((project_root / "README.md").read_text())
    script("readme").put(name, getattr(script(module), table)(result), copy)
    assert copy.read_text() == (project_root / "README.md").read_text(), (
        "run the benchmark, or put() its table"
    )
    assert not result.get("quick") and result["machine"]["cpu"]


def test_marks_that_are_not_there_are_told(script: Callable[[str], Any], tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("one\n<!-- x table -->\nold\n<!-- /x table -->\ntwo\n")
    put = script("readme").put
    put("x", "new \\1\n", tmp_path / "a.md")
    assert (tmp_path / "a.md").read_text() == "one\n<!-- x table -->\nnew \\1\n<!-- /x table -->\ntwo\n"
    with pytest.raises(SystemExit, match="lacks the marks <!-- y table -->"):
        put("y", "", tmp_path / "a.md")

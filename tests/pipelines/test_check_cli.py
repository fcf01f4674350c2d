"""`stepclip check` and `stepclip compare` as a user meets them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from stepclip.cache.errors import StepclipError
from stepclip.pipelines.checking import FILE, Checking
from stepclip.pipelines.paths import Layout

from .conftest import SCRIPTS, Outcome

Cli = Callable[..., Outcome]
RUN = "mine-weaksvr-corrected"


def test_check_by_id_and_by_file(root: Path, mine: Path, tmp_path: Path, cli: Cli) -> None:
    where = ("--root", root, "--device", "cpu", "--quiet", "--json")
    done = cli("check", "anna", *where)
    told = json.loads(done.out)
    assert done.code == int(told["is_error"]), done.err
    assert told["calibrated"] is False and "too few training videos" in told["notes"][0]
    places = [s["place"] for s in told["steps"] if s["place"] is not None]
    assert sorted([*places, *(m["place"] for m in told["missing"])]) == [0, 1, 2, 3]
    assert {s["description"] for s in told["steps"] if s["place"] is not None} <= set(SCRIPTS["anna"])
    assert (root / "runs" / RUN / FILE).is_file()
    # the same video as a file, with its script as a file: the same answer
    (tmp_path / "steps.txt").write_text("\n".join(SCRIPTS["anna"]))
    words = ("--script", tmp_path / "steps.txt", "--no-references")
    file = json.loads(cli("check", mine / "videos" / "anna.mp4", *words, *where).out)
    cached = json.loads(cli("check", "anna", *words, *where).out)
    assert {**file, "recording": ""} == {**cached, "recording": ""} and file["recording"].endswith("anna.mp4")
    # a script of sentences that the cache does not know
    (tmp_path / "steps.txt").write_text("pour the flask\nstir the water\n")
    new = json.loads(cli("check", "anna", "--script", tmp_path / "steps.txt", *where).out)
    assert len(new["steps"]) + len(new["missing"]) >= 2
    done = cli("check", "anna", "--root", root, "--quiet")
    assert done.code in (0, 1) and "script: a fault with probability" in done.out


def test_compare(root: Path, mine: Path, cli: Cli) -> None:
    where = ("--root", root, "--device", "cpu", "--quiet")
    done = cli("compare", "anna", mine / "videos" / "anna.mp4", "--json", *where)
    same = json.loads(done.out)
    assert done.code == 0 and same["distance"] < 1e-3 and not same["partings"] and same["same"] is None
    assert same["path"][0] == [0, 0] and all(abs(a - b) < 1e-6 for a, b in same["path"])
    other = json.loads(cli("compare", mine / "videos" / "ben.mp4", "cleo", "--json", *where).out)
    assert other["a"].endswith("ben.mp4") and other["b"] == "cleo" and other["distance"] > same["distance"]
    done = cli("compare", "ben", "cleo", *where)
    assert done.code == 0 and "not calibrated" in done.out and "distance" in done.out


def test_what_cannot_be_checked(root: Path, mine: Path, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "long.txt").write_text("\n".join(f"stir {i}" for i in range(40)))
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    for words, said in (
        (("check", "bem"), "did you mean 'ben'"),
        (("check", mine / "videos" / "ben.mp4"), "no script to check against"),
        (("check", tmp_path / "broken.mp4", "--script", mine / "mine.csv"), "broken.mp4 cannot be used"),
        (("check", "ben", "--script", tmp_path / "long.txt"), "frames for 40 steps"),
        (("check", "ben", "--script", tmp_path / "none.txt"), "cannot be read"),
        (("compare", "ben", "nobody"), "no file and no video of mine"),
    ):
        done = cli(*words, "--root", root, "--quiet", "--device", "cpu")
        assert done.code == 2 and said in done.err, (words, done.out, done.err)


def test_the_checker_is_fitted_once_for_a_checkpoint(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout, said = Layout(root), list[str]()
    first = Checking.open(layout, device="cpu").checker(said.append)
    kept = (root / "runs" / RUN / FILE).stat().st_mtime_ns
    assert Checking.open(layout, device="cpu").checker() == first
    assert (root / "runs" / RUN / FILE).stat().st_mtime_ns == kept
    path = root / "runs" / RUN / FILE
    path.write_text(path.read_text().replace('"step"', '"old step"'))
    Checking.open(layout, device="cpu").checker()
    assert path.stat().st_mtime_ns != kept, "one of another checkpoint is made anew"
    path.write_text("{}")
    with pytest.raises(StepclipError, match="delete it"):
        Checking.open(layout, device="cpu").checker()


def test_nothing_is_left_behind(root: Path, mine: Path, tmp_path: Path, cli: Cli, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    cli("compare", mine / "videos" / "ben.mp4", "cleo", "--root", root, "--quiet", "--device", "cpu")
    assert [name for name in os.listdir(tmp_path) if name.startswith("stepclip-")] == []

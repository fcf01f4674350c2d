"""Search as a user meets it: scripts, videos, moments, filters, an index that is changed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from stepclip.cache.errors import StepclipError
from stepclip.pipelines.scripts import parse_script, read_script
from stepclip.pipelines.searching import parse_moment

from .conftest import SCRIPTS, Outcome

Cli = Callable[..., Outcome]
RUN = "mine-weaksvr-corrected"


def answers(done: Outcome) -> list[dict]:
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_a_script_a_video_and_a_moment(root: Path, mine: Path, tmp_path: Path, cli: Cli) -> None:
    where = ("--root", root, "--device", "cpu", "--json")
    (tmp_path / "steps.txt").write_text("1. take up the flask\n2. stir\n\n# nothing\n- put down the flask\n")
    found = answers(cli("search", "--steps", tmp_path / "steps.txt", *where, "--top", "4"))
    assert {answer["video_id"] for answer in found} == set(SCRIPTS)
    for answer in found:
        steps = answer["steps"]
        assert [step["step"] for step in steps] == ["take up the flask", "stir", "put down the flask"]
        times = [t for step in steps for t in (step["start"], step["end"])]
        assert times == sorted(times) and times[0] >= 0 and times[-1] < 3.5
    found = answers(cli("search", "--video", mine / "videos" / "ben.mp4", *where, "--top", "2"))
    assert found[0]["video_id"] == "ben" and found[0]["score"] > max(0.99999, found[1]["score"])
    same = answers(cli("search", "--video", "ben", *where, "--top", "1"))
    assert same[0]["video_id"] == found[1]["video_id"], "a video of the index does not find itself"
    found = answers(cli("search", "--like", "cleo@0:01", *where, "--top", "9"))
    assert {answer["video_id"] for answer in found} == set(SCRIPTS) - {"cleo"}
    done = cli("search", "--steps", tmp_path / "steps.txt", "--root", root)
    assert done.code == 0 and "put down the flask" in done.out and "cosine" in done.out


def test_filters_and_folders(root: Path, cli: Cli) -> None:
    long = answers(cli("search", "stir", "--root", root, "--min-seconds", "2.4", "--json"))
    assert {answer["video_id"] for answer in long} == {"cleo", "dora"}
    assert not answers(cli("search", "stir", "--root", root, "--task", "none such", "--json"))
    folder = root / "indexes" / RUN
    twice = answers(cli("search", "stir", "--root", root, "--index", folder, "--index", folder, "--json"))
    assert len(twice) == 5


@pytest.mark.slow
def test_dask_workers_answer_alike(root: Path, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "steps.txt").write_text("take up the flask\nstir\n")
    for asked in (("stir",), ("--steps", tmp_path / "steps.txt")):
        here = answers(cli("search", *asked, "--root", root, "--json"))
        far = answers(cli("search", *asked, "--root", root, "--json", "--dask", "local:1"))
        assert [a["video_id"] for a in far] == [a["video_id"] for a in here]
    done = cli("search", "--like", "cleo@0:01", "--root", root, "--dask", "local")
    assert done.code == 2 and "without --dask" in done.err
    shards = ("--index", root / "indexes" / RUN, "--index", root / "nowhere")
    done = cli("search", "stir", "--root", root, *shards, "--dask", "local:1")  # the worker says so
    assert done.code == 2 and "nowhere" in done.err and "Traceback" not in done.err
    done = cli("search", "stir", "--root", root, "--dask", "local:none")
    assert done.code == 2 and "local:N" in done.err


def test_add_and_remove(root: Path, cli: Cli) -> None:
    assert cli("index", "build", "--root", root).code == 0
    done = cli("index", "remove", "ben", "nobody", "--root", root)
    assert done.code == 2 and "1 videos taken out" in done.out and "nobody" in done.err
    found = answers(cli("search", "stir", "--root", root, "--json", "--top", "9"))
    assert {answer["video_id"] for answer in found} == set(SCRIPTS) - {"ben"}
    done = cli("index", "add", "--root", root)
    assert done.code == 0 and "1 videos added" in done.out
    found = answers(cli("search", "stir", "--root", root, "--json", "--top", "9"))
    assert {answer["video_id"] for answer in found} == set(SCRIPTS)
    assert cli("index", "build", "--root", root, "--kind", "hnsw").code == 0
    assert cli("index", "build", "--root", root, "--kind", "flat").code == 2


def test_what_cannot_be_searched(root: Path, mine: Path, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "empty.txt").write_text("\n\n")
    os.symlink(tmp_path / "nowhere", tmp_path / "dangling.mp4")
    for words, said in (
        ((), "0 things to search for"),
        (("stir", "--like", "ben@1"), "2 things"),
        (("--like", "ben"), "the id of a video and a time"),
        (("--like", "bem@1"), "did you mean 'ben'"),
        (("--like", "ben@9:00"), "a moment from"),
        (("--steps", tmp_path / "empty.txt"), "a step per line"),
        (("--steps", tmp_path), "cannot be read"),
        (("--video", tmp_path / "dangling.mp4"), "no video file"),
        (("--video", mine / "mine.csv"), "mine.csv cannot be used"),
        (("stir", "--min-seconds", "5", "--max-seconds", "1"), "least <= most"),
    ):
        done = cli("search", *words, "--root", root, "--quiet")
        assert done.code == 2 and said in done.err, (words, done.err)


def test_scripts_as_people_write_them(tmp_path: Path) -> None:
    steps = ("take up the flask", "stir it 3 times", "put 2. down")
    for text in (
        "take up the flask\nstir it 3 times\nput 2. down",
        "\ufeffStep 1: take up the flask\r\nStep 2:  stir it  3 times\r\n3) put 2. down\r\n",
        json.dumps(list(steps)),
        "# by Anna\n* take up the flask\n\n- stir it 3 times\n• put 2. down\n",
    ):
        assert parse_script(text.removeprefix("\ufeff")) == steps
        (tmp_path / "s.txt").write_text(text, encoding="utf-8")
        assert read_script(tmp_path / "s.txt") == steps
    (tmp_path / "s.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StepclipError, match="not UTF-8"):
        read_script(tmp_path / "s.txt")
    (tmp_path / "s.txt").write_bytes(b"a" * (1 << 21))
    with pytest.raises(StepclipError, match="over 1 MiB"):
        read_script(tmp_path / "s.txt")


@pytest.mark.parametrize(
    ("text", "moment"),
    [("a@1:23", ("a", 83)), ("a@b@7.5", ("a@b", 7.5)), ("x/y@1:00:01", ("x/y", 3601)), ("a@0", ("a", 0))],
)
def test_moments(text: str, moment: tuple[str, float]) -> None:
    assert parse_moment(text) == moment


@pytest.mark.parametrize("text", ["a", "@1", "a@", "a@x", "a@1:2:3:4", "a@-1", "a@nan", "a@inf"])
def test_no_moments(text: str) -> None:
    with pytest.raises(StepclipError, match="the id of a video and a time"):
        parse_moment(text)

"""`stepclip extract` and `datasets`: an interrupt, a try for one reason, devices, what is present and not."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Outcome, write_csv

Cli = Callable[..., Outcome]


@pytest.fixture
def half(tmp_path: Path, mine: Path) -> Path:
    """A CSV of two good videos, an empty one, one that is not there."""
    shutil.copytree(mine / "videos", tmp_path / "videos")
    (tmp_path / "videos" / "empty.mp4").write_bytes(b"")
    return write_csv(tmp_path / "half.csv", {name: ["stir"] for name in ("anna", "ben", "empty", "gone")})


def test_what_is_present_and_what_is_missing(half: Path, tiny_clip: Path, tmp_path: Path, cli: Cli) -> None:
    given = ("--manifest", half, "--encoder", tiny_clip, "--root", tmp_path, "--quiet")
    assert cli("extract", *given).code == 0
    features = tmp_path / "data" / "half" / "features"

    def attempts() -> dict[str, int]:
        rows = map(json.loads, (features / "failed.jsonl").read_text().splitlines())
        return {row["video_id"]: row["attempts"] for row in rows}

    assert attempts() == {"empty": 1, "gone": 1}
    assert cli("extract", *given, "--retry-failed=empty-file").code == 0
    assert attempts() == {"empty": 2, "gone": 1}
    assert cli("extract", *given, "--retry-failed").code == 0
    assert attempts() == {"empty": 3, "gone": 2}
    wrong = cli("extract", *given, "--retry-failed=empty")
    assert wrong.code == 2 and "no video failed for the reason 'empty'" in wrong.err

    listed = cli("datasets", "--root", tmp_path)
    row = next(line.split() for line in listed.out.splitlines() if line.split()[:1] == ["half"])
    assert row[-5:] == ["3", "1", "2", "none", "4"]  # there, missing, extracted; splits
    assert "Known faults" in cli("datasets", "csv").out
    assert cli("datasets", "cvs").code == 2


def test_several_devices_that_are_not_all_here(mine: Path, tiny_clip: Path, tmp_path: Path, cli: Cli) -> None:
    given = ("--manifest", mine / "mine.csv", "--encoder", tiny_clip, "--root", tmp_path, "--quiet")
    done = cli("extract", *given, "--device", "cpu,cuda:7")
    assert done.code == 2 and "the device 'cuda:7' is not here" in done.err
    assert not (tmp_path / "data").exists()


def test_ctrl_c_ends_an_extraction_with_130_and_nothing_is_left(
    tiny_clip: Path, tmp_path: Path, make_mp4: Callable[..., Path]
) -> None:
    """Sixty videos of which some are decoded when it comes; the next run goes on."""
    video = make_mp4(tmp_path / "videos" / "v.mp4", seconds=20)
    for k in range(60):
        (tmp_path / "videos" / f"{k}.mp4").symlink_to(video)
    manifest = write_csv(tmp_path / "many.csv", {str(k): ["stir"] for k in range(60)})
    program = Path(sys.executable).with_name("stepclip")
    words = ["extract", "--manifest", manifest, "--encoder", tiny_clip, "--root", tmp_path, "--all"]
    running = subprocess.Popen([program, *words], stderr=subprocess.PIPE, text=True)
    text = tmp_path / "data" / "many" / "features" / "text.h5"
    end = time.monotonic() + 300
    while running.poll() is None and time.monotonic() < end and not text.is_file():
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=120)
    assert running.returncode == 130, err
    assert "Traceback" not in err
    first, *_, last = err.strip().splitlines()
    assert first.startswith("device cpu, precision fp32, encoder ") and "left" in last and "failed" in last

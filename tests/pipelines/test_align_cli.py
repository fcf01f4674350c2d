"""`stepclip align` on videos that were extracted and trained on by the real commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stepclip.cache.manifest import VideoRow
from stepclip.pipelines.aligning import frames_at


def test_a_picture_of_two_videos(root: Path, cli: Callable[..., object], tmp_path: Path):
    done = cli("align", "anna", "ben", "--root", root, "--device", "cpu")
    assert done.code == 0, done.err
    (picture,) = (root / "runs").glob("*/align-anna-ben.png")
    assert picture.read_bytes()[:4] == b"\x89PNG" and str(picture) in done.out
    done = cli("align", "anna", "ben", "--root", root, "--out", tmp_path / "own.svg", "--device", "cpu")
    assert done.code == 0 and (tmp_path / "own.svg").read_text().count("<image") > 10


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("anna", "nobody"), "nobody"),
        (("anna", "anna"), "two videos"),
        (("anna", "ben", "--out", "x.gif"), ".png"),
    ],
)
def test_what_cannot_be_drawn_is_said(
    root: Path, cli: Callable[..., object], words: tuple[str, ...], says: str
):
    done = cli("align", *words, "--root", root, "--device", "cpu")
    assert done.code == 2 and says in done.err


def test_frames_are_those_of_the_time(make_mp4: Callable[..., Path], tmp_path: Path):
    path = make_mp4(tmp_path / "a.mp4", seconds=2)
    first, again, last = frames_at(VideoRow("a", str(path), "", "p", "", steps=("s",)), [0.0, 0.0, 1.9])
    assert np.array_equal(first, again) and not np.array_equal(first, last)

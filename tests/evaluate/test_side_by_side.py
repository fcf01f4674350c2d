"""Two videos laid onto each other: the path, the partner of each frame, the picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stepclip.cache.errors import StepclipError
from stepclip.evaluate.embed import Embedded
from stepclip.evaluate.side_by_side import draw_side_by_side, lay_side_by_side


def made():
    shown = torch.eye(5)
    frames = torch.cat([shown.repeat_interleave(2, 0), shown.repeat_interleave(3, 0)])
    times = np.concatenate([np.arange(10) / 2, np.arange(15) / 2])
    offsets = np.array([0, 10, 25])
    return Embedded(
        "made", ("slow", "slower"), torch.zeros(2, 5), frames, times, offsets, np.array([5.0, 7.5])
    )


def test_partners_show_the_same_and_the_path_has_no_cost():
    laid = lay_side_by_side(made(), "slow", "slower")
    assert (laid.partner // 3 == np.arange(10) // 2).all() and (laid.partner % 3 == 0)[::2].all()
    assert laid.path[0].tolist() == [0, 0] and laid.path[-1].tolist() == [9, 14]
    assert (np.diff(laid.path, axis=0).max(1) == 1).all() and (np.diff(laid.path, axis=0) >= 0).all()
    assert laid.distance == pytest.approx(0, abs=1e-9)


def test_the_picture_asks_for_the_frames_that_it_shows(tmp_path):
    laid, asked = lay_side_by_side(made(), "slow", "slower"), []

    def images(which, seconds):
        asked.append((which, list(seconds)))
        return [np.full((6, 8, 3), 40 * which, np.uint8) for _ in seconds]

    figure = draw_side_by_side(laid, images, columns=5)
    figure.savefig(tmp_path / "laid.png")
    assert [which for which, _ in asked] == [0, 1, 1] and len(asked[0][1]) == 5
    for at, there in zip(asked[0][1], asked[1][1], strict=True):
        assert int(there * 2) // 3 == int(at * 2) // 2  # the same thing is shown
    assert (tmp_path / "laid.png").stat().st_size > 5000
    assert len(draw_side_by_side(laid).axes) == 1  # without the videos, the path alone


def test_one_video_is_not_laid_onto_itself():
    with pytest.raises(StepclipError, match="two videos"):
        lay_side_by_side(made(), "slow", "slow")
    with pytest.raises(StepclipError, match="no embedding"):
        lay_side_by_side(made(), "slow", "nobody")

"""WeakSVR's segments: the frames that are kept, and how they are found again among the rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepclip.cache.errors import StepclipError
from stepclip.cache.segments import check_take, kept_frames, segment_rows, view_rows


def boundaries(frames: int) -> np.ndarray:
    """As released: integer parts of 17 equally spaced values."""
    return np.linspace(0, frames - 2, 17).astype(int)


def views(frames: int) -> np.ndarray:
    edges = boundaries(frames)
    return np.maximum([edges[:-1] + i * ((edges[1:] - edges[:-1]) // 4) for i in (1, 2, 3)], 0)


@given(frames=st.integers(1, 5000), take=st.sampled_from(["test", 4, 8, 12, 40]))
def test_the_test_frames_are_found_from_the_number_of_rows_alone(frames: int, take: str | int) -> None:
    kept = kept_frames(frames, take)
    assert np.array_equal(kept[view_rows(len(kept), take)], views(frames))


@given(frames=st.integers(3, 5000), take=st.sampled_from([4, 8, 12, 40]))
def test_each_segment_has_its_candidates(frames: int, take: int) -> None:
    kept, edges = kept_frames(frames, take), boundaries(frames)
    rows = segment_rows(len(kept))
    assert len(kept) == min(frames - 2, 16 * take)
    for segment in range(16):
        own = kept[rows[segment] : rows[segment + 1]]
        length = edges[segment + 1] - edges[segment]
        assert len(own) == min(length, take)
        if len(own):
            assert own[0] == edges[segment] and own[-1] < edges[segment + 1]
            assert (np.diff([*own, edges[segment + 1]]) <= -(-length // take) + 3).all()  # evenly spread


def test_a_long_video_has_48_test_frames() -> None:
    kept = kept_frames(1602, "test")  # segments of 100 frames
    assert kept.tolist() == [100 * segment + offset for segment in range(16) for offset in (25, 50, 75)]
    assert view_rows(48, "test")[1].tolist() == list(range(1, 48, 3))


def test_very_short_videos() -> None:
    assert kept_frames(1, "test").tolist() == kept_frames(2, 4).tolist() == [0]
    assert kept_frames(10, 8).tolist() == list(range(8))  # the last two are never used
    assert (view_rows(1, "test") == 0).all() and (view_rows(1, 4) == 0).all()


@pytest.mark.parametrize("take", ["all", "", 0, -4, 6, 1.5, None, "3"])
def test_other_numbers_of_candidates_are_refused(take: object) -> None:
    with pytest.raises(StepclipError, match="multiple of 4"):
        check_take(take)  # type: ignore[arg-type]


def test_a_number_may_come_as_text() -> None:
    assert check_take("8") == check_take(8) == 8 and check_take("test") == "test"


@pytest.mark.parametrize(("rows", "take"), [(0, "test"), (17, "test"), (49, "test"), (0, 4), (65, 4)])
def test_a_number_of_rows_that_cannot_be_is_refused(rows: int, take: str | int) -> None:
    with pytest.raises(StepclipError, match="rows of"):
        view_rows(rows, take)
    with pytest.raises(StepclipError, match="0 frames"):
        kept_frames(0, take)

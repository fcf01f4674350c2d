"""Step localisation against exhaustive search and counting by hand."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stepclip.cache.errors import StepclipError
from stepclip.cache.manifest import VideoRow
from stepclip.evaluate.steps import (
    DECODERS,
    Decoded,
    decode_dropping,
    one_frame_each,
    score_steps,
    segment_counts,
    step_similarities,
)


@settings(max_examples=40, deadline=None)
@given(t=st.integers(1, 7), s=st.integers(1, 5), seed=st.integers(0, 999))
def test_one_frame_for_each_step_is_the_best_of_all_ways(t: int, s: int, seed: int) -> None:
    x = torch.as_tensor(np.random.default_rng(seed).normal(size=(t, s)))
    found = one_frame_each(x)
    shown = min(t, s)
    best = max(sum(float(x[row, k]) for k, row in enumerate(way)) for way in combinations(range(t), shown))
    assert sum(float(x[row, k]) for k, row in enumerate(found[:shown])) == pytest.approx(best)
    assert (np.diff(found[:shown]) > 0).all() and (found[shown:] == -1).all()


def row(video_id: str, task: str, times: list[tuple[float, float]]) -> VideoRow:
    start, end = zip(*times, strict=True)
    return VideoRow(
        video_id,
        "",
        task=task,
        steps=tuple(f"s{k}" for k in range(len(times))),
        step_start=start,
        step_end=end,
    )


def test_figures_counted_by_hand() -> None:
    videos = [row("a", "x", [(0, 2), (4, 6)]), row("b", "x", [(0, 5)]), row("c", "y", [(1, 2)])]
    points = [np.array([1, 3]), np.array([-1]), np.array([1])]
    labels = [np.array([0, 0, 1, 1, 1, -1]), np.full(5, -1), np.array([0, 0, 0])]
    times = [np.arange(6.0), np.arange(5.0), np.arange(3.0)]
    found = score_steps(Decoded(points, labels), times, [6, 5, 3], videos)
    assert found.recall == pytest.approx((1 / 3 + 1) / 2)  # task x: one of three, task y: one of one
    assert found.mof == pytest.approx((3 + 0 + 1) / 14)  # frames 0, 1, 4; none; 1
    # borders half-way: step 0 of a is 0-1.5, step 1 is 1.5-4.5; of c all of 0-3
    assert found.iou == pytest.approx(np.mean([1.5 / 2, 0.5 / 4.5, 0, 1 / 3]))
    # true segments 2 + 1 + 1; a's first is right at any overlap, its second shares 1 of 4 frames, c's 1 of 3
    assert found.f1_10 == pytest.approx(2 * 3 / (2 * 3 + 0 + 1))
    assert found.f1_25 == pytest.approx(2 * 3 / (2 * 3 + 0 + 1))
    assert found.f1_50 == pytest.approx(2 * 1 / (2 * 1 + 2 + 3))
    assert (found.videos, found.steps) == (3, 4)


def test_a_true_segment_is_found_once() -> None:
    true = np.array([0, 0, 0, 0, 1, 1])
    assert segment_counts(np.array([0, -1, 0, 0, 1, 1]), true, 0.25) == (2, 1, 0)
    assert segment_counts(np.full(6, -1), true, 0.25) == (0, 0, 2)
    assert segment_counts(np.array([1, 1, 1, 1, 0, 0]), true, 0.1) == (0, 2, 2)


def test_the_planted_world_is_found(world) -> None:
    videos = list(world.manifest)
    e = world.embedded
    similarities = step_similarities(e, world.store, videos)
    times = [e.times[e.slice(i)] for i in range(len(e))]
    found = {
        name: score_steps(decode(similarities), times, list(e.durations), videos)
        for name, decode in DECODERS.items()
    }
    for result in found.values():
        assert result.recall > 0.99
    # the idle frames at both ends are background, which the ordered labels cannot say
    dropping = score_steps(decode_dropping(similarities, 0.16), times, list(e.durations), videos)
    assert dropping.mof > found["ordered"].mof
    assert found["ordered"].iou > 0.9 and found["ordered"].f1_50 > 0.9


def test_without_times_nothing_can_be_scored() -> None:
    video = VideoRow("v", "", steps=("s0",))
    with pytest.raises(StepclipError, match="no true step times"):
        score_steps(Decoded([np.array([0])], [np.array([0])]), [np.zeros(1)], [1.0], [video])

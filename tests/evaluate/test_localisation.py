"""Localisation against literal loops over frames, steps and thin slices of time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepclip.cache.errors import StepclipError
from stepclip.cache.manifest import VideoRow
from stepclip.evaluate.localisation import (
    align_scripts,
    frame_borders,
    localise,
    span_iou,
    step_spans,
    uniform_split,
)


def row(start: list[float], end: list[float], video_id: str = "v") -> VideoRow:
    return VideoRow(
        video_id,
        "",
        steps=tuple(f"s{k}" for k in range(len(start))),
        step_start=tuple(start),
        step_end=tuple(end),
    )


def literal_iou(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Count slices of 1 ms."""
    at = (np.arange(20_000) + 0.5) / 1000
    x, y = (at > a[0]) & (at < a[1]), (at > b[0]) & (at < b[1])
    return float((x & y).sum() / (x | y).sum())


@settings(max_examples=30, deadline=None)
@given(st.tuples(*[st.integers(0, 80)] * 4).filter(lambda x: x[0] < x[1] and x[2] < x[3]))
def test_iou_by_counting(x: tuple[int, int, int, int]) -> None:
    a, b = (x[0] / 4, x[1] / 4), (x[2] / 4, x[3] / 4)
    assert span_iou(np.array([a]), np.array([b]))[0] == pytest.approx(literal_iou(a, b), abs=1e-9)


def test_borders_lie_half_way() -> None:
    assert frame_borders(np.array([0.0, 1.0, 3.0]), 5.0).tolist() == [0, 0.5, 2, 5]
    assert frame_borders(np.array([0.4]), 0.2).tolist() == [0, 0.4]  # a duration shorter than the last time


def test_spans_and_unvisited_steps() -> None:
    spans = step_spans(np.array([0, 0, 2, 2, 2]), np.arange(5.0), 5.0, 4)
    assert spans[0].tolist() == [0, 1.5] and spans[2].tolist() == [1.5, 5]
    assert np.isnan(spans[[1, 3]]).all()
    assert span_iou(spans, np.array([[0, 1.5], [1, 2], [1.5, 5], [4, 5]])).tolist() == [1, 0, 1, 0]


def test_uniform_split() -> None:
    assert uniform_split(6, 3).tolist() == [0, 0, 1, 1, 2, 2]
    assert uniform_split(2, 5).tolist() == [0, 2]
    assert np.bincount(uniform_split(17, 5)).tolist() == [4, 3, 4, 3, 3]


def test_literal_loop_over_frames() -> None:
    rng = np.random.default_rng(0)
    videos, labels, times, durations = [], [], [], []
    right = inside = total = 0
    ious = []
    for v in range(6):
        cuts = np.sort(rng.uniform(0, 10, 6))
        start, end = cuts[:-1] + 0.1, cuts[1:]
        end = np.maximum(end, start)
        video = row(start.tolist(), end.tolist(), f"v{v}")
        at = np.arange(40) / 4
        found = np.sort(rng.integers(0, 5, 40))
        for t, k in zip(at, found, strict=True):
            truth = [j for j in range(5) if start[j] <= t < end[j]]
            inside += bool(truth)
            right += k in truth
            total += 1
        for k in range(5):
            if end[k] > start[k]:
                here = at[found == k]
                span = (max(0.0, here[0] - 0.125), min(here[-1] + 0.125, 10)) if len(here) else None
                if span and found[-1] == k:
                    span = (span[0], 10.0)
                ious.append(literal_iou(span, (start[k], end[k])) if span else 0.0)
        videos.append(video), labels.append(found), times.append(at), durations.append(10.0)
    result = localise(labels, times, durations, videos)
    assert result.frame_accuracy == pytest.approx(right / inside)
    assert result.all_frames == pytest.approx(right / total)
    assert result.iou == pytest.approx(np.mean(ious), abs=2e-3)
    assert (result.videos, result.steps, result.frames) == (6, len(ious), total)


def test_perfect_labels_and_idle_frames() -> None:
    video = row([1.0, 3.0], [2.0, 4.0])
    times = np.arange(20) / 4
    labels = (times >= 2.5).astype(int)
    result = localise([labels], [times], [5.0], [video])
    assert result.frame_accuracy == 1.0
    assert result.all_frames == 8 / 20
    truth_only = localise(
        [np.where(times < 3, 0, 1)], [times], [5.0], [row([0.0, 3.0 - 0.125], [3.0 - 0.125, 5.0])]
    )
    assert truth_only.frame_accuracy == truth_only.iou == 1.0


def test_planted_world_is_found_and_random_frames_are_not(world) -> None:  # type: ignore[no-untyped-def]
    import dataclasses

    import torch

    e, videos = world.embedded, world.manifest.videos
    rows = np.array([e.row(v.video_id) for v in videos])
    scripts = [v.steps for v in videos]
    times = [e.times[e.slice(r)] for r in rows]
    aligned = align_scripts(e, world.store, rows, scripts)
    good = localise(aligned.labels, times, list(e.durations), videos)
    assert good.frame_accuracy > 0.99 and good.iou > 0.9
    chunked = align_scripts(e, world.store, rows, scripts, chunk_bytes=1)
    assert all((x == y).all() for x, y in zip(aligned.labels, chunked.labels, strict=True))
    assert np.allclose(aligned.scores, chunked.scores)
    uniform = localise(
        [uniform_split(len(t), len(s)) for t, s in zip(times, scripts, strict=True)],
        times,
        list(e.durations),
        videos,
    )
    dice = torch.randn(e.frames.shape, generator=torch.Generator().manual_seed(0))
    noise = align_scripts(dataclasses.replace(e, frames=dice), world.store, rows, scripts)
    bad = localise(noise.labels, times, list(e.durations), videos)
    assert bad.frame_accuracy < uniform.frame_accuracy + 0.1 < good.frame_accuracy
    for labels, script in zip(aligned.labels, scripts, strict=True):
        assert np.array_equal(np.unique(labels), np.arange(len(script))) and (np.diff(labels) >= 0).all()


def test_a_sentence_that_is_said_again() -> None:
    video = VideoRow(
        "v", "", steps=("take", "put", "take"), step_start=(0.0, 1.0, 2.0), step_end=(1.0, 2.0, 3.0)
    )
    times = np.arange(12) / 4
    labels = np.repeat([0, 1, 2], [8, 2, 2])  # 4 right, 4 the wrong sentence, 2 the wrong sentence, 2 right
    result = localise([labels], [times], [3.0], [video])
    assert result.frame_accuracy == result.same_sentence == 6 / 12
    again = localise([np.repeat([0, 2], [4, 8])], [times], [3.0], [video])
    assert again.frame_accuracy == again.same_sentence == 8 / 12
    swapped = localise([np.repeat([0, 1], [11, 1])], [times], [3.0], [video])
    assert swapped.frame_accuracy == 4 / 12 and swapped.same_sentence == 7 / 12
    none = localise([np.full(12, -1)], [times], [3.0], [video])
    assert none.same_sentence == 0


def test_videos_without_truth() -> None:
    unknown = VideoRow("u", "", steps=("a",))
    with pytest.raises(StepclipError, match="no video has true step times"):
        localise([np.zeros(3, int)], [np.arange(3.0)], [3.0], [unknown])
    both = localise([np.zeros(3, int)] * 2, [np.arange(3.0)] * 2, [3.0] * 2, [unknown, row([0.0], [3.0])])
    assert both.videos == 1 and both.frame_accuracy == 1
    with pytest.raises(StepclipError, match="2 labels for the 3 frames"):
        localise([np.zeros(2, int)], [np.arange(3.0)], [3.0], [row([0.0], [3.0])])

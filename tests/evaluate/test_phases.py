"""Which frames show which phase, who is compared with whom, and what the table of frames says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from stepclip.cache.manifest import VideoRow
from stepclip.evaluate import frame_tasks as tasks
from stepclip.evaluate.embed import Embedded
from stepclip.evaluate.frame_tasks import clock, explained_by, frame_stride, frame_tasks, unit_rows
from stepclip.evaluate.phases import frame_phases, phased, plan_frames
from stepclip.evaluate.results import CONTROL, TRAINED, Row

WORDS = ("take", "pour", "stir", "put")


def row(video_id, task, steps=WORDS, procedure="", split="test", seconds=2.0, timed=True):
    starts = tuple(seconds * k + 0.5 for k in range(len(steps)))
    ends = tuple(start + seconds - 0.5 for start in starts)
    times = {"step_start": starts, "step_end": ends} if timed else {}
    return VideoRow(
        video_id, f"/v/{video_id}.mp4", task, procedure or task, split, steps=tuple(steps), **times
    )


def embedded_of(videos, noise=0.1, seed=0, fps=4.0, e=8):
    """Every phase has a direction of its own, in every video."""
    rng = np.random.default_rng(seed)
    directions = {word: rng.normal(size=e) for word in WORDS}
    frames, times, lengths = [], [], []
    for video in videos:
        at = np.arange(0, max(video.step_end or (6.0,)) + 0.5, 1 / fps)
        steps = frame_phases(video, at)
        clean = [directions[video.steps[k]] if k >= 0 else np.zeros(e) for k in steps]
        frames.append(np.stack(clean) + noise * rng.normal(size=(len(at), e)))
        times.append(at)
        lengths.append(len(at))
    x = torch.from_numpy(np.concatenate(frames)).float()
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = tuple(video.video_id for video in videos)
    video = torch.zeros(len(videos), e)
    return Embedded("made", ids, video, x, np.concatenate(times), offsets, np.array(lengths) / fps)


def test_a_frame_shows_the_step_that_it_lies_in():
    video = row("a", "1")
    video = replace(video, step_start=(1.0, 3.0, 4.0, 8.0), step_end=(2.0, 5.0, 6.0, 9.0))
    times = np.array([0.0, 1.0, 1.9, 2.0, 3.5, 4.5, 5.9, 6.0, 8.0, 9.0])
    # where steps overlap, the last one to start
    assert frame_phases(video, times).tolist() == [-1, 0, 0, -1, 1, 2, 2, -1, 3, -1]
    assert frame_phases(row("a", "1", timed=False), times).tolist() == [-1] * 10


def test_people_of_the_fit_are_not_tested():
    videos = [row(f"{t}.{p}/{who}", t, procedure=f"{t}.{p}") for t in "12" for p in "01" for who in "abc"]
    plan = plan_frames(videos, [])
    assert len(plan.groups) == 2 and not plan.fit_split and "not seen" in plan.described
    for group in plan.groups:
        assert sorted(i for _, tested in group.folds for i in tested) == list(group.test)
        for fitted, tested in group.folds:
            people = [{videos[i].video_id[-1] for i in part} for part in (fitted, tested)]
            assert people[0] & people[1] == set() and len(people[1]) == 1
        for a, b in group.pairs:
            first, second = videos[group.test[a]], videos[group.test[b]]
            assert first.procedure == second.procedure and first.video_id != second.video_id


def test_the_training_split_is_fitted_on_where_it_knows_the_phases():
    test = [row(f"1/{who}", "1") for who in "ab"] + [row("2/a", "2"), row("2/b", "2")]
    train = [row(f"{t}/{who}", t, split="train") for t in "12" for who in "xyz"]
    plan = plan_frames(test, train)
    assert plan.fit_split and [g.folds for g in plan.groups] == [
        (((0, 1, 2), (0, 1)),),
        (((3, 4, 5), (2, 3)),),
    ]
    strangers = [row("9/x", "9", steps=("fold", "press"), split="train")]
    assert not plan_frames(test, strangers).fit_split
    # single videos of a task are compared with all others
    lone = plan_frames([row(f"{t}/a", t) for t in "123"], train)
    assert len(lone.groups) == 1 and len(lone.groups[0].test) == 3 and len(lone.groups[0].fit) == 6


def test_why_there_is_no_table():
    assert "step times" in plan_frames([row("a", "1", timed=False)], [])
    assert "no two videos" in plan_frames([row("a", "1")], [])


def test_labels_are_the_groups_and_idle_frames_are_left_out():
    videos = [row(f"1/{who}", "1") for who in "ab"]
    group = plan_frames(videos, []).groups[0]
    assert group.phases == WORDS
    made = embedded_of(videos)
    data = phased(made, made.frames.numpy(), videos, group.test, group)
    inside = [int((frame_phases(v, made.times[made.slice(i)]) >= 0).sum()) for i, v in enumerate(videos)]
    assert data.lengths.tolist() == inside and set(data.labels) == {0, 1, 2, 3}
    assert (np.diff(data.labels[: inside[0]]) >= 0).all()


def test_content_is_told_from_the_clock():
    """Two procedures of a task in opposite order: the time says nothing of the phase, the content all."""
    videos = [
        row(f"1.{p}/{who}", "1", steps=WORDS if p == "0" else WORDS[::-1], procedure=f"1.{p}")
        for p in "01"
        for who in "abcd"
    ]
    plan, made = plan_frames(videos, []), embedded_of(videos)
    content = frame_tasks(plan, made, unit_rows(made.frames), videos)
    ticking = frame_tasks(plan, made, clock(made), videos)
    assert content.accuracy > 0.99 and content.ap5 > 0.99 and content.linear > 0.9
    assert content.accuracy >= content.accuracy_10 > 0.9 and content.accuracy_10_deviation >= 0
    assert ticking.accuracy < 0.6 and ticking.ap5 < 0.7 and ticking.tau > 0.95
    assert content.tau_pairs == 24 and content.groups == 1 and content.phases == 4
    warned = explained_by([Row("frames", TRAINED, content), Row("clock", CONTROL, ticking)])
    assert any("Kendall" in line and "clock" in line for line in warned)
    assert not any("accuracy" in line and "clock" in line for line in warned)


def test_frames_are_thinned_to_twelve_a_second():
    videos = [row(f"1/{who}", "1") for who in "ab"]
    assert frame_stride(embedded_of(videos, fps=25.0)) == 2
    assert frame_stride(embedded_of(videos, fps=4.0)) == 1


def test_of_very_large_groups_some_videos_stand_for_all(monkeypatch):
    videos = [row(f"1/{who}", "1") for who in "abcdefgh"]
    plan, made = plan_frames(videos, []), embedded_of(videos)
    whole = frame_tasks(plan, made, unit_rows(made.frames), videos, linear=False, shares=())
    assert not whole.drawn
    frames = whole.frames // 8
    monkeypatch.setattr(tasks, "MOST_COMPARED", 3 * frames)
    monkeypatch.setattr(tasks, "MOST_PAIRS", 10)
    monkeypatch.setattr(tasks, "MOST_FITTED", 2 * frames)
    some = frame_tasks(plan, made, unit_rows(made.frames), videos, linear=False, shares=())
    assert some.drawn and some.tau_pairs + some.tau_undefined == 10 and some.accuracy > 0.95
    again = frame_tasks(plan, made, unit_rows(made.frames), videos, linear=False, shares=())
    assert (some.accuracy, some.tau, some.ap5) == (again.accuracy, again.tau, again.ap5)

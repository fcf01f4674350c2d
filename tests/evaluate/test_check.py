"""The check of a recording: evidence against enumeration, planted faults, reports that hold together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stepclip.cache.errors import StepclipError
from stepclip.cache.files import read_json, write_json
from stepclip.evaluate.checking import Checker, check, compare, fit_checker
from stepclip.evaluate.checking.check import judged, laid_out
from stepclip.evaluate.checking.checker import Judge, Logistic, best_threshold
from stepclip.evaluate.checking.edits import KINDS, evidence, gap_frames, gap_seconds, values
from stepclip.evaluate.checking.faults import Recording, Recordings, cut, with_faults
from stepclip.evaluate.checking.fitting import partners
from stepclip.evaluate.checking.likeness import References, nearest_others, with_references
from stepclip.evaluate.checking.report import TAGS
from stepclip.evaluate.checking.scoring import calibration, captaincook_truth, score_checks, truth_of
from stepclip.evaluate.embed import Embedded, embed_raw

from .conftest import FPS, World, build_world


def slow_value(similarity: np.ndarray, order: Sequence[int], background: float) -> float:
    """V of a script by trying every choice of one stretch of frames per step."""
    frames, best = len(similarity), np.inf
    for cuts in combinations(range(2 * frames + 1), 2 * len(order)):
        # even and odd borders of stretches: each stretch must hold a frame, gaps may be empty
        edges = [-(-c // 2) for c in cuts]
        spans = list(zip(edges[::2], edges[1::2], strict=True))
        if any(b <= a for a, b in spans):
            continue
        total = sum(
            background - similarity[t, k] for (a, b), k in zip(spans, order, strict=True) for t in range(a, b)
        )
        best = min(best, total)
    return best


def test_the_value_of_a_script_is_the_best_of_all_layouts() -> None:
    rng = np.random.default_rng(0)
    similarity = rng.normal(size=(6, 4))
    orders = [[0, 1, 2], [1, 0], [3], [2, 2, 1]]
    found = values(torch.from_numpy(similarity).float(), orders, 0.3)
    expected = [slow_value(similarity, order, 0.3) for order in orders]
    assert found == pytest.approx(expected, abs=1e-5)


def test_evidence_is_the_gain_of_each_edit() -> None:
    """Every gain against the edited scripts written out one by one."""
    rng = np.random.default_rng(1)
    similarity = torch.from_numpy(rng.normal(size=(9, 5))).float()
    k, level = 3, 0.2

    def value(order: Sequence[int]) -> float:
        return float(values(similarity, [list(order)], level)[0])

    found, base = evidence(similarity, k, level), value([0, 1, 2])
    for step in range(k):
        rest = [i for i in range(k) if i != step]
        assert found.features["missing"][step, 0] == pytest.approx(base - value(rest), abs=1e-5)
        moves = [[*rest[:g], step, *rest[g:]] for g in range(k) if g != step]
        assert found.features["moved"][step, 1] == pytest.approx(base - min(map(value, moves)), abs=1e-5)
        again = [[*range(g), step, *range(g, k)] for g in range(k + 1) if g not in (step, step + 1)]
        assert found.features["repeated"][step, 2] == pytest.approx(base - min(map(value, again)), abs=1e-5)
    for gap in range(k + 1):
        added = [[*range(gap), other, *range(gap, k)] for other in (3, 4)]
        gains = [base - value(order) for order in added]
        assert found.features["added"][gap, 0] == pytest.approx(max(gains), abs=1e-5)
        assert found.place["added"][gap] == int(np.argmax(gains))
    assert all(np.isfinite(x).all() for x in found.features.values())


def test_evidence_needs_frames_and_takes_one_step() -> None:
    with pytest.raises(StepclipError, match="4 frames for 3 steps"):
        evidence(torch.zeros(4, 3), 3, 0.1)
    one = evidence(torch.rand(5, 1), 1, 0.1)
    assert one.features["missing"][0, 0] == -1 and one.place["moved"][0] == -1


def test_gaps() -> None:
    labels = np.array([-1, 0, -1, -1, 1, 1, -1])
    assert gap_seconds(labels, 3, np.full(7, 0.5)).tolist() == [0.5, 1.0, 0.5, 0.0]
    assert [gap_frames(labels, g).tolist() for g in range(4)] == [[0], [2, 3], [6], []]


# ---- faults


def source(steps: int = 4) -> tuple[np.ndarray, list[tuple[int, int]], tuple[str, ...]]:
    """Frame t of a recording is the number t; steps of three frames, one idle frame before and after each."""
    frames = np.arange(4 * steps + 1, dtype=np.float32)[:, None]
    return frames, [(4 * k + 1, 4 * k + 4) for k in range(steps)], tuple(f"s{k}" for k in range(steps))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["sound", *KINDS])
def test_cut_recordings_are_what_they_say(kind: str, seed: int) -> None:
    frames, spans, script = source()
    other = (np.full((2, 1), 99.0, np.float32), "other")
    made = cut("x", frames, spans, script, kind, np.random.default_rng(seed), 0.5, other)
    assert made is not None and made.kind == kind and made.script == script
    shown = [
        (s.place, made.features[s.first : s.last, 0].tolist()) for s in made.segments
    ]  # what each segment says against what the frames are
    for place, numbers in shown:
        expected = [99.0, 99.0] if place is None else list(range(*spans[place]))
        assert numbers == expected
    order = [place for place, _ in shown]
    if kind == "sound":
        assert order == [0, 1, 2, 3] and np.array_equal(made.features, frames)
    elif kind == "missing":
        (k,) = made.missing
        assert order == [i for i in range(4) if i != k] and len(made.features) == len(frames) - 3
    elif kind == "moved":
        a, b = sorted(made.moved[0])
        expected = [0, 1, 2, 3]
        expected[a], expected[b] = b, a
        assert order == expected and sorted(made.features[:, 0]) == sorted(frames[:, 0])
    elif kind == "repeated":
        (k,) = made.repeated
        assert sorted(order) == sorted([0, 1, 2, 3, k])
        places = [i for i, p in enumerate(order) if p == k]
        assert places[1] - places[0] > 1, "a step twice in a row is no repetition that one could see"
    else:
        (gap,) = made.added
        assert order == [*range(gap), None, *range(gap, 4)]


def test_too_little_to_cut() -> None:
    frames, spans, script = source(1)
    assert cut("x", frames, spans, script, "moved", np.random.default_rng(0), 1.0) is None
    frames, spans, script = source(3)
    assert cut("x", frames, spans, script, "added", np.random.default_rng(0), 1.0) is None


# ---- the planted world


@pytest.fixture(scope="module")
def wide() -> World:
    """Noisier than the other tests': faults must not be plain."""
    return build_world(people=3, noise=0.25, seed=4)


def raw(store: Any, ids: Sequence[str]) -> Embedded:
    return embed_raw(store, ids, device="cpu")


@pytest.fixture(scope="module")
def checker(wide: World) -> Checker:
    rows = [v for v in wide.manifest.without_truth() if not v.video_id.endswith("p2")]
    return fit_checker(rows, wide.store, raw, quantiles=(0.7,))


def sources_of(world: World, person: str) -> dict[str, Any]:
    found = {}
    for video in world.manifest:
        if video.video_id.endswith(person):
            assert video.step_start is not None and video.step_end is not None
            spans = [
                (round(a * FPS + 0.5), round(b * FPS + 0.5))
                for a, b in zip(video.step_start, video.step_end, strict=True)
            ]
            found[video.video_id] = (world.store.frames[video.video_id], spans, video.steps, 1 / FPS)
    return found


@pytest.mark.parametrize("with_others", [False, True])
def test_faults_of_unseen_people_are_found(wide: World, checker: Checker, with_others: bool) -> None:
    videos = [v for v in wide.manifest if v.video_id.endswith("p2")]
    made = with_faults(sources_of(wide, "p2"), partners(videos), seed=3)
    embedded = raw(Recordings(made, wide.store), [each.name for each in made])
    seen = [v for v in wide.manifest if not v.video_id.endswith("p2")]
    references = References.take(raw(wide.store, [v.video_id for v in seen]), wide.store, seen)
    reports = []
    for each in made:
        others = [s for v in videos for s in v.steps if v.task == each.name[0]]
        given = references if with_others else None
        reports.append(
            check(embedded, wide.store, embedded.row(each.name), each.script, checker, others, given)
        )
    assert {report.by for report in reports} == {"references" if with_others else "script"}
    score = score_checks(reports, [truth_of(each, 1 / FPS) for each in made])
    assert score.recordings == len(made) >= 50
    for kind in KINDS:
        assert score.kinds[kind].f1 > 0.75 > 2 * score.kinds[kind].guess, (kind, score.kinds[kind])
        assert score.kinds[kind].ece < 0.1
    assert score.verdict_auc > 0.9 and score.border_median < 0.5
    for report in reports:
        _consistent(report)


def _consistent(report: Any) -> None:
    """What every report must keep to, whatever it found."""
    told = report.to_dict()
    assert json.loads(json.dumps(told)) == told
    places = [s["place"] for s in told["steps"] if s["place"] is not None]
    assert sorted([*places, *(m["place"] for m in told["missing"])]) == list(range(len(report.steps)))
    for step in told["steps"]:
        if step["start"] is not None:
            assert 0 <= step["start"] < step["end"] <= report.duration + 1e-9
    assert all(0 <= s.sure <= 1 and 0 <= s.missing <= 1 for s in report.steps)
    assert told["is_error"] == (report.wrong >= report.threshold)
    done = [s.start for s in report.steps if s.status == "done" and s.start is not None]
    assert done == sorted(done), "steps that are done in order are laid out in order"
    assert set(TAGS.values()) >= {e["tag"] for s in told["steps"] for e in s["errors"]}


def test_a_script_too_long_or_empty(wide: World, checker: Checker) -> None:
    embedded = raw(wide.store, ["0.0-p0"])
    with pytest.raises(StepclipError, match="no steps"):
        check(embedded, wide.store, 0, (), checker)
    steps = wide.manifest["0.0-p0"].steps * 20
    with pytest.raises(StepclipError, match="frames for 120 steps"):
        check(embedded, wide.store, 0, steps, checker)


def test_trim_moves_the_times(wide: World, checker: Checker) -> None:
    embedded, steps = raw(wide.store, ["0.0-p0"]), wide.manifest["0.0-p0"].steps
    a = check(embedded, wide.store, 0, steps, checker)
    b = check(embedded, wide.store, 0, steps, checker, trim=100.0)
    shifted = [None if s.start is None else s.start + 100 for s in a.steps]
    assert [s.start for s in b.steps] == shifted


def test_few_videos_leave_the_probabilities_uncalibrated(wide: World) -> None:
    few = fit_checker(wide.manifest.videos[:5], wide.store, raw)
    assert not few.fitted and few == Checker.unfitted()
    report = check(raw(wide.store, ["0.0-p0"]), wide.store, 0, wide.manifest["0.0-p0"].steps, few)
    assert not report.calibrated and "not calibrated" in report.notes[0]
    _consistent(report)


def test_a_checker_is_kept_whole(checker: Checker, tmp_path: Path) -> None:
    checker.save(tmp_path / "check.json")
    assert Checker.load(tmp_path / "check.json") == checker
    for damage in ({}, {"schema": 99}, [1], {**read_json(tmp_path / "check.json"), "script": {}}):
        write_json(tmp_path / "bad.json", damage)
        with pytest.raises(StepclipError, match="no checker of this version"):
            Checker.load(tmp_path / "bad.json")


def test_more_faults_than_one_and_none(wide: World, checker: Checker) -> None:
    """Two steps left out and one done twice, in one recording."""
    frames, spans, script, pace = sources_of(wide, "p2")["1.3-p2"]
    parts = [frames[slice(*spans[k])] for k in (0, 2, 3, 5, 2, 6)]
    made = Recording("two", np.concatenate(parts), np.arange(sum(map(len, parts))) * pace, script)
    embedded = raw(Recordings([made], wide.store), ["two"])
    report = check(embedded, wide.store, 0, script, checker)
    assert {s.place for s in report.steps if s.status == "missing"} == {1, 4}
    assert not report.ok


# ---- parts


def test_a_threshold_gives_the_best_f1() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(200).round(2)
    y = rng.random(200) < p**2

    def f1(threshold: float) -> float:
        told = p >= threshold
        return 2 * (told & y).sum() / (told.sum() + y.sum())

    assert f1(best_threshold(p, y)) == pytest.approx(max(f1(t) for t in np.unique(p)))


def test_one_sort_only_is_never_reported() -> None:
    found = Logistic.fit(np.random.default_rng(0).normal(size=(50, 3)), np.zeros(50, bool))
    assert found(np.zeros((2, 3))) == pytest.approx(0.5 / 51, rel=0.02) and found.threshold > 1


def test_nearest_others_are_those_that_some_frame_is_like() -> None:
    similarity = torch.zeros(5, 8)
    similarity[2, 6], similarity[4, 3], similarity[0, 5] = 0.9, 0.8, 0.1
    assert nearest_others(similarity, 2, most=2).tolist() == [0, 1, 3, 6]
    assert nearest_others(similarity, 2, most=9).tolist() == list(range(8))


def test_references_stand_only_where_all_steps_have_one(wide: World) -> None:
    videos = [v for v in wide.manifest if v.task == "0"]
    references = References.take(raw(wide.store, [v.video_id for v in videos]), wide.store, videos)
    step = videos[0].steps[0]
    (found,) = references.prototypes([step])
    assert found is not None
    direction = torch.from_numpy(wide.store.text([step], "step")[0])
    assert float(found @ direction) > 0.9, "the mean of the frames that show a step is like its sentence"
    ids = tuple(references.of[step])
    assert references.prototypes([step], without=ids) == [None]
    (but_one,) = references.prototypes([step], without=ids[:1])
    assert but_one is not None and not torch.equal(but_one, found)
    frames, similarity = torch.nn.functional.normalize(torch.randn(6, 32), dim=-1), torch.rand(6, 3)
    assert with_references(similarity, frames, [found, None, found], steps=2) is None
    both = with_references(similarity, frames, [found, found, None], steps=2)
    assert both is not None and both[1].tolist() == [0, 1]
    assert torch.allclose(both[0], 0.5 * similarity[:, :2] + 0.5 * (frames @ found)[:, None], atol=1e-6)


def test_what_is_reported_is_laid_out() -> None:
    """A judge that reports step 1 out of order and something in the last gap."""
    never, always = (Logistic((0.0,), b, (0.0,), (1.0,), 0.5) for b in (-9.0, 9.0))
    similarity = torch.full((12, 4), -1.0)
    for frame, column in enumerate([0, 0, 2, 2, 2, 2, 1, 1, 3, 3, 3, 3]):
        similarity[frame, column] = 1.0

    class Told(Judge):
        def probabilities(self, found: Any) -> dict[str, np.ndarray]:
            return {
                "missing": np.array([0.0, 0, 0]), "moved": np.array([0.0, 0.9, 0]),
                "repeated": np.array([0.0, 0, 0]), "added": np.array([0, 0, 0, 0.9]),
            }  # fmt: skip

    judge = Told(0.0, 0.5, {kind: replace(never, threshold=0.5) for kind in KINDS}, always)
    found = judged(judge, similarity, 3, np.ones(12))
    assert found.status == ["done", "moved", "done"]
    assert found.order == [0, 2, 1, 3] and found.extra == {3: ("added", 3)}
    assert found.labels.tolist() == [0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 3, 3]
    steps, extras = laid_out(found, ("a", "b", "c"), ("a", "b", "c", "d"), np.arange(13) / 2)
    assert [(s.start, s.end) for s in steps] == [(0, 1), (3, 4), (1, 3)]
    assert [(e.step, e.place, e.start, e.end) for e in extras] == [("d", None, 4, 6)]


def test_calibration_error() -> None:
    y, p = np.array([True, False, True, True]), np.array([0.95, 0.95, 0.15, 0.15])
    assert calibration(y, p) == pytest.approx(0.5 * abs(0.5 - 0.95) + 0.5 * abs(1 - 0.15))
    assert calibration(y, y.astype(float)) == 0
    weights = np.array([3.0, 1.0, 0, 0])
    assert calibration(y, p, weights) == pytest.approx(abs(0.75 - 0.95))


# ---- two recordings


def test_recordings_of_one_procedure_are_told_from_others(wide: World, checker: Checker) -> None:
    ids = [v.video_id for v in wide.manifest if v.video_id.endswith(("p1", "p2"))]
    embedded = raw(wide.store, ids)
    same, other = [], []
    for procedure in sorted({v.procedure for v in wide.manifest}):
        a = embedded.row(f"{procedure}-p1")
        for video in wide.manifest:
            if video.video_id.endswith("p2") and video.task == procedure[0]:
                found = compare(embedded, a, embedded.row(video.video_id), checker.pairs)
                assert found.same is not None
                (same if video.procedure == procedure else other).append(found.same)
    assert np.mean(np.array(same) > 0.5) > 0.8 and np.mean(np.array(other) < 0.5) > 0.8


def test_where_two_recordings_part(wide: World, checker: Checker) -> None:
    """Procedure 3 adds a step to procedure 0: there they part for longest."""
    embedded = raw(wide.store, ["0.0-p1", "0.3-p2"])
    video = wide.manifest["0.3-p2"]
    assert video.step_start is not None and video.step_end is not None
    start, end = video.step_start[4], video.step_end[4]
    found = compare(embedded, 0, 1, checker.pairs, names=("a", "b"), trims=(10.0, 20.0))
    part = max(found.partings, key=lambda p: p.end_b - p.start_b)
    assert part.kind == "only in B" and part.cost > checker.pairs.limit  # type: ignore[union-attr]
    assert part.start_b - 20 == pytest.approx(start, abs=0.8) and part.end_b - 20 == pytest.approx(
        end, abs=0.8
    )
    assert found.path[0] == (10.0, 20.0) and json.dumps(found.to_dict())
    assert not compare(embedded, 0, 0, checker.pairs).partings
    assert compare(embedded, 0, 1).same is None


# ---- real annotations


def test_captaincook_annotations_are_scored_by_the_same_measures(shared_data: Path) -> None:
    """The release itself, told back word for word, scores 1; with a fault left out it does not."""
    entries = _captaincook(shared_data / "annotations" / "CaptainCook4D")
    truths = [captaincook_truth(entry) for entry in entries]
    assert len(truths) > 300 and sum(t.wrong for t in truths) > 150
    assert sum(len(t.missing) for t in truths) > 100 and sum(len(t.moved) for t in truths) > 100
    reports = [_told(truth, entry) for truth, entry in zip(truths, entries, strict=True)]
    score = score_checks(reports, truths)
    assert score.kinds["missing"].f1 == score.kinds["moved"].f1 == score.kinds["added"].f1 == 1
    assert score.border == 0 and score.found == 1 and score.verdict_auc == 1
    silent = [replace(r, steps=tuple(replace(s, status="done") for s in r.steps), extras=()) for r in reports]
    score = score_checks(silent, truths)
    assert score.kinds["missing"].recall == 0 == score.kinds["added"].recall
    assert json.dumps(_told(truths[0], entries[0]).to_dict()["steps"])


def _captaincook(annotations: Path) -> list[dict[str, Any]]:
    """What `extract` keeps of every recording; the videos are not needed for it."""
    from stepclip.extract.datasets import captaincook4d as cc

    recordings = cc._read(annotations)
    found = []
    for recording in recordings.values():
        recipe = cc._recipe([r for r in recordings.values() if r["activity_id"] == recording["activity_id"]])
        done, missing, _ = cc._placed(recording, recipe)
        found.append(
            {"is_error": recording["is_error"], "steps": done, "missing": missing, "count": len(recipe.steps)}
        )
    return found


def _told(truth: Any, entry: dict[str, Any]) -> Any:
    """A report that says what is true."""
    from stepclip.evaluate.checking.report import CheckReport, Extra, Step

    moved = {place for group in truth.moved for place in group}
    steps = []
    for k in range(entry["count"]):
        status = "missing" if k in truth.missing else "moved" if k in moved else "done"
        span = truth.spans.get(k, (None, None))
        steps.append(Step(k, "", status, *span, float(status == "missing"), float(status == "moved"), 0.0))
    extras = tuple(Extra("added", "", None, start, end, 1.0) for start, end, _ in truth.extras)
    return CheckReport("x", tuple(steps), extras, float(truth.wrong), 0.5, "script", True, 1e6)

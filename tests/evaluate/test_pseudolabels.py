"""Pseudo-labels against the hidden truth of the planted world."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from stepclip.cache.manifest import Manifest
from stepclip.evaluate import evaluate
from stepclip.evaluate.embed import embed_raw, raw_views
from stepclip.evaluate.localisation import localise, mean_of, random_cuts, uniform_split
from stepclip.evaluate.pseudolabels import label_views, labellings, score_labels

from .conftest import World
from .test_evaluation import by_name, planted


def views_of(world: World, n: int = 16):  # type: ignore[no-untyped-def]
    raw = embed_raw(world.store, world.store.video_ids, "cpu")
    videos = [world.manifest[v] for v in world.store.video_ids]
    return raw_views(raw, n, (1,)), videos


def truth_of(video, times: np.ndarray) -> np.ndarray:  # type: ignore[no-untyped-def]
    """The step at each time, -1 between steps: a loop."""
    found = np.full(len(times), -1)
    for i, t in enumerate(times):
        for k, (start, end) in enumerate(zip(video.step_start, video.step_end, strict=True)):
            if start <= t < end:
                found[i] = k
    return found


def test_right_frames_are_counted_as_by_hand(world: World) -> None:
    views, videos = views_of(world)
    rng = np.random.default_rng(0)
    labels = [np.sort(rng.integers(0, len(v.steps) + 3, 16)) for v in videos]  # some name padding sentences
    right = inside = 0
    for i, (video, found) in enumerate(zip(videos, labels, strict=True)):
        truth = truth_of(video, views.times[views.slice(i)])
        inside += int((truth >= 0).sum())
        right += int(((truth >= 0) & (truth == found)).sum())
    result = score_labels(labels, views, videos)
    assert result.frame_accuracy == pytest.approx(right / inside) and 0 < right < inside
    assert result.frames == 16 * len(videos)
    # the spans of padding sentences are nobody's: the same as frames without a label
    none = [np.where(x < len(v.steps), x, -1) for x, v in zip(labels, videos, strict=True)]
    times = [views.times[views.slice(i)] for i in range(len(views))]
    assert result.iou == localise(none, times, list(views.durations), videos).iou


def test_every_labelling_finds_what_is_planted_and_chance_does_not(world: World) -> None:
    views, videos = views_of(world)
    scripts = [v.steps for v in videos]
    scored = {}
    for name in labellings():
        labels = label_views(views, world.store, scripts, name, 1 / 0.07)
        assert len(labels) == len(videos) and all(x.shape == (16,) for x in labels)
        scored[name] = score_labels(labels, views, videos)
    even = score_labels([uniform_split(16, len(s)) for s in scripts], views, videos)
    rng = np.random.default_rng(0)
    draws = [score_labels([random_cuts(16, len(s), rng) for s in scripts], views, videos) for _ in range(5)]
    chance = mean_of(draws)
    assert chance.iou == pytest.approx(np.mean([d.iou for d in draws])) and chance.steps == even.steps
    assert chance.frame_accuracy < even.frame_accuracy
    assert scored["visit-all"].frame_accuracy > 0.95
    assert scored["viterbi"].frame_accuracy > even.frame_accuracy + 0.1
    # what was released lets padding sentences compete: on a model that sees everything it labels worse
    noisy = label_views(views, world.store, scripts, "official-sort", 1 / 0.07, pad_to=20)
    assert max(x.max() for x in noisy) > max(map(len, scripts))
    assert score_labels(noisy, views, videos).frame_accuracy < even.frame_accuracy
    # batches do not matter, and neither does who else is in one
    alone = replace(views.take([5]))
    one = label_views(alone, world.store, [scripts[5]], "visit-all", 1 / 0.07)[0]
    assert one.tolist() == label_views(views, world.store, scripts, "visit-all", 1 / 0.07)[5].tolist()


def test_random_cuts_are_in_order_and_of_every_step() -> None:
    rng = np.random.default_rng(0)
    seen = np.zeros((12, 4))
    for _ in range(4000):
        labels = random_cuts(12, 4, rng)
        assert (np.diff(labels) >= 0).all() and labels.min() >= 0 and labels.max() < 4
        seen[np.arange(12), labels] += 1
    assert seen.sum(0) / seen.sum() == pytest.approx([0.25] * 4, abs=0.03)
    assert random_cuts(5, 1, rng).tolist() == [0] * 5


def test_the_table_has_the_training_videos_and_their_controls(world: World) -> None:
    """A third of the planted world trains; its step times are in the manifest that evaluation is given."""
    videos = tuple(replace(v, split="train" if v.task == "0" else "test") for v in world.manifest.videos)
    manifest = Manifest(videos, name="planted")
    torch.manual_seed(0)
    results = evaluate(planted(world, "perfect"), world.store, manifest, device="cpu", progress=False)
    rows = by_name(results.pseudo_labels)
    assert [r.name for r in results.pseudo_labels if r.headline] == ["viterbi"]  # as weaksvr-corrected trains
    for name in ("raw visit-all", "centred visit-all", "uniform", "content-free", "chance"):
        assert name in rows
    assert rows["visit-all"].split.frame_accuracy > 0.9 and rows["visit-all"].train.frame_accuracy > 0.9
    assert rows["visit-all"].train.videos == 12 and rows["visit-all"].split.videos == 24
    assert rows["raw visit-all"] == rows["visit-all"]  # the perfect model passes its frames through
    assert rows["chance"].split.frame_accuracy < rows["uniform"].split.frame_accuracy
    learned = rows["corpus"]  # of each column's own videos: another model, if any, changes nothing
    assert learned.train.frame_accuracy > 0.9 and learned.split.frame_accuracy > 0.9
    other = evaluate(planted(world, "random"), world.store, manifest, device="cpu", progress=False)
    assert by_name(other.pseudo_labels)["corpus"] == learned
    blind = evaluate(
        planted(world, "perfect"), world.store, manifest.without_truth(), device="cpu", progress=False
    )
    assert not blind.pseudo_labels
    on_train = evaluate(
        planted(world, "perfect"), world.store, manifest, "train", device="cpu", progress=False
    )
    assert by_name(on_train.pseudo_labels)["uniform"].train is None  # they are the split itself

"""Few-shot episodes against loops over episodes, and distances against single pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stepclip.cache.errors import StepclipError
from stepclip.evaluate.fewshot import (
    Episodes,
    draw_episodes,
    even_frames,
    few_shot,
    video_distances,
)
from stepclip.evaluate.sequences import Sequences
from stepclip.train.alignment import dtw, otam

CLASSES = [f"c{i // 4}" for i in range(32)]  # 8 classes of 4
PEOPLE = [f"p{i % 4}" for i in range(32)]
TASKS = [f"t{i // 16}" for i in range(32)]


def test_episodes_are_what_they_say() -> None:
    found = draw_episodes(CLASSES, 3, 2, 500)
    of = np.array([int(c[1:]) for c in CLASSES])
    assert found.query.shape == (500, 3) and found.support.shape == (500, 3, 2)
    assert (of[found.support] == of[found.query][..., None]).all()
    for query, support in zip(found.query, found.support, strict=True):
        assert len(set(of[query])) == 3
        assert len({*query, *support.flatten()}) == 9
    assert set(found.query.flatten()) == set(range(32))  # everyone is asked at some time
    counts = np.bincount(of[found.query].flatten(), minlength=8)
    assert counts.min() > 0.7 * counts.mean()


def test_episodes_within_a_group_and_apart_from_a_person() -> None:
    task = np.array(TASKS)
    found = draw_episodes(CLASSES, 4, 1, 300, within=TASKS)
    assert all(len(set(task[q])) == 1 for q in found.query)
    assert set(task[found.query[:, 0]]) == {"t0", "t1"}
    people = np.array(PEOPLE)
    found = draw_episodes(CLASSES, 8, 3, 300, apart=PEOPLE)
    for query, support in zip(found.query, found.support, strict=True):
        assert len(set(people[query])) == 1
        assert people[query[0]] not in set(people[support.flatten()])
        assert all(len(set(s)) == 3 for s in support)


@pytest.mark.parametrize(
    ("ways", "shots", "how"), [(9, 1, {}), (5, 4, {}), (5, 1, {"within": TASKS}), (3, 4, {"apart": PEOPLE})]
)
def test_too_few_classes_or_videos(ways: int, shots: int, how: dict) -> None:
    with pytest.raises(StepclipError, match=r"32 videos of 8 classes[\s\S]*for .*-way"):
        draw_episodes(CLASSES, ways, shots, 10, **how)


def test_accuracy_is_the_mean_over_queries_with_ties_shared() -> None:
    rng = np.random.default_rng(0)
    distances = rng.integers(0, 3, (32, 32)).astype(float)  # many ties
    episodes = draw_episodes(CLASSES, 3, 2, 200, seed=1)
    right = []
    for query, support in zip(episodes.query, episodes.support, strict=True):
        each = []
        for own, video in enumerate(query):
            scores = [-np.mean([distances[video, s] for s in shots]) for shots in support]
            best = [i for i, score in enumerate(scores) if score == max(scores)]
            each.append((own in best) / len(best))
        right.append(np.mean(each))
    found = few_shot(distances, episodes)
    assert found.accuracy == pytest.approx(np.mean(right))
    assert found.half == pytest.approx(1.96 * np.std(right, ddof=1) / 200**0.5)
    assert (found.ways, found.shots, found.episodes) == (3, 2, 200)


def test_ten_thousand_episodes_of_nothing_are_chance() -> None:
    found = few_shot(np.zeros((32, 32)), draw_episodes(CLASSES, 5, 1))
    assert found.accuracy == pytest.approx(0.2) and found.episodes == 10_000
    noise = np.random.default_rng(0).random((400, 400))
    found = few_shot(noise, draw_episodes([str(i // 8) for i in range(400)], 5, 1))
    assert abs(found.accuracy - 0.2) < 4 * found.half


def test_distances_are_those_of_each_pair_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(n, 5, generator=generator) for n in (3, 6, 4)]
    units = [torch.nn.functional.normalize(x, dim=-1) for x in parts]
    for kind in ("mean", "chamfer", "dtw", "otam"):
        found = video_distances(Sequences.of(parts), kind)  # type: ignore[arg-type]
        for a in range(3):
            for b in range(3):
                cost = 1 - units[a] @ units[b].T
                if kind == "mean":
                    want = 1 - torch.nn.functional.cosine_similarity(units[a].mean(0), units[b].mean(0), 0)
                elif kind == "chamfer":
                    want = (cost.min(1).values.mean() + cost.min(0).values.mean()) / 2
                elif kind == "dtw":
                    want = dtw(cost, normalise="L+N")
                else:
                    want = otam(cost) / (len(parts[a]) + len(parts[b]))
                assert found[a, b] == pytest.approx(float(want), abs=1e-5)


def test_only_order_tells_a_video_from_its_reverse() -> None:
    """Classes that show the same frames the other way round: chance without order, perfect with it."""
    base = torch.nn.functional.normalize(
        torch.randn(6, 16, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    orders = [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [2, 0, 4, 1, 5, 3]]
    noise = torch.Generator().manual_seed(1)
    videos = [base[o] + 0.02 * torch.randn(6, 16, generator=noise) for o in orders for _ in range(5)]
    classes = [str(i // 5) for i in range(15)]
    episodes = draw_episodes(classes, 3, 1, 2000)
    seen = {
        k: few_shot(video_distances(Sequences.of(videos), k), episodes).accuracy
        for k in ("chamfer", "otam", "dtw")
    }  # type: ignore[arg-type]
    assert seen["otam"] > 0.99 and seen["dtw"] > 0.99 and seen["chamfer"] < 0.6


def test_frames_in_the_middle_of_equal_parts(world) -> None:
    found = even_frames(world.embedded, 4)
    for v in (0, 5):
        own = world.embedded.frames[world.embedded.slice(v)]
        rows = [int((k + 0.5) * len(own) / 4) for k in range(4)]
        torch.testing.assert_close(found.vectors[v], own[rows])
    assert isinstance(draw_episodes(CLASSES, 2, 1, 3), Episodes)

"""Scripts, videos and moments as queries: order counts, filters hold, spans lie on the truth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stepclip.cache.errors import StepclipError
from stepclip.evaluate.embed import centred, embed, embed_raw
from stepclip.evaluate.localisation import span_iou, true_spans
from stepclip.evaluate.search import Filter, SearchIndex, build_index
from stepclip.evaluate.search.ordered import (
    TAU,
    WINDOWS,
    Windows,
    coarse,
    fine,
    make_windows,
    script_order,
    window_edges,
)
from stepclip.train.alignment import dtw, monotone

from .conftest import DIM, World
from .test_search import PlantedEncoder

pytest.importorskip("faiss")


@pytest.fixture(scope="module")
def index(world: World, tmp_path_factory: pytest.TempPathFactory) -> SearchIndex:
    folder = tmp_path_factory.mktemp("i") / "index"
    return SearchIndex.open(build_index(None, world.store, world.manifest, folder, device="cpu"))


def test_a_script_finds_its_own_order_where_vectors_cannot(world: World, index: SearchIndex) -> None:
    encoder = PlantedEncoder(world)
    for task in range(3):
        for procedure in range(4):
            script = next(v.steps for v in world.manifest if v.procedure == f"{task}.{procedure}")
            answers = index.search_script(script, encoder, top=12)
            assert [a.procedure for a in answers[:3]] == [f"{task}.{procedure}"] * 3
            assert [a.score for a in answers] == sorted((a.score for a in answers), reverse=True)
    # the two orders of the same steps have the same best moments: only the alignment tells them apart
    steps = index.encode(encoder, world.manifest["0.0-p0"].steps, "windows").numpy()
    _, scores = index.recall_script(steps, Filter(task="0"), candidates=6)
    assert len(scores) == 6 and np.ptp(scores[:3]) < 0.02


def test_the_spans_of_the_steps_lie_on_the_truth(world: World, index: SearchIndex) -> None:
    video = world.manifest["1.3-p1"]
    answers = index.search_script(video.steps, PlantedEncoder(world), top=3)
    answer = next(a for a in answers if a.video_id == video.video_id)
    assert [m.step for m in answer.steps] == list(video.steps)
    found = np.array([(m.start, m.end) for m in answer.steps])
    truth = true_spans(video)
    assert span_iou(found, truth).mean() > 0.8  # type: ignore[arg-type]
    assert all(m.score > 0.5 for m in answer.steps)
    assert answer.start == found[0, 0] and answer.end == found[-1, 1]


def test_recall_is_the_best_moments_of_each_step(world: World, index: SearchIndex) -> None:
    """With few candidates, against a loop over all videos: a step whose best moment in a video is not among
    the nearest 4 x 9 counts as the last of those."""
    steps = index.encode(PlantedEncoder(world), world.manifest["2.1-p0"].steps, "windows")
    part = index.parts[0]
    moments = part.levels["windows"].vectors(slice(0, len(part.levels["windows"]))) @ steps.numpy().T
    last = np.sort(moments, axis=0)[-36]
    first = part.firsts["windows"]
    every = [
        float(np.maximum(moments[first[i] : first[i + 1]].max(0), last).mean()) for i in range(len(part))
    ]
    videos, scores = index.recall_script(steps.numpy(), candidates=9)
    assert set(videos) == set(np.argsort(every)[-9:])
    assert scores == pytest.approx(sorted(every)[:-10:-1], abs=1e-5)


@pytest.mark.parametrize(
    ("where", "holds"),
    [
        (Filter(task="1"), lambda v, d: v.task == "1"),
        (Filter(procedure="2.3"), lambda v, d: v.procedure == "2.3"),
        (Filter(split="train"), lambda v, d: v.split == "train"),
        (Filter(least_seconds=12.5), lambda v, d: d >= 12.5),
        (Filter(most_seconds=12.5, task="0"), lambda v, d: d <= 12.5 and v.task == "0"),
        (Filter(without=("0.0-p0",)), lambda v, d: v.video_id != "0.0-p0"),
    ],
)
def test_filters_hold_for_every_kind_of_query(world: World, index: SearchIndex, where: Filter, holds) -> None:  # type: ignore[no-untyped-def]
    length = dict(zip(world.embedded.video_ids, world.embedded.durations, strict=True))
    expected = {v.video_id for v in world.manifest if holds(v, length[v.video_id])}
    encoder, script = PlantedEncoder(world), world.manifest["0.0-p0"].steps
    for answers in (
        *(index.search(script[0], encoder, 100, by, where) for by in ("moment", "step", "video")),
        index.search_script(script, encoder, 100, where),
        index.search_script(script, encoder, 100, where, candidates=5),
    ):
        assert {a.video_id for a in answers} <= expected
    assert {a.video_id for a in index.search_script(script, encoder, 100, where)} == expected
    others = expected - {"0.0-p0"}
    assert {a.video_id for a in index.search_like("0.0-p0", 3.0, 100, where)} == others


def test_a_moment_finds_the_same_step_in_other_videos(world: World, index: SearchIndex) -> None:
    video = world.manifest["0.1-p0"]
    truth = true_spans(video)
    assert truth is not None
    for k, (start, end) in enumerate(truth):
        answers = index.search_like(video.video_id, (start + end) / 2, top=3)
        assert {a.step for a in answers} == {video.steps[k]}
        assert video.video_id not in {a.video_id for a in answers}
    with pytest.raises(StepclipError, match="a moment from 0 to"):
        index.search_like(video.video_id, 1000.0)
    with pytest.raises(StepclipError, match=r"did you mean '0.1-p0'"):
        index.search_like("0.1-p00", 1.0)


def test_a_step_answer_has_the_span_of_the_step(world: World, index: SearchIndex) -> None:
    for answer in index.search("task 2 step 4", PlantedEncoder(world), 3, by="step"):
        video = world.manifest[answer.video_id]
        k = video.steps.index("task 2 step 4")
        truth = np.array([[video.step_start[k], video.step_end[k]]])  # type: ignore[index]
        assert answer.step == "task 2 step 4" and answer.start <= answer.peak <= answer.end
        assert span_iou(np.array([[answer.start, answer.end]]), truth)[0] > 0.7


def test_a_video_finds_the_same_procedure(world: World, tmp_path: Path) -> None:
    from .test_embed import small_checkpoint

    checkpoint = small_checkpoint(world, frames=8)
    ids = [v for v in world.store.video_ids if v != "0.2-p1"]
    made = SearchIndex.open(
        build_index(checkpoint, world.store, world.manifest, tmp_path / "i", ids, device="cpu")
    )
    query = embed(checkpoint, world.store, ["0.2-p1"], "cpu")
    answers = made.search_video(query, top=4)
    # against the loop: DTW of the windows of each
    mine = F.normalize(make_windows(query.frames, query.offsets).rows.float(), dim=-1)
    expected = {}
    for video_id in ids:
        other = embed(checkpoint, world.store, [video_id], "cpu")
        theirs = F.normalize(make_windows(other.frames, other.offsets).rows.float(), dim=-1)
        value = float(dtw(1 - theirs @ mine.T)) / (len(mine) + len(theirs))
        expected[video_id] = 1 - 2 * value
    best = sorted(expected, key=lambda v: -expected[v])[:4]
    assert [a.video_id for a in answers] == best
    assert [a.score for a in answers] == pytest.approx([expected[v] for v in best], abs=1e-5)
    assert best[0] in [a.video_id for a in made.search_like_video(best[1], top=34)]
    with pytest.raises(StepclipError, match="a trained run"):
        SearchIndex.open(
            build_index(None, world.store, world.manifest, tmp_path / "r", ids, device="cpu")
        ).search_video(query)


def test_trim_counts_in_script_answers(world: World, tmp_path: Path) -> None:
    shifted = replace(
        world.manifest, videos=tuple(replace(v, start=50.0, end=90.0) for v in world.manifest.videos)
    )
    moved = SearchIndex.open(build_index(None, world.store, shifted, tmp_path / "a", device="cpu"))
    plain = SearchIndex.open(build_index(None, world.store, world.manifest, tmp_path / "b", device="cpu"))
    script, encoder = world.manifest["0.0-p0"].steps, PlantedEncoder(world)
    for a, b in zip(moved.search_script(script, encoder), plain.search_script(script, encoder), strict=True):
        assert a.video_id == b.video_id and a.start == b.start + 50 and a.end == b.end + 50
        assert [m.start for m in a.steps] == [m.start + 50 for m in b.steps]  # type: ignore[operator]
    assert moved.search_like("0.0-p0", 53.0)[0].video_id == plain.search_like("0.0-p0", 3.0)[0].video_id


# ---- the re-ranking, alone


@pytest.mark.parametrize("frames", [1, 5, 63, 64, 65, 100, 640])
def test_windows_are_means_of_neighbours(frames: int) -> None:
    rng = np.random.default_rng(frames)
    x = torch.from_numpy(rng.normal(size=(frames, 8))).float()
    made = make_windows(x, np.array([0, frames]))
    edges = window_edges(frames)
    assert len(made.rows) == len(edges) - 1 == min(frames, WINDOWS)
    assert edges[0] == 0 and edges[-1] == frames and (np.diff(edges) > 0).all()
    unit = F.normalize(x, dim=-1)
    for w in range(len(edges) - 1):
        expected = F.normalize(unit[edges[w] : edges[w + 1]].mean(0), dim=-1)
        assert torch.allclose(made.rows[w].float(), expected, atol=0.01)


def slow_score(rows: torch.Tensor, steps: torch.Tensor) -> float:
    """The module's formula, video by video, in plain numbers."""
    cosine = F.normalize(rows.float(), dim=-1) @ steps.T
    fit = cosine + TAU * F.log_softmax(cosine / TAU, -1)
    labels = monotone(fit, visit_all=True).tolist()
    means = []
    for k in range(len(steps)):
        mine = [float(fit[t, k]) for t, label in enumerate(labels) if label == k]
        means.append(sum(mine) / len(mine) if mine else 0.0)
    return sum(means) / len(means)


@pytest.mark.parametrize("lengths", [[64] * 70, [64, 3, 20, 64, 1, 33]])
def test_both_passes_are_the_formula(lengths: list[int]) -> None:
    rng = np.random.default_rng(0)
    rows = F.normalize(torch.from_numpy(rng.normal(size=(sum(lengths), 16))).float(), dim=-1)
    windows = Windows(rows.to(torch.bfloat16), np.concatenate(([0], np.cumsum(lengths))))
    steps = F.normalize(torch.from_numpy(rng.normal(size=(5, 16))).float(), dim=-1)
    videos = np.array(sorted(rng.choice(len(lengths), min(6, len(lengths)), replace=False)))
    first, second = coarse(windows, videos, steps), fine(windows, videos, steps)
    for i, v in enumerate(videos):
        mine = windows.rows[windows.first[v] : windows.first[v + 1]]
        assert second.scores[i] == pytest.approx(slow_score(mine, steps), abs=1e-5)
        assert (second.labels[i] >= 0).sum() == lengths[v]
        cost = 1 - mine.float() @ steps.T
        assert first[i] == pytest.approx(-float(dtw(cost)) / max(cost.shape), abs=0.01)


def test_the_first_pass_keeps_what_the_second_wants() -> None:
    """Of 300 candidates the planted one comes first, through the cut to the best hundred."""
    rng = np.random.default_rng(1)
    rows = F.normalize(torch.from_numpy(rng.normal(size=(300 * 64, DIM))).float(), dim=-1)
    steps = F.normalize(torch.from_numpy(rng.normal(size=(8, DIM))).float(), dim=-1)
    planted = F.normalize(steps.repeat_interleave(8, 0) + 0.1 * rows[:64], dim=-1)
    rows[217 * 64 : 218 * 64] = planted
    windows = Windows(rows.to(torch.bfloat16), np.arange(301) * 64)
    best, fitted = script_order(windows, np.arange(300), steps, top=3)
    assert best[0] == 217 and fitted.labels[0].tolist() == np.repeat(np.arange(8), 8).tolist()
    assert (fitted.cosines[0] > 0.9).all()


def test_ordered_windows_are_centred_features_without_a_model(world: World, index: SearchIndex) -> None:
    raw = centred(embed_raw(world.store, [index.parts[0].cell("video_id", 4)], "cpu"))
    expected = make_windows(raw.frames, raw.offsets).rows
    rows, _ = index.parts[0].windows.padded(np.array([4]))
    assert torch.equal(rows[0], expected)


def test_no_script_and_no_place_for_texts(world: World, index: SearchIndex, tmp_path: Path) -> None:
    from .test_embed import small_checkpoint

    with pytest.raises(StepclipError, match="no steps"):
        index.search_script([" "], PlantedEncoder(world))
    checkpoint = small_checkpoint(world)
    checkpoint.model.text = False  # as CARL's models are
    folder = build_index(checkpoint, world.store, world.manifest, tmp_path / "i", device="cpu")
    silent = SearchIndex.open(folder)
    with pytest.raises(StepclipError, match="no place for texts"):
        silent.search("task 0 step 0", PlantedEncoder(world), by="video")
    assert silent.search("task 0 step 0", PlantedEncoder(world))[0].score > 0.9
    assert silent.search_script(world.manifest["0.0-p0"].steps, PlantedEncoder(world))[0].procedure == "0.0"

"""Distances and controls against literal loops, on planted embeddings."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from stepclip.cache.errors import StepclipError
from stepclip.evaluate.controls import CONTROLS, control_distances
from stepclip.evaluate.distances import (
    DISTANCES,
    alignment,
    combined,
    diagonal,
    distance_of,
    every_pair,
    pair_rows,
    pooled,
    soft_alignment,
)
from stepclip.evaluate.embed import Embedded, flatten_segments
from stepclip.evaluate.verification import verify


def literal_dtw(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x / np.linalg.norm(x, axis=1, keepdims=True), y / np.linalg.norm(y, axis=1, keepdims=True)
    total = np.full((len(x) + 1, len(y) + 1), np.inf)
    total[0, 0] = 0
    for i in range(1, len(x) + 1):
        for j in range(1, len(y) + 1):
            cost = 1 - float(x[i - 1] @ y[j - 1])
            total[i, j] = cost + min(total[i - 1, j - 1], total[i - 1, j], total[i, j - 1])
    return float(total[-1, -1]) / (len(x) + len(y))


def made(lengths: list[int], dim: int = 8, seed: int = 0) -> Embedded:
    rng = np.random.default_rng(seed)
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    frames = torch.from_numpy(rng.normal(size=(offsets[-1], dim)).astype(np.float32))
    times = np.concatenate([np.arange(n) / 4 for n in lengths])
    video = torch.from_numpy(rng.normal(size=(len(lengths), dim)).astype(np.float32))
    ids = tuple(f"v{i}" for i in range(len(lengths)))
    return Embedded("made", ids, video, frames, times, offsets, np.array(lengths) / 4)


def test_pooled_distances_by_hand() -> None:
    e = made([1] * 5)
    a, b = np.array([0, 1, 2]), np.array([3, 4, 2])
    x, y = e.video.numpy().astype(float)[a], e.video.numpy().astype(float)[b]
    cos = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    assert pooled(e.video, a, b) == pytest.approx(2 - 2 * cos, abs=1e-12)
    assert pooled(e.video, a, b, "euclid") == pytest.approx(np.sqrt(np.clip(2 - 2 * cos, 0, None)), abs=1e-7)
    assert pooled(e.video, a, b, "cos") == pytest.approx(1 - cos, abs=1e-12)
    assert pooled(e.video, a, b, "l2") == pytest.approx(((x - y) ** 2).sum(1))
    assert pooled(e.video, a, b, "l1") == pytest.approx(np.abs(x - y).sum(1))
    assert pooled(e.video, a, b)[2] == 0
    with pytest.raises(StepclipError, match="did you mean 'norm-l2'"):
        pooled(e.video, a, b, "normL2")


@pytest.mark.parametrize("chunk_bytes", [1, 20_000, 1 << 28])
def test_alignment_equals_the_literal_dtw(chunk_bytes: int) -> None:
    lengths = [1, 2, 5, 17, 9, 30, 3]
    e = made(lengths)
    rng = np.random.default_rng(1)
    a, b = rng.integers(7, size=25), rng.integers(7, size=25)
    frames = e.frames.numpy().astype(float)
    expected = [
        literal_dtw(frames[e.offsets[i] : e.offsets[i + 1]], frames[e.offsets[j] : e.offsets[j + 1]])
        for i, j in zip(a, b, strict=True)
    ]
    seen: list[int] = []
    assert alignment(e, a, b, chunk_bytes=chunk_bytes, step=seen.append) == pytest.approx(expected, abs=1e-5)
    assert sum(seen) == 25 and (len(seen) == 25) == (chunk_bytes == 1)
    assert alignment(e, a[:0], b[:0]).shape == (0,)


def test_alignment_knows_order_where_pooling_does_not(world) -> None:  # type: ignore[no-untyped-def]
    """The planted world's mean frames hardly see two swapped steps; its ordered frames do."""
    pairs = [p for p in world.manifest.pairs if p.matched or p.kind == "order"]
    a, b = pair_rows(world.embedded, [(p.video_a, p.video_b) for p in pairs])
    ordered = verify(alignment(world.embedded, a, b), pairs, world.manifest)
    assert ordered.auc == 1
    mean = verify(control_distances("mean-pool", raw(world), a, b), pairs, world.manifest)
    assert mean.auc < 0.9


def raw(world) -> Embedded:  # type: ignore[no-untyped-def]
    from stepclip.evaluate.embed import embed_raw

    return embed_raw(world.store, world.store.video_ids, device="cpu")


def test_combined_uses_no_labels_and_no_units() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random(50), rng.random(50)
    both = combined(x, y)
    assert both == pytest.approx(0.5 * x / x.std() + 0.5 * y / y.std())
    assert combined(1000 * x, y) == pytest.approx(both)
    assert (both > 0).all()
    assert combined(x, np.zeros(50)) == pytest.approx(0.5 * x / x.std())
    assert combined(x, y, weight=0.0) == pytest.approx(x / x.std())


def test_controls_on_the_planted_world(world) -> None:  # type: ignore[no-untyped-def]
    base = raw(world)
    pairs = world.manifest.pairs
    a, b = pair_rows(base, [(p.video_a, p.video_b) for p in pairs])
    scored = {
        name: verify(control_distances(name, base, a, b, bare=base), pairs, world.manifest, resamples=10)
        for name in CONTROLS
    }
    assert scored["clock"].auc == 0.5 and np.isnan(scored["clock"].wdr)
    assert scored["chance"].auc == 0.5 and scored["chance"].wdr == pytest.approx(
        scored["chance"].wdr_constant
    )
    assert scored["content-free"].auc == scored["dtw-raw"].auc  # of the embeddings it is given
    with pytest.raises(StepclipError, match="bare="):
        control_distances("content-free", base, a, b)
    assert scored["dtw-raw"].auc == 1
    assert control_distances("dtw-raw", base, a, b) == pytest.approx(alignment(base, a, b))
    for i, pair in enumerate(pairs):
        x, y = base.durations[base.row(pair.video_a)], base.durations[base.row(pair.video_b)]
        assert control_distances("duration", base, a, b)[i] == pytest.approx(abs(x - y) / max(x, y))
    moved = dataclasses.replace(base, frames=base.frames + 7.0)
    assert control_distances("dtw-centred", moved, a, b) == pytest.approx(
        control_distances("dtw-centred", base, a, b), abs=1e-4
    )
    own = torch.cat(
        [base.frames[base.slice(i)] - base.frames[base.slice(i)].mean(0) for i in range(len(base))]
    )
    assert control_distances("dtw-centred", base, a, b) == pytest.approx(
        alignment(dataclasses.replace(base, frames=own), a, b), abs=1e-5
    )
    with pytest.raises(StepclipError, match="did you mean 'clock'"):
        control_distances("clok", base, a, b)


def test_raw_is_the_mean_and_flat_the_segments(world) -> None:  # type: ignore[no-untyped-def]
    base = raw(world)
    frames = world.store.frames["1.2-p1"].astype(np.float32)
    assert base.video[base.row("1.2-p1")].numpy() == pytest.approx(frames.mean(0), abs=1e-4)
    edges = np.linspace(0, len(frames) - 2, 17).astype(int)
    quarter = np.diff(edges) // 4
    views = np.mean([frames[edges[:-1] + i * quarter] for i in (1, 2, 3)], axis=0)
    flat = flatten_segments(base)
    assert flat.video[base.row("1.2-p1")].numpy() == pytest.approx(views.ravel(), abs=1e-4)


def test_every_pair_is_what_the_pairs_are(monkeypatch: pytest.MonkeyPatch) -> None:
    e = made([3, 30, 4, 7, 1, 12, 9])
    a, b = np.divmod(np.arange(49), 7)
    assert every_pair(e, "pooled").ravel() == pytest.approx(pooled(e.video, a, b), abs=1e-9)
    whole = alignment(e, a, b)
    assert every_pair(e).ravel() == pytest.approx(whole, abs=1e-5)
    monkeypatch.setattr("stepclip.evaluate.distances.BLOCK", 3)
    seen: list[int] = []
    assert every_pair(e, step=seen.append).ravel() == pytest.approx(whole, abs=1e-5)
    assert seen == [9, 9, 9, 3, 3, 1]


def test_diagonal_is_the_loop_over_segments() -> None:
    e = made([6, 6, 6])
    frames = e.frames.numpy().astype(float).reshape(3, 6, 8)
    frames /= np.linalg.norm(frames, axis=-1, keepdims=True)
    expected = [np.mean([1 - frames[i, t] @ frames[j, t] for t in range(6)]) for i, j in ((0, 1), (2, 0))]
    assert diagonal(e, np.array([0, 2]), np.array([1, 0])) == pytest.approx(expected, abs=1e-6)
    with pytest.raises(StepclipError, match="different numbers of frames"):
        diagonal(made([6, 5]), np.array([0]), np.array([1]))


def test_the_released_distances_of_a_known_cosine(shared_data: Path) -> None:
    """The golden file has the released distances, not their vectors: of NormL2 the cosine is enough. Its
    `cos` is a similarity."""
    golden = json.loads((shared_data / "golden" / "weaksvr.json").read_text())["dist"]
    angle = np.arccos(golden["cos"])
    video = torch.from_numpy(
        np.concatenate([[[1.7, 0.0]], 0.4 * np.stack([np.cos(angle), np.sin(angle)], 1)])
    )
    a, b = np.zeros(3, int), np.array([1, 2, 3])
    assert pooled(video, a, b, "norm-l2") == pytest.approx(golden["NormL2"], abs=1e-9)
    assert 1 - pooled(video, a, b, "cos") == pytest.approx(golden["cos"], abs=1e-9)


def literal_soft_dtw(cost: np.ndarray, gamma: float) -> float:
    total = np.full((cost.shape[0] + 1, cost.shape[1] + 1), np.inf)
    total[0, 0] = 0
    for i in range(1, len(total)):
        for j in range(1, total.shape[1]):
            before = np.array([total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]])
            total[i, j] = cost[i - 1, j - 1] - gamma * np.log(np.exp(-before / gamma).sum())
    return float(total[-1, -1])


def test_soft_alignment_is_the_literal_divergence() -> None:
    e = made([5, 5, 5])
    x = e.frames.numpy().astype(float).reshape(3, 5, 8)
    x /= np.linalg.norm(x, axis=-1, keepdims=True)

    def soft(i: int, j: int) -> float:
        return literal_soft_dtw(1 - x[i] @ x[j].T, 0.1)

    pairs = [(0, 1), (2, 0), (1, 1)]
    expected = [(soft(i, j) - (soft(i, i) + soft(j, j)) / 2) / 10 for i, j in pairs]
    a, b = np.array(pairs).T
    assert soft_alignment(e, a, b) == pytest.approx(expected, abs=1e-6)
    assert soft_alignment(e, a, b)[2] == pytest.approx(0, abs=1e-7) and min(expected[:2]) > 0.01
    assert soft_alignment(e, a[:0], b[:0]).shape == (0,)


def test_a_recipe_s_distance_by_name() -> None:
    e = made([3, 9, 4, 7])
    a, b = np.array([0, 1, 2]), np.array([3, 2, 0])
    parts = pooled(e.video, a, b), alignment(e, a, b)
    for name, expected in zip(DISTANCES, (*parts, combined(*parts)), strict=True):
        assert distance_of(name, e, a, b) == pytest.approx(expected)
    with pytest.raises(StepclipError, match="did you mean 'pooled'"):
        distance_of("poled", e, a, b)


def test_combined_sees_what_either_sees() -> None:
    """Half of the differing pairs show in the first distance alone, half in the second alone."""
    rng = np.random.default_rng(0)
    unmatched = np.arange(400) >= 200
    first = rng.normal(5, 1, 400) + 3 * (unmatched & (np.arange(400) % 2 == 0))
    second = 0.01 * (rng.normal(5, 1, 400) + 3 * (unmatched & (np.arange(400) % 2 == 1)))

    def auc(x: np.ndarray) -> float:
        return float(np.mean(x[unmatched][:, None] > x[~unmatched]))

    assert auc(combined(first, second)) > max(auc(first), auc(second)) + 0.05


def test_unknown_video_is_named() -> None:
    e = made([2, 3])
    with pytest.raises(StepclipError, match="'v9' has no embedding"):
        pair_rows(e, [("v0", "v9")])
    assert pair_rows(e, [])[0].shape == (0,)
    assert dataclasses.replace(e, name="x").row("v1") == 1

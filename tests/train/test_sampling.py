"""Rows of views against the released indices, and order of the data as a pure function of seed and epoch."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stepclip.cache import FeatureStore, StepclipError
from stepclip.train.order import plan_epoch
from stepclip.train.weaksvr.batches import TrainingSet
from stepclip.train.weaksvr.sampling import boundaries, dense_rows, train_rows, view_rows


def test_the_released_frame_indices(shared_data):
    golden = json.loads((shared_data / "golden" / "weaksvr.json").read_text())["sampling"]
    for frames, rows in golden.items():
        assert boundaries(torch.tensor([int(frames)]), 16)[0].tolist() == rows["segments"]
        assert view_rows(int(frames), 16).tolist() == rows["test_views_0based"]


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 700), st.integers(1, 40), st.integers(1, 4))
def test_views_lie_in_their_parts(length, n, views):
    parts = boundaries(torch.tensor([length]), n)[0]
    if length >= n + 2:
        assert parts.tolist() == np.linspace(0, length - 2, n + 1).round(9).astype(int).tolist()
    assert parts[0] == 0 and parts[-1] <= length
    for rows in (view_rows(length, n, views), train_rows(torch.tensor([length, length]), n)):
        assert rows.shape[1] == n and rows.min() >= 0 and rows.max() < length
        assert (rows >= parts[:-1]).all() and (rows < parts[1:].maximum(parts[:-1] + 1)).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(1, 40))
def test_dense_views_hold_every_row_exactly_once(length, n):
    rows, own = dense_rows(length, n)
    assert rows.shape == own.shape == (-(-length // n), n)
    assert sorted(rows[own].tolist()) == list(range(length))
    assert (rows.diff(dim=1) >= 0).all() and rows.min() >= 0 and rows.max() < length
    if len(rows) > 1:  # each view spans the video
        assert (rows[:, -1] - rows[:, 0] >= (length - 1) * (n - 1) // n - len(rows)).all()


def test_training_rows_are_drawn_evenly_and_repeat_with_the_generator():
    lengths = torch.full((4000,), 34)

    def draw(seed):
        return train_rows(lengths, 4, torch.Generator().manual_seed(seed))

    assert draw(1).equal(draw(1)) and not draw(1).equal(draw(2))
    counts = torch.bincount(draw(3)[:, 1], minlength=34)
    assert counts.nonzero()[:, 0].tolist() == list(range(8, 16)) and counts[8:16].min() > 400


@pytest.mark.parametrize(
    "call", [lambda: view_rows(0, 4), lambda: dense_rows(5, 0), lambda: train_rows(torch.tensor([3, 0]), 2)]
)
def test_no_rows_are_refused(call):
    with pytest.raises(StepclipError, match="rows"):
        call()


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 5), st.floats(0, 1))
def test_an_epoch_holds_each_video_at_most_once_and_repeats(videos, batch, epoch, same_task):
    tasks = torch.arange(videos) % 5
    plan = plan_epoch(7, epoch, tasks, batch, 3, same_task)
    again = plan_epoch(7, epoch, tasks, batch, 3, same_task)
    assert plan.order.equal(again.order) and plan.draws.equal(again.draws)
    seen = plan.order.flatten().tolist()
    size = min(batch, videos)
    assert plan.order.shape == (videos // size, size) and len(set(seen)) == len(seen)
    assert plan.draws.shape == (videos, 3)
    if videos > 20:
        assert not plan.order.equal(plan_epoch(7, epoch + 1, tasks, batch, 3, same_task).order)
        assert not plan.draws.equal(plan_epoch(8, epoch, tasks, batch, 3, same_task).draws)


def test_same_task_batches_bring_tasks_together():
    tasks = torch.arange(160) % 10

    def spread(share):
        return [tasks[row].unique().numel() for row in plan_epoch(0, 0, tasks, 16, 2, share).order]

    assert max(spread(1.0)) <= 2 and min(spread(0.0)) >= 5
    mixed = spread(0.5)
    assert sum(n <= 4 for n in mixed) == 5 and sum(n > 4 for n in mixed) == 5


def test_a_batch_is_what_the_cache_holds(made):
    store = FeatureStore.open(made.store)
    rows = [row for row in made.manifest if row.split == "train"]
    data = TrainingSet(store, rows, torch.device("cpu"))
    index = torch.tensor([5, 0, 20])
    draws = torch.rand(3, 8, generator=torch.Generator().manual_seed(1))
    batch = data.gather(index, draws)
    for b, i in enumerate(index.tolist()):
        features = torch.tensor(np.asarray(store[rows[i].video_id].features)).float()
        parts = boundaries(torch.tensor([len(features)]), 8)[0]
        size = (parts[1:] - parts[:-1]).clamp(min=1)
        expected = parts[:-1] + (draws[b] * size).long()
        torch.testing.assert_close(batch.frames[b], features[expected])
        n = len(rows[i].steps)
        assert batch.step_lengths[b] == n
        torch.testing.assert_close(batch.steps[b, :n], torch.tensor(store.text(rows[i].steps, "step")))
        assert not batch.steps[b, n:].any()
        torch.testing.assert_close(
            batch.paragraphs[b], torch.tensor(store.text([rows[i].paragraph], "paragraph"))[0]
        )
    same = [[rows[i].procedure == rows[j].procedure for j in (5, 0, 20)] for i in (5, 0, 20)]
    assert (batch.procedures[:, None] == batch.procedures).tolist() == same


def test_augmentation_drops_to_the_frame_before_and_adds_noise_in_units_of_the_features(made):
    rows = [row for row in made.manifest if row.split == "train"]
    data = TrainingSet(FeatureStore.open(made.store), rows, torch.device("cpu"))
    index, draws = torch.arange(27), torch.full((27, 8), 0.5)
    plain = data.gather(index, draws).frames
    torch.manual_seed(0)
    dropped = data.gather(index, draws, dropout=0.4).frames
    assert dropped[:, 0].equal(plain[:, 0])
    same = (dropped == plain).all(-1)
    assert 0.5 < same[:, 1:].float().mean() < 0.75
    repeats = (dropped[:, 1:] == dropped[:, :-1]).all(-1)
    assert (same[:, 1:] | repeats).all()
    noise = data.gather(index, draws, noise=0.2).frames - plain
    assert noise.std().item() == pytest.approx(
        0.2 * data.packed.features.float().square().mean().sqrt().item(), rel=0.05
    )

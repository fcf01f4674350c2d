"""The order of the data: a pure function of seed and epoch; pairs; edited scripts and what they cost."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from stepclip.cache import FeatureStore, StepclipError
from stepclip.train.losses import unit
from stepclip.train.losses.script_order import script_order_loss, script_scores
from stepclip.train.losses.video_alignment import video_alignment_loss
from stepclip.train.order import plan_epoch, split_rows, steps_of_epoch
from stepclip.train.weaksvr.batches import TrainingSet
from stepclip.train.weaksvr.edits import edited_scripts


def test_an_epoch_of_some_items_or_of_more_than_there_are():
    tasks = torch.zeros(10, dtype=torch.int64)
    assert steps_of_epoch(10, 4) == 2 and steps_of_epoch(10, 4, 30) == 7 and steps_of_epoch(3, 3) == 1
    few = plan_epoch(0, 0, tasks, 4, 3, items=5).order
    assert few.shape == (1, 4) and few.unique().numel() == 4
    many = plan_epoch(0, 0, tasks, 4, 3, items=30).order
    assert many.shape == (7, 4)
    # whole rounds before a video comes again: 28 places, each of 10 videos twice or three times
    assert many.flatten().bincount(minlength=10).tolist().count(3) == 8


def test_pairs_are_two_videos_of_one_procedure_side_by_side():
    procedures = torch.tensor([0, 1, 0, 2, 1, 0, 0, 3, 3])
    seen = set()
    for epoch in range(200):
        order = plan_epoch(5, epoch, procedures * 0, 8, 2, procedures=procedures).order
        assert order.shape == (2, 8) and order.equal(
            plan_epoch(5, epoch, procedures * 0, 8, 2, procedures=procedures).order
        )
        first, second = order[:, 0::2], order[:, 1::2]
        assert procedures[first].equal(procedures[second])
        assert ((first != second) | (procedures[first] == 2)).all()  # the only video of 2 is its own partner
        seen |= set(zip(first.flatten().tolist(), second.flatten().tolist(), strict=True))
    every = {
        (a, b)
        for a, b in itertools.product(range(9), repeat=2)
        if procedures[a] == procedures[b] and (a != b or procedures[a] == 2)
    }
    assert seen == every


def data_of(made, **more):
    store = FeatureStore.open(made.store)
    return TrainingSet(store, split_rows(made.manifest, store, 0, 0)[0], torch.device("cpu"), False, **more)


def test_padding_stands_where_no_sentence_does(made):
    index, draws = torch.arange(4), torch.rand(4, 6)
    masked = data_of(made).gather(index, draws)
    assert masked.steps.shape[1] == 5
    mean = data_of(made, padding="mean", pad_to=8)
    padded = mean.gather(index, draws)
    assert padded.steps.shape[1] == 8 and padded.frames.equal(masked.frames)
    for b, n in enumerate(padded.step_lengths.tolist()):
        assert padded.steps[b, :n].equal(masked.steps[b, :n])
        assert (padded.steps[b, n:] == mean.sentences[:-1].mean(0)).all() and (masked.steps[b, n:] == 0).all()
    with pytest.raises(StepclipError, match=r"data\.pad_to = 3, and a script of 5"):
        data_of(made, pad_to=3)


def test_rivals_are_the_other_paragraphs_of_the_task(made):
    data = data_of(made, rivals=3)
    batch = data.gather(torch.arange(27), torch.rand(27, 4))
    rows = [row for row in made.manifest if row.split == "train"]
    for b, row in enumerate(rows):
        others = {r.paragraph for r in rows if r.task == row.task} - {row.paragraph}
        assert int(batch.rival_real[b].sum()) == len(others) == 2
        store = FeatureStore.open(made.store)
        want = {tuple(store.text([p], "paragraph")[0].tolist()) for p in others}
        assert {tuple(v) for v in batch.rivals[b, :2].tolist()} == want


def test_processes_share_a_batch_to_the_bit(made):
    data = data_of(made)
    index, draws = torch.arange(8), torch.rand(8, 6)
    torch.manual_seed(3)
    whole = data.gather(index, draws, noise=0.5, dropout=0.3)
    parts = []
    for rank in range(2):
        torch.manual_seed(3)
        parts.append(data.gather(index, draws, noise=0.5, dropout=0.3, rank=rank, world=2))
    assert torch.cat([p.frames for p in parts]).equal(whole.frames)
    assert torch.cat([p.steps for p in parts]).equal(whole.steps)
    assert all(p.paragraphs.equal(whole.paragraphs) for p in parts)
    assert parts[0].sentences * 2 == whole.sentences == whole.step_lengths.sum()


def test_edited_scripts_are_swapped_dropped_and_inserted():
    torch.manual_seed(0)
    padding = 9
    words = torch.tensor([[0, 1, 2, 3], [4, 5, padding, padding], [6, padding, padding, padding]])
    lengths = torch.tensor([4, 2, 1])
    vocabulary = torch.tensor([[0, 1, 2, 3, 7], [4, 5, 8, 9, 9], [6, 9, 9, 9, 9]])
    sizes = torch.tensor([5, 3, 1])
    seen: set[tuple[int, int, tuple[int, ...]]] = set()
    for _ in range(300):
        made = edited_scripts(words, lengths, 3, vocabulary, sizes, padding)
        for b, m in itertools.product(range(3), range(3)):
            n = int(made.lengths[b, m])
            if made.real[b, m]:
                seen.add((b, m, tuple(made.words[b, m, :n].tolist())))
                assert (made.words[b, m, n:] == padding).all()
    for b, script in enumerate([(0, 1, 2, 3), (4, 5), (6,)]):
        n = len(script)
        swaps = set()
        for i, j in itertools.combinations(range(n), 2):
            swapped = list(script)
            swapped[i], swapped[j] = script[j], script[i]
            swaps.add(tuple(swapped))
        drops = {script[:i] + script[i + 1 :] for i in range(n)} if n > 1 else set()
        inserted = {
            (*script[:i], w, *script[i:]) for i in range(n + 1) for w in vocabulary[b, : sizes[b]].tolist()
        }
        for m, want in enumerate((swaps, drops, inserted)):
            assert {s for row, kind, s in seen if (row, kind) == (b, m)} == want


def test_edits_that_change_nothing_do_not_count():
    words = torch.tensor([[3, 3, 3]])
    made = edited_scripts(words, torch.tensor([3]), 1, torch.tensor([[3]]), torch.tensor([1]), 9)
    assert not made.real.any()  # two like sentences swapped


def test_the_script_score_is_the_sum_over_paths():
    torch.manual_seed(0)
    frames, steps = torch.randn(2, 5, 4), torch.randn(2, 3, 4, 4)
    lengths = torch.tensor([[3, 1, 4], [2, 4, 3]])
    got = script_scores(frames, steps, lengths, 6.0)
    for b, m in itertools.product(range(2), range(3)):
        n = int(lengths[b, m])
        cos = unit(frames[b]) @ unit(steps[b, m, :n]).T
        total = 0.0
        for borders in itertools.combinations(range(1, 5), n - 1):
            path = [sum(t >= x for x in borders) for t in range(5)]
            total += math.exp(6 * sum(float(cos[t, k]) for t, k in enumerate(path)))
        assert got[b, m].item() == pytest.approx(math.log(total) / 30, abs=1e-5)


def test_the_right_order_costs_least():
    steps = torch.eye(4)[None]
    frames = torch.eye(4).repeat_interleave(3, 0)[None]
    swapped, short = steps[:, [0, 2, 1, 3]], torch.nn.functional.pad(steps[:, :3], (0, 0, 0, 1))
    edited = torch.stack([swapped, short], 1)
    real, lengths = torch.ones(1, 2, dtype=torch.bool), torch.tensor([[4, 3]])
    good = script_order_loss(frames, steps, torch.tensor([4]), edited, lengths, real, 50.0)
    bad = script_order_loss(
        frames[:, [0, 1, 2, 6, 7, 8, 3, 4, 5, 9, 10, 11]],
        steps,
        torch.tensor([4]),
        edited,
        lengths,
        real,
        50.0,
    )
    none = script_order_loss(frames, steps, torch.tensor([4]), edited, lengths, real & False, 50.0)
    assert good < 0.01 < 1 < bad and none == 0


def test_the_video_alignment_loss_is_its_formula():
    """Soft-DTW cell by cell, each video against all others."""
    torch.manual_seed(0)
    frames = torch.randn(4, 3, 5, dtype=torch.float64)
    labels = [0, 1, 0, 2]

    def distance(a, b):
        cost = 1 - unit(a) @ unit(b).T
        table = {(-1, -1): 0.0}
        for i, j in itertools.product(range(3), range(3)):
            before = [table.get(c, math.inf) for c in ((i - 1, j - 1), (i - 1, j), (i, j - 1))]
            soft = -0.1 * math.log(sum(math.exp(-x / 0.1) for x in before))
            table[i, j] = float(cost[i, j]) + soft
        return table[2, 2] / 6

    terms = []
    for i in range(4):
        logits = {j: -30 * distance(frames[i], frames[j]) for j in range(4) if j != i}
        total = math.log(sum(math.exp(x) for x in logits.values()))
        own = [logits[j] - total for j in logits if labels[j] == labels[i]]
        terms += [-sum(own) / len(own)] if own else []
    got = video_alignment_loss(frames, torch.tensor(labels))
    assert got.item() == pytest.approx(sum(terms) / 2, abs=1e-5)
    frames.requires_grad_()
    (grad,) = torch.autograd.grad(video_alignment_loss(frames, torch.tensor(labels)), frames)
    assert grad.isfinite().all() and grad.abs().sum() > 0
    alone = video_alignment_loss(frames, torch.arange(4))
    assert alone == 0

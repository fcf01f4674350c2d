"""Soft labels against every path counted one by one; "split" against its averages taken one by one; the
options of the corrected losses."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stepclip.train.losses import (
    frame_log_p,
    frame_sentence_loss,
    gumbel,
    pseudo_labels,
    split_loss,
    unit,
    video_paragraph_loss,
)


def all_paths(frames: int, real: int, visit_all: bool) -> list[tuple[int, ...]]:
    paths = [p for p in itertools.product(range(real), repeat=frames) if list(p) == sorted(p)]
    if visit_all and real <= frames:
        paths = [p for p in paths if set(p) == set(range(real))]
    return paths


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 4), st.booleans(), st.integers(0, 10**6))
def test_soft_labels_are_the_shares_of_all_paths(frames, real, visit_all, seed):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([real, 4])
    wall = torch.arange(4) >= lengths[:, None, None]
    logits = 3 * torch.randn(2, frames, 4, generator=generator)
    log_p = logits.masked_fill(wall, -torch.inf).log_softmax(2)
    got = pseudo_labels(log_p, lengths, "soft-visit-all" if visit_all else "soft-monotone")
    for b, n in enumerate(lengths.tolist()):
        want, total = torch.zeros(frames, 4), 0.0
        for path in all_paths(frames, n, visit_all):
            weight = math.exp(sum(float(log_p[b, t, k]) for t, k in enumerate(path)))
            total += weight
            for t, k in enumerate(path):
                want[t, k] += weight
        torch.testing.assert_close(got[b], want / total, atol=1e-5, rtol=1e-4)


def test_soft_dtw_labels_are_shares_of_the_warping_paths():
    torch.manual_seed(0)
    lengths = torch.tensor([3, 2])
    wall = torch.arange(3) >= lengths[:, None, None]
    log_p = (2 * torch.randn(2, 4, 3)).masked_fill(wall, -torch.inf).log_softmax(2)
    got = pseudo_labels(log_p, lengths, "soft-dtw")

    def ways(t, k):
        if (t, k) == (0, 0):
            return [[(0, 0)]]
        before = [(t - 1, k - 1), (t - 1, k), (t, k - 1)]
        return [[*way, (t, k)] for c in before if min(c) >= 0 for way in ways(*c)]

    for b, n in enumerate(lengths.tolist()):
        want = torch.zeros(4, 3)
        for way in ways(3, n - 1):
            weight = math.exp(sum(float(log_p[b, t, k]) for t, k in way))
            for t, k in way:
                want[t, k] += weight
        torch.testing.assert_close(got[b], want / want.sum(1, keepdim=True), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("soft", "hard"), [("soft-monotone", "viterbi"), ("soft-visit-all", "visit-all"), ("soft-prior", "prior")]
)
def test_sharp_posteriors_are_the_best_path(soft, hard):
    log_p = torch.randn(4, 10, 5).mul(200).log_softmax(2)
    lengths = torch.tensor([5, 4, 2, 1])
    log_p = log_p.masked_fill(torch.arange(5) >= lengths[:, None, None], -torch.inf)
    assert pseudo_labels(log_p, lengths, soft).argmax(2).equal(pseudo_labels(log_p, lengths, hard))


def test_sorted_labels_are_the_sorted_best_sentences():
    log_p = torch.tensor([[[0.1, 0.9, 0.0], [0.8, 0.1, 0.0], [0.0, 0.2, 0.1]]]).log()
    assert pseudo_labels(log_p, torch.tensor([3]), "sort").tolist() == [[0, 1, 1]]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=3), st.integers(1, 7), st.integers(0, 10**6))
def test_the_corrected_split_is_the_diagonal_of_its_averages(lengths, frames, seed):
    logits = torch.randn(len(lengths), frames, 7, generator=torch.Generator().manual_seed(seed))
    image = text = 0.0
    for b, n in enumerate(lengths):
        m = min(n, frames)
        square = torch.empty(m, m)
        for i, j in itertools.product(range(m), range(m)):
            rows = range(int(frames / m * i), int(frames / m * (i + 1)))
            columns = range(int(n / m * j), int(n / m * (j + 1)))
            square[i, j] = torch.stack([logits[b, t, k] for t in rows for k in columns]).mean()
        image -= square.log_softmax(1).diagonal().mean() / len(lengths)
        text -= square.log_softmax(0).diagonal().mean() / len(lengths)
    got = split_loss(logits, torch.tensor(lengths))
    torch.testing.assert_close(torch.stack(got), torch.stack([image, text]), atol=1e-5, rtol=1e-5)


def test_split_has_gradients_with_and_without_padding():
    logits = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: split_loss(x, torch.tensor([2, 4])), logits)


def test_soft_labels_weigh_frames():
    frames, steps = torch.randn(2, 6, 4, dtype=torch.float64), torch.randn(2, 5, 4, dtype=torch.float64)
    lengths = torch.tensor([3, 5])
    soft = torch.rand(2, 6, 5, dtype=torch.float64)
    soft[0, :, 3:] = 0
    soft = soft / soft.sum(2, keepdim=True)
    got = frame_sentence_loss(frames, steps, lengths, 4.0, labels=soft)
    mil = frame_sentence_loss(frames, steps, lengths, 4.0, labels=soft, text_form="mil")
    image = text = most = 0.0
    for b, n in enumerate(lengths.tolist()):
        logits = 4 * unit(frames[b]) @ unit(steps[b, :n]).T
        image -= (soft[b, :, :n] * logits.log_softmax(1)).sum() / 12
        q = logits.log_softmax(0)
        text -= ((soft[b, :, :n] * q).sum(0) / soft[b, :, :n].sum(0)).sum() / 8
        most -= (soft[b, :, :n] * q.exp()).sum(0).log().sum() / 8
    torch.testing.assert_close(got.image, image)
    torch.testing.assert_close(got.text, text)
    torch.testing.assert_close(mil.text, most)
    # hard ones are the soft ones of a single path
    labels = pseudo_labels(frame_log_p(frames, steps, lengths, 4.0), lengths, "visit-all")
    one_hot = torch.nn.functional.one_hot(labels, 5).double()
    for form in ("mean", "mil"):
        a = frame_sentence_loss(frames, steps, lengths, 4.0, labels=labels, text_form=form)
        b = frame_sentence_loss(frames, steps, lengths, 4.0, labels=one_hot, text_form=form)
        torch.testing.assert_close((a.image, a.text), (b.image, b.text))


def test_the_noise_reaches_the_prediction_and_not_the_labels():
    torch.manual_seed(0)
    frames, steps, lengths = torch.randn(2, 6, 4), torch.randn(2, 5, 4), torch.tensor([3, 5])
    clean = frame_sentence_loss(frames, steps, lengths, 9.0)
    noise = gumbel(torch.empty(2, 6, 5))
    noisy = frame_sentence_loss(frames, steps, lengths, 9.0, noise=noise, tau=0.5)
    assert noisy.labels.equal(clean.labels) and noisy.image != clean.image
    same = frame_sentence_loss(frames, steps, lengths, 9.0, noise=torch.zeros(2, 6, 5), tau=1.0)
    assert same.image == clean.image and same.text == clean.text
    drawn = gumbel(torch.empty(100_000))
    assert drawn.mean().item() == pytest.approx(0.5772, abs=0.02)  # Euler's constant
    assert drawn.var().item() == pytest.approx(math.pi**2 / 6, abs=0.05)


@pytest.mark.parametrize("form", ["plain", "multi", "mil", "exclude"])
def test_negatives_of_its_own_enter_a_videos_sum(form):
    video, paragraph = torch.randn(2, 4, 5, dtype=torch.float64)
    wrong = torch.randn(4, 3, 5, dtype=torch.float64)
    real = torch.tensor([[True, True, False], [False] * 3, [True] * 3, [True, False, False]])
    labels = torch.tensor([0, 1, 0, 2])
    same = labels[:, None] == labels
    base = video_paragraph_loss(video, paragraph, 3.0, same, form)
    none = video_paragraph_loss(video, paragraph, 3.0, same, form, negatives=wrong, real=real & False)
    torch.testing.assert_close(none, base)
    got = video_paragraph_loss(video, paragraph, 3.0, same, form, negatives=wrong, real=real)
    extra = 0.0
    for i in range(4):  # the sum grows by them, in the logarithm of every term of the video
        kept = [j for j in range(4) if form != "exclude" or i == j or not same[i, j]]
        total = sum(math.exp(3 * float(unit(video[i]) @ unit(paragraph[j]))) for j in kept)
        more = sum(math.exp(3 * float(unit(video[i]) @ unit(wrong[i, m]))) for m in range(3) if real[i, m])
        extra += math.log((total + more) / total) / 4
    assert (got - base).item() == pytest.approx(extra, abs=1e-10)


def test_groups_do_not_see_each_other():
    video, paragraph = torch.randn(2, 6, 5)
    labels = torch.tensor([0, 1, 0, 0, 1, 1])
    grouped = labels.view(2, 3)
    got = video_paragraph_loss(
        video.view(2, 3, 5), paragraph.view(2, 3, 5), 3.0, grouped[:, :, None] == grouped[:, None], "multi"
    )
    parts = [
        video_paragraph_loss(video[s], paragraph[s], 3.0, labels[s, None] == labels[s], "multi")
        for s in (slice(0, 3), slice(3, 6))
    ]
    torch.testing.assert_close(got, sum(parts) / 2)

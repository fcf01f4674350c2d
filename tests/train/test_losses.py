"""The losses against their formulas written out item by item, and against the released code's numbers."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stepclip.cache import StepclipError
from stepclip.train.alignment import monotone
from stepclip.train.losses import frame_sentence_loss, pseudo_labels, unit, video_paragraph_loss
from stepclip.train.losses.pseudo_labels import PRIOR_SPREAD


def golden_pair():
    b, d = torch.arange(4, dtype=torch.float64)[:, None], torch.arange(8, dtype=torch.float64)
    return torch.sin(1.0 + 0.35 * b + 1.4 * d), torch.sin(1.3 + 0.45 * b + 1.35 * d)


def test_the_released_coarse_losses(shared_data):
    golden = json.loads((shared_data / "golden" / "weaksvr.json").read_text())["video_paragraph"]
    video, paragraph = golden_pair()
    labels = torch.tensor(golden["labels"])
    same = labels[:, None] == labels
    plain = video_paragraph_loss(video, paragraph, golden["scale"])
    assert plain.item() == pytest.approx(golden["info"], abs=1e-9)
    assert video_paragraph_loss(video, paragraph, golden["scale"], same, "plain") == plain
    masked = video_paragraph_loss(video, paragraph, golden["scale"], same, "mil")
    assert masked.item() == pytest.approx(golden["info_mask"], abs=1e-9)


def coarse_by_loops(video, paragraph, scale, same, form):
    total = 0.0
    for a, b in ((video, paragraph), (paragraph, video)):
        for i in range(len(a)):
            p = [math.exp(scale * float(unit(a[i]) @ unit(b[j]))) for j in range(len(b))]
            friends = [j for j in range(len(b)) if same[i][j] or i == j]
            if form == "plain":
                term = math.log(p[i] / sum(p))
            elif form == "multi":
                term = sum(math.log(p[j] / sum(p)) for j in friends) / len(friends)
            elif form == "mil":
                term = math.log(sum(p[j] for j in friends) / sum(p))
            else:
                term = math.log(p[i] / (p[i] + sum(p[j] for j in range(len(b)) if j not in friends)))
            total -= term / len(a)
    return total


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(0, 10**6), st.sampled_from(["plain", "multi", "mil", "exclude"]))
def test_the_coarse_forms_are_their_formulas(count, seed, form):
    generator = torch.Generator().manual_seed(seed)
    video, paragraph = torch.randn(2, count, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (count,), generator=generator)
    same = labels[:, None] == labels
    got = video_paragraph_loss(video, paragraph, 3.0, same, form)
    assert got.item() == pytest.approx(coarse_by_loops(video, paragraph, 3.0, same.tolist(), form), abs=1e-10)


@pytest.mark.parametrize("form", ["plain", "multi", "mil", "exclude"])
def test_the_coarse_loss_has_good_gradients_at_full_scale(form):
    video = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    paragraph = torch.randn(6, 4, dtype=torch.float64)
    same = torch.tensor([0, 0, 1, 1, 2, 3])[:, None] == torch.tensor([0, 0, 1, 1, 2, 3])
    assert torch.autograd.gradcheck(lambda v: video_paragraph_loss(v, paragraph, 5.0, same, form), video)
    (grad,) = torch.autograd.grad(
        video_paragraph_loss(video.float(), paragraph.float(), 100.0, same, form), video
    )
    assert grad.isfinite().all() and grad.abs().sum() > 0


def fine_by_loops(frames, steps, lengths, scale, labels, form):
    image = text = 0.0
    for b, n in enumerate(lengths):
        cos = (unit(frames[b]) @ unit(steps[b, :n]).T * scale).tolist()
        for t, row in enumerate(cos):
            image -= row[labels[b][t]] - math.log(sum(math.exp(x) for x in row))
        for k in range(n):
            column = [row[k] for row in cos]
            log_z = math.log(sum(math.exp(x) for x in column))
            own = [x - log_z for t, x in enumerate(column) if labels[b][t] == k]
            if own:
                text -= sum(own) / len(own) if form == "mean" else math.log(sum(math.exp(x) for x in own))
    return image / (len(frames) * len(frames[0])), text / sum(lengths)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=3),
    st.integers(1, 7),
    st.integers(0, 10**6),
    st.sampled_from(["viterbi", "visit-all", "uniform"]),
    st.sampled_from(["mean", "mil"]),
)
def test_the_fine_loss_is_its_formula(lengths, count, seed, labelling, form):
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randn(len(lengths), count, 4, generator=generator, dtype=torch.float64)
    steps = torch.randn(len(lengths), 6, 4, generator=generator, dtype=torch.float64)
    n = torch.tensor(lengths)
    got = frame_sentence_loss(frames, steps, n, 4.0, labelling=labelling, text_form=form)
    for b, k in enumerate(lengths):  # padding takes no part in the labels
        own = got.labels[b]
        assert own.min() >= 0 and own.max() < k and own.equal(own.sort().values)
        if labelling != "uniform":
            log_p = (4.0 * unit(frames[b]) @ unit(steps[b, :k]).T).log_softmax(1)
            assert own.equal(monotone(log_p, visit_all=labelling == "visit-all"))
    image, text = fine_by_loops(frames, steps, lengths, 4.0, got.labels.tolist(), form)
    assert got.image.item() == pytest.approx(image, abs=1e-10)
    assert got.text.item() == pytest.approx(text, abs=1e-10)


@pytest.mark.parametrize("form", ["mean", "mil"])
def test_the_fine_loss_ignores_padding_and_has_good_gradients(form):
    frames = torch.randn(2, 6, 4, dtype=torch.float64, requires_grad=True)
    steps = torch.randn(2, 5, 4, dtype=torch.float64)
    lengths = torch.tensor([3, 5])
    labels = pseudo_labels(torch.zeros(2, 6, 5), lengths, "uniform")

    def loss(x, padded):
        out = frame_sentence_loss(x, padded, lengths, 3.0, labels=labels, text_form=form)
        return out.image + out.text

    assert torch.autograd.gradcheck(lambda x: loss(x, steps), frames)
    other = steps.clone()
    other[0, 3:] = 1e3
    torch.testing.assert_close(loss(frames, steps), loss(frames, other))


def test_a_perfect_alignment_has_a_loss_near_nothing():
    steps = torch.eye(4)[None]
    frames = torch.eye(4).repeat_interleave(2, 0)[None]
    out = frame_sentence_loss(frames, steps, torch.tensor([4]), 100.0, labelling="viterbi", text_form="mil")
    assert out.labels.tolist() == [[0, 0, 1, 1, 2, 2, 3, 3]]
    assert out.image < 1e-6 and out.text.abs() < 1e-6
    wrong = frame_sentence_loss(frames.flip(1), steps, torch.tensor([4]), 100.0, labelling="uniform")
    assert wrong.image > 50


def test_uniform_labels_are_equal_parts():
    labels = pseudo_labels(torch.zeros(2, 8, 4), torch.tensor([4, 3]), "uniform")
    assert labels.tolist() == [[0, 0, 1, 1, 2, 2, 3, 3], [0, 0, 0, 1, 1, 1, 2, 2]]


def test_unknown_options_are_refused():
    with pytest.raises(StepclipError, match="did you mean 'plain'"):
        video_paragraph_loss(torch.ones(2, 3), torch.ones(2, 3), 1.0, None, "plian")
    with pytest.raises(StepclipError, match="did you mean 'viterbi'"):
        pseudo_labels(torch.zeros(1, 2, 2), torch.tensor([2]), "viterby")


@pytest.mark.parametrize("seed", range(6))
def test_prior_labels_are_the_best_of_all_paths_under_similarity_and_place(seed):
    """Against every path that visits all sentences in order, scored one by one."""
    torch.manual_seed(seed)
    frames, real = 7, 2 + seed % 3
    log_p = (2 * torch.randn(1, frames, 5)).log_softmax(2)
    best, most = None, -math.inf
    for borders in itertools.combinations(range(1, frames), real - 1):
        path = [sum(t >= b for b in borders) for t in range(frames)]
        score = 0.0
        for t, k in enumerate(path):
            off = (t + 0.5) / frames - (k + 0.5) / real
            score += float(log_p[0, t, k]) - 0.5 * (off / PRIOR_SPREAD) ** 2
        if score > most:
            best, most = path, score
    assert pseudo_labels(log_p, torch.tensor([real]), "prior")[0].tolist() == best

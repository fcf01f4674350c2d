"""How long a sentence lasts: its loss and its part in the fine loss, against loops."""

from __future__ import annotations

import math

import pytest
import torch

from stepclip.cache import StepclipError
from stepclip.train import load_recipe
from stepclip.train.losses import duration_loss, frame_sentence_loss, unit


def test_the_expected_shares_are_a_prior_of_each_frame():
    torch.manual_seed(0)
    frames, steps, lengths = torch.randn(2, 5, 6), torch.randn(2, 3, 6), torch.tensor([3, 2])
    labels = torch.tensor([[0, 0, 1, 2, 2], [0, 1, 1, 1, 1]])
    shares = torch.tensor([[0.2, 0.5, 0.3], [0.9, 0.1, 0.0]]).log().requires_grad_()
    got = frame_sentence_loss(frames, steps, lengths, 4.0, labels=labels, log_shares=shares)
    want = 0.0
    for b in range(2):
        for t in range(5):
            weight = [
                math.exp(shares[b, k].item() + 4 * float(unit(frames[b, t]) @ unit(steps[b, k])))
                for k in range(int(lengths[b]))
            ]
            want -= math.log(weight[int(labels[b, t])] / sum(weight)) / 10
    assert got.image.item() == pytest.approx(want, rel=1e-5)
    assert not got.image.requires_grad  # the prior learns from `duration_loss` alone
    without = frame_sentence_loss(frames, steps, lengths, 4.0, labels=labels)
    equal = frame_sentence_loss(frames, steps, lengths, 4.0, labels=labels, log_shares=torch.zeros(2, 3))
    torch.testing.assert_close(equal.image, without.image)
    assert got.text.equal(without.text)


@pytest.mark.parametrize("soft", [False, True])
def test_the_shares_of_the_labels_are_the_best_expectation(soft):
    labels = torch.tensor([[0, 0, 0, 1, 2], [0, 1, 1, 1, 1]])
    target = torch.nn.functional.one_hot(labels, 3).float() if soft else labels
    best = torch.tensor([[0.6, 0.2, 0.2], [0.2, 0.8, 0.0]])
    entropy = -(best * best.log().masked_fill(best == 0, 0.0)).sum(1).mean()
    assert duration_loss(target, best.log()).item() == pytest.approx(entropy.item())
    off = torch.tensor([[0.1, -0.1, 0.2], [0.3, 0.0, -torch.inf]]) + best.log()
    assert duration_loss(target, off.log_softmax(1)) > entropy


def test_durations_want_a_fine_loss():
    with pytest.raises(StepclipError, match=r"loss\.fine does not fit"):
        load_recipe("transcripts", ["loss.fine=0", "loss.coarse=1"])

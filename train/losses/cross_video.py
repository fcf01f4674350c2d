"""Frames of two videos of one label, told from each other through a warping of the two.

Our reconstruction of the weakly-supervised version of CARL (arXiv 2212.03125), of which no code and no
formulas were released (`methods/carl.md` 4.1): the videos are aligned by DTW, each frame takes the mean time
of the frames that it met in the other video, and a Gaussian around that time is its target there. No gradient
flows through the alignment.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..alignment.patterns import DTW, SUBSEQUENCE
from ..alignment.warping import align
from .timestamp_contrast import NEVER, divergence, time_prior

Ends = Literal["closed", "open"]


class Propagated(NamedTuple):
    """Of the rows of each pair: the `times` (P, T) that they have in the other video, the variance of what
    each of them met (P, T), and whether it met anything (P, T)."""

    times: Tensor
    variance: Tensor
    met: Tensor


def cross_video_loss(
    first: Tensor,
    second: Tensor,
    first_times: Tensor,
    second_times: Tensor,
    first_real: Tensor,
    second_real: Tensor,
    *,
    sigma: float | Tensor,
    temperature: float = 0.1,
    gamma: float = 0.0,
    ends: Ends = "closed",
    matched_spread: bool = False,
    confidence: float = 0.0,
) -> Tensor:
    """P pairs of videos, `first` (P, T, E) and `second` (P, U, E) of any length, times (P, T) and (P, U) in
    one unit, `*_real` bool with the real frames in front -> (): mean over the pairs, both directions.

    `sigma`: spread of the target, a number or one per pair. `gamma` > 0: expected alignment of soft-DTW at
    that temperature in place of the hard path. `ends` open: each video is laid whole into a part of the
    other, for crops that need not show the same steps. `matched_spread`: a target is wider by the variance of
    what its frame met. `confidence` c > 0: a pair counts by exp(-(cost of its path / its length) / c).
    """
    a, b = F.normalize(first.float(), dim=-1), F.normalize(second.float(), dim=-1)
    similarity = a @ b.mT
    with torch.no_grad():
        lengths = torch.stack([first_real.sum(-1), second_real.sum(-1)], -1)
        forth, home, price = align_frames(1 - similarity, lengths, gamma, ends)
        weight = (-price / confidence).exp() if confidence else torch.ones_like(price)
        there, back = propagate(forth, second_times), propagate(home, first_times)
    spread = torch.as_tensor(sigma, dtype=torch.float32, device=a.device).expand(len(a))
    logits = similarity / temperature
    loss = _direction(logits, there, second_times, first_real, second_real, spread, matched_spread)
    loss = loss + _direction(logits.mT, back, first_times, second_real, first_real, spread, matched_spread)
    return (weight * loss).sum() / weight.sum().clamp(min=1e-6)


def align_frames(
    cost: Tensor, lengths: Tensor, gamma: float = 0.0, ends: Ends = "closed"
) -> tuple[Tensor, Tensor, Tensor]:
    """`cost` (P, T, U) and `lengths` (P, 2) -> where the rows lie among the columns (P, T, U), the columns
    among the rows (P, U, T), and the mean cost of a cell of the path (P,)."""
    # unchecked: a check waits for the device
    if ends == "open":
        down = align(cost, lengths, SUBSEQUENCE, gamma or None, check=False)
        across = align(cost.mT.contiguous(), lengths.flip(-1), SUBSEQUENCE, gamma or None, check=False)
        size = down.weights.sum((-1, -2)) + across.weights.sum((-1, -2))
        return across.weights.mT, down.weights.mT, (down.value + across.value) / size.clamp(min=1)
    found = align(cost, lengths, DTW, gamma or None, check=False)
    return found.weights, found.weights.mT, found.value / found.weights.sum((-1, -2)).clamp(min=1)


def propagate(weights: Tensor, times: Tensor) -> Propagated:
    """`weights` (P, T, U) of an alignment and `times` (P, U) -> the times of the T rows."""
    mass = weights.sum(-1)
    met = mass > 1e-6
    share = weights / mass.clamp(min=1e-6)[..., None]
    at = times.float()[:, None, :]
    mean = (share * at).sum(-1)
    return Propagated(mean, (share * (at - mean[..., None]).square()).sum(-1), met)


def _direction(
    logits: Tensor,
    found: Propagated,
    times: Tensor,
    rows: Tensor,
    columns: Tensor,
    sigma: Tensor,
    matched_spread: bool,
) -> Tensor:
    """Mean KL of the rows that have a target, (P,)."""
    keys = columns[:, None, :]
    spread = sigma[:, None].expand_as(found.times)
    if matched_spread:
        spread = (spread.square() + found.variance).sqrt()
    apart = (found.times[..., None] - times.float()[:, None, :]) / spread[..., None]
    log_q = logits.masked_fill(~keys, NEVER).log_softmax(-1)
    counted = rows & found.met
    loss = divergence(time_prior(apart, keys), log_q, keys) * counted
    return loss.sum(-1) / counted.sum(-1).clamp(min=1)

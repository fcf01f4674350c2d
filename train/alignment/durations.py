"""Monotone labels when it is known how long each step lasts, as a share of the video.

A step's column is laid side by side m times, and every copy is visited: `monotone(visit_all=True)` over the
wider matrix. Hard, a step then lasts at least m rows. Soft, all ways through the copies count alike, so that
what the steps last beyond m has the Dirichlet-multinomial distribution of the counts m:

    P(n_1 .. n_S)  is in proportion to  prod_k C(n_k - 1, m_k - 1),     sum n_k = T, n_k >= m_k

The copies are `least` times the rows of a problem, and shared out as the steps are expected to last: `least`
says how much the expectation counts (a step of 10 % of the video: 0.1 +- about 0.3 / sqrt(least T)).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .labels import monotone, monotone_posteriors


@torch.no_grad()
def duration_columns(
    shares: Tensor, rows: Tensor, steps: Tensor, least: float, width: int
) -> tuple[Tensor, Tensor]:
    """Which step each copy belongs to, (B, width) int64, and how many copies there are, (B,).

    shares (B, S): positive, what each step is expected to last, in any unit; rows and steps (B,): lengths.
    Each step has one copy, the others are shared out. `width`: at least what `duration_width` says.
    """
    place = torch.arange(shares.shape[1], device=shares.device)
    real = place < steps[:, None]
    shares = torch.where(real, shares.double(), 0.0)
    count = torch.maximum((least * rows).round().long(), steps)
    until = (shares / shares.sum(1, keepdim=True)).cumsum(1) * (count - steps)[:, None]
    ends = torch.where(real, until.round().long() + place + 1, count[:, None])
    copies = torch.arange(width, device=shares.device).expand(len(shares), -1).contiguous()
    step = torch.searchsorted(ends, copies, right=True)
    return torch.minimum(step, steps[:, None] - 1), count


def duration_width(rows: int, steps: int, least: float) -> int:
    """Copies of a problem of at most so many rows and steps."""
    return max(round(least * rows), steps)


@torch.no_grad()
def duration_labels(
    similarity: Tensor, shares: Tensor, rows: Tensor, steps: Tensor, least: float, *, check: bool = True
) -> Tensor:
    """`monotone(visit_all=True)` where step k lasts at least `least` times its share of the rows.

    similarity (B, T, S), shares (B, S), lengths rows and steps (B,) -> int64 (B, T), -1 beyond `rows`.
    """
    wide, step, count = _widened(similarity, shares, rows, steps, least)
    found = monotone(wide, (rows, count), visit_all=True, check=check)
    return torch.where(found < 0, -1, step.gather(1, found.clamp(min=0)))


@torch.no_grad()
def duration_posteriors(
    log_p: Tensor, shares: Tensor, rows: Tensor, steps: Tensor, least: float, *, check: bool = True
) -> Tensor:
    """The probability of each step at each row, under the log-likelihoods `log_p` (B, T, S) and the durations
    of the module's formula: (B, T, S), rows that sum to 1, zeros beyond the lengths."""
    wide, step, count = _widened(log_p, shares, rows, steps, least)
    weights = monotone_posteriors(wide, 1.0, (rows, count), visit_all=True, check=check).weights
    return torch.zeros_like(log_p).scatter_add(2, step[:, None].expand_as(weights), weights)


def _widened(
    similarity: Tensor, shares: Tensor, rows: Tensor, steps: Tensor, least: float
) -> tuple[Tensor, Tensor, Tensor]:
    width = duration_width(similarity.shape[1], similarity.shape[2], least)
    step, count = duration_columns(shares, rows, steps, least, width)
    return similarity.gather(2, step[:, None].expand(-1, similarity.shape[1], -1)), step, count

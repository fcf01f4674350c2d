"""Soft labels: how probable it is that a frame shows a sentence, over all monotone paths at once.

Forward and backward sums in the log domain over the same paths as `alignment.monotone` takes the best of. A
path's weight is the product of its emissions, so the posteriors are the gradient of the log of the total.
"""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def monotone_posteriors(log_p: Tensor, lengths: Tensor, *, visit_all: bool = False) -> Tensor:
    """`log_p` (B, N, K), `lengths` (B,) real sentences -> (B, N, K); rows sum to 1, zero beyond lengths.

    `visit_all`: stay or next, from the first sentence to the last (any forward jump where N < length, as
    there is no such path); else any forward jump, free start and end. O(N K), or O(N K^2) for the jumps, in
    steps over the whole batch; the host never waits.
    """
    b, n, k = log_p.shape
    column = torch.arange(k, device=log_p.device)
    low = torch.finfo(torch.float32).min / 4  # as good as forbidden, and without inf - inf
    emission = log_p.float().masked_fill(column >= lengths[:, None, None], low).clamp(min=low)
    strict = ((lengths <= n) if visit_all else torch.zeros_like(lengths, dtype=torch.bool))[:, None]
    first = torch.where(strict & (column > 0), low, 0.0)
    last = torch.where(strict & (column != lengths[:, None] - 1), low, 0.0)

    forward = [first + emission[:, 0]]
    for t in range(1, n):
        forward.append(emission[:, t] + _before(forward[-1], column, strict, low, visit_all))
    backward = [last.expand(b, k)]
    for t in range(n - 1, 0, -1):
        later = (backward[-1] + emission[:, t]).flip(1)
        backward.append(_before(later, column, strict, low, visit_all).flip(1))
    joint = torch.stack(forward, 1) + torch.stack(backward[::-1], 1)
    return joint.softmax(2)


def _before(score: Tensor, column: Tensor, strict: Tensor, low: float, visit_all: bool) -> Tensor:
    """log of the sum over where a path may come from: (B, K) -> (B, K)."""
    earlier = column[:, None] >= column  # [to, from]
    jumped = score[:, None].masked_fill(~earlier, low).logsumexp(2)
    if not visit_all:
        return jumped
    previous = torch.cat([torch.full_like(score[:, :1], low), score[:, :-1]], 1)
    return torch.where(strict, torch.logaddexp(score, previous), jumped)

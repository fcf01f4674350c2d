"""Monotone labelling: each row (frame) gets one column (step), never going back.

```
any forward jump:   best[t, k] = sim[t, k] + max over j <= k of best[t-1, j]        free start, free end
every step visited: best[t, k] = sim[t, k] + max(best[t-1, k-1], best[t-1, k])      from step 0 to step S-1
```
The first is the Viterbi of WeakSVR (CVPR 2023, section 3.3) when `sim` is a log-emission: its uniform
transitions are constants, and the maximum over all earlier states is a running maximum, O(T S) in place of
O(T S^2).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .problems import Lengths, problems


@torch.no_grad()
def monotone(
    similarity: Tensor,
    lengths_t: Lengths = None,
    lengths_s: Lengths = None,
    *,
    visit_all: bool = False,
    check: bool = True,
) -> Tensor:
    """The non-decreasing labels of the largest total similarity: (..., T, S) -> int64 (..., T), -1 beyond
    len_t.

    `visit_all=True` also asks that every step is visited: labels stay or go to the next, from 0 to len_s - 1;
    a problem with fewer rows than steps cannot, and takes free jumps instead. Between equal ways the lowest
    label wins. Infinite similarities count as very large ones. `check=False` for the inner loop of a
    training: no host wait.
    """
    p = problems(similarity, lengths_t, lengths_s, check=check)
    rows, columns = p.matrix.shape[1:]
    most = torch.finfo(p.matrix.dtype).max / (
        2 * rows
    )  # the sum over a path stays finite, so forbidden cells still count
    scores = p.matrix.nan_to_num(nan=-most).clamp(-most, most).masked_fill(~p.inside, -torch.inf)
    column = torch.arange(columns, device=scores.device)
    strict = (p.t >= p.s)[:, None] if visit_all else None

    best = scores[:, 0]
    if strict is not None:
        best = torch.where(strict & (column > 0), -torch.inf, best)
    back = []
    for t in range(1, rows):
        reached, origin = _running_maximum(best, column)
        if strict is not None:
            stepped, came = _stay_or_next(best, column)
            reached, origin = torch.where(strict, stepped, reached), torch.where(strict, came, origin)
        best = torch.where((t < p.t)[:, None], reached + scores[:, t], best)
        back.append(origin)

    end = best.argmax(1) if strict is None else torch.where(strict[:, 0], p.s - 1, best.argmax(1))
    state = end
    labels = [torch.where(p.t == rows, state, -1)]
    for t in range(rows - 2, -1, -1):
        state = torch.where(p.t - 1 > t, back[t].gather(1, state[:, None])[:, 0], end)
        labels.append(torch.where(p.t > t, state, -1))
    return torch.stack(labels[::-1], 1).reshape(*p.shape, rows)


def _running_maximum(best: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
    """max over j <= k, and the lowest such j (torch's own cummax indices give the highest)."""
    running = best.cummax(1).values
    before = torch.cat([torch.full_like(running[:, :1], -torch.inf), running[:, :-1]], 1)
    return running, torch.where(best > before, column, 0).cummax(1).values


def _stay_or_next(best: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
    previous = torch.cat([torch.full_like(best[:, :1], -torch.inf), best[:, :-1]], 1)
    moved = (previous >= best) & (column > 0)
    return torch.where(moved, previous, best), column - moved.long()

"""Dynamic time warping (Sakoe and Chiba 1978), the hard form, as a wavefront over anti-diagonals.

```
(t-1, s-1)  (t-1, s)       D[t, s] = cost[t, s] + min( D[t-1, s-1], D[t-1, s], D[t, s-1] )
         \\  |
(t, s-1) - (t, s)          all cells of one anti-diagonal t + s depend only on the two diagonals before
```
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import pad

from ...cache.errors import StepclipError, nearest
from .problems import Lengths, problems

Normalise = Literal["none", "sum", "max"]
_INF = float("inf")


def dtw(
    cost: Tensor,
    lengths_t: Lengths = None,
    lengths_s: Lengths = None,
    *,
    normalise: Normalise = "none",
    check: bool = True,
) -> Tensor:
    """The least total cost of a warping path from (0, 0) to (len_t - 1, len_s - 1), steps (1,1), (1,0),
    (0,1).

    `cost` (..., T, S); lengths broadcast to (...); returns (...). Differentiable: the gradient is the path
    (shared between equal neighbours). An infinite cost forbids a cell. `normalise` divides the value by len_t
    + len_s ("sum") or by max(len_t, len_s) ("max"). Time O(T + S) steps over whole batches.

    Example: `dtw(torch.tensor([[0., 1.], [1., 0.]]))` is 0.
    """
    if normalise not in get_args(Normalise):
        known = get_args(Normalise)
        raise StepclipError(
            f"normalise={normalise!r}{nearest(str(normalise), known)}", f"one of {', '.join(known)}"
        )
    p = problems(cost, lengths_t, lengths_s, check=check)
    diagonals = _skew(
        p.matrix.masked_fill(~p.inside, 0.0)
    )  # what lies beyond the lengths never reaches the answer
    row, last = (p.t - 1)[None], p.t + p.s - 2
    value = diagonals[0].gather(0, row)[0]
    for d, diagonal in enumerate(_wavefront(diagonals)):
        value = torch.where(last == d, diagonal.gather(0, row)[0], value)
    if normalise == "sum":
        value = value / (p.t + p.s)
    elif normalise == "max":
        value = value / torch.maximum(p.t, p.s)
    return value.reshape(p.shape)


def dtw_path(cost: Tensor) -> Tensor:
    """The path of `dtw` for one problem: `cost` (T, S) -> int64 (P, 2), from (0, 0) to (T-1, S-1), one cell a
    row.

    Between equal ways the diagonal step is taken, then the step in t, then the step in s.
    """
    cost = torch.as_tensor(cost).detach()
    if cost.ndim != 2:
        raise StepclipError(f"a cost of shape {tuple(cost.shape)}", "one problem: (T, S)")
    p = problems(cost, None, None)
    total = torch.stack([d[:, 0] for d in _wavefront(_skew(p.matrix))]).cpu().numpy()  # total[t + s, t]
    t, s = cost.shape[0] - 1, cost.shape[1] - 1
    path = [(t, s)]
    while t or s:
        before = [(t - 1, s - 1), (t - 1, s), (t, s - 1)]
        t, s = min((c for c in before if min(c) >= 0), key=lambda c: total[c[0] + c[1], c[0]])
        path.append((t, s))
    return torch.tensor(path[::-1], dtype=torch.int64)


def _skew(matrix: Tensor) -> Tensor:
    """(B, T, S) -> (T+S-1, T, B): entry [d, t] is matrix[:, t, d-t], infinite where there is none.

    Rows padded to S+T and read as rows of S+T-1 shift each row by one more than the row above: a view, no
    gather.
    """
    b, t, s = matrix.shape
    padded = pad(matrix.permute(1, 2, 0), (0, 0, 0, t), value=_INF).reshape(t * (s + t), b)
    return padded[: t * (s + t - 1)].reshape(t, s + t - 1, b).transpose(0, 1)


def _wavefront(diagonals: Tensor) -> list[Tensor]:
    """The accumulated cost, diagonal by diagonal, each (T, B); the problem index innermost, so each step is
    dense."""
    wall = diagonals.new_full((1, diagonals.shape[2]), _INF)
    older, old = torch.full_like(diagonals[0], _INF), diagonals[0]
    done = [old]
    for diagonal in diagonals[1:]:
        up = torch.cat([wall, old[:-1]])
        corner = torch.cat([wall, older[:-1]])
        older, old = old, diagonal + torch.minimum(corner, torch.minimum(up, old))
        done.append(old)
    return done

"""Which cached rows make a view: one per equal part of the video (`methods/weaksvr.md` 2.1, on rows instead
of jpgs).

Boundaries b_0..b_n are the whole parts of n + 1 equally spaced values from 0 to F - 2, as released (the last
rows are never seen). A video too short for that (F < n + 2), where the released code crashes, is spread over
all its rows with repeats.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...cache.errors import StepclipError

VIEWS = 3  # of a test, `methods/weaksvr.md` 5.1


def boundaries(lengths: Tensor, n: int) -> Tensor:
    """(B,) rows per video -> int64 (B, n + 1), non-decreasing, within the video's rows (the last one
    exclusive)."""
    span = torch.where(lengths >= n + 2, lengths - 2, lengths)
    return torch.arange(n + 1, device=lengths.device) * span[:, None] // n


def rows_from_draws(lengths: Tensor, draws: Tensor) -> Tensor:
    """Rows (B, n) of the training views: `draws` (B, n) uniform in [0, 1) say where in its part each row
    lies."""
    b = boundaries(lengths, draws.shape[1])
    low, size = b[:, :-1], (b[:, 1:] - b[:, :-1]).clamp(min=1)
    return low + (draws * size).long().minimum(size - 1)  # rounding may reach the next part


def train_rows(lengths: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
    """A random row of each part: `lengths` (B,) int64 rows per video -> int64 (B, n)."""
    _check(int(lengths.min()), n)
    draws = torch.rand(len(lengths), n, generator=generator, device=generator.device if generator else None)
    return rows_from_draws(lengths, draws.to(lengths.device))


def view_rows(length: int, n: int, views: int = VIEWS) -> Tensor:
    """The fixed views of a test: int64 (views, n). View i of V has row b_j + i * floor((b_j+1 - b_j) / (V +
    1))."""
    _check(length, n)
    b = boundaries(torch.tensor([length]), n)[0]
    step = (b[1:] - b[:-1]) // (views + 1)
    return b[:-1] + torch.arange(1, views + 1)[:, None] * step


def dense_rows(length: int, n: int) -> tuple[Tensor, Tensor]:
    """Views that show every row of a video: (rows, own), int64 and bool (V, n), V = ceil(length / n).

    Each view spans the whole video, as in training; `own` is True at exactly one place per row (a view filled
    up with repeats has False there), so that `out[rows[own]] = H[own]` gives each row its one embedding.
    """
    _check(length, n)
    views = -(-length // n)
    slots = torch.arange(views * n) * length // (views * n)  # every row at least once, in order
    own = torch.ones_like(slots, dtype=torch.bool)
    own[1:] = slots[1:] != slots[:-1]
    return slots.view(n, views).T.contiguous(), own.view(n, views).T.contiguous()


def _check(length: int, n: int) -> None:
    if length < 1 or n < 1:
        raise StepclipError(f"a view of {n} rows from a video of {length} rows", "at least one row of each")

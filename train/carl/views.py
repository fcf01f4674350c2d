"""Two views of each video: which cached rows they show (`methods/carl.md` 1.2), all videos at once.

| sampler | each view |
|---|---|
| window | N of W = ceil(r N) rows in a row, r ~ U(1, region); the windows overlap by `overlap` N or more |
| head | the same with W = ceil(r L), as released for Penn Action and Pouring: always from the start, and |
|  | what lies beyond the end is padding, but for the first row: a view shows one at least |
| whole | N rows of the whole video (TCC) |
| earlier | N rows of the whole video, and each of them again 1 to 5 rows earlier (TCN) |

N = min(L, T). Everything follows from uniform draws that come from the host, so a step is a function of seed
and epoch.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Sampler = Literal["window", "head", "whole", "earlier"]
EARLIER = 5  # rows between a frame and its positive, at most (TCN)


class Views(NamedTuple):
    """`rows` (B, 2, T) int64 within each video, ascending; `real` (B, 2, T) bool, in front, the rest repeats
    the last row."""

    rows: Tensor
    real: Tensor


def draws_needed(frames: int, longest: int, sampler: Sampler, region: float) -> int:
    """Uniform numbers per view of a video of at most `longest` rows."""
    window = frames if sampler == "window" else longest
    return 2 + max(math.ceil(region * min(window, longest)), frames)


def sample_views(
    lengths: Tensor,
    draws: Tensor,
    frames: int,
    sampler: Sampler,
    region: float = 1.5,
    overlap: float = 0.2,
    *,
    limit: Tensor | int | None = None,
) -> Views:
    """`lengths` (B,) rows of each video, `draws` (B, 2, K) uniform in [0, 1), K = `draws_needed`. `limit`:
    at most so many real rows in a view, a number or one per video; `frames` by default."""
    t = frames
    n = lengths.minimum(torch.as_tensor(t if limit is None else limit, device=lengths.device))
    if sampler in ("window", "head"):
        ratio = 1 + (region - 1) * draws[..., 0]
        width = (ratio * (n if sampler == "window" else lengths)[:, None]).ceil().long()
        if sampler == "window":
            width = width.minimum(lengths[:, None])
    else:
        width = lengths[:, None].expand(-1, 2)
    inside = _choose(draws[..., 2:], width, n, t)
    start = (draws[:, 0, 1] * (lengths - width[:, 0] + 1).clamp(min=1)).long()
    first = start[:, None] + inside[:, 0]
    if sampler == "earlier":
        back = 1 + (draws[:, 1, 2 : 2 + t] * EARLIER).long()
        rows = torch.stack([first, (first - back).clamp(min=0)], 1)
    else:
        last = lengths - width[:, 1]
        low, high = torch.zeros_like(lengths), last + 1
        if overlap:
            shift = ((1 - overlap) * n).long()
            low = last.minimum(first[:, 0] - shift).clamp(min=0)
            high = high.minimum(first[:, 0] + shift + 1)
        second = low + (draws[:, 1, 1] * (high.clamp(min=1) - low)).long()
        rows = torch.stack([first, second[:, None] + inside[:, 1]], 1)
    rows[..., 0] = rows[..., 0].minimum(lengths[:, None] - 1)  # "head" may draw none but rows beyond the end
    slot = torch.arange(t, device=lengths.device)
    real = (slot < n[:, None, None]) & (rows < lengths[:, None, None])
    if sampler == "earlier":
        real = real[:, :1].expand(-1, 2, -1)
    return Views(torch.where(real, rows, lengths[:, None, None] - 1), real)


def _choose(keys: Tensor, width: Tensor, n: Tensor, frames: int) -> Tensor:
    """The `n` (B,) of 0 .. width - 1 with the smallest keys, ascending: (B, 2, frames); unused slots lie far
    beyond any video."""
    place = torch.arange(keys.shape[-1], device=keys.device)
    order = keys.masked_fill(place >= width[..., None], 2.0).argsort(-1)[..., :frames]
    unused = torch.arange(frames, device=keys.device) >= n[:, None, None]
    return order.masked_fill(unused, 1 << 40).sort(-1).values

"""Orders of a sequence that are not its own: by whole segments, by the clips inside them, or both.

All of them at once: an order is the argsort of keys (place of the segment, place inside it).
"""

from __future__ import annotations

from functools import lru_cache
from itertools import permutations
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Granularity = Literal["segments", "clips", "both"]
_LISTED = 6  # sequences up to this long have all their orders in a table: 719 of 6


class Orders(NamedTuple):
    """`places` (V, M, N) int64: which element comes at each place; padding stays where it is. `real` (V, M)
    bool: another sequence than the one given, not the same again."""

    places: Tensor
    real: Tensor


def draw_orders(
    segments: Tensor,
    lengths: Tensor,
    count: int,
    granularity: Granularity = "segments",
    *,
    adjacent: float = 0.0,
    content: Tensor | None = None,
) -> Orders:
    """`count` orders M of each of V sequences; `segments` (V, N) int64, non-decreasing from 0, says which
    segment an element belongs to, `lengths` (V,) how many elements are real. Draws from torch's generator.

    "segments": whole segments change places; "clips": elements change places inside their segment; "both". A
    share `adjacent` of the orders exchanges two neighbouring segments only: the hardest to tell. `content`
    (V, N) int64: elements with equal numbers are interchangeable, and an order that only exchanges those is
    not real.
    """
    videos, n = segments.shape
    device = segments.device
    place = torch.arange(n, device=device)
    pad = place >= lengths[:, None]
    groups = segments.gather(1, (lengths - 1)[:, None])[:, 0] + 1  # segments of each sequence
    shape = (videos, count, n)
    if granularity == "clips":
        outer = segments[:, None].expand(shape)
    else:
        keys = torch.rand(shape, device=device).masked_fill(place >= groups[:, None, None], 2.0)
        rank = keys.argsort(-1).argsort(-1)  # where each segment goes
        near = round(adjacent * count)
        if near:
            pick = (torch.rand(videos, near, device=device) * (groups - 1)[:, None]).long()
            swap = (place == pick[..., None]).long() - (place == pick[..., None] + 1).long()
            swap = torch.where((groups > 1)[:, None, None], swap, 0)
            rank = torch.cat([place + swap, rank[:, near:]], 1)
        outer = rank.gather(2, segments[:, None].expand(shape))
    inner = (place / n).expand(shape) if granularity == "segments" else torch.rand(shape, device=device)
    key = torch.where(pad[:, None], n + place, outer + inner.clamp(max=1 - 1e-6))
    order = key.argsort(dim=-1, stable=True)
    return Orders(order, _differs(order, place, content))


def listed_orders(videos: int, n: int, count: int, device: torch.device) -> Orders:
    """`count` of the n! - 1 other orders of n elements, without replacement, each as likely: (V, M, n), M the
    smaller of `count` and n! - 1. As released (n = 5: 31 of 119)."""
    table = _table(n).to(device)
    chosen = torch.rand(videos, len(table), device=device).topk(min(count, len(table)), dim=1).indices
    order = table[chosen]
    return Orders(order, torch.ones(order.shape[:2], dtype=torch.bool, device=device))


def listable(n: int) -> bool:
    return 2 <= n <= _LISTED


@lru_cache
def _table(n: int) -> Tensor:
    return torch.tensor(list(permutations(range(n))))[1:]


def _differs(order: Tensor, place: Tensor, content: Tensor | None) -> Tensor:
    if content is None:
        return (order != place).any(-1)
    own = content[:, None].expand(order.shape)
    return (own.gather(2, order) != own).any(-1)

"""Scripts that are nearly right: sentences swapped, dropped, inserted, drawn on the device for a whole batch.

These are the very differences that verification must see (`methods/weaksvr.md` 1.2: a data set's wrong pairs
differ by order, deletion and addition), and the cache holds all they are made of: sentences one by one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Edited(NamedTuple):
    """`words` (B, M, K + 1) int64 places in the table of sentences, `lengths` (B, M), `real` (B, M) bool:
    False where an edit could not be made or changed nothing."""

    words: Tensor
    lengths: Tensor
    real: Tensor


def edited_scripts(
    words: Tensor, lengths: Tensor, edits: int, vocabulary: Tensor, vocabulary_size: Tensor, padding: int
) -> Edited:
    """M = `edits` of each script (B, K) of `lengths` (B,): by turns two sentences change places, one is left
    out, one of its task's `vocabulary` (B, W), the first `vocabulary_size` (B,) of it, is put in. Random
    numbers from torch's generator."""
    b, k = words.shape
    device = words.device
    n = lengths[:, None].expand(b, edits)
    kind = torch.arange(edits, device=device) % 3
    first, second, third = torch.rand(3, b, edits, device=device)
    i = _below(first, n)
    # swapped: i and another; dropped: i; inserted: before place j of n + 1
    other = (i + 1 + _below(second, n - 1)) % n
    j = _below(first, n + 1)
    place = torch.arange(k + 1, device=device)
    swapped = torch.where(place == i[..., None], other[..., None], place)
    swapped = torch.where(place == other[..., None], i[..., None], swapped)
    dropped = place + (place >= i[..., None]).long()
    inserted = place - (place > j[..., None]).long()
    kinds = kind[:, None]
    source = torch.where(kinds == 0, swapped, torch.where(kinds == 1, dropped, inserted))
    size = torch.where(kind == 0, n, torch.where(kind == 1, n - 1, n + 1))

    long = torch.cat([words, words.new_full((b, 2), padding)], 1)
    made = long[:, None].expand(b, edits, k + 2).gather(2, source.clamp(max=k + 1))
    put_in = vocabulary.gather(1, _below(third, vocabulary_size[:, None].expand(b, edits)))
    here = (kinds == 2) & (place == j[..., None])
    made = torch.where(here, put_in[..., None], made)
    made = torch.where(place < size[..., None], made, padding)
    original = torch.where(place < n[..., None], long[:, None, : k + 1], padding)
    real = (size > 0) & (made != original).any(2)
    return Edited(made, size.clamp(min=1), real)


def _below(uniform: Tensor, limit: Tensor) -> Tensor:
    """Whole numbers 0..limit-1 (0 where the limit is less) from numbers in [0, 1)."""
    return (uniform * limit).long().minimum(limit - 1).clamp(min=0)

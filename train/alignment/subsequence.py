"""Subsequence alignment: the whole script somewhere inside a longer video.

DTW with a free start and a free end along the rows: the path begins at any row of the first column and ends
at any row of the last (Mueller 2007, chapter 4.4).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .normalise import Normalise
from .patterns import SUBSEQUENCE
from .problems import Lengths
from .warping import Alignment, _value, align


class Span(NamedTuple):
    """`value` (...); `start`, `end` (...) int64: the first and the last row (frame) of the best span, both
    included; -1 where infinite costs leave no way."""

    value: Tensor
    start: Tensor
    end: Tensor


def subsequence(
    cost: Tensor,
    lengths: Lengths = None,
    *,
    gamma: float | None = None,
    normalise: Normalise = "sum",
    backend: str = "auto",
    check: bool = True,
) -> Tensor:
    """The least cost of all columns, in order, inside the rows: `cost` (..., T, S) -> (...). Soft with
    `gamma`: over all spans. Differentiable."""
    return _value(cost, lengths, SUBSEQUENCE, gamma, None, normalise, backend, check)


def subsequence_alignment(
    cost: Tensor, lengths: Lengths = None, *, gamma: float | None = None, backend: str = "auto"
) -> Alignment:
    """The value, and the path (or, with `gamma`, how likely each cell is on it)."""
    return align(cost, lengths, SUBSEQUENCE, gamma, backend=backend)


def subsequence_span(cost: Tensor, lengths: Lengths = None, *, backend: str = "auto") -> Span:
    """Where the best span lies. Of equally good spans the one that ends first is taken."""
    value, weights = subsequence_alignment(cost, lengths, backend=backend)
    used = weights.sum(-1) > 0
    rows = torch.arange(used.shape[-1], device=used.device)
    start = torch.where(used, rows, len(rows)).amin(-1)
    end = torch.where(used, rows, -1).amax(-1)
    return Span(value, torch.where(end < 0, -1, start), end)

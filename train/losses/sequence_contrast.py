"""Sequences against re-ordered ones: TempCLR's loss (ICLR 2023; `methods/tempclr.md` 1 and 2).

A matrix of costs, sentences by windows, has one distance (soft-DTW or soft OTAM). Re-ordering either side
moves rows or columns of the matrix and nothing else, so all negatives are one gather, and the encoders run
once.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ...cache.errors import StepclipError, nearest
from ..alignment import dtw, otam, soft_dtw, soft_otam

SequenceDistance = Literal["soft_dtw", "soft_otam", "dtw", "otam"]


def sequence_distance(
    cost: Tensor,
    lengths: Any = None,
    distance: SequenceDistance = "soft_dtw",
    gamma: float = 0.1,
    normalise: Literal["sum", "path", "L+N", "L*N", "max"] = "sum",
) -> Tensor:
    """`cost` (..., L, N) -> (...). OTAM is the sum of both directions, as released; "sum" does not normalise,
    as released in training."""
    if distance == "soft_dtw":
        return soft_dtw(cost, gamma, lengths, normalise=normalise, check=False)
    if distance == "soft_otam":
        return soft_otam(cost, gamma, lengths, normalise=normalise, check=False)
    if distance == "dtw":
        return dtw(cost, lengths, normalise=normalise, check=False)
    if distance == "otam":
        return otam(cost, lengths, normalise=normalise, check=False)
    known = get_args(SequenceDistance)
    raise StepclipError(
        f"sequence distance {distance!r}{nearest(str(distance), known)}", f"one of {', '.join(known)}"
    )


def reordered(cost: Tensor, rows: Tensor | None = None, columns: Tensor | None = None) -> Tensor:
    """`cost` (V, L, N) with its rows and/or columns in M other orders, `rows` (V, M, L), `columns` (V, M, N)
    int64
    -> (V, M, L, N), one gather."""
    if rows is None and columns is None:
        raise StepclipError("no order", "an order of the rows, of the columns, or of both")
    video = torch.arange(len(cost), device=cost.device)[:, None, None, None]
    if rows is None:
        assert columns is not None
        return cost.mT[video[..., 0], columns].mT
    if columns is None:
        return cost[video[..., 0], rows]
    return cost[video, rows[..., :, None], columns[..., None, :]]


def sequence_contrast_loss(
    right: Tensor,
    wrong: Tensor,
    tau: Tensor | float = 1.0,
    *,
    real: Tensor | None = None,
    counts: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of the right sequence among wrong ones, logits = -distance / tau -> ().

    `right` (V,), `wrong` (V, M) distances; `real` (V, M) bool: which wrong ones there are; `counts` (V,)
    bool: which videos take part. The mean over those; 0 where none does.
    """
    logits = -torch.cat([right[:, None], wrong], 1) / tau
    if real is not None:  # after the division: tau learns, and infinity has no derivative
        logits = logits.masked_fill(torch.cat([torch.zeros_like(real[:, :1]), ~real], 1), -torch.inf)
    each = -logits.log_softmax(1)[:, 0]
    if counts is None:
        return each.mean()
    return torch.where(counts, each, 0.0).sum() / counts.sum().clamp(min=1)

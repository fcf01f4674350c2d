"""Two videos of one procedure, aligned frame by frame, against videos of other procedures.

Not of the papers: SVIP aligns the frames of a pair by their places, WeakSVR compares videos by one vector
each. Verification by alignment asks for more: that the frames of two recordings of one script can be warped
onto each other at little cost, and those of two scripts that differ by a step cannot. So the cost of the
warping itself is what is contrasted. Scripts alone say which videos belong together.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..alignment import soft_dtw
from .unit import unit


def video_alignment_loss(
    frames: Tensor, procedures: Tensor, scale: float = 30.0, gamma: float = 0.1
) -> Tensor:
    """`frames` (B, N, E) raw, `procedures` (B,) int64 -> (): for each video the mean over the others of its
    procedure of -log softmax over all other videos of -scale * distance; mean over videos that have one.

    The distance is the soft-DTW (temperature `gamma`) of 1 - cosine, over 2 N: of the warping that
    verification measures, its soft form.
    """
    b, n, _ = frames.shape
    h = unit(frames)
    cost = 1 - torch.einsum("ind,jmd->ijnm", h, h)
    first, second = torch.triu_indices(b, b, 1, device=frames.device)  # each pair once: it is symmetric
    distance = soft_dtw(cost[first, second], gamma, check=False) / (2 * n)
    logits = torch.full_like(cost[:, :, 0, 0], -torch.inf)
    logits = logits.index_put((first, second), -scale * distance).index_put(
        (second, first), -scale * distance
    )
    together = procedures[:, None] == procedures
    together = together & ~torch.eye(b, dtype=torch.bool, device=frames.device)
    log_p = logits.log_softmax(1).masked_fill(~together, 0.0)
    count = together.sum(1)
    terms = -log_p.sum(1) / count.clamp(min=1)
    return terms.sum() / (count > 0).sum().clamp(min=1)

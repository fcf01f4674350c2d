"""TCN, time-contrastive learning from one view (Sermanet et al., 2018), as an n-pairs loss (Sohn, 2016).

A baseline of CARL's in the form that TCC's released code gave it (`methods/carl.md` 7): a frame's positive
lies a few frames before it in its own video, the positives of the video's other frames are the negatives.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .timestamp_contrast import NEVER


def time_contrast_loss(
    anchors: Tensor, positives: Tensor, real: Tensor, *, regulariser: float = 0.002
) -> Tensor:
    """`anchors` and `positives` (B, T, E) as they are, frame t of one belongs to frame t of the other; `real`
    (B, T) bool -> (): mean over videos of -log softmax_u <a_t, p_u> at u = t, mean over t, plus `regulariser`
    / 4 times the mean squared lengths of both."""
    a, p = anchors.float(), positives.float()
    log_q = (a @ p.mT).masked_fill(~real[:, None], NEVER).log_softmax(-1)
    size = a.square().sum(-1) + p.square().sum(-1)
    loss = -torch.diagonal(log_q, dim1=-2, dim2=-1) + 0.25 * regulariser * size
    return ((loss * real).sum(-1) / real.sum(-1).clamp(min=1)).mean()

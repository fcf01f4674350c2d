"""How long each sentence lasts, learned from labels of frames."""

from __future__ import annotations

import torch
from torch import Tensor


def duration_loss(labels: Tensor, log_shares: Tensor) -> Tensor:
    """The cross-entropy of the share of a video that each sentence has and the share it was expected to have.

    `labels` (B, N) int64 or (B, N, K), of the frames; `log_shares` (B, K), -inf beyond the script, where no
    label is. Mean over videos, (): least where the expected shares are those of the labels.
    """
    if labels.is_floating_point():
        shares = labels.mean(1)
    else:
        place = torch.arange(log_shares.shape[1], device=labels.device)
        shares = (labels[..., None] == place).to(log_shares.dtype).mean(1)
    return -(shares * log_shares.masked_fill(log_shares == -torch.inf, 0.0)).sum(1).mean()

"""The coarse loss against the paragraphs of one's own task only (released as `compute_info_loss_neg`).

In the released code it is dead: the model never hands the paragraphs over (`methods/weaksvr.md` 1.5, 4.1).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .unit import unit


def same_task_loss(
    video: Tensor,
    paragraph: Tensor,
    task_paragraphs: Tensor,
    scale: Tensor | float,
    real: Tensor | None = None,
) -> Tensor:
    """-2 log of exp(s cos(v, own)) over the sum of exp(s cos(v, p)) for all p of the task, mean over the
    batch -> ().

    `video`, `paragraph` (B, E) raw; `task_paragraphs` (B, M, E), the video's own among them as released;
    `real` (B, M) bool, which of them there are. The 2 is the released code's: its "two directions" are the
    same number.
    """
    v = unit(video)
    own = (v * unit(paragraph)).sum(-1)
    every = (unit(task_paragraphs) @ v[..., None])[..., 0]
    logits = scale * every if real is None else (scale * every).masked_fill(~real, -torch.inf)
    return 2 * (logits.logsumexp(-1) - scale * own).mean()

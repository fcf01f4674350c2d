"""A video's own script against scripts that are nearly right, each aligned with the frames.

Not of the papers: WeakSVR's coarse loss sees a script as one vector, in which the order of its sentences
hardly shows. Here a script is its sentences, and its score is what all monotone alignments with the frames
weigh together, so that a swapped, missing or added sentence costs. (TempCLR, ICLR 2023, contrasts re-ordered
sequences likewise, by DTW.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..alignment import soft_monotone
from .unit import unit


def script_scores(frames: Tensor, steps: Tensor, lengths: Tensor, scale: Tensor | float) -> Tensor:
    """How well each script fits its video: `frames` (B, N, E), `steps` (B, M, K, E) raw and padded,
    `lengths` (B, M) -> (B, M), in units of cosine.

    log of the sum over all paths that stay or go to the next sentence, from the first to the last, of
    exp(s cos) along the path, divided by s N: a soft maximum of the mean cosine. A script longer than the
    view cannot be shown whole: any forward jump then.
    """
    n = frames.shape[1]
    cosines = torch.einsum("bne,bmke->bmnk", unit(frames), unit(steps))
    return soft_monotone(scale * cosines, 1.0, (None, lengths), visit_all=True, check=False) / (scale * n)


def script_order_loss(
    frames: Tensor,
    own: Tensor,
    own_lengths: Tensor,
    edited: Tensor,
    edited_lengths: Tensor,
    real: Tensor,
    scale: Tensor | float,
) -> Tensor:
    """Cross-entropy of the own script among its M edited forms: `frames` (B, N, E), `own` (B, K, E),
    `own_lengths` (B,), `edited` (B, M, K', E) with K' >= K, `edited_lengths`, `real` (B, M) -> ().

    The logits are s * score (`script_scores`); the mean over videos.
    """
    missing = edited.shape[2] - own.shape[1]
    padded = torch.nn.functional.pad(own, (0, 0, 0, missing))[:, None]
    scores = script_scores(
        frames,
        torch.cat([padded, edited], 1),
        torch.cat([own_lengths[:, None], edited_lengths], 1),
        scale,
    )
    there = torch.cat([torch.ones_like(real[:, :1]), real], 1)
    logits = (scale * scores).masked_fill(~there, -torch.inf)
    return -logits.log_softmax(1)[:, 0].mean()

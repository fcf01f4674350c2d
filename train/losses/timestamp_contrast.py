"""CARL's sequence contrastive loss: each frame of one view finds its time in the other (CVPR 2022).

The target is a Gaussian of the distance in time, the prediction a softmax of the similarities, and the loss
is the KL divergence between them, mean over the valid frames of both views (`methods/carl.md` 3). All in the
log domain: a prior whose tails underflow in the released code has its row dropped there, and here only where
`row_cutoff` says so.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

NEVER = -1e30  # the logit of a key that does not count: its softmax is 0 and its gradient finite
OFFICIAL_FLOOR = 1e-6  # what the released code adds to a probability before its logarithm
Negatives = Literal["single_noself", "batch_noself"]


def timestamp_contrast_loss(
    views: Tensor,
    times: Tensor,
    real: Tensor | None = None,
    *,
    sigma: float | Tensor,
    temperature: float = 0.1,
    negatives: Negatives = "single_noself",
    row_cutoff: float = 0.0,
    floor: float = 0.0,
) -> Tensor:
    """Two views of each video, `views` (B, 2, T, E) of any length and `times` (B, 2, T) -> ().

    `real` (B, 2, T) bool: frames that are no padding, all by default. `sigma`: spread of the prior in the
    unit of `times`, a number or one per video (B,). `negatives`: what stands in a frame's softmax beside the
    other view of its video; single_noself nothing, batch_noself both views of all other videos. `row_cutoff`
    c > 0: a frame further than c sigma from every frame of the other view has no target; it adds 0 to the
    sum, and counts in the mean as it does in the released code. `floor`: added to each predicted
    probability; OFFICIAL_FLOOR as released, where it caps what a hopeless frame costs, at 13.8.
    """
    b = len(views)
    z = F.normalize(views.float(), dim=-1)
    real = torch.ones_like(times, dtype=torch.bool) if real is None else real
    spread = torch.as_tensor(sigma, dtype=torch.float32, device=z.device).expand(b)[:, None, None, None]
    keys = real.flip(1)[:, :, None, :]  # each frame looks at the other view: [second, first]
    logits = z @ z.flip(1).mT / temperature
    apart = (times[..., None] - times.flip(1)[:, :, None, :]).float() / spread
    below = logits.masked_fill(~keys, NEVER).logsumexp(-1)
    if negatives == "batch_noself":
        below = torch.logaddexp(below, _other_videos(z, real, temperature))
    log_q = logits - below[..., None]
    if floor:
        log_q = (log_q.exp() + floor).log()
    loss = divergence(time_prior(apart, keys), log_q, keys) * real
    if row_cutoff:
        nearest = apart.abs().masked_fill(~keys, torch.inf).amin(-1)
        loss = loss * (nearest <= row_cutoff)
    return loss.sum() / real.sum().clamp(min=1)


def time_prior(apart: Tensor, keys: Tensor) -> Tensor:
    """log of the row-normalised Gaussian of `apart` (..., T, U), in spreads, over valid `keys`."""
    return (-0.5 * apart.square()).masked_fill(~keys, NEVER).log_softmax(-1)


def divergence(log_p: Tensor, log_q: Tensor, keys: Tensor) -> Tensor:
    """KL(P || Q) of each row, (..., T), over valid `keys`; 0 where a row has none."""
    return (log_p.exp() * (log_p - log_q)).masked_fill(~keys, 0.0).sum(-1)


def _other_videos(z: Tensor, real: Tensor, temperature: float) -> Tensor:
    """log of the sum of exp(similarity) with both views of all other videos: (B, 2, T)."""
    b, _, t, _ = z.shape
    flat = z.reshape(b * 2 * t, -1)
    video = torch.arange(b, device=z.device).repeat_interleave(2 * t)
    wanted = (video[:, None] != video) & real.reshape(-1)
    return (flat @ flat.T / temperature).masked_fill(~wanted, NEVER).logsumexp(-1).view(b, 2, t)

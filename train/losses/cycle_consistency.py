"""TCC, temporal cycle-consistency (Dwibedi et al., CVPR 2019): there and back again to the same time.

A baseline of CARL's, in the form its released code trains: regression of the normalised time with a variance
(`regression_mse_var`), squared distances over the width and the temperature (`methods/carl.md` 7).
"""

from __future__ import annotations

from torch import Tensor

from .timestamp_contrast import NEVER


def cycle_consistency_loss(
    first: Tensor,
    second: Tensor,
    first_times: Tensor,
    first_real: Tensor,
    second_real: Tensor,
    *,
    temperature: float = 0.1,
    variance_weight: float = 0.001,
    least_variance: float = 1e-6,
) -> Tensor:
    """P ordered pairs, `first` (P, T, E) and `second` (P, U, E) as they are, `first_times` (P, T) within 0 to
    1 of each video, `*_real` bool -> (): mean over pairs and real frames of (s - mu)^2 / v + w log v.

    mu and v are the mean and the variance of the time in `first` that comes back from the soft neighbour in
    `second` (eq. 6 to 9 of the paper).
    """
    a, b = first.float(), second.float()
    there = _similarity(a, b, temperature).masked_fill(~second_real[:, None], NEVER).softmax(-1)
    back = _similarity(there @ b, a, temperature).masked_fill(~first_real[:, None], NEVER).softmax(-1)
    times = first_times.float()
    mean = (back @ times[..., None])[..., 0]
    variance = (back * (times[:, None, :] - mean[..., None]).square()).sum(-1).clamp(min=least_variance)
    loss = (times - mean).square() / variance + variance_weight * variance.log()
    per_pair = (loss * first_real).sum(-1) / first_real.sum(-1).clamp(min=1)
    return per_pair.mean()


def _similarity(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """-|a - b|^2 / width / temperature: (P, T, E), (P, U, E) -> (P, T, U)."""
    squared = a.square().sum(-1)[..., None] + b.square().sum(-1)[:, None, :] - 2 * a @ b.mT
    return -squared / a.shape[-1] / temperature

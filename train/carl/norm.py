"""Batch normalisation over real frames alone: what pads a view has no say in the mean."""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn

from ..gather import gather_with_gradient


class FrameNorm(nn.Module):
    """(B, T, C) and `real` (B, T) bool -> the same, each channel at mean 0 and variance 1 over the real
    frames of the batch (of all processes), then scaled and shifted; in evaluation by running means."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        x = x.float()
        mean, var = self.running_mean, self.running_var
        if self.training:
            count = real.sum().float()
            everyone, mean = _mean(count, (x * real[..., None]).sum((0, 1)))
            _, var = _mean(count, ((x - mean).square() * real[..., None]).sum((0, 1)))
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(var * everyone / (everyone - 1).clamp(min=1), self.momentum)
        return (x - mean) * (var + self.eps).rsqrt() * self.weight + self.bias


def _mean(count: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """`count` () and `total` (C,) of this process -> how many of all processes, (), and their mean (C,)."""
    if distributed.is_available() and distributed.is_initialized():
        world = distributed.get_world_size()
        count = gather_with_gradient(count[None], world).sum()
        total = gather_with_gradient(total[None], world).sum(0)
    count = count.clamp(min=1)
    return count, total / count

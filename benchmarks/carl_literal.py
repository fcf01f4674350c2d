"""CARL's loss as it is read: frame by frame, and in the structure of the released code. With gradients."""

from __future__ import annotations

import torch
from torch import Tensor


def frame_by_frame(z: Tensor, times: Tensor, variance: float, tau: float) -> Tensor:
    """The formula of `methods/carl.md` 3, a row at a time: `z` (B, 2, T, E) unit rows, `times` (B, 2, T)."""
    total, count = z.new_zeros(()), 0
    for i in range(len(z)):
        for view in (0, 1):
            other = z[i, 1 - view]
            for t in range(z.shape[2]):
                similar = other @ z[i, view, t] / tau
                prior = torch.exp(-((times[i, view, t] - times[i, 1 - view]) ** 2) / (2 * variance))
                prior = prior / prior.sum()
                predicted = torch.softmax(similar, 0)
                inside = prior > 0
                gap = prior[inside].log() - predicted[inside].clamp(min=1e-12).log()
                total = total + (prior[inside] * gap).sum()
                count += 1
    return total / count


def all_pairs(z: Tensor, times: Tensor, variance: float, tau: float) -> Tensor:
    """As released: one matrix of all 2 B T frames, its labels and weights filled in by a loop over videos,
    the 1e-6 of the released code in the logarithm."""
    b, _, t, e = z.shape
    flat = z.reshape(b * 2 * t, e)
    similar = torch.exp(flat @ flat.T / tau)
    labels, weights = torch.zeros_like(similar), torch.zeros_like(similar)
    for i in range(b):
        for view in (0, 1):
            rows = slice((2 * i + view) * t, (2 * i + view + 1) * t)
            keys = slice((2 * i + 1 - view) * t, (2 * i + 2 - view) * t)
            apart = times[i, view][:, None] - times[i, 1 - view][None]
            labels[rows, keys] = torch.exp(-(apart**2) / (2 * variance))
            weights[rows, keys] = 1.0
    weights = torch.where(weights > 0, weights, 1e-6 * torch.ones_like(weights))
    predicted = similar * weights / (similar * weights).sum(1, keepdim=True)
    labels = labels / labels.sum(1, keepdim=True)
    gap = torch.where(labels > 0, labels.clamp(min=1e-30).log() - (predicted + 1e-6).log(), 0.0)
    return (labels * gap).sum() / len(flat)

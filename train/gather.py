"""Embeddings of all processes in one batch, with their gradients.

The released code gathers without gradients, so that nothing but the temperature learns
(`methods/weaksvr.md` 4.1). Here each process computes the same loss of the whole batch; the backward pass
sums what all of them say about its own part, and DDP's mean over processes makes of it the gradient of one
process with the whole batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mine: Tensor) -> Tensor:
        parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, mine.contiguous())
        ctx.share = len(mine)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        whole = grads[0].contiguous().clone()
        dist.all_reduce(whole)
        first = dist.get_rank() * ctx.share
        return whole[first : first + ctx.share]


def gather_with_gradient(mine: Tensor, world: int = 1) -> Tensor:
    """(B', ...) of this process -> (B, ...) of all, in the order of ranks; the same tensor where there is one
    process."""
    if world == 1:
        return mine
    gathered: Tensor = _Gather.apply(mine)
    return gathered

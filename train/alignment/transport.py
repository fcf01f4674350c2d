"""Sinkhorn (Cuturi, NeurIPS 2013): soft matching without order, the control of every alignment.

The same rows and columns in another order have the same distance: what an alignment gains over this, it gains
from the order.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...cache.errors import StepclipError
from .problems import Lengths, detached, problems


class Transport(NamedTuple):
    """`value` (...): the cost of the plan; `plan` (..., T, S): sums to 1, uniform over the real rows and,
    after convergence, the real columns; zeros beyond the lengths."""

    value: Tensor
    plan: Tensor


def sinkhorn(
    cost: Tensor,
    epsilon: float = 0.1,
    lengths: Lengths = None,
    *,
    iterations: int = 50,
    check: bool = True,
) -> Tensor:
    """The cost of the entropic transport plan between uniform rows and uniform columns: (..., T, S) -> (...).

    `epsilon` in units of the cost. `iterations` of the log-domain updates; Norton (ICLR 2024) takes 50 at
    0.1. Differentiable; the plan counts as a constant, which at convergence gives the gradient of the
    entropic objective (envelope theorem).
    """
    p = problems(cost, lengths, check=check, infinite="none")
    plan = sinkhorn_plan(cost, epsilon, lengths, iterations=iterations, check=False).plan
    plan = plan.reshape(p.matrix.shape)
    moved = torch.where(plan > 0, p.matrix, torch.zeros((), dtype=p.matrix.dtype, device=p.matrix.device))
    return p.back((plan * moved).sum((-2, -1)))


@torch.no_grad()
def sinkhorn_plan(
    cost: Tensor,
    epsilon: float = 0.1,
    lengths: Lengths = None,
    *,
    iterations: int = 50,
    check: bool = True,
) -> Transport:
    """Value and plan; rows are exact, columns within what the iterations reach."""
    if not 0 < epsilon < float("inf") or iterations < 1:
        raise StepclipError(f"epsilon={epsilon}, iterations={iterations}", "both positive")
    p = problems(detached(cost), lengths, check=check, infinite="none")
    logits = (p.matrix / -epsilon).masked_fill(~p.inside, -torch.inf)
    row = torch.arange(p.matrix.shape[2], device=logits.device) < p.t[..., None]
    column = torch.arange(p.matrix.shape[3], device=logits.device) < p.s[..., None]
    mass_t, mass_s = -p.t.to(logits.dtype).log()[..., None], -p.s.to(logits.dtype).log()[..., None]
    u, v = torch.zeros_like(logits[..., 0]), torch.zeros_like(logits[..., 0, :])
    for _ in range(iterations):
        v = torch.where(column, mass_s - (logits + u[..., None]).logsumexp(-2), 0.0)
        u = torch.where(row, mass_t - (logits + v[..., None, :]).logsumexp(-1), 0.0)
    plan = (logits + u[..., None] + v[..., None, :]).exp()
    inside = torch.where(plan > 0, p.matrix, torch.zeros_like(plan))
    return Transport(p.back((plan * inside).sum((-2, -1))), p.back(plan))

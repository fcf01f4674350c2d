"""Sinkhorn: its marginals, its blindness to order, its gradient."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from stepclip.train.alignment import (
    sinkhorn,
    sinkhorn_plan,
)

from . import alignment_oracle as oracle


def test_sinkhorn_has_its_marginals_and_does_not_see_order():
    cost = torch.rand(4, 5, 3, generator=torch.Generator().manual_seed(0))
    value, plan = sinkhorn_plan(cost, 0.1, iterations=500)
    torch.testing.assert_close(plan.sum(2), torch.full((4, 5), 1 / 5))
    torch.testing.assert_close(plan.sum(1), torch.full((4, 3), 1 / 3))
    rows, columns = torch.tensor([3, 1, 4, 0, 2]), torch.tensor([2, 0, 1])
    turned = sinkhorn(cost[:, rows][:, :, columns], 0.1, iterations=500)
    torch.testing.assert_close(turned, value)
    assert bool((value > cost.amin((1, 2))).all()) and bool((value < cost.mean((1, 2))).all())


def test_a_small_epsilon_tends_to_the_best_assignment():
    cost = torch.rand(6, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    best = torch.stack(
        [cost[:, torch.arange(4), list(order)].mean(1) for order in itertools.permutations(range(4))]
    ).amin(0)
    torch.testing.assert_close(sinkhorn(cost, 0.002, iterations=3000), best, rtol=0, atol=2e-3)


def test_the_gradient_of_sinkhorn_is_that_of_the_entropic_objective():
    """min over plans of <P, C> - e H(P), by the loop at convergence, differenced numerically."""
    cost = torch.rand(1, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t, s, epsilon, step = torch.tensor([3]), torch.tensor([4]), 0.2, 1e-5

    def objective(c: Tensor) -> float:
        plan = oracle.sinkhorn_plan(c, t, s, epsilon, 500)
        return ((plan * c).sum() + epsilon * (plan * plan.log()).sum()).item()

    leaf = cost.clone().requires_grad_()
    sinkhorn(leaf, epsilon, iterations=500).sum().backward()
    for place in ((0, 0, 0), (0, 1, 2), (0, 2, 3)):
        away = torch.zeros_like(cost)
        away[place] = step
        slope = (objective(cost + away) - objective(cost - away)) / (2 * step)
        assert leaf.grad[place].item() == pytest.approx(slope, abs=1e-7)

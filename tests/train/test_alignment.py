"""Every operation against its loop in float64, at every pair of lengths up to 40 x 40, on every backend.

The 1600 problems are one batch; beyond its lengths each holds NaN, an infinity or 1e30.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor

from stepclip.train.alignment import (
    drop_dtw,
    drop_dtw_labels,
    dtw,
    dtw_alignment,
    monotone,
    monotone_posteriors,
    monotone_value,
    otam,
    otam_alignment,
    percentile_drop,
    sinkhorn,
    sinkhorn_plan,
    soft_dtw,
    soft_dtw_alignment,
    soft_monotone,
    soft_otam,
    subsequence,
    subsequence_alignment,
)

from . import alignment_oracle as oracle

MOST = 40
FILLERS = (math.nan, math.inf, -math.inf, 1e30, -1e30)
BACKENDS = ("numba", "torch")
T = torch.arange(1, MOST + 1).repeat_interleave(MOST)
S = torch.arange(1, MOST + 1).repeat(MOST)
SOME, FEW = slice(3, None, 13), slice(3, None, 41)


@cache
def costs() -> Tensor:
    """(1600, 40, 40) in [0, 2], as cosine costs are; float32 numbers, held in float64."""
    return 2 * torch.rand(MOST * MOST, MOST, MOST, generator=torch.Generator().manual_seed(5)).double()


@cache
def drops() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(6)
    frame, step = (torch.rand(MOST * MOST, MOST, generator=generator) for _ in range(2))
    return frame.double(), (3 * step).double()


def filled(matrix: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    beyond = torch.tensor(FILLERS, dtype=torch.float64)[torch.arange(len(matrix)) % len(FILLERS)]
    return torch.where(oracle.within(matrix, T, S), matrix, beyond[:, None, None]).to(dtype)


# door(cost, lengths, backend), its alignment door, and the loop of the same
OPERATIONS: dict[str, tuple[Callable[..., Tensor], Any, Callable[..., Tensor]]] = {
    "dtw": (dtw, dtw_alignment, oracle.dtw),
    "soft-dtw": (soft_dtw, soft_dtw_alignment, partial(oracle.dtw, gamma=0.1)),
    "otam": (partial(otam, symmetric=False), otam_alignment, oracle.otam),
    "soft-otam": (
        partial(soft_otam, symmetric=False),
        partial(otam_alignment, gamma=0.1),
        partial(oracle.otam, gamma=0.1),
    ),
    "both-otam": (otam, None, oracle.both_otam),
    "both-soft-otam": (soft_otam, None, partial(oracle.both_otam, gamma=0.1)),
    "subsequence": (subsequence, subsequence_alignment, oracle.subsequence),
    "soft-subsequence": (
        partial(subsequence, gamma=0.1),
        partial(subsequence_alignment, gamma=0.1),
        partial(oracle.subsequence, gamma=0.1),
    ),
    "soft-monotone": (soft_monotone, monotone_posteriors, partial(oracle.monotone, gamma=0.1)),
    "soft-visit-all": (
        partial(soft_monotone, visit_all=True),
        partial(monotone_posteriors, visit_all=True),
        partial(oracle.visit_all, gamma=0.1),
    ),
}


@cache
def expected(name: str) -> tuple[Tensor, Tensor]:
    return oracle.with_gradient(OPERATIONS[name][2], costs(), T, S)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_values_and_gradients_at_every_pair_of_lengths(name, backend):
    door, alignment, _ = OPERATIONS[name]
    value, gradient = expected(name)
    cost = filled(costs()).requires_grad_()
    got = door(cost, lengths=(T, S), backend=backend)
    got.sum().backward()
    close(got, value, gradient=cost.grad, expected=gradient)
    if alignment is not None:
        where = alignment(cost[SOME], lengths=(T[SOME], S[SOME]), backend=backend)
        close(where.value, value[SOME], gradient=where.weights, expected=gradient[SOME])


@pytest.mark.parametrize("name", OPERATIONS)
def test_in_double_precision(name):
    value, gradient = expected(name)
    cost = filled(costs(), torch.float64)[SOME].requires_grad_()
    for backend in ("auto", "torch") if "soft" in name else BACKENDS:
        got = OPERATIONS[name][0](cost, lengths=(T[SOME], S[SOME]), backend=backend)
        (found,) = torch.autograd.grad(got.sum(), cost)
        close(got, value[SOME], gradient=found, expected=gradient[SOME], dtype=torch.float64)


def close(
    value: Tensor,
    by_loops: Tensor,
    *,
    gradient: Tensor,
    expected: Tensor,
    dtype: torch.dtype = torch.float32,
) -> None:
    assert value.dtype == gradient.dtype == dtype
    single = dtype == torch.float32
    torch.testing.assert_close(value.double(), by_loops, rtol=0, atol=1e-5 if single else 1e-10)
    torch.testing.assert_close(gradient.double(), expected, rtol=0, atol=2e-5 if single else 1e-10)
    which = slice(None) if len(value) == len(T) else SOME
    assert not gradient[~oracle.within(expected, T[which], S[which])].any()  # zeros, not nearly


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("visit_all", [False, True])
def test_monotone_labels_at_every_pair_of_lengths(visit_all, backend, dtype):
    similarity = filled(costs(), dtype).requires_grad_()
    value, taken = expected_labels(visit_all)
    labels = monotone(similarity, (T, S), visit_all=visit_all, backend=backend)
    assert same_labels(labels, taken)
    got = monotone_value(similarity, (T, S), visit_all=visit_all, backend=backend)
    got.sum().backward()
    close(got, value, gradient=similarity.grad, expected=taken, dtype=dtype)


@cache
def expected_labels(visit_all: bool) -> tuple[Tensor, Tensor]:
    return oracle.with_gradient(oracle.visit_all if visit_all else oracle.monotone, costs(), T, S)


def same_labels(labels: Tensor, taken: Tensor) -> bool:
    """taken (N, T, S): the gradient of the best value, one where a row has that label."""
    label = torch.where(taken.sum(-1) > 0.5, taken.argmax(-1), -1)
    return labels.dtype == torch.int64 and torch.equal(labels, label)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("contiguous", [False, True])
@pytest.mark.parametrize("may_miss", [False, True])
def test_drop_dtw_at_every_pair_of_lengths(may_miss, contiguous, backend, dtype):
    value, taken, frame_gradient, step_gradient = expected_drop(may_miss, contiguous)
    frame, step = (x.to(dtype, copy=True).requires_grad_() for x in drops())
    more = {"step_drop": step if may_miss else None, "contiguous": contiguous, "backend": backend}
    cost = filled(costs(), dtype).requires_grad_()
    got = drop_dtw(cost, frame, lengths=(T, S), **more)
    possible = value < math.inf
    assert torch.equal(possible, got.detach() < math.inf) and bool((possible | (T < S)).all())
    got[possible].sum().backward()
    close(got, value, gradient=cost.grad, expected=taken, dtype=dtype)
    torch.testing.assert_close(frame.grad.double(), frame_gradient)
    if may_miss:
        torch.testing.assert_close(step.grad.double(), step_gradient)
    labels = drop_dtw_labels(cost, frame, lengths=(T, S), **more)
    assert same_labels(labels[possible], taken[possible])


@cache
def expected_drop(may_miss: bool, contiguous: bool) -> tuple[Tensor, ...]:
    leaves = [x.clone().requires_grad_() for x in (costs(), *drops())]
    cost, frame, step = leaves
    value = oracle.drop_dtw(cost, T, S, frame, step if may_miss else None, contiguous)
    gradients = torch.autograd.grad(value[value < math.inf].sum(), leaves, allow_unused=True)
    return value.detach(), *gradients


def test_percentile_drop_at_every_pair_of_lengths():
    got = percentile_drop(filled(costs(), torch.float64), 0.3, (T, S))
    for i in range(0, len(T), 7):
        assert got[i] == pytest.approx(costs()[i, : T[i], : S[i]].flatten().quantile(0.3).item(), abs=1e-12)


def test_sinkhorn_at_every_pair_of_lengths():
    plan = oracle.sinkhorn_plan(costs(), T, S, 0.1, 50)
    value = (plan * costs()).sum((1, 2))
    cost = filled(costs()).requires_grad_()
    got = sinkhorn(cost, 0.1, (T, S), iterations=50)
    got.sum().backward()
    close(got, value, gradient=cost.grad, expected=plan)
    for dtype in (torch.float32, torch.float64):
        some = filled(costs(), dtype)[SOME]
        transport = sinkhorn_plan(some, 0.1, (T[SOME], S[SOME]), iterations=50)
        close(transport.value, value[SOME], gradient=transport.plan, expected=plan[SOME], dtype=dtype)


@pytest.mark.parametrize("gamma", [0.01, 1.0])
@pytest.mark.parametrize(
    ("backend", "dtype"), [(b, torch.float32) for b in BACKENDS] + [("torch", torch.float64)]
)
@pytest.mark.parametrize("name", ["soft-dtw", "both-soft-otam", "soft-subsequence", "soft-monotone"])
def test_other_temperatures(name, backend, dtype, gamma):
    value, gradient = expected_at(name, gamma)
    cost = filled(costs(), dtype)[SOME].requires_grad_()
    got = OPERATIONS[name][0](cost, gamma=gamma, lengths=(T[SOME], S[SOME]), backend=backend)
    got.sum().backward()
    single = dtype == torch.float32
    torch.testing.assert_close(got.double(), value, rtol=0, atol=1e-5 if single else 1e-10)
    torch.testing.assert_close(cost.grad.double(), gradient, rtol=0, atol=2e-5 if single else 1e-10)


@cache
def expected_at(name: str, gamma: float) -> tuple[Tensor, Tensor]:
    loop = OPERATIONS[name][2].func  # of the partial that holds gamma
    return oracle.with_gradient(partial(loop, gamma=gamma), costs()[SOME], T[SOME], S[SOME])


@pytest.mark.parametrize(
    ("backend", "filler"),
    [*(("numba", f) for f in FILLERS), ("auto", 1e30), ("torch", math.nan), ("torch", 1e30)],
)
def test_each_filler_alone_changes_no_bit(backend, filler):
    """Of the values and gradients with zeros beyond the lengths."""
    clean = torch.where(oracle.within(costs(), T, S), costs(), 0.0)[FEW].float()
    dirty = torch.where(oracle.within(costs(), T, S), costs(), filler)[FEW].float()
    for name, (door, _, _) in OPERATIONS.items():
        results = []
        for cost in (clean.clone().requires_grad_(), dirty.requires_grad_()):
            got = door(cost, lengths=(T[FEW], S[FEW]), backend=backend)
            results += [got.detach(), *torch.autograd.grad(got.sum(), cost)]
        assert torch.equal(results[0], results[2]), name
        assert torch.equal(results[1], results[3]), name

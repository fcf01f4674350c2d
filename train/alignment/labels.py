"""Monotone labelling: each row (frame) gets one column (step), never going back.

```
any forward jump:   best[t, k] = sim[t, k] + max over j <= k of best[t-1, j]        free start, free end
every step visited: best[t, k] = sim[t, k] + max(best[t-1, k-1], best[t-1, k])      from step 0 to step S-1
```
The first is the Viterbi of WeakSVR (CVPR 2023, section 3.3) when `sim` is a log-emission: its uniform
transitions are constants, and the maximum over all earlier states is a running maximum, O(T S) in place of
O(T S^2). The soft form puts gamma log sum exp(. / gamma) in the place of the maximum.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .backends import Value, choose
from .patterns import STAY_OR_NEXT
from .problems import Lengths, Problems, detached, problems
from .warping import Alignment, _check_gamma


@torch.no_grad()
def monotone(
    similarity: Tensor,
    lengths: Lengths = None,
    *,
    visit_all: bool = False,
    backend: str = "auto",
    check: bool = True,
) -> Tensor:
    """The non-decreasing labels of the largest total similarity: (..., T, S) -> int64 (..., T), -1 beyond
    the row length.

    `visit_all=True` also asks that every step is visited: labels stay or go to the next, from 0 to the last;
    a problem with fewer rows than steps cannot, and takes free jumps instead. Between equal ways the lowest
    label wins. Infinite similarities count as very large ones. `check=False` for the inner loop of a
    training: no host wait.
    """
    p = _bounded(problems(detached(similarity), lengths, check=check, infinite="both"))
    kernels: Any = choose(backend, p)
    if not visit_all:
        return p.back(kernels.labels(p.matrix, p.t, p.s))
    _, path = kernels.hard(-p.matrix, p.t, p.s, STAY_OR_NEXT, True)
    strict = path.argmax(-1)
    strict = torch.where(torch.arange(strict.shape[-1], device=strict.device) < p.t[..., None], strict, -1)
    enough = p.t >= p.s
    if p.matrix.device.type == "cpu" and bool(enough.all()):
        return p.back(strict)
    return p.back(torch.where(enough[..., None], strict, kernels.labels(p.matrix, p.t, p.s)))


def monotone_value(
    similarity: Tensor,
    lengths: Lengths = None,
    *,
    visit_all: bool = False,
    backend: str = "auto",
    check: bool = True,
) -> Tensor:
    """The total similarity along `monotone`'s labels: (..., T, S) -> (...); differentiable."""
    similarity = torch.as_tensor(similarity)
    labels = monotone(similarity, lengths, visit_all=visit_all, backend=backend, check=check)
    along = similarity.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return torch.where(labels >= 0, along, torch.zeros_like(along)).sum(-1)


def soft_monotone(
    similarity: Tensor,
    gamma: float = 0.1,
    lengths: Lengths = None,
    *,
    visit_all: bool = False,
    backend: str = "auto",
    check: bool = True,
) -> Tensor:
    """gamma log of the sum over all monotone labellings of exp(total / gamma): (..., T, S) -> (...).

    Its gradient are the posteriors: the probability of each label at each frame. `visit_all`: over the
    labellings that visit every step (a problem with fewer rows than steps has none, and takes free jumps)."""
    _check_gamma(gamma)
    p = problems(similarity, lengths, gamma=gamma, check=check, infinite="similarity")
    value, weights = _soft(p, gamma, visit_all, backend, p.wants_gradient)
    if p.wants_gradient:
        assert weights is not None
        value = Value.apply(p.matrix, value, weights)
    return p.back(value)


def monotone_posteriors(
    similarity: Tensor,
    gamma: float = 0.1,
    lengths: Lengths = None,
    *,
    visit_all: bool = False,
    backend: str = "auto",
    check: bool = True,
) -> Alignment:
    """The value of `soft_monotone` and its posteriors (..., T, S): rows sum to 1, zeros beyond."""
    _check_gamma(gamma)
    p = problems(detached(similarity), lengths, gamma=gamma, check=check, infinite="similarity")
    value, weights = _soft(p, gamma, visit_all, backend, True)
    assert weights is not None
    return Alignment(p.back(value), p.back(weights))


def _soft(
    p: Problems, gamma: float, visit_all: bool, backend: str, want: bool
) -> tuple[Tensor, Tensor | None]:
    kernels: Any = choose(backend, p, gamma=gamma)
    matrix = p.matrix.detach()
    if not visit_all:
        return kernels.soft_labels(matrix, p.t, p.s, gamma, want)
    value, weights = kernels.soft(-matrix, p.t, p.s, STAY_OR_NEXT, gamma, want)
    enough = p.t >= p.s
    if matrix.device.type == "cpu" and bool(enough.all()):
        return -value, weights
    free, free_weights = kernels.soft_labels(matrix, p.t, p.s, gamma, want)
    value = torch.where(enough, -value, free)
    return value, None if weights is None else torch.where(enough[..., None, None], weights, free_weights)


def _bounded(p: Problems) -> Problems:
    """Infinities as numbers larger than any sum of the others, so that a way through them still compares."""
    if p.finite or (p.largest == 0 and p.matrix.device.type != "cpu"):
        return p
    bound = 4 * p.matrix.shape[2] * (1 + p.largest)
    return replace(p, matrix=p.matrix.nan_to_num(nan=0.0, posinf=bound, neginf=-bound))

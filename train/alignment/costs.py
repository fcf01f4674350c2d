"""From two sequences of features to a cost matrix, as named options.

| name | cost of frame u against step v |
|---|---|
| `cosine` | 1 - cos(u, v), from 0 to 2 |
| `tempclr` | 1 - <u, v> / (|u| |v| + 0.01), the released TempCLR's (metrics.py:90-99) |
| `dot` | 1 - <u, v>, the released TempCLR's in evaluation |
| `squared` | |u - v|^2 |
| `log-softmax` | -log softmax over the steps of cos(u, v) / temperature, as in Drop-DTW |

The 0.01 of `tempclr` divides the cosines of unit vectors by 1.01. `log-softmax` serves localisation and is
wrong for ranking: every frame has to choose among the steps (`methods/tempclr.md` 7.5).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ...cache.errors import StepclipError, nearest

TEMPCLR_EPSILON = 0.01


@dataclass(frozen=True)
class Cost:
    """`unit`: features are L2-normalised first. `finish(product, u, v, real, temperature)` turns the inner
    products (..., T, S), in any memory layout, into costs; u (..., T, 1) and v (..., 1, S) are squared norms
    where the cost wants `sizes`, `real` (..., 1, S) marks real steps where it is `masked`. `bound`: no cost
    is larger, None: unknown."""

    unit: bool
    finish: Callable[[Tensor, Any, Any, Tensor | None, float], Tensor]
    bound: float | None = None
    sizes: bool = False
    masked: bool = False


def _log_softmax(p: Tensor, u: Any, v: Any, real: Tensor | None, temperature: float) -> Tensor:
    logits = p / temperature
    if real is not None:
        logits = logits.masked_fill(~real, -torch.inf)
    cost = -logits.log_softmax(-1)
    return cost if real is None else cost.masked_fill(~real, 0.0)


def _tempclr(p: Tensor, u: Any, v: Any, real: Tensor | None, temperature: float) -> Tensor:
    return 1 - p / (u.sqrt() * v.sqrt() + TEMPCLR_EPSILON)


def _squared(p: Tensor, u: Any, v: Any, real: Tensor | None, temperature: float) -> Tensor:
    return (u + v - 2 * p).clamp(min=0)


def _one_minus(p: Tensor, u: Any, v: Any, real: Tensor | None, temperature: float) -> Tensor:
    return 1 - p


COSTS: dict[str, Cost] = {
    "cosine": Cost(True, _one_minus, bound=2.001),
    "tempclr": Cost(False, _tempclr, bound=2.001, sizes=True),
    "dot": Cost(False, _one_minus),
    "squared": Cost(False, _squared, sizes=True),
    "log-softmax": Cost(True, _log_softmax, masked=True),
}


def find_cost(name: str) -> Cost:
    if name not in COSTS:
        raise StepclipError(f"cost {name!r}{nearest(name, COSTS)}", f"one of {', '.join(COSTS)}")
    return COSTS[name]


def cost_matrix(
    a: Tensor, b: Tensor, cost: str = "cosine", *, steps: Tensor | None = None, temperature: float = 0.07
) -> Tensor:
    """`a` (..., T, D), `b` (..., S, D), leading shapes broadcast -> (..., T, S), differentiable.

    `steps` (...): the number of real rows of `b`, which only `log-softmax` needs to know. StepclipError: an
    unknown cost, other dimensions.
    """
    kind = find_cost(cost)
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-1]:
        raise StepclipError(
            f"features of shapes {tuple(a.shape)} and {tuple(b.shape)}", "(..., T, D) and (..., S, D)"
        )
    if kind.unit:
        a, b = normalize(a, dim=-1), normalize(b, dim=-1)
    real = None
    if steps is not None and kind.masked:
        real = (torch.arange(b.shape[-2], device=b.device) < torch.as_tensor(steps)[..., None])[..., None, :]
    u, v = (sizes(a)[..., None], sizes(b)[..., None, :]) if kind.sizes else (None, None)
    return kind.finish(a @ b.transpose(-1, -2), u, v, real, temperature)


def sizes(x: Tensor) -> Tensor:
    """Squared norms (...,) of (..., D); the gradient of their root is 0 at a vector of zeros."""
    return x.square().sum(-1).clamp(min=1e-24)

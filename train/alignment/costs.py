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

Where a cost is a sum of products, its constants are appended to the features, <[-u, 1], [v, 1]> = 1 - <u, v>:
the matrix product gives the cost itself, and nothing passes over it again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from ...cache.errors import StepclipError, nearest

TEMPCLR_EPSILON = 0.01


@dataclass(frozen=True)
class Cost:
    """`left`, `right`: what the features (..., D) are made into before the product. `finish(product, u, v,
    real, temperature)` makes the products (..., T, S), in any memory layout, into costs; u (..., T, 1) and
    v (..., 1, S) are norms where the cost wants them, `real` (..., 1, S) marks real steps where it is
    `masked`. `bound`: no cost is larger; None: unknown."""

    left: Callable[[Tensor], Tensor]
    right: Callable[[Tensor], Tensor]
    finish: Callable[[Tensor, Tensor | None, Tensor | None, Tensor | None, float], Tensor] | None = None
    bound: float | None = None
    norms: bool = False
    masked: bool = False


def _unit(x: Tensor) -> Tensor:
    return normalize(x, dim=-1)


def _with_one(x: Tensor) -> Tensor:
    return pad(x, (0, 1), value=1.0)


def _tempclr(
    p: Tensor, u: Tensor | None, v: Tensor | None, real: Tensor | None, temperature: float
) -> Tensor:
    assert u is not None and v is not None
    return 1 - p / (u * v + TEMPCLR_EPSILON)


def _positive(
    p: Tensor, u: Tensor | None, v: Tensor | None, real: Tensor | None, temperature: float
) -> Tensor:
    return p.clamp(min=0) if torch.is_grad_enabled() and p.requires_grad else p.clamp_(min=0)


def _log_softmax(
    p: Tensor, u: Tensor | None, v: Tensor | None, real: Tensor | None, temperature: float
) -> Tensor:
    logits = p / temperature
    if real is not None:
        logits = logits.masked_fill(~real, -torch.inf)
    cost = -logits.log_softmax(-1)
    return cost if real is None else cost.masked_fill(~real, 0.0)


COSTS: dict[str, Cost] = {
    "cosine": Cost(lambda u: _with_one(-_unit(u)), lambda v: _with_one(_unit(v)), bound=2.001),
    "tempclr": Cost(lambda u: u, lambda v: v, _tempclr, bound=2.001, norms=True),
    "dot": Cost(lambda u: _with_one(-u), _with_one),
    "squared": Cost(
        lambda u: _with_one(torch.cat([-2 * u, u.square().sum(-1, keepdim=True)], -1)),
        lambda v: torch.cat([_with_one(v), v.square().sum(-1, keepdim=True)], -1),
        _positive,
    ),
    "log-softmax": Cost(_unit, _unit, _log_softmax, masked=True),
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
    shapes = [tuple(getattr(x, "shape", ())) or type(x).__name__ for x in (a, b)]
    if not all(isinstance(x, Tensor) and x.ndim > 1 for x in (a, b)) or a.shape[-1] != b.shape[-1]:
        raise StepclipError(f"features {shapes[0]} and {shapes[1]}", "tensors (..., T, D) and (..., S, D)")
    a, b = raised(a, b)
    with torch.autocast(a.device.type, enabled=False):  # sums over paths need the digits
        product = kind.left(a) @ kind.right(b).transpose(-1, -2)
    if kind.finish is None:
        return product
    real = None
    if steps is not None and kind.masked:
        real = (torch.arange(b.shape[-2], device=b.device) < torch.as_tensor(steps)[..., None])[..., None, :]
    u, v = (norms(a)[..., None], norms(b)[..., None, :]) if kind.norms else (None, None)
    return kind.finish(product, u, v, real, temperature)


def raised(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the better precision of the two, float32 at least."""
    kind = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    return a.to(kind), b.to(kind)


def norms(x: Tensor) -> Tensor:
    """(..., D) -> (...); the gradient at a vector of zeros is 0."""
    return x.square().sum(-1).clamp(min=1e-24).sqrt()

"""Drop-DTW (Dvornik et al., NeurIPS 2021): an alignment that may leave out frames and steps.

Each frame belongs to one step or to none (background, at `frame_drop`); each step has at least one frame, or
is missing (at `step_drop`); steps keep their order. Two differences to the paper, which serve localisation:
a frame has one step only, where the paper's recurrence may give it several, and steps may be left out too.

    ends[t, k]    = cost[t, k] + min( settled[t-1, k-1], matched[t-1, k] )
    matched[t, k] = min( ends[t, k], matched[t-1, k] + frame_drop[t] )
    settled[t, k] = min( matched[t, k], settled[t, k-1] + step_drop[k] )
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...cache.errors import StepclipError
from .backends import choose
from .problems import Lengths, Problems, detached, problems

Drop = Tensor | float | None


def drop_dtw(
    cost: Tensor,
    frame_drop: Drop = None,
    step_drop: Drop = None,
    lengths: Lengths = None,
    *,
    contiguous: bool = False,
    backend: str = "auto",
    check: bool = True,
) -> Tensor:
    """The least total of matched costs and drop costs: `cost` (..., T, S) -> (...); inf where steps must not
    be left out and are more than the frames. Differentiable in cost and drop costs.

    frame_drop: a number, one per problem (...), or one per frame (..., T); None: `percentile_drop(cost)`.
    step_drop: likewise (..., S); None: no step may be left out (the paper's form).
    contiguous: the frames of a step follow each other; False: frames between them may be left out.
    """
    p, frames, steps = _drops(cost, frame_drop, step_drop, lengths, check)
    labels = _labels(p, frames, steps, contiguous, backend)
    return p.back(_total(p, labels, frames, steps))


@torch.no_grad()
def drop_dtw_labels(
    cost: Tensor,
    frame_drop: Drop = None,
    step_drop: Drop = None,
    lengths: Lengths = None,
    *,
    contiguous: bool = False,
    backend: str = "auto",
    check: bool = True,
) -> Tensor:
    """The step of each frame: (..., T, S) -> int64 (..., T), -1 for background, beyond the row length, and
    everywhere where there is no way (the value is inf). A step that no frame has was left out."""
    p, frames, steps = _drops(cost, frame_drop, step_drop, lengths, check)
    labels = _labels(p, frames, steps, contiguous, backend)
    possible = _total(p, labels, frames, steps) < float("inf")
    return p.back(torch.where(possible[..., None], labels, -1))


@torch.no_grad()
def percentile_drop(cost: Tensor, share: float = 0.3, lengths: Lengths = None) -> Tensor:
    """The drop cost of the paper: the `share` quantile of a problem's own costs; (..., T, S) -> (...)."""
    if not 0 <= share <= 1:
        raise StepclipError(f"a quantile of {share}", "a share from 0 to 1")
    p = problems(detached(cost), lengths)
    return p.back(_quantile(p, share))


def _quantile(p: Problems, share: float) -> Tensor:
    cells = p.matrix.detach().masked_fill(~p.inside, float("inf")).flatten(2).sort(-1).values
    place = share * (p.t * p.s - 1).double()  # linear between neighbours, as quantile() does
    low = place.floor().long()
    a, b = (cells.gather(-1, k[..., None])[..., 0] for k in (low, (low + 1).minimum(p.t * p.s - 1)))
    weight = place - low
    return torch.where((weight == 0) | (a == b), a, a + (b - a) * weight).to(p.matrix.dtype)


def _drops(
    cost: Tensor, frame_drop: Drop, step_drop: Drop, lengths: Lengths, check: bool
) -> tuple[Problems, Tensor, Tensor]:
    p = problems(cost, lengths, check=check)
    if frame_drop is None:
        frame_drop = p.back(_quantile(p, 0.3))
    steps: Drop = float("inf") if step_drop is None else step_drop
    return (
        p,
        _each(frame_drop, p, p.matrix.shape[2], p.t, "frame_drop", check),
        _each(steps, p, p.matrix.shape[3], p.s, "step_drop", check),
    )


def _each(given: Any, p: Problems, width: int, lengths: Tensor, name: str, check: bool) -> Tensor:
    """(G, L, width) from a number, one per problem, or one per row or column."""
    try:
        drops = torch.as_tensor(given, dtype=p.matrix.dtype, device=p.matrix.device)
    except (TypeError, ValueError, RuntimeError):
        raise StepclipError(f"{name}={given!r}", "numbers") from None
    full = (*p.shape, width)
    if drops.ndim == len(p.shape) and (drops.ndim == 0 or drops.shape == p.shape):
        drops = drops[..., None]
    try:
        drops = drops.broadcast_to(full)
    except RuntimeError:
        raise StepclipError(
            f"{name} of shape {tuple(drops.shape)}", f"a number, {tuple(p.shape)} or {full}"
        ) from None
    drops = drops.reshape(*p.t.shape, width)
    real = torch.arange(width, device=drops.device) < lengths[..., None]
    if check and bool((drops.isnan() & real).any()):
        raise StepclipError(f"NaN in {name}", "numbers, or infinity for what must not be left out")
    return torch.where(real, drops, torch.zeros((), dtype=drops.dtype, device=drops.device))


def _labels(p: Problems, frames: Tensor, steps: Tensor, contiguous: bool, backend: str) -> Tensor:
    kernels: Any = choose(backend, p)
    return kernels.drop(p.matrix.detach(), p.t, p.s, frames.detach(), steps.detach(), contiguous)


def _total(p: Problems, labels: Tensor, frames: Tensor, steps: Tensor) -> Tensor:
    """(G, L): what the labels cost, differentiable."""
    matrix = p.matrix
    along = matrix.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    real = torch.arange(matrix.shape[2], device=matrix.device) < p.t[..., None]
    zero = torch.zeros((), dtype=matrix.dtype, device=matrix.device)
    value = torch.where(labels >= 0, along, torch.where(real, frames, zero)).sum(-1)
    step = torch.arange(matrix.shape[3], device=matrix.device)
    has = torch.zeros(*p.t.shape, matrix.shape[3] + 1, dtype=torch.bool, device=matrix.device)
    has.scatter_(-1, labels + 1, True)  # -1 falls into the first place, which nobody reads
    missing = ~has[..., 1:] & (step < p.s[..., None])
    return value + torch.where(missing, steps, zero).sum(-1)

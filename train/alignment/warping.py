"""Dynamic time warping (Sakoe and Chiba 1978) and its soft form (Cuturi and Blondel, ICML 2017).

```
(t-1, s-1)  (t-1, s)       D[t, s] = cost[t, s] + min or softmin( D[t-1, s-1], D[t-1, s], D[t, s-1] )
         \\  |
(t, s-1) - (t, s)          from (0, 0) to (len_t - 1, len_s - 1)
```
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...cache.errors import StepclipError
from .backends import Value, choose
from .normalise import Normalise, check_normalise, normaliser
from .patterns import DTW, Pattern
from .problems import Lengths, Problems, detached, problems


class Alignment(NamedTuple):
    """`value` (...); `weights` (..., T, S): ones on the path, in the soft forms the probability that a path
    goes through each cell; zeros beyond the lengths. Their sum is the path's (expected) length."""

    value: Tensor
    weights: Tensor

    def paths(self) -> list[Tensor]:
        """Of a hard alignment: the path of each problem, flattened in order, int64 (P, 2), a cell a row."""
        flat = self.weights.reshape(-1, *self.weights.shape[-2:])
        # no path goes back, so its cells in reading order are its cells in order
        return [one.nonzero() for one in flat]


def dtw(
    cost: Tensor,
    lengths: Lengths = None,
    *,
    band: int | None = None,
    normalise: Normalise = "sum",
    backend: str = "auto",
    check: bool = True,
) -> Tensor:
    """The least total cost of a warping path, steps (1,1), (1,0), (0,1): `cost` (..., T, S) -> (...).

    `lengths`: a tuple (rows, columns), each a number or one per problem, or a tensor (..., 2); None: all is
    real. An infinite cost forbids a cell; inf is returned where no way is left. `band`: cells further than
    this from the line between the corners are forbidden (Sakoe-Chiba, in columns). Differentiable: the
    gradient is a best path. Sums are in double precision on the CPU.

    Example: `dtw(torch.tensor([[0., 1.], [1., 0.]]))` is 0.
    """
    return _value(cost, lengths, DTW, None, band, normalise, backend, check)


def soft_dtw(
    cost: Tensor,
    gamma: float = 0.1,
    lengths: Lengths = None,
    *,
    band: int | None = None,
    normalise: Normalise = "sum",
    backend: str = "auto",
    check: bool = True,
) -> Tensor:
    """-gamma log of the sum over all warping paths of exp(-cost of the path / gamma): (..., T, S) -> (...).

    TempCLR's training distance at gamma 0.1 (section 1.2 of the method file); below `dtw` by at most gamma *
    log(number of paths), and negative when many paths cost nothing. The gradient is `soft_dtw_alignment`.
    """
    return _value(cost, lengths, DTW, gamma, band, normalise, backend, check)


def dtw_alignment(
    cost: Tensor, lengths: Lengths = None, *, band: int | None = None, backend: str = "auto"
) -> Alignment:
    """The value of `dtw` and its path, as ones in (..., T, S). Between equal ways the diagonal step is taken,
    then the step in t, then the step in s (seen from the end). No path (zeros) where the value is inf."""
    return align(cost, lengths, DTW, None, band, backend)


def soft_dtw_alignment(
    cost: Tensor,
    gamma: float = 0.1,
    lengths: Lengths = None,
    *,
    band: int | None = None,
    backend: str = "auto",
    check: bool = True,
) -> Alignment:
    """The value of `soft_dtw` and the expected alignment: how likely a path at temperature gamma goes through
    each cell. Its sum lies between max(len_t, len_s) and len_t + len_s - 1."""
    return align(cost, lengths, DTW, gamma, band, backend, check)


def dtw_path(cost: Tensor, *, band: int | None = None, backend: str = "auto") -> Tensor:
    """The path of `dtw` for one problem: `cost` (T, S) -> int64 (P, 2), from (0, 0) to (T-1, S-1), one cell a
    row. StepclipError where infinite costs leave no way."""
    cost = torch.as_tensor(cost)
    if cost.ndim != 2:
        raise StepclipError(f"a cost of shape {tuple(cost.shape)}", "one problem: (T, S)")
    (path,) = dtw_alignment(cost, band=band, backend=backend).paths()
    if not len(path):
        raise StepclipError("a cost whose infinities leave no path", "a way from corner to corner")
    return path


def align(
    cost: Tensor,
    lengths: Lengths,
    pattern: Pattern,
    gamma: float | None,
    band: int | None = None,
    backend: str = "auto",
    check: bool = True,
) -> Alignment:
    """Value and weights of any pattern, hard (gamma None) or soft; no gradient."""
    _check_gamma(gamma)
    p = _banded(problems(detached(cost), lengths, gamma=gamma, check=check), band)
    value, weights = _run(p, pattern, gamma, backend, True)
    assert weights is not None
    return Alignment(p.back(value), p.back(weights))


def _value(
    cost: Tensor,
    lengths: Lengths,
    pattern: Pattern,
    gamma: float | None,
    band: int | None,
    normalise: str,
    backend: str,
    check: bool,
) -> Tensor:
    check_normalise(normalise)
    _check_gamma(gamma)
    p = problems(cost, lengths, gamma=gamma, check=check)
    return p.back(pattern_value(_banded(p, band), pattern, gamma, normalise, backend))


def pattern_value(
    p: Problems, pattern: Pattern, gamma: float | None, normalise: str = "sum", backend: str = "auto"
) -> Tensor:
    """(G, L) of any pattern, differentiable."""
    value, weights = _run(p, pattern, gamma, backend, p.wants_gradient or normalise == "path")
    if p.wants_gradient:
        assert weights is not None
        value = Value.apply(p.matrix, value, weights)
    by = normaliser(normalise, p.t, p.s, weights)
    return value if by is None else value / by


def _run(
    p: Problems, pattern: Pattern, gamma: float | None, backend: str, want: bool
) -> tuple[Tensor, Tensor | None]:
    kernels: Any = choose(backend, p, gamma=gamma)
    matrix = p.matrix.detach()
    if gamma is None:
        return kernels.hard(matrix, p.t, p.s, pattern, want)
    return kernels.soft(matrix, p.t, p.s, pattern, gamma, want)


def _check_gamma(gamma: float | None) -> None:
    if gamma is None or (isinstance(gamma, float | int) and 0 < gamma < float("inf")):
        return
    raise StepclipError(f"gamma={gamma!r}", "a positive number; for gamma = 0 the hard form")


def _banded(p: Problems, band: int | None) -> Problems:
    """The same problems with infinite costs off the band. The line runs from corner to corner, so a band of 0
    keeps it; T > S widens a column of it to T / S rows."""
    if band is None:
        return p
    if not isinstance(band, int) or band < 0:
        raise StepclipError(f"band={band!r}", "a whole number of columns, 0 or more")
    row = torch.arange(p.matrix.shape[2], device=p.t.device)[:, None]
    column = torch.arange(p.matrix.shape[3], device=p.t.device)
    t, s = (x[..., None, None] - 1 for x in (p.t, p.s))
    # |column - row * s / t| <= band, or less than one step of the shorter side, in whole numbers
    off = (column * t - row * s).abs()
    far = (off > band * t) & (off >= torch.maximum(t, s)) & (t > 0) & (s > 0)
    return replace(p, matrix=p.matrix.masked_fill(far, float("inf")).contiguous(), finite=False)

"""OTAM, the alignment with relaxed ends (CVPR 2020), as TempCLR computes it (section 1.3 of its method file).

Each column is used exactly once; the row may stay or advance by one from column to column; rows before the
first and after the last match are free. That is one direction; the published distance is the sum of both, of
the matrix and of its transpose.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from .normalise import Normalise, check_normalise
from .patterns import OTAM
from .problems import Lengths, Problems, problems
from .warping import Alignment, _check_gamma, align, pattern_value


def otam(
    cost: Tensor,
    lengths: Lengths = None,
    *,
    symmetric: bool = True,
    normalise: Normalise = "sum",
    backend: str = "auto",
    check: bool = True,
) -> Tensor:
    """Hard OTAM: `cost` (..., T, S) -> (...). `symmetric`: OTAM(C) + OTAM(C^T), each direction divided by its
    own normaliser; False: the columns are consumed, rows are free at both ends. Differentiable."""
    return _otam(cost, None, lengths, symmetric, normalise, backend, check)


def soft_otam(
    cost: Tensor,
    gamma: float = 0.1,
    lengths: Lengths = None,
    *,
    symmetric: bool = True,
    normalise: Normalise = "sum",
    backend: str = "auto",
    check: bool = True,
) -> Tensor:
    """Soft OTAM with the released code's counting: the zero columns at both ends make some ways count two or
    three times, an offset of order gamma log 3 a row that rankings of equal sizes do not see."""
    return _otam(cost, gamma, lengths, symmetric, normalise, backend, check)


def otam_alignment(
    cost: Tensor, gamma: float | None = None, lengths: Lengths = None, *, backend: str = "auto"
) -> Alignment:
    """One direction: the value, and the path (gamma None) or expected alignment over the real cells."""
    return align(cost, lengths, OTAM, gamma, backend=backend)


def _otam(
    cost: Tensor,
    gamma: float | None,
    lengths: Lengths,
    symmetric: bool,
    normalise: str,
    backend: str,
    check: bool,
) -> Tensor:
    check_normalise(normalise)
    _check_gamma(gamma)
    p = problems(cost, lengths, gamma=gamma, check=check)
    value = pattern_value(p, OTAM, gamma, normalise, backend)
    if symmetric:
        value = value + pattern_value(transposed(p), OTAM, gamma, normalise, backend)
    return p.back(value)


def transposed(p: Problems) -> Problems:
    """The same problems with rows and columns exchanged: a view."""
    return replace(p, matrix=p.matrix.transpose(-1, -2), t=p.s, s=p.t)

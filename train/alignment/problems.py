"""What every alignment does first: a grid of problems in one form, with the two lengths of each."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ...cache.errors import StepclipError

#: where the float32 kernels keep every digit of an exponent: |cost| * (T + S) / gamma in powers of two
EXACT = 4e6
#: None: all is real. A tuple (rows, columns), each None, a number or one per problem. Or a tensor (..., 2).
Lengths = Any


@dataclass(frozen=True)
class Problems:
    """`matrix` (G, L, T, S) floating, in whatever memory layout it came; `t`, `s` (G, L) int64 lengths;
    `shape` the leading shape in which answers go back. `finite`: there is no infinity; on a CPU what lies
    beyond the lengths are finite numbers in any case. `largest`: the largest finite size, 0 where nobody
    looked."""

    matrix: Tensor
    t: Tensor
    s: Tensor
    shape: torch.Size
    finite: bool
    largest: float

    @property
    def wants_gradient(self) -> bool:
        return self.matrix.requires_grad and torch.is_grad_enabled()

    @property
    def inside(self) -> Tensor:
        """(G, L, T, S) bool: True within the lengths."""
        rows = torch.arange(self.matrix.shape[2], device=self.t.device) < self.t[..., None]
        columns = torch.arange(self.matrix.shape[3], device=self.s.device) < self.s[..., None]
        return rows[..., :, None] & columns[..., None, :]

    def back(self, answer: Tensor) -> Tensor:
        """(G, L, ...) in the leading shape that was given."""
        return answer.reshape((*self.shape, *answer.shape[2:]))


def problems(
    matrix: Tensor,
    lengths: Lengths = None,
    *,
    gamma: float | None = None,
    check: bool = True,
    infinite: str = "cost",
) -> Problems:
    """`(..., T, S)` and its lengths as a grid. Half precision is raised to float32: sums over paths need the
    digits.

    `gamma` of a soft form decides how large the numbers may be before float32 is too short for them, and only
    those within the lengths count. `infinite`: which infinities mean a forbidden cell and may stand in the
    matrix: of a "cost" +inf, of a "similarity" -inf, "both" or "none". `check=False` leaves out the tests
    that make the host wait for a device (lengths in range, no NaN inside); shapes are always tested.
    """
    matrix = _floating(matrix)
    if matrix.ndim < 2 or 0 in matrix.shape[-2:]:
        raise StepclipError(f"a matrix of shape {tuple(matrix.shape)}", "(..., T, S) with T and S at least 1")
    shape = matrix.shape[:-2]
    lanes = shape[-1] if shape else 1
    grid = matrix.reshape(shape.numel() // lanes if lanes else 0, lanes, *matrix.shape[-2:])
    rows, columns = _both(lengths)
    t = _lengths(rows, shape, grid, 2, "row lengths", check)
    s = _lengths(columns, shape, grid, 3, "column lengths", check)
    made = Problems(grid, t, s, shape, finite=False, largest=0.0)
    if not grid.numel():
        return made
    if not check and grid.device.type != "cpu":  # the kernels there mask by themselves
        return made
    high = largest_size(grid.detach())
    if math.isfinite(high) and (lengths is None or high <= limit(grid, gamma)):
        return replace(made, finite=True, largest=high)
    # what lies beyond the lengths does not count: without it
    made = replace(made, matrix=torch.where(made.inside, grid, grid.new_zeros(())))
    real = made.matrix.detach()
    if check:
        _refuse(real, infinite)
    finite = real.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).abs()
    return replace(made, finite=bool(real.isfinite().all()), largest=float(finite.max()))


def limit(matrix: Tensor, gamma: float | None) -> float:
    """The largest size of a number in (..., T, S) for which a soft form keeps its digits in float32."""
    if gamma is None:
        return math.inf
    return EXACT * gamma / (math.log2(math.e) * (matrix.shape[-2] + matrix.shape[-1]))


def _floating(matrix: Any) -> Tensor:
    try:
        matrix = torch.as_tensor(matrix)
    except (TypeError, ValueError, RuntimeError) as error:
        raise StepclipError(f"{type(matrix).__name__}: {error}", "a tensor (..., T, S)") from None
    if matrix.is_complex():
        raise StepclipError(f"a matrix of {matrix.dtype}", "real numbers")
    return matrix if matrix.is_floating_point() and matrix.element_size() >= 4 else matrix.float()


def _refuse(real: Tensor, infinite: str) -> None:
    if bool(real.isnan().any()):
        raise StepclipError("NaN inside the lengths of a matrix to align", "numbers, or infinities")
    for sign, name in ((torch.inf, "similarity"), (-torch.inf, "cost")):
        if infinite in (name, "none") and bool((real == sign).any()):
            allowed = {"cost": ", or inf for a forbidden cell", "similarity": ", or -inf", "none": ""}
            raise StepclipError(f"{sign} inside the lengths of a matrix", f"numbers{allowed[infinite]}")


def detached(matrix: Any) -> Any:
    return matrix.detach() if isinstance(matrix, Tensor) else matrix


def largest_size(matrix: Tensor) -> float:
    """The largest |x|; not finite where anything is not."""
    if matrix.device.type == "cpu" and find_spec("numba"):
        from .cpu.look import largest

        return largest(matrix)
    return float(matrix.abs().max())


def _both(lengths: Lengths) -> tuple[Any, Any]:
    if lengths is None:
        return None, None
    if isinstance(lengths, tuple):
        if len(lengths) == 2:
            return lengths
        raise StepclipError(f"a tuple of {len(lengths)} lengths", "(rows, columns)")
    if isinstance(lengths, list):
        raise StepclipError(
            "lengths as a list", "a tuple (rows, columns), or a tensor (..., 2) with both of each problem"
        )
    both = _whole(lengths, "lengths")
    if both.ndim < 1 or both.shape[-1] != 2:
        raise StepclipError(
            f"lengths of shape {tuple(both.shape)}", "a tuple (rows, columns), or a tensor (..., 2)"
        )
    return both[..., 0], both[..., 1]


def _whole(given: Any, name: str) -> Tensor:
    try:
        lengths = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):
        raise StepclipError(f"{name} {given!r}", "whole numbers") from None
    if lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool:
        raise StepclipError(f"{name} of type {lengths.dtype}", "whole numbers")
    return lengths


def _lengths(given: Any, shape: torch.Size, grid: Tensor, axis: int, name: str, check: bool) -> Tensor:
    longest = grid.shape[axis]
    if given is None:
        return torch.full(grid.shape[:2], longest, dtype=torch.int64, device=grid.device)
    lengths = _whole(given, name).to(grid.device)
    try:
        lengths = lengths.to(torch.int64).broadcast_to(shape).reshape(grid.shape[:2])
    except RuntimeError:
        raise StepclipError(
            f"{name} of shape {tuple(lengths.shape)}", f"one per problem: {tuple(shape)}"
        ) from None
    if check and bool(((lengths < 1) | (lengths > longest)).any()):
        raise StepclipError(
            f"{name} from {int(lengths.min())} to {int(lengths.max())}", f"lengths from 1 to {longest}"
        )
    return lengths

"""What every alignment does first: one flat batch of problems, with the lengths of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...cache.errors import StepclipError

Lengths = Tensor | Sequence[int] | int | None


@dataclass(frozen=True)
class Problems:
    """`matrix` (B, T, S) floating; `t`, `s` (B,) int64 lengths; `shape` the leading shape to return answers
    in."""

    matrix: Tensor
    t: Tensor
    s: Tensor
    shape: torch.Size

    @property
    def inside(self) -> Tensor:
        """(B, T, S) bool: True within the lengths."""
        rows = torch.arange(self.matrix.shape[1], device=self.t.device) < self.t[:, None]
        columns = torch.arange(self.matrix.shape[2], device=self.s.device) < self.s[:, None]
        return rows[:, :, None] & columns[:, None, :]


def problems(matrix: Tensor, lengths_t: Lengths, lengths_s: Lengths, *, check: bool = True) -> Problems:
    """Flatten `(..., T, S)` and its lengths. Half precision is raised to float32: sums over paths need the
    digits.

    Lengths broadcast against the leading shape. `check=False` leaves out the tests that make the host wait
    for the device (lengths in range, no NaN inside); shapes are always tested.
    """
    matrix = torch.as_tensor(matrix)
    if matrix.ndim < 2 or 0 in matrix.shape[-2:]:
        raise StepclipError(f"a matrix of shape {tuple(matrix.shape)}", "(..., T, S) with T and S at least 1")
    if not matrix.is_floating_point() or matrix.element_size() < 4:
        matrix = matrix.float()
    shape = matrix.shape[:-2]
    flat = matrix.reshape(shape.numel(), *matrix.shape[-2:])
    t = _lengths(lengths_t, shape, flat.shape[1], "lengths_t", matrix.device, check)
    s = _lengths(lengths_s, shape, flat.shape[2], "lengths_s", matrix.device, check)
    made = Problems(flat, t, s, shape)
    if check and bool((flat.isnan() & made.inside).any()):
        raise StepclipError("NaN inside the lengths of a matrix to align", "numbers, or infinities")
    return made


def _lengths(
    given: Lengths, shape: torch.Size, most: int, name: str, device: torch.device, check: bool
) -> Tensor:
    if given is None:
        return torch.full((shape.numel(),), most, dtype=torch.int64, device=device)
    lengths = torch.as_tensor(given, device=device)
    if lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise StepclipError(f"{name} of type {lengths.dtype}", "whole numbers")
    try:
        lengths = lengths.to(torch.int64).broadcast_to(shape).reshape(-1)
    except RuntimeError:
        raise StepclipError(
            f"{name} of shape {tuple(lengths.shape)}", f"one per problem: {tuple(shape)}"
        ) from None
    if check and bool(((lengths < 1) | (lengths > most)).any()):
        raise StepclipError(
            f"{name} from {int(lengths.min())} to {int(lengths.max())}", f"lengths from 1 to {most}"
        )
    return lengths

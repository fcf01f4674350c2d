"""The kernels on a GPU: Triton. `backends.py` says what each function takes and gives.

Labels among more than 1024 columns are left to plain torch, Drop-DTW among more than 256. Nothing here makes
the host wait for the device.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import portable
from ..patterns import Pattern
from . import tiles
from .drop_kernel import drop_tiles
from .hard_kernel import hard_tiles
from .jump_kernel import label_tiles, soft_label_tiles
from .soft_kernel import soft_tiles
from .tiles import Tiles

__all__ = ["drop", "hard", "labels", "soft", "soft_labels"]

#: columns that one program takes at once
WIDEST, WIDEST_DROP = 1024, 256
_ENDS = {"corner": 0, "row": 1, "otam": 2}


def hard(
    matrix: Tensor, t: Tensor, s: Tensor, pattern: Pattern, want_path: bool = True
) -> tuple[Tensor, Tensor | None]:
    """Sums are in float64."""
    by_rows, plan = _stencil(matrix, pattern, 1)
    scratch = plan.scratch(matrix, torch.int8) if want_path else None
    edges = plan.buffers(matrix, torch.float64)
    return _run(hard_tiles, matrix, t, s, pattern, by_rows, plan, scratch, edges, want_path)


def soft(
    matrix: Tensor, t: Tensor, s: Tensor, pattern: Pattern, gamma: float, want_expected: bool = True
) -> tuple[Tensor, Tensor | None]:
    """In float32, whatever the matrix; `backends.choose` sends float64 elsewhere."""
    by_rows, plan = _stencil(matrix, pattern, 8)
    scratch = plan.scratch(matrix, torch.float32, 2) if want_expected else None
    edges = plan.buffers(matrix, torch.int64)
    return _run(
        soft_tiles, matrix, t, s, pattern, by_rows, plan, scratch, edges, want_expected, _scale(-gamma)
    )


def labels(similarity: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Sums are in float64; similarities beyond 1e200, infinities too, count as that."""
    tiles.check_device(similarity)
    rows, columns = similarity.shape[2:]
    if columns > WIDEST:
        return portable.labels(similarity, t, s)
    out = torch.full((*t.shape, rows), -1, dtype=torch.int64, device=similarity.device)
    if out.numel():
        plan = tiles.whole(similarity, columns, rows, 2)
        with tiles.on_device_of(similarity):
            label_tiles[(plan.programs,)](
                similarity, *_flat(t, s), out, plan.scratch(similarity, torch.int16),
                *_sizes(similarity, plan), *similarity.stride(), plan.depth, plan.problems, plan.width,
                num_warps=plan.warps,
            )  # fmt: skip
    return out


def soft_labels(
    similarity: Tensor, t: Tensor, s: Tensor, gamma: float, want_expected: bool = True
) -> tuple[Tensor, Tensor | None]:
    """In float32, as `soft`."""
    tiles.check_device(similarity)
    rows, columns = similarity.shape[2:]
    if columns > WIDEST:
        return portable.soft_labels(similarity, t, s, gamma, want_expected)
    value = similarity.new_empty(t.shape)
    expected = torch.zeros_like(similarity) if want_expected else None
    if value.numel():
        plan = tiles.whole(similarity, columns, rows, 8)
        out = value if expected is None else expected
        with tiles.on_device_of(similarity):
            soft_label_tiles[(plan.programs,)](
                similarity, *_flat(t, s), value, out,
                value if expected is None else plan.scratch(similarity, torch.int64),
                *_sizes(similarity, plan), *similarity.stride(),
                *(similarity if expected is None else expected).stride(),
                plan.depth, _scale(gamma), want_expected, plan.problems, plan.width, num_warps=plan.warps,
            )  # fmt: skip
    return value, expected


def drop(
    cost: Tensor, t: Tensor, s: Tensor, frame_drop: Tensor, step_drop: Tensor, contiguous: bool
) -> Tensor:
    """Sums are in float64."""
    tiles.check_device(cost)
    rows, columns = cost.shape[2:]
    if columns > WIDEST_DROP:
        return portable.drop(cost, t, s, frame_drop, step_drop, contiguous)
    out = torch.full((*t.shape, rows), -1, dtype=torch.int64, device=cost.device)
    if out.numel():
        plan = tiles.whole(cost, columns, rows, 1)
        with tiles.on_device_of(cost):
            drop_tiles[(plan.programs,)](
                cost, *_flat(t, s, frame_drop, step_drop), out, plan.scratch(cost, torch.int8),
                *_sizes(cost, plan), *cost.stride(), plan.depth, contiguous, plan.problems, plan.width,
                num_warps=plan.warps,
            )  # fmt: skip
    return out


def _stencil(matrix: Tensor, pattern: Pattern, place_bytes: int) -> tuple[bool, Tiles]:
    """Whether the places are the rows (the shorter side), and the tiles."""
    tiles.check_device(matrix)
    rows, columns = matrix.shape[2:]
    columns += pattern.end != "corner"  # the end's own column
    across, along = sorted((rows, columns))
    return rows < columns, tiles.in_strips(matrix, across, along, place_bytes)


def _run(
    kernel: Any, matrix: Tensor, t: Tensor, s: Tensor, pattern: Pattern, by_rows: bool, plan: Tiles,
    scratch: Tensor | None, edges: Tensor, want: bool, *more: float,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    value = matrix.new_empty(t.shape)
    weights = torch.zeros_like(matrix) if want else None
    has_left = pattern.left or pattern.end != "corner"
    if value.numel():
        with tiles.on_device_of(matrix):
            kernel[(plan.programs,)](
                matrix, *_flat(t, s), value, value if weights is None else weights,
                value if scratch is None else scratch, edges, plan.buffers(matrix, torch.float32),
                *_sizes(matrix, plan), *_steps(matrix, by_rows), *_steps(weights, by_rows),
                plan.strips, plan.depth, *more,
                by_rows, pattern.up == "all", pattern.left, has_left, _ENDS[pattern.start],
                _ENDS[pattern.end], want, plan.problems, plan.width, num_warps=plan.warps,
            )  # fmt: skip
    return value, weights


def _flat(*given: Tensor) -> list[Tensor]:
    """One after the other in memory: an expanded tensor may flatten to a view without a stride."""
    return [x.reshape(-1).contiguous() for x in given]


def _sizes(matrix: Tensor, plan: Tiles) -> tuple[int, ...]:
    groups, lanes, rows, columns = matrix.shape
    return groups * lanes, plan.number, lanes, rows, columns


def _steps(matrix: Tensor | None, by_rows: bool) -> tuple[int, ...]:
    """Strides: of groups, of lanes, across the places, along the other side."""
    if matrix is None:
        return 0, 0, 0, 0
    group, lane, row, column = matrix.stride()
    return (group, lane, row, column) if by_rows else (group, lane, column, row)


def _scale(gamma: float) -> float:
    """What makes a cost a power of two, as the float32 that a kernel gets."""
    return float(np.float32(math.log2(math.e) / gamma))

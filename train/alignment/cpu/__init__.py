"""The kernels on the CPU: numba, the problem index innermost. `backends.py` says what each function takes and
gives; what numba compiles is kept on the disk, beside these files or in the user's cache folder."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .. import portable
from ..patterns import Pattern
from . import drop_kernel, hard_kernel, jump_kernel, soft_kernel
from .lanes import Grid, flat_of, grid_of, over_blocks, scratch

SHORT = 2**15 - 1
_ENDS = {"corner": 0, "row": 1, "otam": 2}


def hard(
    matrix: Tensor, t: Tensor, s: Tensor, pattern: Pattern, want_path: bool = True
) -> tuple[Tensor, Tensor | None]:
    grid, value = grid_of(matrix, t, s), np.empty(t.numel())
    path, flat = _like(matrix, grid, want_path)

    def work(begin: int, stop: int) -> None:
        size = grid.rows * grid.columns * grid.lanes
        hard_kernel.blocks(
            grid, begin, stop, *_flags(pattern), want_path, value, flat,
            scratch("cells", 0 if grid.direct else size, grid.source.dtype.type),
            scratch("out", 0 if grid.direct or not want_path else size, np.float32),
            scratch("codes", size if want_path else 0, np.int8),
            scratch("ends", grid.rows * grid.lanes, np.int8),
        )  # fmt: skip

    over_blocks(grid, work)
    values = torch.from_numpy(value).to(matrix.dtype).view(t.shape)
    return values, None if path is None else path.to(matrix.dtype)


def soft(
    matrix: Tensor, t: Tensor, s: Tensor, pattern: Pattern, gamma: float, want_expected: bool = True
) -> tuple[Tensor, Tensor | None]:
    grid, value = grid_of(matrix, t, s), np.empty(t.numel())
    expected, flat = _like(matrix, grid, want_expected)
    scale = np.float32(soft_kernel.scale_of(gamma))

    def work(begin: int, stop: int) -> None:
        size = grid.rows * grid.columns * grid.lanes
        soft_kernel.blocks(
            grid, begin, stop, scale, *_flags(pattern), want_expected, value, flat,
            scratch("cells", 0 if grid.direct else size, np.float32),
            scratch("out", 0 if grid.direct or not want_expected else size, np.float32),
            scratch("shares", 2 * size if want_expected else 0, np.float32),
            scratch("ends", 3 * grid.rows * grid.lanes, np.float32),
        )  # fmt: skip

    over_blocks(grid, work)
    return torch.from_numpy(value).float().view(t.shape), expected


def labels(similarity: Tensor, t: Tensor, s: Tensor) -> Tensor:
    if similarity.shape[3] > SHORT:  # the kernel's room holds column numbers of 16 bits
        return portable.labels(similarity, t, s)
    grid = grid_of(similarity, t, s)
    out = np.full((t.numel(), grid.rows), -1, np.int64)

    def work(begin: int, stop: int) -> None:
        size = grid.rows * grid.columns * grid.lanes
        cells = scratch("cells", 0 if grid.direct else size, grid.source.dtype.type)
        jump_kernel.label_blocks(grid, begin, stop, out, cells, scratch("origins", size, np.int16))

    over_blocks(grid, work)
    return torch.from_numpy(out).view(*t.shape, grid.rows)


def soft_labels(
    similarity: Tensor, t: Tensor, s: Tensor, gamma: float, want_expected: bool = True
) -> tuple[Tensor, Tensor | None]:
    grid, value = grid_of(similarity, t, s), np.empty(t.numel())
    expected, flat = _like(similarity, grid, want_expected)
    scale = np.float32(-soft_kernel.scale_of(gamma))

    def work(begin: int, stop: int) -> None:
        size = grid.rows * grid.columns * grid.lanes
        jump_kernel.blocks(
            grid, begin, stop, scale, want_expected, value, flat,
            scratch("cells", 0 if grid.direct else size, np.float32),
            scratch("out", 0 if grid.direct or not want_expected else size, np.float32),
            scratch("shares", size if want_expected else 0, np.float32),
            scratch("ends", grid.columns * grid.lanes, np.float32),
        )  # fmt: skip

    over_blocks(grid, work)
    return torch.from_numpy(value).float().view(t.shape), expected


def drop(
    cost: Tensor, t: Tensor, s: Tensor, frame_drop: Tensor, step_drop: Tensor, contiguous: bool
) -> Tensor:
    grid = grid_of(cost, t, s)
    out = np.full((t.numel(), grid.rows), -1, np.int64)
    frame = frame_drop.detach().reshape(t.numel(), grid.rows).double().numpy()
    step = step_drop.detach().reshape(t.numel(), grid.columns).double().numpy()

    def work(begin: int, stop: int) -> None:
        size = grid.rows * grid.columns * grid.lanes
        cells = scratch("cells", 0 if grid.direct else size, grid.source.dtype.type)
        choices = scratch("codes", 3 * size, np.int8)
        drop_kernel.blocks(grid, begin, stop, frame, step, contiguous, out, cells, choices)

    over_blocks(grid, work)
    return torch.from_numpy(out).view(*t.shape, grid.rows)


def _flags(pattern: Pattern) -> tuple[bool, bool, int, int]:
    return pattern.up == "all", pattern.left, _ENDS[pattern.start], _ENDS[pattern.end]


def _like(matrix: Tensor, grid: Grid, want: bool) -> tuple[Tensor | None, np.ndarray]:
    """A float32 tensor of the matrix's shape that holds anything, in the layout that the kernels write, and
    the same as a flat array."""
    if not want:
        return None, np.empty(1, np.float32)
    if grid.direct:
        # the same strides: a matrix that lies in lanes has no gaps that matter
        out = torch.empty(len(grid.source)).as_strided(matrix.shape, matrix.stride())
        return out, flat_of(out)
    out = torch.empty(matrix.shape)
    return out, out.view(-1).numpy()

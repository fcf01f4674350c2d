"""How problems lie in memory for the kernels: blocks of 16 to 64 problems, the problem index innermost.

`(G, L, T, S)` whose problem axis L has stride 1 and is a multiple of 16 long (what the one matrix product of
`pairs` gives) is used as it lies. Anything else is packed block by block, (T, S, lanes). What lies beyond the
lengths is computed on like the rest, and has to be finite numbers: `problems` sees to that.
"""

# numba types its functions by itself
# mypy: disable-error-code="no-untyped-def,var-annotated,call-arg"
from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor

from .simd import LANES, transpose

#: two threads pay above a millisecond or two of work: `performance.md` 1, point 5
THREAD_CELLS = 4_000_000


class Grid(NamedTuple):
    """Where the cells of all problems are. Cell (t, s) of problem `first + i` of a block lies at
    `base + t * row + s * column + i` of `source` where `direct`; else at
    `(first + i) * whole + t * columns + s`, from where a block is packed. `t`, `s` (problems,): lengths."""

    source: np.ndarray
    direct: bool
    width: int  # problems of a group that lie side by side
    lanes: int  # of a block: a multiple of 16
    group: int  # from group to group
    row: int
    column: int
    rows: int
    columns: int
    whole: int
    t: np.ndarray
    s: np.ndarray


def grid_of(matrix: Tensor, t: Tensor, s: Tensor) -> Grid:
    """`matrix` (G, L, T, S) on the CPU, `t`, `s` (G, L)."""
    groups, width, rows, columns = matrix.shape
    lt, ls = (np.ascontiguousarray(x.cpu().numpy()).reshape(-1) for x in (t, s))
    if lies_in_lanes(matrix):
        group, _, row, column = matrix.stride()
        lanes = lanes_for(rows, columns, width)
        return Grid(flat_of(matrix), True, width, lanes, group, row, column, rows, columns, 0, lt, ls)
    width = groups * width
    lanes = lanes_for(rows, columns, width)
    source = matrix.detach().contiguous().view(-1).numpy()
    return Grid(source, False, width, lanes, 0, columns * lanes, lanes, rows, columns, rows * columns, lt, ls)


def lanes_for(rows: int, columns: int, problems: int) -> int:
    """64 problems hide the latency of the recurrence best while a block's weights fit in the cache, 32 after
    that (measured: benchmarks/bench_alignment.py)."""
    return min(64 if rows * columns <= 4096 else 32, -(-problems // LANES) * LANES)


def lies_in_lanes(matrix: Tensor) -> bool:
    """Is the problem axis innermost, whole vectors long, and every cell a place of its own?"""
    if matrix.stride(1) != 1 or matrix.shape[1] % LANES or not matrix.numel():
        return False
    reach = 0
    for stride, n in sorted(zip(matrix.stride(), matrix.shape, strict=True)):
        if n > 1:
            if stride <= reach:
                return False
            reach += stride * (n - 1)
    return True


def flat_of(matrix: Tensor) -> np.ndarray:
    """The storage from the matrix's first element to its last, as a flat array."""
    extent = 1 + sum((n - 1) * stride for n, stride in zip(matrix.shape, matrix.stride(), strict=True))
    return matrix.detach().as_strided((extent,), (1,), matrix.storage_offset()).numpy()


def over_blocks(grid: Grid, work: Callable[[int, int], None]) -> None:
    """`work(begin, end)` over the numbers of all blocks, on as many threads as torch may use where that
    pays."""
    if not len(grid.t):
        return
    blocks = -(-grid.width // grid.lanes) * (len(grid.t) // grid.width)
    threads = min(torch.get_num_threads(), blocks)
    if threads < 2 or len(grid.t) * grid.rows * grid.columns < THREAD_CELLS:
        work(0, blocks)
        return
    edges = [blocks * i // threads for i in range(threads + 1)]
    list(_pool(threads).map(work, edges[:-1], edges[1:]))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="stepclip-alignment")


class _Scratch(threading.local):
    def __init__(self) -> None:
        self.arrays: dict[tuple[str, type], np.ndarray] = {}


_scratch = _Scratch()
#: larger rooms are not kept from call to call
KEPT = 1 << 26


def scratch(name: str, size: int, dtype: type) -> np.ndarray:
    """A flat room of at least `size` numbers for this thread, holding anything: memory that is new to the
    process costs more time than the kernels take to fill it."""
    array = _scratch.arrays.get((name, dtype))
    if array is None or len(array) < size:
        array = np.empty(max(size, 1), dtype)
        if array.nbytes <= KEPT:
            _scratch.arrays[name, dtype] = array
    return array


@njit(nogil=True, cache=True, error_model="numpy", boundscheck=False)
def fetch(grid, block, cells, t_len, s_len):
    """(cells, first problem, problems, lanes, base, rows) of a block: where it lies, or packed into `cells`;
    its lengths into t_len, s_len, 1 where there is no problem."""
    per_group = -(-grid.width // grid.lanes)
    g, i = divmod(block, per_group)
    lane = i * grid.lanes
    first = g * grid.width + lane
    real = min(grid.lanes, grid.width - lane)
    rows = 0
    for k in range(grid.lanes):
        t_len[k] = grid.t[first + k] if k < real else 1
        s_len[k] = grid.s[first + k] if k < real else 1
        rows = max(rows, t_len[k])
    lanes = -(-real // 16) * 16
    if grid.direct:
        return grid.source, first, real, lanes, g * grid.group + lane, rows
    pack(grid, first, real, lanes, rows, cells)
    return cells, first, real, lanes, 0, rows


@njit(nogil=True, cache=True, error_model="numpy", boundscheck=False)
def pack(grid, first, real, lanes, rows, cells):
    """The first `rows` rows of `real` problems -> cells (rows, columns, grid.lanes); zeros in the lanes
    without a problem."""
    size, stride = rows * grid.columns, grid.lanes
    tiles = size // 16 * 16
    for lane in range(0, lanes, 16):
        begin = 0
        if lane + 16 <= real:
            for i in range(0, tiles, 16):
                start = (first + lane) * grid.whole + i
                transpose(grid.source, start, grid.whole, cells, i * stride + lane, stride)
            begin = tiles
        for k in range(lane, lane + 16):
            for i in range(begin, size):
                there = grid.source[(first + k) * grid.whole + i] if k < real else grid.source.dtype.type(0)
                cells[i * stride + k] = there


@njit(nogil=True, cache=True, error_model="numpy", boundscheck=False)
def unpack(grid, cells, first, real, rows, out):
    """The way back into `out` (problems, T, S), flat; zeros in the rows that no problem of the block has."""
    size, stride = rows * grid.columns, grid.lanes
    tiles = size // 16 * 16
    for lane in range(0, real, 16):
        begin = 0
        if lane + 16 <= real:
            for i in range(0, tiles, 16):
                start = (first + lane) * grid.whole + i
                transpose(cells, i * stride + lane, stride, out, start, grid.whole)
            begin = tiles
        for k in range(lane, min(lane + 16, real)):
            for i in range(begin, size):
                out[(first + k) * grid.whole + i] = cells[i * stride + k]
            out[(first + k) * grid.whole + size : (first + k + 1) * grid.whole] = 0


@njit(nogil=True, cache=True, error_model="numpy", boundscheck=False)
def deliver(grid, cells, first, real, lanes, base, rows, out):
    """What a kernel wrote of a block, where it lies or into `cells`, made whole in `out`."""
    if grid.direct:
        clear(grid, out, base, lanes, rows)
    else:
        unpack(grid, cells, first, real, rows, out)


@njit(nogil=True, cache=True, error_model="numpy", boundscheck=False)
def clear(grid, out, base, lanes, begin):
    """Zeros from row `begin` on, in a block that is written where it lies."""
    for t in range(begin, grid.rows):
        for s in range(grid.columns):
            place = base + t * grid.row + s * grid.column
            out[place : place + lanes] = 0

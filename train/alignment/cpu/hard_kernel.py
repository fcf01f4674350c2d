"""Hard alignment of a block of problems: the least value and its path, in numba.

Sums are kept in double precision: the recurrence is so cheap beside the matrix product that makes its costs
that exactness costs nothing. Infinities take part as they are.
"""

# numba types these functions by itself; l as in lanes
# mypy: ignore-errors
# ruff: noqa: E741
from __future__ import annotations

import numpy as np
from numba import njit

from .lanes import clear, fetch, unpack
from .simd import least, load, load64, splat, store, store_first_least

CORNER, ROW, OTAM = 0, 1, 2
DIAGONAL, UP, LEFT = 0, 1, 2
INF = np.float64(np.inf)


@njit(nogil=True, cache=True, error_model="numpy", boundscheck=False)
def blocks(grid, begin, stop, up_all, left, start, end, keep, value, path, cells, out, codes, ends):
    """Blocks begin..stop-1: value (problems,), and with `keep` the paths as ones, in the layout of the grid's
    source. cells, out, codes, ends: room for one block."""
    t_len, s_len = np.empty(grid.lanes, np.int64), np.empty(grid.lanes, np.int64)
    found = np.empty(grid.lanes)
    for block in range(begin, stop):
        source, first, real, lanes, base, rows = fetch(grid, block, cells, t_len, s_len)
        forward(
            source, base, grid.row, grid.column, lanes, rows, grid.columns, t_len, s_len, up_all, left, start,
            end, keep, codes, found, ends,
        )  # fmt: skip
        value[first : first + real] = found[:real]
        if keep:
            target = path if grid.direct else out
            if grid.direct:
                clear(grid, path, base, lanes, 0)
            else:
                out[: rows * grid.columns * grid.lanes] = 0
            backward(
                codes, ends, lanes, grid.columns, t_len, s_len, end, found, target, base, grid.row,
                grid.column,
            )  # fmt: skip
            if not grid.direct:
                unpack(grid, out, first, real, rows, path)


@njit(nogil=True, cache=True, error_model="numpy", boundscheck=False)
def forward(
    cells, base, row, column, lanes, rows, columns, t_len, s_len, up_all, left, start, end, keep, codes,
    value, end_codes,
):  # fmt: skip
    """Fills value (lanes,); with `keep` also codes (rows, columns, lanes), the predecessor of each cell, and
    end_codes (rows, lanes), that of the end's own column. Between equals: diagonal, then up, then left."""
    inf, zero = splat(INF), splat(np.float64(0))
    before = np.full((columns + 1) * lanes, np.inf)  # before[s]: column s - 1 of the row above
    beside = np.empty(lanes)
    last = np.full(3 * lanes, np.inf)  # the end's column; the last column in the row above; and now
    for t in range(rows):
        corner = t == 0 if start == CORNER else (True if start == ROW else t > 0)
        for l in range(0, lanes, 16):
            store(before, l, zero if corner else inf)
            store(beside, l, zero if start == OTAM else inf)
        for s in range(columns):
            place = base + t * row + s * column
            above = up_all or s == 0
            for l in range(0, lanes, 16):
                i = s * lanes + l
                d = load(before, i)
                u = load(before, i + lanes) if above else inf
                kept = load(beside, l)
                w = kept if left or (s == 0 and start == OTAM) else inf
                if keep:
                    store_first_least(codes, (t * columns + s) * lanes + l, d, u, w)
                store(before, i, kept)
                store(beside, l, load64(cells, place + l) + least(d, least(u, w)))
        for l in range(0, lanes, 16):
            store(before, columns * lanes + l, load(beside, l))
        if end == CORNER:
            for l in range(lanes):
                if t_len[l] == t + 1:
                    value[l] = before[s_len[l] * lanes + l]
        else:
            for l in range(lanes):
                last[2 * lanes + l] = before[s_len[l] * lanes + l]
            for l in range(0, lanes, 16):
                d = load(last, lanes + l) if end == OTAM else inf
                u, w = load(last, l), load(last, 2 * lanes + l)
                if keep:
                    store_first_least(end_codes, t * lanes + l, d, u, w)
                store(last, l, least(d, least(u, w)))
                store(last, lanes + l, w)
            for l in range(lanes):
                if t_len[l] == t + 1:
                    value[l] = last[l]


@njit(nogil=True, cache=True, error_model="numpy", boundscheck=False)
def backward(codes, end_codes, lanes, columns, t_len, s_len, end, value, path, base, row, column):
    """Writes 1 at every cell of each path, at `base + t * row + s * column + lane` of `path`, which holds
    zeros. A problem without a way (infinite value) has no path."""
    for l in range(lanes):
        if not value[l] < np.inf:
            continue
        t, s = t_len[l] - 1, s_len[l] - 1
        if end != CORNER:
            while True:
                code = end_codes[t * lanes + l]
                if code == UP:
                    t -= 1
                    continue
                if code == DIAGONAL:
                    t -= 1
                break
        while True:
            path[base + t * row + s * column + l] = 1
            code = codes[(t * columns + s) * lanes + l]
            if s == 0 and code != UP:
                break
            if code != LEFT:
                t -= 1
            if code != UP:
                s -= 1
            if t < 0 or s < 0:
                break

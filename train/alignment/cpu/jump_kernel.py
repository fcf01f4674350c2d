"""One step per row with any jump forward, in numba: the labels of the best, and the soft form.

    hard   best[t, k] = sim[t, k] + max over j <= k of best[t-1, j]
    soft   P[t, k] = exp(sim / g) * sum over j <= k of P[t-1, j]        the end sums over all k

Both are a running maximum or sum along a row: O(T S), where the released Viterbi takes O(T S^2).
"""

# numba types these functions by itself; l as in lanes
# mypy: ignore-errors
# ruff: noqa: E741
from __future__ import annotations

import numpy as np
from numba import njit

from .lanes import deliver, fetch
from .simd import exponent, least, load, load64, mantissa, most, splat, store, store_origin
from .soft_kernel import ONE, WALL, ZERO, _exp2, _log, _shrunk

HUGE = np.float64(1e200)  # infinite similarities count as very large ones: a sum of them still compares


@njit(nogil=True, cache=True, error_model="numpy", boundscheck=False)
def label_blocks(grid, begin, stop, out, cells, origins):
    """Blocks begin..stop-1 into out (problems, T), which holds -1. cells, origins: room for one block."""
    t_len, s_len = np.empty(grid.lanes, np.int64), np.empty(grid.lanes, np.int64)
    for block in range(begin, stop):
        source, first, real, lanes, base, rows = fetch(grid, block, cells, t_len, s_len)
        labels(
            source, base, grid.row, grid.column, lanes, real, rows, grid.columns, t_len, s_len, origins,
            out[first : first + real],
        )  # fmt: skip


@njit(nogil=True, cache=True, error_model="numpy", boundscheck=False)
def blocks(grid, begin, stop, scale, keep, value, expected, cells, out, shares, ends):
    """Blocks begin..stop-1: value (problems,), and with `keep` the posteriors, in the layout of the grid's
    source."""
    t_len, s_len = np.empty(grid.lanes, np.int64), np.empty(grid.lanes, np.int64)
    found = np.empty(grid.lanes)
    for block in range(begin, stop):
        source, first, real, lanes, base, rows = fetch(grid, block, cells, t_len, s_len)
        forward(
            source, base, grid.row, grid.column, lanes, rows, grid.columns, t_len, s_len, scale, keep, shares,
            ends, found,
        )  # fmt: skip
        value[first : first + real] = found[:real]
        if keep:
            target = expected if grid.direct else out
            backward(
                shares, ends, lanes, rows, grid.columns, t_len, s_len, found, target, base, grid.row,
                grid.column,
            )  # fmt: skip
            deliver(grid, out, first, real, lanes, base, rows, expected)


@njit(nogil=True, cache=True, error_model="numpy", boundscheck=False)
def labels(cells, base, row, column, lanes, real, rows, columns, t_len, s_len, origins, out):
    """out (real, T) int64, which holds -1: the label of each row; of equals the lowest.

    origins (rows, columns, lanes) int16 is room for the kernel: which of the columns 0..k was the best."""
    low, high = splat(-HUGE), splat(HUGE)
    best = np.zeros(columns * lanes)
    running = np.empty(lanes)
    label = np.zeros(lanes, np.int64)
    for t in range(rows):
        for l in range(0, lanes, 16):
            store(running, l, splat(np.float64(-np.inf)))
        for s in range(columns):
            place = base + t * row + s * column
            for l in range(0, lanes, 16):
                i = s * lanes + l
                came, reached = load(best, i), load(running, l)
                place_of = (t * columns + s) * lanes + l
                store_origin(origins, place_of, place_of - lanes if s else place_of, came, reached, s)
                reached = most(came, reached)
                store(running, l, reached)
                store(best, i, most(least(load64(cells, place + l), high), low) + reached)
        for l in range(lanes):
            if t_len[l] == t + 1:
                k = 0
                for s in range(1, s_len[l]):
                    if best[s * lanes + l] > best[k * lanes + l]:
                        k = s
                label[l] = k
    # row by row, so that the lanes' loads do not wait for each other
    for t in range(rows - 1, -1, -1):
        for l in range(real):
            if t < t_len[l]:
                out[l, t] = label[l]
                label[l] = origins[(t * columns + label[l]) * lanes + l]


@njit(nogil=True, cache=True, error_model="numpy", boundscheck=False)
def forward(
    cells, base, row, column, lanes, rows, columns, t_len, s_len, scale, keep, shares, ends, value
):  # fmt: skip
    """value (lanes,): g log of the sum over all labellings of exp(total / g); `scale` = log2(e) / g. With
    `keep` shares (rows, columns, lanes): what column k itself adds to the running sum of 0..k in the row
    above, and ends (columns, lanes): the share of each column in the end."""
    one, wall, zero = splat(ONE), splat(WALL), splat(ZERO)
    factor, limit = splat(scale), splat(abs(WALL / scale))
    before = np.empty(columns * 2 * lanes, np.float32)
    running = np.empty(2 * lanes, np.float32)
    for s in range(columns):
        for l in range(0, lanes, 16):  # in front of the first row: one way into each column
            store(before, s * 2 * lanes + l, one)
            store(before, s * 2 * lanes + lanes + l, zero if s == 0 else wall)
    for t in range(rows):
        for l in range(0, lanes, 16):
            store(running, l, one)
            store(running, lanes + l, wall)
        for s in range(columns):
            place = base + t * row + s * column
            for l in range(0, lanes, 16):
                p, whole = _exp2(load(cells, place + l), factor, limit)
                i = s * 2 * lanes + l
                m, e = load(before, i), load(before, i + lanes)
                mr, er = load(running, l), load(running, lanes + l)
                largest = most(e, er)
                own = _shrunk(m, e, largest)
                total = own + _shrunk(mr, er, largest)
                if keep:
                    store(shares, (t * columns + s) * lanes + l, own / total)
                store(running, l, mantissa(total))
                store(running, lanes + l, most(largest + exponent(total), wall))
                grown = p * total
                store(before, i, mantissa(grown))
                store(before, i + lanes, most(largest + whole + exponent(grown), wall))
        for l in range(lanes):
            if t_len[l] == t + 1:
                value[l] = _end(before, l, lanes, s_len[l], scale, keep, ends)


@njit(nogil=True, cache=True, error_model="numpy", boundscheck=False)
def _end(before, l, lanes, columns, scale, keep, ends):
    largest = np.float64(WALL)
    for s in range(columns):
        largest = max(largest, before[s * 2 * lanes + lanes + l])
    total = 0.0
    for s in range(columns):
        i = s * 2 * lanes + l
        total += before[i] * 2.0 ** (before[i + lanes] - largest)
    if keep:
        for s in range(columns):
            i = s * 2 * lanes + l
            ends[s * lanes + l] = before[i] * 2.0 ** (before[i + lanes] - largest) / total
    return -_log(total, largest, -scale)


@njit(nogil=True, cache=True, error_model="numpy", boundscheck=False)
def backward(shares, ends, lanes, rows, columns, t_len, s_len, value, expected, base, row, column):
    """The probability of each label at each row, at `base + t * row + s * column + lane` of `expected`."""
    zero, one = splat(ZERO), splat(ONE)
    below = np.zeros(columns * lanes, np.float32)  # what each cell of this row gets from the row below
    right = np.empty(lanes, np.float32)  # what goes on to the left along the running sum
    for t in range(rows - 1, -1, -1):
        for l in range(lanes):
            if t_len[l] == t + 1 and abs(value[l]) < np.inf:
                for s in range(s_len[l]):
                    below[s * lanes + l] = ends[s * lanes + l]
        for l in range(0, lanes, 16):
            store(right, l, zero)
        for s in range(columns - 1, -1, -1):
            place = base + t * row + s * column
            for l in range(0, lanes, 16):
                here = load(below, s * lanes + l)
                store(expected, place + l, here)
                flow = here + load(right, l)
                own = load(shares, (t * columns + s) * lanes + l)
                store(below, s * lanes + l, own * flow)
                store(right, l, (one - own) * flow)

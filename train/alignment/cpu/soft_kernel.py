"""Soft alignment of a block of problems: value and expected alignment, in numba.

softmin_g(a) = -g log sum exp(-a / g) (Cuturi and Blondel, ICML 2017), so with P = exp(-D / g) the recurrence
is a sum of products, P[t, s] = exp(-cost / g) * (sum of the predecessors' P). P leaves the range of any
float, so each P is kept as m * 2^e with m in [1, 2) and a whole e of its own: a cell then takes one
polynomial (2^x of the fraction of -cost / g) and no logarithm, and its relative error does not grow with the
size of D (256 x 256: value within 1e-5 of float64). benchmarks/bench_alignment.py has the speeds.

The forward pass keeps each predecessor's share of the sum; the backward pass then only multiplies and adds:
expected[t, s] = sum over successors of expected * share (TempCLR, section 1.4 of the method file).
"""

# numba types these functions by itself; l as in lanes
# mypy: ignore-errors
# ruff: noqa: E741
from __future__ import annotations

import math

import numpy as np
from numba import njit

from .lanes import deliver, fetch
from .simd import (
    EXP2,
    exponent,
    least,
    load,
    mantissa,
    most,
    nearest,
    power_of_two,
    product_less,
    splat,
    store,
)

F = np.float32
#: exponents at or below stand for no way at all; sums stay exact in float32 up to 2^24
WALL, UNREACHABLE = F(-1e7), F(-5e6)
LOW, ONE, ZERO = F(-126), F(1), F(0)
C0, C1, C2, C3, C4, C5 = EXP2
CORNER, ROW, OTAM = 0, 1, 2


def scale_of(gamma: float) -> float:
    """What a cost is multiplied with to be a power of two."""
    return -math.log2(math.e) / gamma


@njit(nogil=True, cache=True, error_model="numpy", boundscheck=False, inline="always")
def _exp2(x, factor, limit):
    """2^(x * factor) as (mantissa in [0.7, 1.42), whole exponent); |x| up to limit. The fraction is taken
    from the exact product: large costs and small gammas lose no digits."""
    x = most(least(x, limit), splat(ZERO) - limit)
    whole = nearest(x * factor)
    f = product_less(x, factor, whole)
    p = splat(C4) + f * splat(C5)
    p = splat(C0) + f * (splat(C1) + f * (splat(C2) + f * (splat(C3) + f * p)))
    return p, whole


@njit(nogil=True, cache=True, error_model="numpy", boundscheck=False, inline="always")
def _shrunk(m, e, largest):
    """m * 2^(e - largest), 0 for what is 2^126 times smaller."""
    return m * power_of_two(most(e - largest, splat(LOW)))


@njit(nogil=True, cache=True, error_model="numpy", boundscheck=False)
def blocks(
    grid, begin, stop, scale, up_all, left, start, end, keep, value, expected, cells, out, shares, ends
):
    """Blocks begin..stop-1: value (problems,), and with `keep` the expected alignments, in the layout of the
    grid's source. cells, out, shares, ends: room for one block."""
    t_len, s_len = np.empty(grid.lanes, np.int64), np.empty(grid.lanes, np.int64)
    found = np.empty(grid.lanes)
    for block in range(begin, stop):
        source, first, real, lanes, base, rows = fetch(grid, block, cells, t_len, s_len)
        forward(
            source, base, grid.row, grid.column, lanes, rows, grid.columns, t_len, s_len, scale, up_all, left,
            start, end, keep, shares, found, ends,
        )  # fmt: skip
        value[first : first + real] = found[:real]
        if keep:
            target = expected if grid.direct else out
            backward(
                shares, ends, lanes, rows, grid.columns, t_len, s_len, end, found, target, base, grid.row,
                grid.column,
            )  # fmt: skip
            deliver(grid, out, first, real, lanes, base, rows, expected)


@njit(nogil=True, cache=True, error_model="numpy", boundscheck=False)
def forward(
    cells, base, row, column, lanes, rows, columns, t_len, s_len, scale, up_all, left, start, end,
    keep, shares, value, end_shares,
):  # fmt: skip
    """Fills value (lanes,); with `keep` also shares (rows, columns, 2, lanes): of the diagonal and of the
    upper predecessor, and end_shares (rows, 3, lanes): diagonal, upper and left of the end's own column."""
    one, wall, zero = splat(ONE), splat(WALL), splat(ZERO)
    factor, limit = splat(scale), splat(abs(WALL / scale))
    # before[s]: column s - 1 of the row above, mantissas then exponents; before[0] is in front of the matrix
    before = np.empty((columns + 1) * 2 * lanes, np.float32)
    beside = np.empty(2 * lanes, np.float32)
    last = np.empty(8 * lanes, np.float32)  # the end's column: its own m, e; row above; row above's last; now
    for s in range(columns + 1):
        for l in range(0, lanes, 16):
            store(before, s * 2 * lanes + l, one)
            store(before, s * 2 * lanes + lanes + l, wall)
    for l in range(0, 8 * lanes, 2 * lanes):
        for k in range(0, lanes, 16):
            store(last, l + k, one)
            store(last, l + lanes + k, wall)

    for t in range(rows):
        corner = t == 0 if start == CORNER else (True if start == ROW else t > 0)
        for l in range(0, lanes, 16):
            store(before, l, one)
            store(before, lanes + l, zero if corner else wall)
            store(beside, l, one)
            store(beside, lanes + l, zero if start == OTAM else wall)
        for s in range(columns):
            place = base + t * row + s * column
            above = up_all or s == 0
            for l in range(0, lanes, 16):
                p, whole = _exp2(load(cells, place + l), factor, limit)
                i = s * 2 * lanes + l
                md, ed = load(before, i), load(before, i + lanes)
                mu = load(before, i + 2 * lanes)
                eu = load(before, i + 3 * lanes) if above else wall
                ml, el_kept = load(beside, l), load(beside, lanes + l)
                el = el_kept if left or (s == 0 and start == OTAM) else wall
                largest = most(most(ed, eu), el)
                d, u = _shrunk(md, ed, largest), _shrunk(mu, eu, largest)
                total = d + u + _shrunk(ml, el, largest)
                if keep:
                    share = one / total
                    k = (t * columns + s) * 2 * lanes + l
                    store(shares, k, d * share)
                    store(shares, k + lanes, u * share)
                grown = p * total
                store(before, i, ml)
                store(before, i + lanes, el_kept)
                store(beside, l, mantissa(grown))
                store(beside, lanes + l, most(largest + whole + exponent(grown), wall))
        for l in range(0, 2 * lanes, 16):
            store(before, columns * 2 * lanes + l, load(beside, l))
        if end == CORNER:
            for l in range(lanes):
                if t_len[l] == t + 1:
                    i = s_len[l] * 2 * lanes + l
                    value[l] = _log(before[i], before[i + lanes], scale)
        else:
            _end_column(before, last, lanes, s_len, end, t, keep, end_shares)
            for l in range(lanes):
                if t_len[l] == t + 1:
                    value[l] = _log(last[l], last[lanes + l], scale)


@njit(nogil=True, cache=True, error_model="numpy", boundscheck=False)
def _log(m, e, scale):
    if e < UNREACHABLE:
        return np.inf
    return -np.inf if e > -UNREACHABLE else (np.log2(np.float64(m)) + e) / scale


@njit(nogil=True, cache=True, error_model="numpy", boundscheck=False)
def _end_column(before, last, lanes, s_len, end, t, keep, end_shares):
    """One row of the column after the last, which costs nothing: from its own row above, from the last
    column of this row, and (OTAM) of the row above. `last` holds it, then the last column above and now."""
    one, wall = splat(ONE), splat(WALL)
    for l in range(lanes):
        i = s_len[l] * 2 * lanes + l
        last[4 * lanes + l] = before[i]
        last[5 * lanes + l] = before[i + lanes]
    for l in range(0, lanes, 16):
        mu, eu = load(last, l), load(last, lanes + l)
        md = load(last, 2 * lanes + l)
        ed = load(last, 3 * lanes + l) if end == OTAM else wall
        ml, el = load(last, 4 * lanes + l), load(last, 5 * lanes + l)
        largest = most(most(ed, eu), el)
        d, u, left = _shrunk(md, ed, largest), _shrunk(mu, eu, largest), _shrunk(ml, el, largest)
        total = d + u + left
        if keep:
            share = one / total
            k = t * 3 * lanes + l
            store(end_shares, k, d * share)
            store(end_shares, k + lanes, u * share)
            store(end_shares, k + 2 * lanes, left * share)
        store(last, l, mantissa(total))
        store(last, lanes + l, most(largest + exponent(total), wall))
        store(last, 2 * lanes + l, ml)
        store(last, 3 * lanes + l, el)


@njit(nogil=True, cache=True, error_model="numpy", boundscheck=False)
def backward(
    shares, end_shares, lanes, rows, columns, t_len, s_len, end, value, expected, base, row, column
):  # fmt: skip
    """The expected alignment, at `base + t * row + s * column + lane` of `expected`: zero beyond the lengths
    and where there is no way at all."""
    zero = splat(ZERO)
    below = np.zeros(columns * lanes, np.float32)  # what each cell of this row gets from the row below
    right = np.empty(2 * lanes, np.float32)  # from the right: what goes left, what goes to the diagonal
    flow = np.zeros(2 * lanes, np.float32)  # the end's column: itself; what its diagonal sends up
    for t in range(rows - 1, -1, -1):
        for l in range(0, 2 * lanes, 16):
            store(right, l, zero)
        for l in range(lanes):
            last = (s_len[l] - 1) * lanes + l
            starts = t_len[l] == t + 1 and abs(value[l]) < np.inf
            if end == CORNER:
                if starts:
                    below[last] = ONE
            else:
                if starts:
                    flow[l] = ONE
                k = t * 3 * lanes + l
                f = flow[l]
                if t < t_len[l]:
                    below[last] += flow[lanes + l] + f * end_shares[k + 2 * lanes]
                    flow[lanes + l] = f * end_shares[k]
                    flow[l] = f * end_shares[k + lanes]
        for s in range(columns - 1, -1, -1):
            place = base + t * row + s * column
            for l in range(0, lanes, 16):
                k = (t * columns + s) * 2 * lanes + l
                here = load(below, s * lanes + l) + load(right, l)
                store(expected, place + l, here)
                d, u = load(shares, k) * here, load(shares, k + lanes) * here
                store(right, l, here - d - u)
                store(below, s * lanes + l, u + load(right, lanes + l))
                store(right, lanes + l, d)

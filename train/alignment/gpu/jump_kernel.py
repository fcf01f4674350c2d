"""One step per row with any jump forward, on the GPU: the labels of the best, and the soft form.

    hard   best[t, k] = sim[t, k] + max over j <= k of best[t-1, j]
    soft   P[t, k] = exp(sim / g) * sum over j <= k of P[t-1, j]        the end sums over all k

A program takes a tile of P problems; the columns of a row are its places, and the running maximum or sum
along them is one `tl.associative_scan`. The scratch is the only memory that one thread writes and another
reads: a barrier stands between the passes and between tiles.
"""

# triton types these functions by itself
# mypy: ignore-errors
from __future__ import annotations

import triton
import triton.language as tl

from .powers import UNREACHABLE, WALL, added, logarithm, normal, packed, power, shrunk, unpacked
from .stencil import lengths_of

HUGE = tl.constexpr(1e200)  # infinite similarities count as very large ones: a sum of them still compares
INF = tl.constexpr(float("inf"))
SIZES = [
    "count", "tiles", "lanes", "rows", "columns", "group_step", "lane_step", "row_step", "column_step",
    "out_group_step", "out_lane_step", "out_row_step", "out_column_step", "depth",
]  # fmt: skip


@triton.jit
def first_largest(a, i, b, j):
    """Of two (value, index) pairs the larger; of equals the first."""
    later = b > a
    return tl.where(later, b, a), tl.where(later, j, i)


@triton.jit
def first_row(n, k, lanes, group_step, lane_step, column_step):
    """Offsets of the cells of row 0."""
    wide = n.to(tl.int64)
    return (wide // lanes) * group_step + (wide % lanes) * lane_step + k.to(tl.int64) * column_step


@triton.jit(do_not_specialize=SIZES)
def label_tiles(
    matrix, t_lengths, s_lengths, labels, origins,
    count, tiles, lanes, rows, columns, group_step, lane_step, row_step, column_step, depth,
    P: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    """labels (problems, rows) int64, which holds -1; of equals the lowest. origins: int16, depth * P * W for
    each program: which column of the row above is the best of 0..k. Sums are in float64."""
    p = tl.arange(0, P)[:, None]
    k = tl.arange(0, W)[None, :]
    place = p * W + k
    column = place - p * W
    origins += tl.program_id(0).to(tl.int64) * depth * (P * W)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        n = tile * P + p
        t = lengths_of(t_lengths, n, count, rows)
        s = lengths_of(s_lengths, n, count, columns)
        last = tl.max(t)
        cells = matrix + first_row(n, k, lanes, group_step, lane_step, column_step)
        fetched = tl.load(cells, mask=(t > 0) & (k < s), other=0.0)
        best = tl.where(k < s, tl.zeros((P, W), tl.float64), -INF)
        for i in range(0, last):
            now = fetched.to(tl.float64)
            cells += row_step
            fetched = tl.load(cells, mask=(i + 1 < t) & (k < s), other=0.0)
            reached, origin = tl.associative_scan((best, column), 1, first_largest)
            tl.store(origins + i * (P * W) + place, origin.to(tl.int16))
            score = tl.minimum(tl.maximum(now, -HUGE), HUGE)
            best = tl.where((i < t) & (k < s), reached + score, best)
        state = tl.expand_dims(tl.argmax(best, 1), 1)
        tl.debug_barrier()
        out = labels + n.to(tl.int64) * rows
        for i in range(0, last):
            row = last - 1 - i
            inside = row < t
            tl.store(out + row, state.to(tl.int64), mask=inside)
            origin = tl.load(origins + row * (P * W) + p * W + state, mask=inside, other=0)
            state = tl.where(inside, origin.to(tl.int32), state)
        tl.debug_barrier()


@triton.jit(do_not_specialize=[*SIZES, "scale"])
def soft_label_tiles(
    matrix, t_lengths, s_lengths, value, expected, sums,
    count, tiles, lanes, rows, columns, group_step, lane_step, row_step, column_step,
    out_group_step, out_lane_step, out_row_step, out_column_step, depth, scale,
    WANT: tl.constexpr, P: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    """value (problems,), expected (all zeros). sums: int64, depth * P * W for each program: the P of every
    cell, as `powers.packed`. `scale` = log2(e) / gamma.

    The backward pass sums the ways from a cell to the end in the same manner, and the posterior of a cell is
    the ways through it over all ways (forward-backward)."""
    p = tl.arange(0, P)[:, None]
    k = tl.arange(0, W)[None, :]
    place = p * W + k
    sums += tl.program_id(0).to(tl.int64) * depth * (P * W)
    one = tl.full((P, W), 1.0, tl.float32)
    wall = tl.full((P, W), WALL, tl.int32)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        n = tile * P + p
        t = lengths_of(t_lengths, n, count, rows)
        s = lengths_of(s_lengths, n, count, columns)
        last = tl.max(t)
        cells = matrix + first_row(n, k, lanes, group_step, lane_step, column_step)
        fetched = tl.load(cells, mask=(t > 0) & (k < s), other=0.0)
        m, e = one, tl.where(k == 0, 0, wall)  # in front of the first row: one way into each column
        for i in range(0, last):
            grown, whole = power(fetched.to(tl.float32), scale)
            cells += row_step
            fetched = tl.load(cells, mask=(i + 1 < t) & (k < s), other=0.0)
            reached_m, reached_e = tl.associative_scan((m, e), 1, added)
            new_m, new_e = normal(reached_m * grown, reached_e + whole)
            inside = i < t
            m = tl.where(inside, new_m, m)
            e = tl.where(inside, tl.where(k < s, new_e, wall), e)
            if WANT:
                tl.store(sums + i * (P * W) + place, packed(m, e))
        largest = tl.max(e, 1, keep_dims=True)
        total_m, total_e = normal(tl.sum(shrunk(m, e, largest), 1, keep_dims=True), largest)
        tl.store(value + n, logarithm(total_m, total_e, scale), mask=n < count)
        if WANT:
            alive = (total_e > UNREACHABLE) & (total_e < -UNREACHABLE)
            tl.debug_barrier()
            first = (last - 1).to(tl.int64)
            cells = matrix + first_row(n, k, lanes, group_step, lane_step, column_step) + first * row_step
            out = expected + first_row(n, k, lanes, out_group_step, out_lane_step, out_column_step)
            out += first * out_row_step
            m, e = one, tl.where(k < s, 0, wall)
            for i in range(0, last):
                row = last - 1 - i
                inside = (row < t) & (k < s)
                here_m, here_e = unpacked(tl.load(sums + row * (P * W) + place))
                grown, whole = power(tl.load(cells, mask=inside, other=0.0).to(tl.float32), scale)
                exponent = tl.minimum(here_e + e - total_e, 1)
                share = shrunk(here_m * m / total_m, exponent, 0)
                tl.store(out, tl.where(alive, share, 0.0), mask=inside)
                cells -= row_step
                out -= out_row_step
                on_m, on_e = normal(grown * m, e + whole)
                after_m, after_e = tl.associative_scan(
                    (on_m, tl.where(k < s, on_e, wall)), 1, added, reverse=True
                )
                m = tl.where(row < t, after_m, m)
                e = tl.where(row < t, after_e, e)
            tl.debug_barrier()

"""Drop-DTW on the GPU: which frame belongs to which step, and which to none.

    ends[t, k]    = cost[t, k] + min( settled[t-1, k-1], matched[t-1, k] )     frame t is step k's
    matched[t, k] = min( ends[t, k], matched[t-1, k] + frame_drop[t] )         step k has a frame
    settled[t, k] = min( matched[t, k], settled[t, k-1] + step_drop[k] )       steps 0..k are done with

A program takes a tile of P problems, and the steps of a frame are its places; what `settled` gets along them
is one `tl.associative_scan`. The choices of all cells lie in a scratch; a barrier stands between writing and
reading them.
"""

# triton types these functions by itself
# mypy: ignore-errors
from __future__ import annotations

import triton
import triton.language as tl

from .jump_kernel import SIZES, first_row
from .stencil import lengths_of

INF = tl.constexpr(float("inf"))
FURTHER, LEFT_OUT, MISSING = tl.constexpr(1), tl.constexpr(2), tl.constexpr(4)
SETTLED, MATCHED, ENDS = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def one_after_another(a, drops, b, more):
    """(least cost up to here, drop costs of all steps here), and the same of the steps that follow."""
    return tl.minimum(a + more, b), drops + more


@triton.jit(do_not_specialize=SIZES)
def drop_tiles(
    cost, t_lengths, s_lengths, frame_drop, step_drop, labels, choices,
    count, tiles, lanes, rows, columns, group_step, lane_step, row_step, column_step, depth,
    CONTIGUOUS: tl.constexpr, P: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    """frame_drop (problems, rows), step_drop (problems, columns); labels (problems, rows) int64, which holds
    -1. choices: int8, depth * P * W for each program. Sums are in float64."""
    p = tl.arange(0, P)[:, None]
    k = tl.arange(0, W)[None, :]
    place = p * W + k
    behind = tl.maximum(k - 1, 0) + p * 0
    choices += tl.program_id(0).to(tl.int64) * depth * (P * W)
    nothing = tl.full((P, W), INF, tl.float64)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        n = tile * P + p
        t = lengths_of(t_lengths, n, count, rows)
        s = lengths_of(s_lengths, n, count, columns)
        last = tl.max(t)
        wide = n.to(tl.int64)
        step = tl.load(step_drop + wide * columns + k, mask=k < s, other=0.0).to(tl.float64)
        frames = frame_drop + wide * rows
        cells = cost + first_row(n, k, lanes, group_step, lane_step, column_step)
        cost0 = tl.load(cells, mask=(t > 0) & (k < s), other=0.0)
        cost1 = tl.load(cells + row_step, mask=(t > 1) & (k < s), other=0.0)
        frame0 = tl.load(frames, mask=t > 0, other=0.0)
        frame1 = tl.load(frames + 1, mask=t > 1, other=0.0)
        matched, ends = nothing, nothing
        none = tl.zeros((P, 1), tl.float64)  # no step is done with
        corner = tl.where(k == 0, none, tl.gather(tl.cumsum(step, 1), behind, 1))
        for i in range(0, last):
            frame = frame0.to(tl.float64)
            further = ends if CONTIGUOUS else matched
            ends = cost0.to(tl.float64) + tl.minimum(corner, further)
            left_out = matched + frame
            matched = tl.minimum(ends, left_out)
            none += frame
            first = tl.where(k == 0, tl.minimum(matched, none + step), matched)
            settled, _drops = tl.associative_scan((first, step), 1, one_after_another)
            before = tl.where(k == 0, none, tl.gather(settled, behind, 1))
            choice = tl.where(corner > further, FURTHER, 0)
            choice += tl.where(ends > left_out, LEFT_OUT, 0)
            choice += tl.where(matched > before + step, MISSING, 0)
            tl.store(choices + i * (P * W) + place, choice.to(tl.int8))
            corner = before
            cost0, frame0 = cost1, frame1
            cells += row_step
            cost1 = tl.load(cells + row_step, mask=(i + 2 < t) & (k < s), other=0.0)
            frame1 = tl.load(frames + i + 2, mask=i + 2 < t, other=0.0)
        tl.debug_barrier()
        out = labels + wide * rows
        row = t - 1
        column = s - 1
        state = tl.zeros((P, 1), tl.int32)
        for _step in range(0, last + tl.max(s)):
            going = (row >= 0) & (column >= 0)
            choice = tl.load(choices + row * (P * W) + p * W + column, mask=going, other=0).to(tl.int32)
            missing = going & (state == SETTLED) & ((choice & MISSING) != 0)
            left = going & (state != ENDS) & ((choice & LEFT_OUT) != 0) & (missing == 0)
            match = going & (missing == 0) & (left == 0)
            on = (choice & FURTHER) != 0
            tl.store(out + row, column.to(tl.int64), mask=match)
            row = tl.where(left | match, row - 1, row)
            column = tl.where(missing | (match & (on == 0)), column - 1, column)
            state = tl.where(match, tl.where(on, ENDS if CONTIGUOUS else MATCHED, SETTLED), state)
            state = tl.where(left, MATCHED, state)
        tl.debug_barrier()

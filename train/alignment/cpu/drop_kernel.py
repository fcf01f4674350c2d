"""Drop-DTW of a block of problems, in numba: which frame belongs to which step, and which to none.

ends[t, k]    = cost[t, k] + min( settled[t-1, k-1], matched[t-1, k] )     frame t is step k's
matched[t, k] = min( ends[t, k], matched[t-1, k] + frame_drop[t] )         step k has a frame
settled[t, k] = min( matched[t, k], settled[t, k-1] + step_drop[k] )       steps 0..k are done with
"""

# numba types these functions by itself; l as in lanes
# mypy: ignore-errors
# ruff: noqa: E741
from __future__ import annotations

import numpy as np
from numba import njit

from .lanes import fetch
from .simd import least, load, load64, store, store_above

FURTHER, LEFT_OUT, MISSING = 0, 1, 2
SETTLED, MATCHED, ENDS = 0, 1, 2


@njit(nogil=True, cache=True, error_model="numpy", boundscheck=False)
def blocks(grid, begin, stop, frame_drop, step_drop, contiguous, out, cells, choices):
    """Blocks begin..stop-1: frame_drop (problems, T), step_drop (problems, S) -> out (problems, T), which
    holds -1. cells, choices: room for one block."""
    t_len, s_len = np.empty(grid.lanes, np.int64), np.empty(grid.lanes, np.int64)
    frames, steps = np.zeros(grid.rows * grid.lanes), np.zeros(grid.columns * grid.lanes)
    for block in range(begin, stop):
        source, first, real, lanes, base, rows = fetch(grid, block, cells, t_len, s_len)
        for l in range(real):
            for t in range(rows):
                frames[t * lanes + l] = frame_drop[first + l, t]
            for s in range(grid.columns):
                steps[s * lanes + l] = step_drop[first + l, s]
        forward(
            source, base, grid.row, grid.column, lanes, rows, grid.columns, frames, steps, contiguous, choices
        )
        labels(choices, lanes, real, grid.columns, t_len, s_len, contiguous, out[first : first + real])


@njit(nogil=True, cache=True, error_model="numpy", boundscheck=False)
def forward(cells, base, row, column, lanes, rows, columns, frame_drop, step_drop, contiguous, choices):
    """frame_drop (rows, lanes), step_drop (columns, lanes); fills choices (rows, columns, 3, lanes)."""
    settled = np.zeros((columns + 1) * lanes)  # column k: k steps are done with; the row above, then this one
    matched = np.full(columns * lanes, np.inf)
    ends = np.full(columns * lanes, np.inf)
    corner = np.empty(lanes)
    for s in range(columns):
        for l in range(0, lanes, 16):
            missing = load(settled, s * lanes + l) + load(step_drop, s * lanes + l)
            store(settled, (s + 1) * lanes + l, missing)
    for t in range(rows):
        for l in range(0, lanes, 16):
            first = load(settled, l)
            store(corner, l, first)
            store(settled, l, first + load(frame_drop, t * lanes + l))
        for s in range(columns):
            place = base + t * row + s * column
            for l in range(0, lanes, 16):
                i, k = s * lanes + l, (t * columns + s) * 3 * lanes + l
                new, had = load(corner, l), load(matched, i)
                further = load(ends, i) if contiguous else had
                store_above(choices, k, new, further)
                end = load64(cells, place + l) + least(new, further)
                left_out = had + load(frame_drop, t * lanes + l)
                store_above(choices, k + lanes, end, left_out)
                has = least(end, left_out)
                missing = load(settled, i) + load(step_drop, i)
                store_above(choices, k + 2 * lanes, has, missing)
                store(ends, i, end)
                store(matched, i, has)
                store(corner, l, load(settled, i + lanes))
                store(settled, i + lanes, least(has, missing))


@njit(nogil=True, cache=True, error_model="numpy", boundscheck=False)
def labels(choices, lanes, real, columns, t_len, s_len, contiguous, out):
    """out (real, T) int64, which holds -1: the step of each frame."""
    for l in range(real):
        t, s, state = t_len[l] - 1, s_len[l] - 1, SETTLED
        while t >= 0 and s >= 0:
            k = (t * columns + s) * 3 * lanes + l
            if state == SETTLED and choices[k + MISSING * lanes]:
                s -= 1
            elif state != ENDS and choices[k + LEFT_OUT * lanes]:
                t -= 1
                state = MATCHED
            else:
                out[l, t] = s
                t -= 1
                if choices[k + FURTHER * lanes]:
                    state = ENDS if contiguous else MATCHED
                else:
                    s -= 1
                    state = SETTLED

"""What the hard and the soft kernel share: where cells lie, which steps a pattern allows, the way back.

A tile of P problems by W places is one warp. One side of the matrix, the shorter, is cut into strips of W
places; the other side is walked along. Place v stands at `d - v` of that side at step d, so a step is a piece
of an anti-diagonal, and its cells depend only on the two steps before. These stay in registers; a cell gets
its neighbour's through `tl.gather`, a warp shuffle. What one strip hands to the next lies in memory, in two
buffers that take turns, and so do the choices or shares that the way back needs: the only memory that one
thread writes and another reads, and a barrier (`tl.debug_barrier`) stands between each writing and reading.
Costs and shares are asked for four steps before they are used, what another strip left two steps before.
"""

# triton types these functions by itself
# mypy: ignore-errors
from __future__ import annotations

import triton
import triton.language as tl

CORNER, ROW, OTAM = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
#: compiled once for all sizes: no variant for a stride of 1 or a multiple of 16
SIZES = [
    "count", "tiles", "lanes", "rows", "columns", "group_step", "lane_step", "across_step", "along_step",
    "out_group_step", "out_lane_step", "out_across_step", "out_along_step", "strips_room", "depth",
]  # fmt: skip


@triton.jit
def lengths_of(lengths, n, count, most):
    """(P, 1) int32; 0 for a problem that does not exist."""
    return tl.minimum(tl.load(lengths + n, mask=n < count, other=0).to(tl.int32), most)


@triton.jit
def first_cell(n, lanes, group_step, lane_step):
    """(P, 1) int64 offsets of cell (0, 0)."""
    wide = n.to(tl.int64)
    return (wide // lanes) * group_step + (wide % lanes) * lane_step


@triton.jit
def on_step(v, strip, d, across_step, along_step, W: tl.constexpr):
    """(1, W) int64 offsets of the cells of a step; each next step is `along_step` further."""
    across = (strip * W + v).to(tl.int64)
    return across * across_step + (d - v).to(tl.int64) * along_step


@triton.jit
def cell_at(v, strip, d, W: tl.constexpr, ROWS: tl.constexpr):
    """(row, column) of each place at step d. ROWS: the places are rows."""
    if ROWS:
        row = strip * W + v
        column = d - v
    else:
        row = d - v
        column = strip * W + v
    return row, column


@triton.jit
def real(v, strip, d, t, s, W: tl.constexpr, ROWS: tl.constexpr):
    """Which places are within the lengths at step d."""
    row, column = cell_at(v, strip, d, W, ROWS)
    return (row >= 0) & (row < t) & (column >= 0) & (column < s)


@triton.jit
def extent(t, s, W: tl.constexpr, ROWS: tl.constexpr, END: tl.constexpr):
    """The column where each path ends; strips and steps that the tile takes."""
    end = s - 1 if END == CORNER else s  # or a column of its own
    if ROWS:
        across = tl.max(t)
        along = tl.max(end) + 1
    else:
        across = tl.max(end) + 1
        along = tl.max(t)
    return end, (across + (W - 1)) // W, along + (W - 1)


@triton.jit
def ways(row, column, s, UP_ALL: tl.constexpr, LEFT: tl.constexpr, START: tl.constexpr, END: tl.constexpr):
    """Which predecessors a cell has: diagonal, up, left; and whether a path may start there, as if from the
    diagonal, as if from the left. `patterns.py` says what the pattern means; column s is the end's own."""
    in_end = column == s
    up = row > 0
    if not UP_ALL:
        up = up & ((column == 0) | in_end)
    left = column > 0
    if not LEFT:
        left = left & in_end
    diagonal = (row > 0) & (column > 0)
    if END == ROW:
        diagonal = diagonal & (column != s)
    first = column == 0
    if START == CORNER:
        start = first & (row == 0)
    elif START == ROW:
        start = first
    else:
        start = first & (row > 0)
    start_left = first if START == OTAM else column < 0
    return diagonal, up, left, start, start_left


@triton.jit
def share_at(shares, plane, wanted, SOFT: tl.constexpr):
    """The shares of the diagonal and the upper predecessor; the hard kernel keeps a choice in one plane."""
    if SOFT:
        share_d = tl.load(shares, mask=wanted, other=0.0)
        share_u = tl.load(shares + plane, mask=wanted, other=0.0)
    else:
        choice = tl.load(shares, mask=wanted, other=0)
        share_d = tl.where(choice == 0, 1.0, 0.0)
        share_u = tl.where(choice == 1, 1.0, 0.0)
    return share_d, share_u


@triton.jit
def flow_back(
    out, shares, plane, flows, t, s, end, alive, strips, steps, depth, across_step, along_step,
    SOFT: tl.constexpr, HAS_LEFT: tl.constexpr, ROWS: tl.constexpr, P: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    """Weights flow from the end (1 where `alive`) to the predecessors: here[t, s] = sum over successors of
    here * share. Writes them at `out` (P, 1), which holds zeros. shares: strips x depth x P x W; flows, of
    two times depth x P: what a strip sends to the one before."""
    p = tl.arange(0, P)[:, None]
    v = tl.arange(0, W)[None, :]
    place = p * W + v
    ahead = tl.minimum(v + 1, W - 1) + p * 0
    always = p + v >= 0
    for i in range(0, strips):
        strip = strips - 1 - i
        comes = flows + ((i + 1) % 2) * depth * P + p
        goes = flows + (i % 2) * depth * P + place // W
        cells = out + on_step(v, strip, steps - 1, across_step, along_step, W)
        kept = shares + (strip * depth + steps - 1).to(tl.int64) * (P * W) + place
        share_d0, share_u0 = share_at(kept, plane, always, SOFT)
        share_d1, share_u1 = share_at(kept - P * W, plane, always & (steps > 1), SOFT)
        share_d2, share_u2 = share_at(kept - 2 * P * W, plane, always & (steps > 2), SOFT)
        share_d3, share_u3 = share_at(kept - 3 * P * W, plane, always & (steps > 3), SOFT)
        # what the next strip sent to the last place at step d lies at d - (W - 1)
        came = tl.load(comes + (steps - W) * P, mask=(p >= 0) & (i > 0), other=0.0)
        came0 = tl.load(comes + (steps - 1 - W) * P, mask=(p >= 0) & (i > 0) & (steps > W), other=0.0)
        came1 = tl.load(comes + (steps - 2 - W) * P, mask=(p >= 0) & (i > 0) & (steps > W + 1), other=0.0)
        near = tl.where(v == W - 1, came, tl.zeros((P, W), tl.float32))
        jump = tl.zeros((P, W), tl.float32)
        for j in range(0, steps):
            d = steps - 1 - j
            row, column = cell_at(v, strip, d, W, ROWS)
            here = near + tl.where((row == t - 1) & (column == end), alive, 0.0)
            here = tl.where((row >= 0) & (column >= 0), here, 0.0)
            tl.store(cells, here, mask=real(v, strip, d, t, s, W, ROWS))
            to_d = here * share_d0
            to_u = here * share_u0
            to_l = tl.maximum(here - to_d - to_u, 0.0) if HAS_LEFT else tl.zeros_like(here)
            if ROWS:
                stays = to_l
                moves = to_u
            else:
                stays = to_u
                moves = to_l
            moves += jump  # the diagonal steps of the step after arrive now
            jump = to_d
            tl.store(goes + d * P, moves, mask=(v == 0) & (p >= 0) & (strip > 0))
            near = stays + tl.where(v == W - 1, came0, tl.gather(moves, ahead, 1))
            came0 = came1
            came1 = tl.load(comes + (d - 2 - W) * P, mask=(p >= 0) & (i > 0) & (d >= W + 2), other=0.0)
            share_d0, share_d1, share_d2 = share_d1, share_d2, share_d3
            share_u0, share_u1, share_u2 = share_u1, share_u2, share_u3
            share_d3, share_u3 = share_at(kept - 4 * P * W, plane, always & (d >= 4), SOFT)
            kept -= P * W
            cells -= along_step
        tl.debug_barrier()

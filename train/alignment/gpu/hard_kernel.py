"""Hard alignment on the GPU: the least value and its path, in one kernel. `stencil.py` says how it walks."""

# triton types these functions by itself
# mypy: ignore-errors
from __future__ import annotations

import triton
import triton.language as tl

from .stencil import SIZES, cell_at, extent, first_cell, flow_back, lengths_of, on_step, real, ways

INF = tl.constexpr(float("inf"))


@triton.jit(do_not_specialize=SIZES)
def hard_tiles(
    matrix, t_lengths, s_lengths, value, path, codes, edges, flows,
    count, tiles, lanes, rows, columns, group_step, lane_step, across_step, along_step,
    out_group_step, out_lane_step, out_across_step, out_along_step, strips_room, depth,
    ROWS: tl.constexpr, UP_ALL: tl.constexpr, LEFT: tl.constexpr, HAS_LEFT: tl.constexpr,
    START: tl.constexpr, END: tl.constexpr, WANT: tl.constexpr, P: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    """value (problems,), path (all zeros) gets ones. Sums are in float64; between equals the diagonal step is
    taken, then up, then left. For each program: codes int8, strips_room x depth x P x W, the choice of each
    cell; edges float64 and flows float32, 2 x depth x P."""
    p = tl.arange(0, P)[:, None]
    v = tl.arange(0, W)[None, :]
    place = p * W + v
    behind = tl.maximum(v - 1, 0) + p * 0
    program = tl.program_id(0).to(tl.int64)
    layer = program * 0 + depth * (P * W)
    along_step = program * 0 + along_step  # int64: four of them may not fit into int32
    codes += program * strips_room * layer
    edges += program * depth * (2 * P)
    flows += program * depth * (2 * P)
    nothing = tl.full((P, W), INF, tl.float64)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        n = tile * P + p
        t = lengths_of(t_lengths, n, count, rows)
        s = lengths_of(s_lengths, n, count, columns)
        end, strips, steps = extent(t, s, W, ROWS, END)
        found = nothing
        for strip in range(0, strips):
            comes = edges + ((strip + 1) % 2) * depth * P + p
            goes = edges + (strip % 2) * depth * P + place // W
            kept = codes + strip * layer + place
            cells = matrix + first_cell(n, lanes, group_step, lane_step)
            cells += on_step(v, strip, 0, across_step, along_step, W)
            cost0 = tl.load(cells, mask=real(v, strip, 0, t, s, W, ROWS), other=0.0)
            cost1 = tl.load(cells + along_step, mask=real(v, strip, 1, t, s, W, ROWS), other=0.0)
            cost2 = tl.load(cells + 2 * along_step, mask=real(v, strip, 2, t, s, W, ROWS), other=0.0)
            cost3 = tl.load(cells + 3 * along_step, mask=real(v, strip, 3, t, s, W, ROWS), other=0.0)
            old, older_moved = nothing, nothing
            edge0 = tl.load(comes, mask=(p >= 0) & (strip > 0), other=INF)
            edge1 = tl.load(comes + P, mask=(p >= 0) & (strip > 0) & (steps > W), other=INF)
            for d in range(0, steps):
                row, column = cell_at(v, strip, d, W, ROWS)
                has_d, has_u, has_l, start, start_left = ways(row, column, s, UP_ALL, LEFT, START, END)
                moved = tl.where(v == 0, edge0, tl.gather(old, behind, 1))
                if ROWS:
                    from_u = moved
                    from_l = old
                else:
                    from_u = old
                    from_l = moved
                from_d = tl.where(has_d, older_moved, tl.where(start, 0.0, nothing))
                from_u = tl.where(has_u, from_u, nothing)
                from_l = tl.where(has_l, from_l, tl.where(start_left, 0.0, nothing))
                if WANT:
                    choice = tl.where(from_u <= from_l, 1, 2)
                    choice = tl.where((from_d <= from_u) & (from_d <= from_l), 0, choice)
                    tl.store(kept, choice.to(tl.int8))
                    kept += P * W
                older_moved = moved
                old = cost0.to(tl.float64) + tl.minimum(from_d, tl.minimum(from_u, from_l))
                tl.store(goes + (d - (W - 1)) * P, old, mask=(v == W - 1) & (p >= 0) & (d >= W - 1))
                found = tl.where((row == t - 1) & (column == end), old, found)
                edge0 = edge1
                edge1 = tl.load(
                    comes + (d + 2) * P, mask=(p >= 0) & (strip > 0) & (d + 2 <= steps - W), other=INF
                )
                cost0, cost1, cost2 = cost1, cost2, cost3
                cost3 = tl.load(cells + 4 * along_step, mask=real(v, strip, d + 4, t, s, W, ROWS), other=0.0)
                cells += along_step
            tl.debug_barrier()
        total = tl.min(found, 1, keep_dims=True)
        tl.store(value + n, total, mask=n < count)
        if WANT:
            flow_back(
                path + first_cell(n, lanes, out_group_step, out_lane_step), codes, 0, flows, t, s, end,
                tl.where(total < INF, 1.0, 0.0), strips, steps, depth, out_across_step, out_along_step,
                False, HAS_LEFT, ROWS, P, W,
            )  # fmt: skip

"""Soft alignment on the GPU: value and expected alignment, in one kernel. `stencil.py` says how it walks.

softmin_g(a) = -g log sum exp(-a / g) (Cuturi and Blondel, ICML 2017), so with P = exp(-D / g) the recurrence
is a sum of products, P[t, s] = exp(-cost / g) * (sum of the predecessors' P), in numbers of `powers.py`. The
forward pass keeps each predecessor's share of the sum, and the way back only multiplies and adds (TempCLR,
section 1.4 of the method file).
"""

# triton types these functions by itself
# mypy: ignore-errors
from __future__ import annotations

import triton
import triton.language as tl

from .powers import NOWAY, UNREACHABLE, WALL, logarithm, normal, packed, power, shrunk, unpacked
from .stencil import SIZES, cell_at, extent, first_cell, flow_back, lengths_of, on_step, real, ways


@triton.jit(do_not_specialize=[*SIZES, "scale"])
def soft_tiles(
    matrix, t_lengths, s_lengths, value, expected, shares, edges, flows,
    count, tiles, lanes, rows, columns, group_step, lane_step, across_step, along_step,
    out_group_step, out_lane_step, out_across_step, out_along_step, strips_room, depth, scale,
    ROWS: tl.constexpr, UP_ALL: tl.constexpr, LEFT: tl.constexpr, HAS_LEFT: tl.constexpr,
    START: tl.constexpr, END: tl.constexpr, WANT: tl.constexpr, P: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    """value (problems,), expected (all zeros). `scale` = -log2(e) / gamma makes a cost a power of two. For
    each program: shares float32, 2 x strips_room x depth x P x W, of the diagonal and of the upper
    predecessor (the left one has the rest); edges int64 and flows float32, 2 x depth x P."""
    p = tl.arange(0, P)[:, None]
    v = tl.arange(0, W)[None, :]
    place = p * W + v
    behind = tl.maximum(v - 1, 0) + p * 0
    program = tl.program_id(0).to(tl.int64)
    layer = program * 0 + depth * (P * W)
    along_step = program * 0 + along_step  # int64: four of them may not fit into int32
    plane = strips_room * layer
    shares += program * plane * 2
    edges += program * depth * (2 * P)
    flows += program * depth * (2 * P)
    one = tl.full((P, W), 1.0, tl.float32)
    wall = tl.full((P, W), WALL, tl.int32)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        n = tile * P + p
        t = lengths_of(t_lengths, n, count, rows)
        s = lengths_of(s_lengths, n, count, columns)
        end, strips, steps = extent(t, s, W, ROWS, END)
        found_m, found_e = one, wall
        for strip in range(0, strips):
            comes = edges + ((strip + 1) % 2) * depth * P + p
            goes = edges + (strip % 2) * depth * P + place // W
            kept = shares + strip * layer + place
            cells = matrix + first_cell(n, lanes, group_step, lane_step)
            cells += on_step(v, strip, 0, across_step, along_step, W)
            cost0 = tl.load(cells, mask=real(v, strip, 0, t, s, W, ROWS), other=0.0)
            cost1 = tl.load(cells + along_step, mask=real(v, strip, 1, t, s, W, ROWS), other=0.0)
            cost2 = tl.load(cells + 2 * along_step, mask=real(v, strip, 2, t, s, W, ROWS), other=0.0)
            cost3 = tl.load(cells + 3 * along_step, mask=real(v, strip, 3, t, s, W, ROWS), other=0.0)
            edge0 = tl.load(comes, mask=(p >= 0) & (strip > 0), other=NOWAY)
            edge1 = tl.load(comes + P, mask=(p >= 0) & (strip > 0) & (steps > W), other=NOWAY)
            m, e, older_m, older_e = one, wall, one, wall
            for d in range(0, steps):
                row, column = cell_at(v, strip, d, W, ROWS)
                has_d, has_u, has_l, start, start_left = ways(row, column, s, UP_ALL, LEFT, START, END)
                moved = tl.where(v == 0, edge0, tl.gather(packed(m, e), behind, 1))
                moved_m, moved_e = unpacked(moved)
                if ROWS:
                    m_u = moved_m
                    e_u = moved_e
                    m_l = m
                    e_l = e
                else:
                    m_u = m
                    e_u = e
                    m_l = moved_m
                    e_l = moved_e
                m_d = tl.where(start, 1.0, older_m)
                m_l = tl.where(start_left, 1.0, m_l)
                e_d = tl.where(has_d, older_e, tl.where(start, 0, wall))
                e_u = tl.where(has_u, e_u, wall)
                e_l = tl.where(has_l, e_l, tl.where(start_left, 0, wall))
                largest = tl.maximum(tl.maximum(e_d, e_u), e_l)
                from_d = shrunk(m_d, e_d, largest)
                from_u = shrunk(m_u, e_u, largest)
                total = from_d + from_u + shrunk(m_l, e_l, largest)
                if WANT:
                    share = 1.0 / total
                    tl.store(kept, from_d * share)
                    tl.store(kept + plane, from_u * share)
                    kept += P * W
                older_m, older_e = moved_m, moved_e
                grown, whole = power(cost0.to(tl.float32), scale)
                m, e = normal(grown * total, largest + whole)
                tl.store(goes + (d - (W - 1)) * P, packed(m, e), mask=(v == W - 1) & (p >= 0) & (d >= W - 1))
                ends = (row == t - 1) & (column == end)
                found_m = tl.where(ends, m, found_m)
                found_e = tl.where(ends, e, found_e)
                edge0 = edge1
                edge1 = tl.load(
                    comes + (d + 2) * P, mask=(p >= 0) & (strip > 0) & (d + 2 <= steps - W), other=NOWAY
                )
                cost0, cost1, cost2 = cost1, cost2, cost3
                cost3 = tl.load(cells + 4 * along_step, mask=real(v, strip, d + 4, t, s, W, ROWS), other=0.0)
                cells += along_step
            tl.debug_barrier()
        # every other place holds the least there is
        mantissa = tl.max(found_m, 1, keep_dims=True)
        exponent = tl.max(found_e, 1, keep_dims=True)
        tl.store(value + n, logarithm(mantissa, exponent, scale), mask=n < count)
        if WANT:
            alive = tl.where((exponent > UNREACHABLE) & (exponent < -UNREACHABLE), 1.0, 0.0)
            flow_back(
                expected + first_cell(n, lanes, out_group_step, out_lane_step), shares, plane, flows, t, s,
                end, alive, strips, steps, depth, out_across_step, out_along_step, True, HAS_LEFT, ROWS, P, W,
            )  # fmt: skip

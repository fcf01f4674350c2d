"""The baseline of bench_alignment_gpu.py: soft-DTW as pytorch-softdtw-cuda does it, one thread block a pair.

The same steps as its two CUDA kernels: a thread for each row, all anti-diagonals in turn, D (and the weights)
in global memory with a border of one cell, log-domain softmin, a barrier after each diagonal.
"""

# triton types these functions by itself
# mypy: ignore-errors
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def forward(cost, total, rows, columns, gamma, THREADS: tl.constexpr):
    """cost (B, T, S), total (B, T + 2, S + 2): infinite, 0 at the corner."""
    pair = tl.program_id(0).to(tl.int64)
    cost += pair * rows * columns
    total += pair * (rows + 2) * (columns + 2)
    wide = columns + 2
    row = tl.arange(0, THREADS)
    for d in range(0, rows + columns - 1):
        column = d - row
        mine = (row < rows) & (column >= 0) & (column < columns)
        at = (row + 1) * wide + column + 1
        a = -tl.load(total + at - wide - 1, mask=mine, other=0.0) / gamma
        b = -tl.load(total + at - wide, mask=mine, other=0.0) / gamma
        c = -tl.load(total + at - 1, mask=mine, other=0.0) / gamma
        most = tl.maximum(tl.maximum(a, b), c)
        summed = tl.exp(a - most) + tl.exp(b - most) + tl.exp(c - most)
        here = tl.load(cost + row * columns + column, mask=mine, other=0.0)
        tl.store(total + at, here - gamma * (tl.log(summed) + most), mask=mine)
        tl.debug_barrier()


@triton.jit
def backward(cost, total, weight, rows, columns, gamma, THREADS: tl.constexpr):
    """cost and total with a border (B, T + 2, S + 2), weight: zeros, 1 at the last corner."""
    pair = tl.program_id(0).to(tl.int64) * (rows + 2) * (columns + 2)
    cost += pair
    total += pair
    weight += pair
    wide = columns + 2
    row = tl.arange(0, THREADS)
    for i in range(0, rows + columns - 1):
        column = rows + columns - 2 - i - row
        mine = (row < rows) & (column >= 0) & (column < columns)
        at = (row + 1) * wide + column + 1
        here = tl.load(total + at, mask=mine, other=0.0)
        flow = tl.zeros((THREADS,), tl.float32)
        for step in tl.static_range(3):
            after = at + (1 if step == 0 else (wide if step == 1 else wide + 1))
            there = tl.load(total + after, mask=mine, other=0.0) - tl.load(cost + after, mask=mine, other=0.0)
            share = tl.exp((there - here) / gamma)
            flow += share * tl.load(weight + after, mask=mine, other=0.0)
        tl.store(weight + at, flow, mask=mine)
        tl.debug_barrier()

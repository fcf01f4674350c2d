"""Positive numbers of any size on the GPU: m * 2^e, m in [1, 2) float32 and e a whole int32 of its own.

A soft alignment sums products of exp(-cost / gamma), which leave the range of any float. Kept like this, a
cell costs one exp2 and no logarithm, and its relative error does not grow with the size of the sum
(`cpu/soft_kernel.py` does the same).
"""

# triton types these functions by itself
# mypy: ignore-errors
from __future__ import annotations

import triton
import triton.language as tl

#: the exponent of "no way at all"; sums of two stay within int32. At or below UNREACHABLE: no way
WALL = tl.constexpr(-(1 << 29))
UNREACHABLE = tl.constexpr(-(1 << 28))
#: `packed(1.0, WALL)`
NOWAY = tl.constexpr((-(1 << 29) << 32) | 0x3F800000)
LARGEST = tl.constexpr(float(1 << 29))


@triton.jit
def power(x, scale):
    """2^(x * scale) as (float32 in [0.7, 1.42), int32); infinities become walls."""
    whole = tl.floor(tl.minimum(tl.maximum(x * scale, -LARGEST), LARGEST) + 0.5)
    fraction = tl.fma(x, scale, -whole)  # one rounding, however large x * scale is
    fraction = tl.minimum(tl.maximum(fraction, -0.5), 0.5)
    return tl.exp2(fraction), whole.to(tl.int32)


@triton.jit
def shrunk(m, e, largest):
    """m * 2^(e - largest) for e <= largest; 0 for what is 2^127 times smaller."""
    exponent = tl.maximum(e - largest, -127) + 127
    return m * (exponent << 23).to(tl.float32, bitcast=True)


@triton.jit
def normal(x, e):
    """x * 2^e with x > 0 as (m, e)."""
    bits = x.to(tl.int32, bitcast=True)
    m = ((bits & 0x7FFFFF) | 0x3F800000).to(tl.float32, bitcast=True)
    return m, tl.minimum(tl.maximum(e + (bits >> 23) - 127, WALL), -WALL)


@triton.jit
def added(m, e, n, f):
    """m * 2^e + n * 2^f."""
    largest = tl.maximum(e, f)
    return normal(shrunk(m, e, largest) + shrunk(n, f, largest), largest)


@triton.jit
def packed(m, e):
    """Both in one int64: one move between threads, one place in memory."""
    return (e.to(tl.int64) << 32) | m.to(tl.int32, bitcast=True).to(tl.int64)


@triton.jit
def unpacked(both):
    return (both & 0xFFFFFFFF).to(tl.int32).to(tl.float32, bitcast=True), (both >> 32).to(tl.int32)


@triton.jit
def logarithm(m, e, scale):
    """log2(m * 2^e) / scale in float64: infinite where there is no way (or a way for nothing at all)."""
    log = tl.log2(m).to(tl.float64) + e.to(tl.float64)
    log = tl.where(e <= UNREACHABLE, -float("inf"), log)
    return tl.where(e >= -UNREACHABLE, float("inf"), log) / scale

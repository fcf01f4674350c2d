"""One look over a tensor: is everything finite, and how large is the largest size? At the speed of memory."""

# numba types its functions by itself
# mypy: disable-error-code="no-untyped-def,var-annotated,call-arg"
from __future__ import annotations

import math

import numpy as np
import torch
from numba import njit
from torch import Tensor

from .lanes import flat_of
from .simd import load, most, size, splat, store


def largest(matrix: Tensor) -> float:
    """The largest |x| of a CPU tensor in any layout; nan where anything is NaN or infinite."""
    extent = 1 + sum((n - 1) * stride for n, stride in zip(matrix.shape, matrix.stride(), strict=True))
    if extent != matrix.numel() or matrix.dtype not in (torch.float32, torch.float64):
        high = float(matrix.detach().abs().max())
        return high if math.isfinite(high) else math.nan
    return float(_largest(flat_of(matrix)))


@njit(nogil=True, cache=True, error_model="numpy", boundscheck=False)
def _largest(flat):
    zero = splat(flat.dtype.type(0))
    a = b = c = d = e = f = g = h = zero
    whole = len(flat) // 64 * 64
    for i in range(0, whole, 64):  # four at once hide the latency of the running maximum
        w, x, y, z = load(flat, i), load(flat, i + 16), load(flat, i + 32), load(flat, i + 48)
        a, b, c, d = most(a, size(w)), most(b, size(x)), most(c, size(y)), most(d, size(z))
        e, f, g, h = e + w * zero, f + x * zero, g + y * zero, h + z * zero  # NaN once anything is not finite
    lanes = np.empty(32, flat.dtype)
    store(lanes, 0, most(most(a, b), most(c, d)))
    store(lanes, 16, e + f + g + h)
    high, faults = lanes[:16].max(), lanes[16:].sum()
    for i in range(whole, len(flat)):
        high = max(high, abs(flat[i]))
        faults += flat[i] * flat.dtype.type(0)
    return high + faults

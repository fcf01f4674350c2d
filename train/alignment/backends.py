"""Which code computes an alignment: numba on the CPU, Triton on a GPU, plain torch everywhere else.

A backend is a module with five functions. `matrix` is (G, L, T, S) in any memory layout, `t` and `s` (G, L)
int64 its lengths; what lies beyond them is never used, NaN included. A result has the matrix's dtype.

    hard(matrix, t, s, pattern, want_path)               -> value (G, L), path (G, L, T, S) of ones or None
    soft(matrix, t, s, pattern, gamma, want_expected)    -> value (G, L), expected (G, L, T, S) or None
    labels(similarity, t, s)                             -> (G, L, T) int64, -1 beyond the length
    soft_labels(similarity, t, s, gamma, want_expected)  -> value (G, L), posteriors (G, L, T, S) or None
    drop(cost, t, s, frame_drop (G, L, T), step_drop (G, L, S), contiguous)
                                                         -> (G, L, T) int64, -1: left out

A problem with no way at all has the value inf (-inf for labels, which maximise), and weights of zeros.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

from ...cache.errors import StepclipError, nearest
from .problems import Problems, limit

BACKENDS = ("auto", "numba", "triton", "torch")


def choose(name: str, p: Problems, *, gamma: float | None = None) -> ModuleType:
    """The backend for these problems. "auto": numba for the CPU, Triton for CUDA; plain torch where those
    are not installed, for the soft forms in float64, and where costs are so large against gamma that float32
    would lose digits. StepclipError: an unknown backend, or one that cannot do this."""
    if name not in BACKENDS:
        raise StepclipError(f"backend {name!r}{nearest(name, BACKENDS)}", f"one of {', '.join(BACKENDS)}")
    why_not = _why_not(p, gamma)
    if name == "torch" or (name == "auto" and (why_not or not _there(p.matrix.device.type))):
        return _torch()
    if name == "auto":
        return _numba() if p.matrix.device.type == "cpu" else _triton()
    if why_not:
        raise StepclipError(f"backend {name!r} for {why_not}", "backend='auto' or 'torch'")
    if not _there("cpu" if name == "numba" else "cuda"):
        raise StepclipError(f"backend {name!r}, which is not installed", "backend='auto' or 'torch'")
    return _numba() if name == "numba" else _triton()


def _why_not(p: Problems, gamma: float | None) -> str:
    if gamma is None:
        return ""
    if p.matrix.dtype == torch.float64:
        return "a soft alignment in float64"
    if p.largest > limit(p.matrix, gamma):
        return f"costs up to {p.largest:.3g} at gamma {gamma:g}, which need float64"
    return ""


@cache
def _there(device: str) -> bool:
    needs = {"cpu": ["numba"], "cuda": ["triton", f"{__package__}.gpu"]}.get(device)
    return needs is not None and all(find_spec(name) is not None for name in needs)


def _torch() -> ModuleType:
    from . import portable

    return portable


def _numba() -> ModuleType:
    from . import cpu

    return cpu


def _triton() -> ModuleType:
    return import_module(".gpu", __package__)


class Value(torch.autograd.Function):
    """A value whose gradient is already known: (matrix, value (G, L), gradient (G, L, T, S)) -> value.

    The backward pass is one multiplication."""

    @staticmethod
    def forward(ctx, matrix: Tensor, value: Tensor, gradient: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream: Tensor):  # type: ignore[no-untyped-def]
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[..., None, None], None, None

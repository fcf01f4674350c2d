"""What the sum along a path is divided by, as named options.

Distances of pairs of different lengths are compared after one of these; `methods/tempclr.md` 7.5 has what
each does to retrieval ("L+N" best, "sum" the paper's).
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from ...cache.errors import StepclipError, nearest

Normalise = Literal["sum", "path", "L+N", "L*N", "max"]


def check_normalise(kind: str) -> None:
    if kind not in (known := get_args(Normalise)):
        raise StepclipError(f"normalise={kind!r}{nearest(kind, known)}", f"one of {', '.join(known)}")


def normaliser(kind: str, t: Tensor, s: Tensor, path: Tensor | None) -> Tensor | None:
    """(G, L) to divide by, None for "sum". "path": the number of cells on the path; in the soft forms its
    expectation, taken as a constant by the gradient."""
    if kind == "sum":
        return None
    if kind == "path":
        assert path is not None
        return path.sum((-2, -1)).clamp(min=1)
    return {"L+N": t + s, "L*N": t * s, "max": torch.maximum(t, s)}[kind]

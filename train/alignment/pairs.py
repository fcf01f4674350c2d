"""All pairs of two sets of sequences: features to a (B, C) table of distances, with gradients for both sides.

One matrix product per chunk of sequences makes the costs, laid out with the pair's second index innermost, as
the CPU kernels want them, so nothing is transposed and nothing of size B x C x T x D ever exists. Where the
chunks of a training step would not fit in memory together, they are computed again in the backward pass.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from ...cache.errors import StepclipError, nearest
from .costs import Cost, find_cost, norms, raised
from .normalise import check_normalise
from .otam import transposed
from .patterns import DTW, OTAM, SUBSEQUENCE, Pattern
from .problems import Problems, largest_size, problems
from .transport import sinkhorn
from .warping import _check_gamma, pattern_value

LANES = 16
#: costs of one chunk: on a CPU what stays in the cache between the product and the kernel
CPU_CHUNK, GPU_CHUNK = 4 << 20, 1 << 30
#: beyond this, a step keeps no expected alignments and computes its chunks twice
KEEP = 2 << 30

_HARD: dict[str, Pattern] = {"dtw": DTW, "otam": OTAM, "subsequence": SUBSEQUENCE}
_SOFT: dict[str, Pattern] = {"soft_dtw": DTW, "soft_otam": OTAM, "soft_subsequence": SUBSEQUENCE}
DISTANCES = (*_HARD, *_SOFT, "sinkhorn")


def pairs(
    a: Tensor,
    b: Tensor,
    distance: str = "dtw",
    *,
    lengths_a: Tensor | None = None,
    lengths_b: Tensor | None = None,
    cost: str = "cosine",
    temperature: float = 0.07,
    gamma: float = 0.1,
    normalise: str = "sum",
    chunk_bytes: int | None = None,
    keep_bytes: int = KEEP,
    backend: str = "auto",
    check: bool = True,
) -> Tensor:
    """`a` (B, T, D) against `b` (C, S, D) -> (B, C), differentiable in both.

    distance: dtw, soft_dtw, otam, soft_otam (both directions added), subsequence, soft_subsequence (all of b
    inside a), sinkhorn (epsilon = gamma). `lengths_a` (B,), `lengths_b` (C,): real rows; the rest is never
    used. `cost`, `temperature`: `costs.py`; `gamma` in units of the cost. `chunk_bytes`: costs that exist at
    once; `keep_bytes`: expected alignments that a training step may keep. StepclipError: unknown names,
    shapes or lengths that do not fit, NaN or infinite features.
    """
    kind = find_cost(cost)
    check_normalise(normalise)
    _check_gamma(gamma)
    if distance not in DISTANCES:
        raise StepclipError(
            f"distance {distance!r}{nearest(distance, DISTANCES)}", f"one of {', '.join(DISTANCES)}"
        )
    if (
        not all(isinstance(x, Tensor) and x.ndim == 3 and x.shape[1] for x in (a, b))
        or a.shape[2] != b.shape[2]
    ):
        shapes = [tuple(getattr(x, "shape", ())) or type(x).__name__ for x in (a, b)]
        raise StepclipError(f"features {shapes[0]} and {shapes[1]}", "tensors (B, T, D) and (C, S, D)")
    if distance == "sinkhorn" and normalise != "sum":
        raise StepclipError(f"normalise={normalise!r} with sinkhorn", "'sum': its plan has mass 1")
    t, s = _lengths(lengths_a, a, "lengths_a", check), _lengths(lengths_b, b, "lengths_b", check)
    a, b = raised(a, b)
    a = _prepared(a, None if lengths_a is None else t, "a", check)
    b = _prepared(b, None if lengths_b is None else s, "b", check)
    if not len(a) or not len(b):
        return (a.sum() + b.sum()) * a.new_zeros(len(a), len(b))

    turned = len(a) > len(b) and a.device.type == "cpu"  # the longer list goes innermost
    if turned:
        a, b, t, s = b, a, s, t
    count = len(b)
    if a.device.type == "cpu" and count % LANES and count >= LANES // 2:
        b, s = pad(b, (0, 0, 0, 0, 0, -count % LANES)), pad(s, (0, -count % LANES), value=1)

    u, v = (norms(a), norms(b)) if kind.norms else (None, None)
    a, right = (kind.right(a), _right(kind.left(b))) if turned else (kind.left(a), _right(kind.right(b)))

    def chunk(part: Tensor, lengths: Tensor, u: Tensor | None, right: Tensor, v: Tensor | None) -> Tensor:
        steps = lengths if turned else s
        matrix = _costs(part, right, steps, u, v, b.shape[:2], kind, temperature, turned)
        rows, columns = lengths[:, None].expand(-1, len(s)), s[None].expand(len(part), -1)
        if turned:
            rows, columns = columns, rows
        return _distance(matrix, rows, columns, kind, distance, gamma, normalise, backend)[:, :count]

    one = a.shape[1] * b.shape[1] * len(b) * a.element_size()
    size = max(1, (chunk_bytes or (CPU_CHUNK if a.device.type == "cpu" else GPU_CHUNK)) // one)
    again = torch.is_grad_enabled() and (a.requires_grad or b.requires_grad) and one * len(a) > keep_bytes
    tables = []
    for first in range(0, len(a), size):
        part = slice(first, first + size)
        arguments = (a[part], t[part], None if u is None else u[part], right, v)
        tables.append(checkpoint(chunk, *arguments, use_reentrant=False) if again else chunk(*arguments))
    table = torch.cat(tables)
    return table.T if turned else table


def _right(b: Tensor) -> Tensor:
    """The right side of the product: (C, S, D) -> (D, S * C) on a CPU, so that C comes out innermost, and
    (D, C * S) elsewhere."""
    if b.device.type == "cpu":
        return b.permute(2, 1, 0).reshape(b.shape[2], -1)
    return b.reshape(-1, b.shape[2]).T


def _costs(
    part: Tensor,
    right: Tensor,
    steps: Tensor,
    u: Tensor | None,
    v: Tensor | None,
    other: torch.Size,
    kind: Cost,
    temperature: float,
    turned: bool,
) -> Tensor:
    """(G, T, D) against `other` = (C, S) -> costs (G, C, T, S); `turned`: the first are the steps, and the
    matrix comes out as (G, C, rows of the second, rows of the first)."""
    (g, t, d), (c, s) = part.shape, other
    with torch.autocast(part.device.type, enabled=False):  # sums over paths need the digits
        product = part.reshape(g * t, d) @ right
    if right.device.type == "cpu":
        product = product.view(g, t, s, c).permute(0, 3, 1, 2)
    else:
        product = product.view(g, t, c, s).permute(0, 2, 1, 3)
    u = None if u is None else u[:, None, :, None]
    v = None if v is None else v[None, :, None, :]
    if turned:
        product = product.transpose(-1, -2)
        u, v = (None if x is None else x.transpose(-1, -2) for x in (v, u))
    if kind.finish is None:
        return product
    real = None
    if kind.masked:
        step = torch.arange(product.shape[3], device=product.device)
        real = step < (steps[:, None, None, None] if turned else steps[None, :, None, None])
    return kind.finish(product, u, v, real, temperature)


def _distance(
    matrix: Tensor,
    t: Tensor,
    s: Tensor,
    kind: Cost,
    distance: str,
    gamma: float,
    normalise: str,
    backend: str,
) -> Tensor:
    if distance == "sinkhorn":
        return sinkhorn(matrix, gamma, (t, s), check=False)
    soft = gamma if distance in _SOFT else None
    if kind.bound is None:
        p = problems(matrix, (t, s), gamma=soft, check=False)
    else:  # nothing to look at: the features were finite, and the cost is bounded
        p = Problems(matrix, t, s, matrix.shape[:2], finite=True, largest=kind.bound)
    pattern = _HARD.get(distance) or _SOFT[distance]
    value = pattern_value(p, pattern, soft, normalise, backend)
    if pattern is OTAM:
        value = value + pattern_value(transposed(p), pattern, soft, normalise, backend)
    return value


def _prepared(x: Tensor, lengths: Tensor | None, name: str, check: bool) -> Tensor:
    """Zeros beyond the lengths, and finite."""
    if lengths is not None:
        real = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
        x = torch.where(real[..., None], x, x.new_zeros(()))
    if check and x.numel() and not math.isfinite(largest_size(x.detach())):
        raise StepclipError(f"NaN or infinity in the features {name}", "finite numbers within the lengths")
    return x


def _lengths(given: Tensor | None, x: Tensor, name: str, check: bool) -> Tensor:
    if given is None:
        return torch.full((len(x),), x.shape[1], dtype=torch.int64, device=x.device)
    lengths = torch.as_tensor(given, device=x.device)
    if lengths.is_floating_point() or lengths.shape != (len(x),):
        raise StepclipError(
            f"{name} of shape {tuple(lengths.shape)}, {lengths.dtype}", f"({len(x)},) whole numbers"
        )
    if check and len(x) and bool(((lengths < 1) | (lengths > x.shape[1])).any()):
        raise StepclipError(
            f"{name} from {int(lengths.min())} to {int(lengths.max())}", f"lengths from 1 to {x.shape[1]}"
        )
    return lengths.to(torch.int64)

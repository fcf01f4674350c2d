"""Distances between two videos: of their pooled embeddings, and of their frames put in order (DTW)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from ..cache.errors import StepclipError, nearest
from ..train.alignment import dtw, pairs, soft_dtw
from .embed import Embedded

POOLED = ("norm-l2", "euclid", "l2", "l1", "cos")
DISTANCES = ("pooled", "alignment", "combined")
EXPLAINED_DISTANCES = {
    "pooled": "squared distance of the L2-normalised video embeddings",
    "alignment": "DTW of the frame embeddings",
    "combined": "half and half, each in its own standard deviation",
}
CHUNK_BYTES = 256 << 20
BLOCK = 128  # videos that are aligned with as many others at once
SAME = 1e-6
GAMMA = 0.1  # of the soft alignment


def pair_rows(embedded: Embedded, pairs: Sequence[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
    """Positions (P,) of the first and second video of each pair."""
    rows = [(embedded.row(a), embedded.row(b)) for a, b in pairs]
    both = np.asarray(rows, dtype=np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def pooled(video: torch.Tensor, a: np.ndarray, b: np.ndarray, kind: str = "norm-l2") -> np.ndarray:
    """Distance (P,) of pooled embeddings `video` (V, E), rows `a` against rows `b`.

    norm-l2: squared Euclidean distance of the L2-normalised vectors, 2 - 2 cos, the released `NormL2`
    (`methods/weaksvr.md` 5.1); euclid: its root, as the papers write it; l2: squared Euclidean; l1: sum of
    absolute differences; cos: 1 - cosine (the official `cos` is a similarity, so its AUC comes out inverted).
    """
    if kind not in POOLED:
        raise StepclipError(f"unknown pooled distance {kind!r}{nearest(kind, POOLED)}", ", ".join(POOLED))
    chunk = max(1, CHUNK_BYTES // (4 * 8 * video.shape[1]))
    parts = zip(torch.as_tensor(a).split(chunk), torch.as_tensor(b).split(chunk), strict=True)
    values = [_pooled(video[i].double(), video[j].double(), kind).cpu() for i, j in parts]
    return torch.cat(values).numpy() if values else np.zeros(0)


def _pooled(x: torch.Tensor, y: torch.Tensor, kind: str) -> torch.Tensor:
    if kind == "l1":
        return (x - y).abs().sum(-1)
    if kind == "l2":
        return (x - y).square().sum(-1)
    x, y = F.normalize(x, dim=-1), F.normalize(y, dim=-1)
    if kind == "cos":
        return 1 - (x * y).sum(-1)
    value = (x - y).square().sum(-1)
    return value.sqrt() if kind == "euclid" else value


def alignment(
    embedded: Embedded,
    a: np.ndarray,
    b: np.ndarray,
    *,
    chunk_bytes: int = CHUNK_BYTES,
    step: Callable[[int], None] | None = None,
) -> np.ndarray:
    """DTW distance (P,) of frame embeddings: sum of 1 - cosine along the best path, divided by T + S.

    Pairs go in padded, masked batches of similar size that fit in `chunk_bytes`; `step(n)` is told of every n
    pairs done.
    """
    out = np.zeros(len(a))
    if len(a) == 0:
        return out
    frames = F.normalize(embedded.frames, dim=-1)
    lengths = embedded.lengths
    t, s = lengths[a], lengths[b]
    order = np.argsort(np.maximum(t, s), kind="stable")
    width = frames.shape[1]
    first = 0
    while first < len(order):
        # Halve the guess until it fits, with room for the diagonals that DTW keeps.
        last = min(len(order), first + 4096)
        while last - first > 1:
            longest = int(max(t[order[first:last]].max(), s[order[first:last]].max()))
            if (last - first) * longest * (6 * longest + 2 * width) * 4 <= chunk_bytes:
                break
            last = first + (last - first + 1) // 2
        part = order[first:last]
        x, nx = _padded(frames, embedded.offsets[a[part]], t[part])
        y, ny = _padded(frames, embedded.offsets[b[part]], s[part])
        with torch.no_grad():
            cost = 1 - torch.bmm(x, y.transpose(1, 2))
            out[part] = dtw(cost, (nx, ny), normalise="L+N").double().cpu().numpy()
        if step:
            step(len(part))
        first = last
    return np.maximum(out, 0)  # a video against itself rounds to a little less


def diagonal(views: Embedded, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Frame t against frame t, distance (P,): the mean of 1 - cosine of embeddings of one length.

    The order-aware distance without warping, what SVIP's alignment loss asks of the frames (`methods/
    weaksvr.md` 4.4). `views` from `embed_views`; StepclipError when the videos differ in frames.
    """
    frames = _same_length(views)
    x, y = frames[torch.as_tensor(a)], frames[torch.as_tensor(b)]
    return (1 - (x * y).sum(-1).mean(-1)).double().cpu().numpy()


def soft_alignment(views: Embedded, a: np.ndarray, b: np.ndarray, gamma: float = GAMMA) -> np.ndarray:
    """Soft-DTW divergence (P,) of embeddings of one length, 1 - cosine, divided by 2 N.

    The soft minimum over all warping paths, less half of what each video has with itself, so that it is 0
    for equal ones and never negative (Blondel, Mensch and Vert, AISTATS 2021). `views` from `embed_views`.
    """
    frames = _same_length(views)

    def value(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return soft_dtw(1 - torch.bmm(x, y.transpose(1, 2)), gamma, normalise="L+N").double()

    alone = torch.cat([value(x, x) for x in frames.split(4096)])
    out = []
    for left, right in zip(torch.as_tensor(a).split(4096), torch.as_tensor(b).split(4096), strict=True):
        both = value(frames[left], frames[right])
        out.append((both - (alone[left] + alone[right]) / 2).clamp(min=0).cpu())
    return torch.cat(out).numpy() if out else np.zeros(0)


def _same_length(views: Embedded) -> torch.Tensor:
    """Unit frame embeddings (V, N, E); StepclipError when the videos differ in frames."""
    if len(set(views.lengths.tolist())) > 1:
        raise StepclipError("videos of different numbers of frames", "the same number each: embed_views")
    return F.normalize(views.frames, dim=-1).view(len(views), -1, views.frames.shape[-1])


def _padded(
    frames: torch.Tensor, starts: np.ndarray, lengths: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of several videos as one batch (P, T, E), padded with the last row, and the lengths (P,)."""
    n = torch.as_tensor(lengths, device=frames.device)
    position = torch.arange(int(n.max()), device=frames.device).minimum(n[:, None] - 1)
    return frames[torch.as_tensor(starts, device=frames.device)[:, None] + position], n


def distance_of(
    kind: str,
    embedded: Embedded,
    a: np.ndarray,
    b: np.ndarray,
    *,
    step: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Distance (P,) by the name a recipe gives it (`evaluate.distance`): pooled, alignment or combined."""
    if kind not in DISTANCES:
        raise StepclipError(f"unknown distance {kind!r}{nearest(kind, DISTANCES)}", ", ".join(DISTANCES))
    if kind == "pooled":
        return pooled(embedded.video, a, b)
    ordered = alignment(embedded, a, b, step=step)
    return ordered if kind == "alignment" else combined(pooled(embedded.video, a, b), ordered)


def every_pair(
    embedded: Embedded, kind: str = "alignment", *, step: Callable[[int], None] | None = None
) -> np.ndarray:
    """Distance (V, V) between all videos: `pooled` (norm-l2) or `alignment`, as those of pairs are.

    Videos are aligned in blocks of similar length, all of a block with all of another at once; `step(n)` is
    told of every n pairs done.
    """
    if kind == "pooled":
        unit = F.normalize(embedded.video.double(), dim=-1)
        return (2 - 2 * unit @ unit.T).clamp(min=0).cpu().numpy()
    frames = F.normalize(embedded.frames, dim=-1)
    order = np.argsort(embedded.lengths, kind="stable")
    out = np.zeros((len(embedded), len(embedded)))
    blocks = [order[first : first + BLOCK] for first in range(0, len(order), BLOCK)]
    padded = [_padded(frames, embedded.offsets[block], embedded.lengths[block]) for block in blocks]
    for i, (mine, (x, nx)) in enumerate(zip(blocks, padded, strict=True)):
        for theirs, (y, ny) in zip(blocks[: i + 1], padded[: i + 1], strict=True):
            with torch.no_grad():
                table = pairs(x, y, lengths_a=nx, lengths_b=ny, cost="cosine", normalise="L+N")
            out[np.ix_(mine, theirs)] = table.double().cpu().numpy()
            out[np.ix_(theirs, mine)] = out[np.ix_(mine, theirs)].T
            if step:
                step(len(mine) * len(theirs))
    return out


def combined(first: np.ndarray, second: np.ndarray, weight: float = 0.5) -> np.ndarray:
    """Weighted sum (P,) of two distances, each in units of its own standard deviation over these pairs.

    No label is used. The mean is not taken off: it would change neither the order of the pairs nor the AUC,
    and would make the distances negative, for which a WDR has no meaning.
    """
    return (1 - weight) * _scaled(first) + weight * _scaled(second)


def _scaled(distance: np.ndarray) -> np.ndarray:
    spread = float(np.std(distance)) if len(distance) else 0.0
    # both are cosines by nature: what differs by the rounding of a sum alone is equal, not worth a unit
    return distance / spread if spread > SAME else distance.round(6)

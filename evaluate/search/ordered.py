"""Re-ranking by order: a script, or a video, is aligned with each candidate's 64 windows.

A candidate is kept as at most 64 windows: means of neighbouring unit frame embeddings, unit again, in
bfloat16. Recall by single vectors does not see order; what it finds is compared here in two passes.

First all candidates at once, in bfloat16: the DTW of windows and steps, its cost per window. Then the best of
them, in float32: the score of a script is that of its steps, each counted once however long it takes, the
mean over the steps of the mean, over the windows that the best monotone path gives the step, of

    cos(window, step) + tau log softmax over the script's steps (cos / tau),   tau = 0.07

The first term says how well the video fits the script, the second how well the path fits the order: it does
not grow with a video that fits every step everywhere.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F

from ...train.alignment import dtw, monotone

WINDOWS = 64
TAU = 0.07
CHUNK = 64  # candidates whose windows lie in the processor's cache together
FINE = 16  # candidates, at least, that are compared again


@dataclass(frozen=True)
class Windows:
    """Windows of many videos: `rows` (N, E) bfloat16, `first` (V+1,) int64; a video has at most WINDOWS."""

    rows: torch.Tensor
    first: np.ndarray

    def __len__(self) -> int:
        return len(self.first) - 1

    def padded(self, videos: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, W, E) bfloat16 of some videos, W their longest, padded by their last rows, and lengths (B,)."""
        at, lengths = self.places(videos)
        taken = torch.index_select(self.rows, 0, at.flatten())
        return taken.view(*at.shape, -1), lengths

    def places(self, videos: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows (B, W) and lengths (B,) of some videos."""
        start = torch.as_tensor(self.first[videos])
        lengths = torch.as_tensor(self.first[np.asarray(videos) + 1]) - start
        within = torch.arange(int(lengths.max()))
        return start[:, None] + within.minimum(lengths[:, None] - 1), lengths


def window_edges(frames: int, windows: int = WINDOWS) -> np.ndarray:
    """First frame of each window and the end, (W+1,): W is `windows`, or `frames` where those are fewer."""
    count = min(frames, windows)
    return -(-np.arange(count + 1) * frames // count)


def make_windows(frames: torch.Tensor, offsets: np.ndarray) -> Windows:
    """Windows of videos whose frame embeddings are `frames` (N, E), at `offsets` (V+1,)."""
    unit = F.normalize(frames.float(), dim=-1)
    edges = [window_edges(int(b - a)) + a for a, b in pairwise(offsets)]
    counts = np.array([len(e) - 1 for e in edges])
    starts = np.concatenate([e[:-1] for e in edges])
    owner = torch.as_tensor(np.searchsorted(starts, np.arange(len(unit)), side="right") - 1)
    total = torch.zeros(len(starts), unit.shape[1]).index_add_(0, owner, unit.cpu())
    rows = F.normalize(total, dim=-1).to(torch.bfloat16)
    return Windows(rows, np.concatenate(([0], np.cumsum(counts))).astype(np.int64))


def _path_means(fit: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean (B, S) of `fit` (B, W, S) over the windows whose label is each step; 0 where a step has none."""
    inside = (labels >= 0).to(fit.dtype)
    labels = labels.clamp(min=0)
    along = fit.gather(2, labels[..., None])[..., 0] * inside
    zeros = fit.new_zeros(len(fit), fit.shape[2])
    return zeros.scatter_add(1, labels, along) / zeros.scatter_add(1, labels, inside).clamp(min=1)


def coarse(windows: Windows, videos: np.ndarray, steps: torch.Tensor) -> np.ndarray:
    """First pass: scores (B,) of candidate `videos` (B,) against unit `steps` (S, E) float32: minus the DTW
    of 1 - cosine, divided by the longer length.

    bfloat16 halves what is read, and a chunk's windows are multiplied while they lie in the cache: what costs
    is the product, then the gather, then the alignment.
    """
    query = -steps.to(torch.bfloat16)
    videos = np.asarray(videos)
    whole = len(windows.rows) == WINDOWS * len(windows)  # all videos have 64: taken as blocks
    source = windows.rows.view(torch.int16).numpy()  # numpy takes rows faster, and knows no bfloat16
    if whole:
        place, width, sizes = videos, WINDOWS, None
        source = source.reshape(len(windows), -1)
    else:
        at, lengths = windows.places(videos)
        place, width = at.numpy(), at.shape[1]
        sizes = (lengths, torch.full_like(lengths, len(query)))
    count = len(videos)
    buffer = _scratch.take("windows", (min(CHUNK, count) * width, windows.rows.shape[1]), torch.bfloat16)
    cost = _scratch.take("cost", (len(query), count, width), torch.float32)
    for first in range(0, count, CHUNK):
        part = place[first : first + CHUNK]
        taken = buffer[: len(part) * width]
        into = taken.view(torch.int16).numpy().reshape(part.size, -1)
        np.take(source, part.ravel(), axis=0, out=into, mode="clip")  # "raise" would copy once more
        cost[:, first : first + len(part)] = (query @ taken.T).view(len(query), len(part), width)
    return -dtw(cost.add_(1).permute(1, 2, 0), sizes, normalise="max", check=False).numpy()


class _Scratch(threading.local):
    """Memory that a thread uses again: new memory costs a page fault for every 4 kB, as much as the rest."""

    def __init__(self) -> None:
        self.kept: dict[str, torch.Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        size = math.prod(shape)
        if name not in self.kept or len(self.kept[name]) < size:
            self.kept[name] = torch.empty(size, dtype=dtype)
        return self.kept[name][:size].view(shape)


_scratch = _Scratch()


@dataclass(frozen=True)
class Fitted:
    """`scores` (B,); `labels` (B, W) the step of each window, -1 beyond; `cosines` (B, S) of each step."""

    scores: np.ndarray
    labels: np.ndarray
    cosines: np.ndarray


def fine(windows: Windows, videos: np.ndarray, steps: torch.Tensor) -> Fitted:
    """Second pass, float32, with the path: candidate `videos` (B,) against unit `steps` (S, E)."""
    at, lengths = windows.places(videos)
    taken = _scratch.take("windows", (at.numel(), windows.rows.shape[1]), torch.bfloat16)
    rows = _scratch.take("rows", tuple(taken.shape), torch.float32)
    rows.copy_(torch.index_select(windows.rows, 0, at.flatten(), out=taken))
    rows /= rows.norm(dim=-1, keepdim=True)  # bfloat16 left them a thousandth from unit length
    cosine = (rows @ steps.T).view(*at.shape, len(steps))
    fit = cosine + TAU * F.log_softmax(cosine / TAU, -1)
    labels = monotone(fit, (lengths, torch.full_like(lengths, len(steps))), visit_all=True)
    scores = _path_means(fit, labels).mean(1)
    return Fitted(scores.numpy(), labels.numpy(), _path_means(cosine, labels).numpy())


def script_order(
    windows: Windows, videos: np.ndarray, steps: torch.Tensor, top: int
) -> tuple[np.ndarray, Fitted]:
    """The `top` of candidate `videos`, best first, and their fit, by both passes."""
    kept = np.asarray(videos)
    most = max(FINE, 2 * top)
    if len(kept) > most:
        scores = coarse(windows, kept, steps)
        kept = kept[np.argsort(-scores, kind="stable")[:most]]
    fitted = fine(windows, kept, steps)
    best = np.argsort(-fitted.scores, kind="stable")[:top]
    return kept[best], Fitted(fitted.scores[best], fitted.labels[best], fitted.cosines[best])


def video_order(windows: Windows, videos: np.ndarray, query: torch.Tensor, top: int) -> tuple:
    """The `top` of candidate `videos` by DTW with the query's unit windows (Q, E): (videos, scores), best
    first; the score is 1 - 2 * the sum of 1 - cosine along the best path / (W + Q), 1 for equal videos."""
    scores = np.zeros(len(videos))
    query = F.normalize(query, dim=-1)  # bfloat16 left all windows a thousandth from unit length
    for first in range(0, len(videos), CHUNK):
        rows, lengths = windows.padded(videos[first : first + CHUNK])
        cost = 1 - F.normalize(rows.float(), dim=-1) @ query.T
        sizes = (lengths, torch.full_like(lengths, len(query)))
        scores[first : first + CHUNK] = 1 - 2 * dtw(cost, sizes, normalise="L+N").numpy()
    best = np.argsort(-scores, kind="stable")[:top]
    return np.asarray(videos)[best], scores[best]

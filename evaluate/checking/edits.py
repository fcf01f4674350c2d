"""Which change of its script explains a recording better: the evidence of a check.

A recording is aligned with its script by Drop-DTW: each step takes one stretch of frames, frames that fit no
step are background. A frame at step k costs background - cos(frame, step), a frame of the background nothing;
so the value V of a script is minus how far its steps stand out. Every single edit of the script is tried:

| kind | edit | what it says |
|---|---|---|
| missing | step k is taken out | k was not done |
| moved | step k stands elsewhere | k was done out of order |
| repeated | step k stands a second time elsewhere | k was done again |
| added | another sentence is put in | something else was done there |

and its gain is V(script) - V(edited script). All edits of a recording are one batch of alignments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ...cache.errors import StepclipError
from ...train.alignment import drop_dtw, drop_dtw_labels

KINDS = ("missing", "moved", "repeated", "added")
CHUNK = 1 << 24  # numbers of cost that are aligned at once
PER_STEP = (
    "gain of leaving it out", "gain of moving it", "gain of repeating it", "seconds it takes",
    "how it stands out", "background seconds where it would be repeated", "seconds per step",
)  # fmt: skip
PER_GAP = ("gain of another sentence", "background seconds", "seconds per step", "gain of repeating a step")


@dataclass(frozen=True)
class Evidence:
    """What the edits of one recording say; K steps, K + 1 gaps (gap g lies before step g).

    `labels` (T,): the step of each frame in the unedited script, -1 background. `features[kind]` (n, F), one
    row per step, see PER_STEP (of "added": per gap, PER_GAP), each also less its mean over the recording;
    `place[kind]` (n,): where the best edit puts the step (moved, repeated: the gap), or for "added" which of
    the other sentences fits best there, -1 without any.
    """

    labels: np.ndarray
    features: dict[str, np.ndarray]
    place: dict[str, np.ndarray]


def costs(similarity: torch.Tensor, background: float) -> torch.Tensor:
    """Costs (T, W) of frames at steps from cosines (T, W); that of the background is 0."""
    return background - similarity


def align(similarity: torch.Tensor, order: Sequence[int], background: float) -> np.ndarray:
    """The place in `order` (columns of `similarity` (T, W)) of each frame, (T,), -1 for the background."""
    cost = costs(similarity, background)[:, list(order)]
    return drop_dtw_labels(cost[None], torch.zeros(1), None, contiguous=True)[0].numpy()


def values(similarity: torch.Tensor, orders: Sequence[Sequence[int]], background: float) -> np.ndarray:
    """V (P,) of each of `orders`, sequences of columns of `similarity` (T, W), none longer than T."""
    cost = costs(similarity, background)
    width = max(len(order) for order in orders)
    index = torch.tensor([[*order, *[0] * (width - len(order))] for order in orders])
    length = torch.tensor([len(order) for order in orders])
    most = max(1, CHUNK // (len(cost) * width))
    found = []
    for part, size in zip(index.split(most), length.split(most), strict=True):
        batch = cost[:, part].permute(1, 0, 2)
        rows = torch.full_like(size, len(cost))
        found.append(drop_dtw(batch, torch.zeros(len(part)), None, (rows, size), contiguous=True))
    return torch.cat(found).double().numpy()


def evidence(
    similarity: torch.Tensor, steps: int, background: float, seconds: np.ndarray | None = None
) -> Evidence:
    """The evidence from cosines (T, K + O) of a recording's frames with its K `steps` and O other sentences.

    `seconds` (T,): how long each frame stands for (default 1). StepclipError when the recording has not more
    frames than steps.
    """
    frames, k = len(similarity), steps
    if frames <= k + 1:
        raise StepclipError(
            f"{frames} frames for {k} steps",
            "two more frames than steps, or more",
            "stepclip extract with a higher --fps",
        )
    seconds = np.ones(frames) if seconds is None else seconds
    base = list(range(k))
    without = [[i for i in base if i != j] for j in base]
    moved = [(j, g) for j in base for g in range(k + 1) if g not in (j, j + 1)]
    again = [(j, g) for j in base for g in range(k + 1) if g not in (j, j + 1)]
    others = [(o, g) for g in range(k + 1) for o in range(k, similarity.shape[1])]
    orders = [base, *(without if k > 1 else [])]
    orders += [_put(without[j], g - (g > j), j) for j, g in moved]
    orders += [_put(base, g, j) for j, g in again] + [_put(base, g, o) for o, g in others]
    gain = values(similarity, orders, background)
    gain = gain[0] - gain
    cuts = np.cumsum([1, k if k > 1 else 0, len(moved), len(again)])
    left, move, repeat, other = np.split(gain, cuts)[1:]
    labels = align(similarity, base, background)
    stretch = np.array([seconds[labels == j].sum() for j in base])
    mine = [similarity[torch.from_numpy(labels == j), j] for j in base]
    stands = np.array([float(s.mean()) if len(s) else 0.0 for s in mine])
    idle = gap_seconds(labels, k, seconds)
    pace = float(seconds.sum()) / k
    left = left if len(left) else np.full(1, -1.0)  # the only step of a script cannot be taken out
    best_move, to = _best(move, [j for j, _ in moved], [g for _, g in moved], k)
    best_again, at = _best(repeat, [j for j, _ in again], [g for _, g in again], k)
    best_other, which = _best(other, [g for _, g in others], [o - k for o, _ in others], k + 1)
    mine_again = np.zeros(k + 1)
    for value, (_, g) in zip(repeat, again, strict=True):
        mine_again[g] = max(mine_again[g], value)
    per_step = _beside_mean(
        [left, best_move, best_again, stretch, stands - background, idle[np.clip(at, 0, k)], np.full(k, pace)]
    )
    per_gap = _beside_mean([best_other, idle, np.full(k + 1, pace), mine_again])
    return Evidence(
        labels,
        {kind: per_gap if kind == "added" else per_step for kind in KINDS},
        {"missing": np.full(k, -1), "moved": to, "repeated": at, "added": which},
    )


def _beside_mean(columns: Sequence[np.ndarray]) -> np.ndarray:
    """(n, 2 F): the F columns, and each less its mean."""
    x = np.stack([np.asarray(c, float) for c in columns], 1)
    return np.concatenate([x, x - x.mean(0)], 1)


def gap_seconds(labels: np.ndarray, steps: int, seconds: np.ndarray) -> np.ndarray:
    """Seconds (K + 1,) of background before each step and after the last one."""
    out, gap = np.zeros(steps + 1), 0
    for label, size in zip(labels, seconds, strict=True):
        if label >= 0:
            gap = int(label) + 1
        else:
            out[gap] += size
    return out


def gap_frames(labels: np.ndarray, gap: int) -> np.ndarray:
    """The background frames (n,) before step `gap` and after the one before it."""
    at = np.maximum.accumulate(np.where(labels >= 0, labels, -1)) + 1
    return np.flatnonzero((labels < 0) & (at == gap))


def _put(order: list[int], gap: int, step: int) -> list[int]:
    return [*order[:gap], step, *order[gap:]]


def _best(
    gain: np.ndarray, owner: Sequence[int], place: Sequence[int], count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Of each owner the largest gain (count,) and its place; 0 and -1 where it has none."""
    best, where = np.full(count, -np.inf), np.full(count, -1, dtype=np.int64)
    for value, mine, at in zip(gain, owner, place, strict=True):
        if value > best[mine]:
            best[mine], where[mine] = value, at
    return np.where(np.isfinite(best), best, 0.0), where

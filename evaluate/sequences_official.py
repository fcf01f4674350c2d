"""Full-video retrieval number for number as TempCLR's released evaluator computes it, faults included.

For comparing with published figures, and for nothing else: `sequences.py` is the measure. Read and rewritten
from the released code (`methods/tempclr.md` 5.1 and 6). Of its faults these change numbers:

- B1: in the first real column hard OTAM subtracts the running minimum; everywhere else it adds.
- B2: the padding of DTW opens in the last real row, so a path may leave before the last sentence.
- B3: a video with the largest number of clips has its last row set to zero.
- B4: OTAM's free end lies in the last padded column, not behind the video's own last clip.
- B5: background kept, the transposed matrices are padded to fewer rows than they have: windows are dropped.
- B6: the cost is 1 - the raw dot product, so the length of a path enters the score.
- B7: costs are scaled by 1 / (L N), which no path is as long as.

Of the others nothing is left here: B8 is metrics that are never computed, B9 an order that differs from run
to run (ties go to the later video, as `argsort` does it), B10 the ties of clip retrieval.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

FAULTS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7")


def official_scores(
    texts: Sequence[Tensor],
    videos: Sequence[Tensor],
    measure: Literal["cap", "dtw", "otam"] = "dtw",
    background: Literal["removed", "kept"] = "removed",
) -> np.ndarray:
    """(Q, V), higher is better: `texts[i]` (L, E) and `videos[j]` (N, E) raw, not normalised, compared by
    their dot products. Background kept: 1.3 L windows of each pair are chosen first."""
    similar = [[text @ video.T for video in videos] for text in texts]
    if measure == "cap":
        return np.array([[float(m.max(1).values.mean()) for m in row] for row in similar])
    longest, most = max(map(len, texts)), max(map(len, videos))
    shapes: dict[tuple[int, int], list[tuple[int, int]]] = {}
    costs: dict[tuple[int, int], Tensor] = {}
    for i, row in enumerate(similar):
        for j, m in enumerate(row):
            costs[i, j] = cost = _chosen(1 - m) if background == "kept" else 1 - m
            shapes.setdefault(tuple(cost.shape), []).append((i, j))  # type: ignore[arg-type]
    across = longest if background == "removed" else most
    out = np.zeros((len(texts), len(videos)))
    for (rows, columns), places in shapes.items():
        cost = torch.stack([costs[place] for place in places]) * (longest * across / (rows * columns))
        if measure == "dtw":
            found = _dtw(_padded(cost, longest, across))
        else:
            ways = [_otam(_padded(pad(c, (1, 1)), longest, across, 2)) for c in (cost, cost.mT)]
            found = ways[0] + ways[1]
        for (i, j), value in zip(places, found.tolist(), strict=True):
            out[i, j] = -value
    return out


def official_recall(scores: np.ndarray) -> tuple[float, float, float]:
    """R@1, 5, 10 with the right video on the diagonal; of equal scores the later video comes first."""
    best = scores.argsort(1, kind="stable")[:, ::-1]
    place = (best == np.arange(len(scores))[:, None]).argmax(1)
    return tuple(float((place < k).mean()) for k in (1, 5, 10))  # type: ignore[return-value]


def _chosen(cost: Tensor) -> Tensor:
    """The floor(1.3 L) windows with the lowest cost to any sentence, in the order of time."""
    count = min(int(1.3 * len(cost)), cost.shape[1])
    return cost[:, cost.min(0).values.argsort(stable=True)[:count].sort().values]


def _padded(cost: Tensor, rows: int, columns: int, extra: int = 0) -> Tensor:
    """To (rows, columns + extra) with infinities, and zeros in the corner (B2, B3, B5)."""
    below, right = rows - cost.shape[-2], columns + extra - cost.shape[-1]
    cost = pad(cost, (0, right, 0, below), value=float("inf"))
    cost[..., -below - 1 :, -right:] = 0
    return cost


def _dtw(cost: Tensor) -> Tensor:
    """Hard DTW of (B, L, N) -> (B,), row by row."""
    total = cost[:, 0].cumsum(-1)
    for i in range(1, cost.shape[1]):
        row = [cost[:, i, 0] + total[:, 0]]
        best = torch.minimum(total[:, :-1], total[:, 1:])
        for j in range(1, cost.shape[2]):
            row.append(cost[:, i, j] + torch.minimum(best[:, j - 1], row[-1]))
        total = torch.stack(row, 1)
    return total[:, -1]


def _otam(cost: Tensor) -> Tensor:
    """Hard OTAM of (B, L, N + 2), whose first and last columns are free, -> (B,)."""
    total = cost[:, 0].cumsum(-1) - cost[:, 0, :1]
    last = cost.shape[2] - 1
    for i in range(1, cost.shape[1]):
        row = [torch.zeros_like(total[:, 0])]
        # B1: subtracted
        row.append(cost[:, i, 1] - torch.minimum(torch.minimum(total[:, 0], total[:, 1]), row[0]))
        for j in range(2, last):
            row.append(cost[:, i, j] + torch.minimum(total[:, j - 1], row[-1]))
        end = torch.minimum(torch.minimum(total[:, last - 1], total[:, last]), row[-1])
        row.append(cost[:, i, last] + end)
        total = torch.stack(row, 1)
    return total[:, -1]

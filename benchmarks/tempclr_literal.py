"""TempCLR's released losses one cell and one video at a time, as `methods/tempclr.md` 1 and 2 describe them:
the yardstick of bench_tempclr_speed.py and the oracle of the tests. Own words, the released structure: Python
loops over cells, permutations made anew for each video, one index_select per negative.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

LAM = 0.1


def softmin(parts: list[Tensor], lam: float = LAM) -> Tensor:
    return -lam * torch.logsumexp(-torch.stack(parts, -1) / lam, -1)


def cosine_cost(texts: Tensor, clips: Tensor) -> Tensor:
    """(L, E), (N, E) -> (L, N): 1 - <t, v> / (|t| |v| + 0.01)."""
    size = texts.norm(dim=-1)[:, None] * clips.norm(dim=-1)[None]
    return 1 - texts @ clips.T / (size + 0.01)


def soft_dtw(cost: Tensor, lam: float = LAM) -> Tensor:
    """(..., L, N) -> (...): one pre-allocated table, written cell by cell."""
    total = torch.zeros_like(cost)
    rows, columns = cost.shape[-2:]
    for i in range(rows):
        for j in range(columns):
            if i == 0 and j == 0:
                total[..., i, j] = cost[..., i, j]
            elif i == 0:
                total[..., i, j] = cost[..., i, j] + total[..., i, j - 1].clone()
            elif j == 0:
                total[..., i, j] = cost[..., i, j] + total[..., i - 1, j].clone()
            else:
                before = [total[..., i - 1, j - 1], total[..., i, j - 1], total[..., i - 1, j]]
                total[..., i, j] = cost[..., i, j] + softmin([x.clone() for x in before], lam)
    return total[..., -1, -1]


def one_way_otam(cost: Tensor, lam: float = LAM) -> Tensor:
    """A zero column on either side; columns are consumed one by one, ends are relaxed."""
    cost = F.pad(cost, (1, 1))
    total = torch.zeros_like(cost)
    rows, columns = cost.shape[-2:]
    for m in range(1, columns):
        total[..., 0, m] = cost[..., 0, m] + total[..., 0, m - 1].clone()
    for i in range(1, rows):
        for m in range(1, columns):
            before = [total[..., i - 1, m - 1], total[..., i, m - 1]]
            if m in (1, columns - 1):
                before.insert(1, total[..., i - 1, m])
            total[..., i, m] = cost[..., i, m] + softmin([x.clone() for x in before], lam)
    return total[..., -1, -1]


def soft_otam(cost: Tensor, lam: float = LAM) -> Tensor:
    return one_way_otam(cost, lam) + one_way_otam(cost.transpose(-1, -2), lam)


def orders(n: int, count: int) -> Iterator[list[int]]:
    """As released: all permutations listed, shuffled, the identity skipped; beyond 8 places, where no list
    could be made, one random order after the other."""
    own, made = list(range(n)), 0
    if n <= 8:
        every = [list(p) for p in itertools.permutations(own)]
        random.shuffle(every)
        for order in every:
            if order != own and made < count:
                made += 1
                yield order
        return
    while made < count:
        order = random.sample(own, n)
        if order != own:
            made += 1
            yield order


def sequence_loss(
    texts: list[Tensor], clips: list[Tensor], negatives: int = 31, otam: bool = False
) -> Tensor:
    """Per video a stack of its own cost matrix and `negatives` with the rows in another order."""
    stacks = []
    for text, clip in zip(texts, clips, strict=True):
        cost = cosine_cost(text, clip)
        stack = [cost]
        for order in orders(len(text), negatives):
            index = torch.tensor(order).to(cost.device)
            if torch.equal(index, torch.arange(len(text)).to(cost.device)):
                continue
            stack.append(torch.index_select(cost, 0, index))
        stacks.append(torch.stack(stack))
    distances = (soft_otam if otam else soft_dtw)(torch.stack(stacks))
    return F.cross_entropy(-distances, torch.zeros(len(texts), dtype=torch.long, device=distances.device))


def unit_loss(clips: Tensor, texts: Tensor) -> Tensor:
    """Raw dot products, both directions, summed."""
    logits, right = clips @ texts.T, torch.arange(len(clips), device=clips.device)
    return F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)


def greedy(spans: list[tuple[int, int, float, float]]) -> list[int]:
    """Which of the pairs (text start, text end exclusive, video start, video end), sorted, are kept: strictly
    after all that was kept before."""
    kept: list[int] = []
    text_end, video_end = -1.0, -1.0
    for k, (text_start, text_stop, video_start, video_stop) in enumerate(spans):
        if text_start > text_end and video_start > video_end:
            kept.append(k)
            text_end, video_end = text_stop, video_stop
    return kept


# ---- the released evaluator


def hard_dtw(cost: Tensor) -> float:
    """One padded matrix, cell by cell."""
    rows, columns = cost.shape
    total = torch.zeros_like(cost)
    for i in range(rows):
        for j in range(columns):
            before = [total[a, b] for a, b in ((i - 1, j - 1), (i - 1, j), (i, j - 1)) if a >= 0 and b >= 0]
            total[i, j] = cost[i, j] + (min(before) if before else 0)
    return float(total[-1, -1])


def hard_otam(cost: Tensor) -> float:
    """One padded matrix with its free columns; the first real column subtracts (fault B1)."""
    rows, columns = cost.shape
    total = torch.zeros_like(cost)
    for j in range(1, columns):
        total[0, j] = cost[0, j] + total[0, j - 1]
    for i in range(1, rows):
        total[i, 1] = cost[i, 1] - min(total[i - 1, 0], total[i - 1, 1], total[i, 0])
        for j in range(2, columns - 1):
            total[i, j] = cost[i, j] + min(total[i - 1, j - 1], total[i, j - 1])
        total[i, -1] = cost[i, -1] + min(total[i - 1, -2], total[i - 1, -1], total[i, -2])
    return float(total[-1, -1])


def padded(cost: Tensor, rows: int, columns: int, free: bool = False) -> Tensor:
    below, right = rows - cost.shape[0], columns - cost.shape[1]
    if free:
        cost = F.pad(cost, (1, 1))
    cost = F.pad(cost, (0, right, 0, below), value=float("inf"))
    cost[-below - 1 :, -right:] = 0
    return cost


def full_video(text: Tensor, video: Tensor, rows: int, columns: int, otam: bool, keep: bool) -> float:
    """The distance of a paragraph and a video; `keep`: 1.3 L windows are chosen first."""
    cost = 1 - text @ video.T
    if keep:
        chosen = sorted(cost.min(0).values.argsort(stable=True)[: int(1.3 * len(text))].tolist())
        cost = cost[:, chosen]
    cost = cost * (rows * columns / cost.numel())
    if not otam:
        return hard_dtw(padded(cost, rows, columns))
    return sum(hard_otam(padded(c, rows, columns, True)) for c in (cost, cost.T))

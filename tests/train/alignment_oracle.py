"""What every alignment should give, written from its formula: cell after cell in float64, plain autograd.

A cell holds the numbers of all problems of a batch, (N,), so that 1600 problems take one loop; lengths only
say where the answer is read. Nothing here calls the code under test. `*_ways` list every path or labelling of
a tiny problem; the loops themselves are held to them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from fractions import Fraction

import torch
from hypothesis import strategies as st
from torch import Tensor

INF = math.inf
Totals = dict[tuple[int, int], Tensor]
Cells = tuple[tuple[int, int], ...]


# ---- the recurrences; an absent cell is one that cannot be reached


def dtw(cost: Tensor, t: Tensor, s: Tensor, gamma: float | None = None) -> Tensor:
    """Sakoe and Chiba 1978: steps (1,1), (1,0), (0,1), corner to corner."""
    c, total = cells(cost), {}
    for i, j in c:
        before = known(total, (i - 1, j - 1), (i - 1, j), (i, j - 1))
        total[i, j] = c[i, j] + least(before, gamma) if before else c[i, j]
    return pick(total, cost, t, s)


def otam(cost: Tensor, t: Tensor, s: Tensor, gamma: float | None = None) -> Tensor:
    """methods/tempclr.md 1.3: a column of zeros on the left and on the right; m counts from the left one."""
    (_, rows, columns), c = cost.shape, cells(cost)
    total: Totals = {}
    ends: list[Tensor] = []
    lasts: list[Tensor] = []
    for i in range(rows):
        total[i, 0] = torch.zeros(len(cost), dtype=torch.float64)
        for m in range(1, columns + 1):
            if i == 0:
                total[i, m] = c[i, m - 1] + total[i, m - 1]
            elif m == 1:
                total[i, m] = c[i, 0] + least([total[i - 1, 0], total[i - 1, 1], total[i, 0]], gamma)
            else:
                total[i, m] = c[i, m - 1] + least([total[i - 1, m - 1], total[i, m - 1]], gamma)
        last = torch.stack([total[i, m] for m in range(1, columns + 1)]).gather(0, s[None] - 1)[0]
        ends.append(least([lasts[-1], ends[-1], last], gamma) if i else last)
        lasts.append(last)
    return torch.stack(ends).gather(0, t[None] - 1)[0]


def both_otam(cost: Tensor, t: Tensor, s: Tensor, gamma: float | None = None) -> Tensor:
    return otam(cost, t, s, gamma) + otam(cost.mT, s, t, gamma)


def subsequence(cost: Tensor, t: Tensor, s: Tensor, gamma: float | None = None) -> Tensor:
    """Mueller 2007, 4.4: from any row of the first column to any row of the last."""
    (_, rows, columns), c = cost.shape, cells(cost)
    total: Totals = {}
    for i, j in c:
        before = known(total, (i - 1, j - 1), (i - 1, j), (i, j - 1))
        if j == 0:
            before.append(torch.zeros(len(cost), dtype=torch.float64))
        total[i, j] = c[i, j] + least(before, gamma)
    ends = [torch.stack([total[i, j] for j in range(columns)]).gather(0, s[None] - 1)[0] for i in range(rows)]
    so_far = [least(ends[: i + 1], gamma) for i in range(rows)]
    return torch.stack(so_far).gather(0, t[None] - 1)[0]


def monotone(similarity: Tensor, t: Tensor, s: Tensor, gamma: float | None = None) -> Tensor:
    """methods/weaksvr.md 4.3 in logarithms: best[t, k] = sim[t, k] + max over j <= k of best[t-1, j]."""
    (_, rows, columns), c = similarity.shape, cells(-similarity)
    total: Totals = {}
    for i, k in c:
        before = known(total, *((i - 1, j) for j in range(k + 1)))
        total[i, k] = c[i, k] + least(before, gamma) if before else c[i, k]
    final = {}
    for i in range(rows):
        for k in range(columns):
            final[i, k] = least([total[i, j] for j in range(k + 1)], gamma)
    return -pick(final, similarity, t, s)


def visit_all(similarity: Tensor, t: Tensor, s: Tensor, gamma: float | None = None) -> Tensor:
    """Stay or next, from the first step to the last; free jumps where there are fewer rows than steps."""
    c, total = cells(-similarity), {}
    for i, k in c:
        before = known(total, (i - 1, k - 1), (i - 1, k))
        if before:
            total[i, k] = c[i, k] + least(before, gamma)
        elif (i, k) == (0, 0):
            total[i, k] = c[i, k]
    every, fewer = -pick(total, similarity, t, s), t < s
    if fewer.any():
        every = every.index_put((fewer,), monotone(similarity[fewer], t[fewer], s[fewer], gamma))
    return every


def drop_dtw(
    cost: Tensor, t: Tensor, s: Tensor, frame: Tensor, step: Tensor | None, contiguous: bool
) -> Tensor:
    """The three lines at the head of train/alignment/dropping.py. frame (N, T), step (N, S) or None."""
    c = cells(cost)
    settled: Totals = {(-1, -1): torch.zeros(len(cost), dtype=torch.float64)}
    matched: Totals = {}
    ends: Totals = {}
    if step is not None:
        for k in range(cost.shape[2]):
            settled[-1, k] = settled[-1, k - 1] + step[:, k]
    for i in range(cost.shape[1]):
        settled[i, -1] = settled[i - 1, -1] + frame[:, i]
    for i, k in c:
        before = known(settled, (i - 1, k - 1)) + known(ends if contiguous else matched, (i - 1, k))
        has = []
        if before:
            ends[i, k] = c[i, k] + least(before)
            has.append(ends[i, k])
        if (i - 1, k) in matched:
            has.append(matched[i - 1, k] + frame[:, i])
        if has:
            matched[i, k] = least(has)
        done = has and [matched[i, k]]
        if step is not None:
            done = [*done, settled[i, k - 1] + step[:, k]]
        if done:
            settled[i, k] = least(done)
    return pick(settled, cost, t, s)


def sinkhorn_plan(cost: Tensor, t: Tensor, s: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Cuturi 2013, the scaling form: K = exp(-C / e), columns first, then rows."""
    inside = within(cost, t, s)
    kernel = torch.where(inside, (-cost / epsilon).exp(), 0.0)
    rows, columns = (inside.any(d) / n[:, None].double() for d, n in ((2, t), (1, s)))
    u = torch.ones_like(rows)
    for _ in range(iterations):
        v = columns / (kernel.mT @ u[..., None])[..., 0].where(columns > 0, 1.0)
        u = rows / (kernel @ v[..., None])[..., 0].where(rows > 0, 1.0)
    return u[:, :, None] * kernel * v[:, None, :]


# ---- their parts


def cells(matrix: Tensor) -> Totals:
    """(N, T, S) -> (t, s): (N,), in reading order."""
    _, rows, columns = matrix.shape
    flat = matrix.double().permute(1, 2, 0).flatten(0, 1).unbind(0)
    return dict(zip(itertools.product(range(rows), range(columns)), flat, strict=True))


def known(totals: Totals, *places: tuple[int, int]) -> list[Tensor]:
    return [totals[place] for place in places if place in totals]


def least(terms: list[Tensor], gamma: float | None = None) -> Tensor:
    """The minimum, or -gamma log sum exp(-x / gamma)."""
    if len(terms) == 1:
        return terms[0]
    together = torch.stack(terms)
    return together.min(0).values if gamma is None else -gamma * (together / -gamma).logsumexp(0)


def pick(totals: Totals, matrix: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """The total at (t - 1, s - 1) of each problem; inf where no way leads there."""
    n, rows, columns = matrix.shape
    nowhere = torch.full((n,), INF, dtype=torch.float64)
    every = [totals.get(place, nowhere) for place in itertools.product(range(rows), range(columns))]
    return torch.stack(every).gather(0, ((t - 1) * columns + s - 1)[None])[0]


def within(matrix: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """(N, T, S): True within the lengths."""
    rows, columns = torch.arange(matrix.shape[1]), torch.arange(matrix.shape[2])
    return (rows < t[:, None])[:, :, None] & (columns < s[:, None])[:, None, :]


def with_gradient(
    oracle: Callable[..., Tensor], matrix: Tensor, t: Tensor, s: Tensor, *more: object
) -> tuple[Tensor, Tensor]:
    """Values (N,) and the gradient of their sum (N, T, S), float64."""
    leaf = matrix.double().clone().requires_grad_()
    value = oracle(leaf, t, s, *more)
    return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]


# ---- every way through a tiny problem


def warping_ways(rows: int, columns: int) -> list[Cells]:
    def onward(i: int, j: int) -> Iterator[Cells]:
        if (i, j) == (rows - 1, columns - 1):
            yield ((i, j),)
        for a, b in ((i + 1, j + 1), (i + 1, j), (i, j + 1)):
            if a < rows and b < columns:
                for rest in onward(a, b):
                    yield ((i, j), *rest)

    return list(onward(0, 0))


def otam_ways(rows: int, columns: int) -> list[Cells]:
    """A run of rows in the first column, then each further column at the same row or the next one. A way that
    starts below the first row counts twice (from both zeros beside it), so does one that ends above the
    last."""
    ways = []
    for start in range(rows):
        for stop in range(start, rows):
            first = tuple((i, 0) for i in range(start, stop + 1))
            for moves in itertools.product((0, 1), repeat=columns - 1):
                places = [stop + sum(moves[:n]) for n in range(columns)]
                if places[-1] < rows:
                    way = first + tuple((places[j], j) for j in range(1, columns))
                    ways += [way] * ((1 + (start > 0)) * (1 + (places[-1] < rows - 1)))
    return ways


def span_ways(rows: int, columns: int) -> list[Cells]:
    """Every warping path of all columns inside every span of rows."""
    return [
        tuple((first + i, j) for i, j in way)
        for first in range(rows)
        for last in range(first, rows)
        for way in warping_ways(last - first + 1, columns)
    ]


def labellings(rows: int, columns: int, visit: bool = False) -> list[Cells]:
    every = itertools.combinations_with_replacement(range(columns), rows)
    return [
        tuple(enumerate(labels))
        for labels in every
        if not (visit and rows >= columns and len(set(labels)) < columns)
    ]


def total_of(ways: list[Cells], cost: Tensor, gamma: float | None = None) -> Tensor:
    """The least, or soft least, total of the ways through one problem (T, S)."""
    totals = torch.stack([sum(cost[place] for place in way) + cost.new_zeros(()) for way in ways])
    return totals.min() if gamma is None else -gamma * (totals / -gamma).logsumexp(0)


def drop_labellings(
    rows: int, columns: int, *, leave_steps: bool, contiguous: bool
) -> Iterator[tuple[int, ...]]:
    """Every labelling of frames: -1 or a step, steps in order."""
    for labels in itertools.product(range(-1, columns), repeat=rows):
        used = [label for label in labels if label >= 0]
        if used != sorted(used) or not (leave_steps or len(set(used)) == columns):
            continue
        if contiguous and any(
            -1 in labels[labels.index(k) : rows - labels[::-1].index(k)] for k in set(used)
        ):
            continue
        yield labels


def drop_total(
    labels: tuple[int, ...], cost: list[list[float]], frame: list[float], step: list[float]
) -> float:
    kept = sum(cost[i][k] if k >= 0 else frame[i] for i, k in enumerate(labels))
    return kept + sum(step[k] for k in range(len(cost[0])) if k not in labels)


# ---- costs of features, and the band


def in_band(i: int, j: int, rows: int, columns: int, band: int) -> bool:
    """Is cell (i, j) within `band` columns of the line between the corners, or nearer to it than one step of
    the longer side (so that a way is always left)?"""
    if rows == 1 or columns == 1:  # the line is all there is
        return True
    away = abs(j - Fraction(i * (columns - 1), rows - 1))
    return away <= band or away < max(1, Fraction(columns - 1, rows - 1))


def cost_of(name: str, a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """Real rows (T, D) and (S, D) -> (T, S), by the table in train/alignment/costs.py."""
    dot = torch.einsum("td,sd->ts", a, b)
    norm = a.norm(dim=1)[:, None] * b.norm(dim=1)[None]
    if name == "cosine":
        return 1 - dot / norm
    if name == "tempclr":
        return 1 - dot / (norm + 0.01)
    if name == "dot":
        return 1 - dot
    if name == "squared":
        return (a[:, None] - b[None]).square().sum(-1)
    assert name == "log-softmax"
    return -torch.log_softmax(dot / norm / temperature, dim=1)


# ---- what hypothesis draws


@st.composite
def batches(draw: st.DrawFn, most: int = 7, whole: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """(matrix (B, T, S) float32 with NaN beyond the lengths, t (B,), s (B,)). Whole numbers make ties."""
    b, t, s = draw(st.integers(1, 4)), draw(st.integers(1, most)), draw(st.integers(1, most))
    lt = torch.tensor(draw(st.lists(st.integers(1, t), min_size=b, max_size=b)))
    ls = torch.tensor(draw(st.lists(st.integers(1, s), min_size=b, max_size=b)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    if whole or draw(st.booleans()):
        matrix = torch.randint(-2, 3, (b, t, s), generator=generator).float()
    else:
        matrix = torch.randn(b, t, s, generator=generator)
    return torch.where(within(matrix, lt, ls), matrix, math.nan), lt, ls

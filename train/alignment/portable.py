"""The kernels in plain torch: any device, any precision, the form to read.

All cells of one anti-diagonal t + s depend only on the two diagonals before, so a pass is T + S steps, each
over a whole diagonal of every problem at once (the problem index innermost). Forward passes keep each cell's
choice (hard) or shares (soft); backward passes walk the diagonals the other way. `backends.py` says what each
function takes and gives; matrices come as (G, L, T, S).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

from .patterns import Pattern

INF = float("inf")
DIAGONAL, UP, LEFT = 0, 1, 2


def hard(
    matrix: Tensor, t: Tensor, s: Tensor, pattern: Pattern, want_path: bool = True
) -> tuple[Tensor, Tensor | None]:
    board = _Board(matrix, t, s, pattern)
    totals: list[Tensor] = []
    choices = []
    for cost, before in board.sweep(totals):
        totals.append(cost + before.amin(0))
        if want_path:
            choices.append(before.argmin(0))  # of equals the first: diagonal, up, left
    value = board.at_end(totals)
    if not want_path:
        return value.view(t.shape), None
    path = matrix.new_zeros(board.n, board.rows, board.columns)
    problem = torch.arange(board.n, device=matrix.device)
    row, column, going = board.t - 1, board.end.clone(), value < INF
    for d in range(len(choices) - 1, -1, -1):
        here = going & (row + column == d)
        real = here & (column < board.s)
        at = (problem, row.clamp(min=0), column.clamp(min=0))
        path.index_put_(at, real.to(path.dtype), accumulate=True)
        choice = choices[d].gather(0, row.clamp(min=0)[None])[0]
        started = (column == 0) & ((choice == LEFT) | (choice == DIAGONAL))
        row = torch.where(here & (choice != LEFT), row - 1, row)
        column = torch.where(here & (choice != UP), column - 1, column)
        going = going & ~(here & started) & (row >= 0)
    return value.view(t.shape), path[:, :, : matrix.shape[3]].reshape(matrix.shape)


def soft(
    matrix: Tensor, t: Tensor, s: Tensor, pattern: Pattern, gamma: float, want_expected: bool = True
) -> tuple[Tensor, Tensor | None]:
    board = _Board(_wide(matrix), t, s, pattern)
    totals: list[Tensor] = []
    shares = []
    for cost, before in board.sweep(totals):
        logits = before / -gamma
        totals.append(cost - gamma * logits.logsumexp(0))
        if want_expected:
            shares.append(logits.softmax(0).nan_to_num(0.0))  # where there is no way at all: no shares
    value = board.at_end(totals)
    values = value.to(matrix.dtype).view(t.shape)
    if not want_expected:
        return values, None
    reached = torch.zeros_like(totals[0])
    after, after_next = (torch.zeros(3, *reached.shape, dtype=reached.dtype, device=reached.device),) * 2
    diagonals = []
    row, last, alive = (board.t - 1)[None], board.t - 1 + board.end, value.isfinite().to(value.dtype)
    for d in range(len(totals) - 1, -1, -1):
        # from (t, s+1) and (t+1, s) on the next diagonal, from (t+1, s+1) on the one after it
        here = after[LEFT] + _up(after[UP]) + _up(after_next[DIAGONAL])
        here = here.scatter_add(0, row, torch.where(last == d, alive, 0.0)[None])
        diagonals.append(here)
        after, after_next = shares[d] * here, after
    expected = _unskew(torch.stack(diagonals[::-1]), board.columns)
    return values, board.real_cells(expected).reshape(matrix.shape).to(matrix.dtype)


def _wide(matrix: Tensor) -> Tensor:
    """Float64 where the device has it: sums of exponentials lose digits with the size of the total."""
    return matrix.detach() if matrix.device.type == "mps" else matrix.detach().double()


class _Board:
    """One batch of problems in skewed form, with the pattern's rules as walls: `before` of a cell are its
    predecessors' totals (3, T, N), infinite where the pattern forbids the step."""

    def __init__(self, matrix: Tensor, t: Tensor, s: Tensor, pattern: Pattern) -> None:
        self.n, self.rows, columns = t.numel(), matrix.shape[2], matrix.shape[3]
        self.t, self.s, self.pattern = t.reshape(-1), s.reshape(-1), pattern
        flat = matrix.detach().reshape(self.n, self.rows, columns)
        row = torch.arange(self.rows, device=flat.device)[:, None]
        column = torch.arange(columns + 1, device=flat.device)
        self.end = self.s - 1 if pattern.end == "corner" else self.s  # the column where a path ends
        if pattern.end != "corner":
            flat, columns = pad(flat, (0, 1)), columns + 1
        column = column[:columns]
        inside = (row < self.t[:, None, None]) & (column < self.s[:, None, None])
        self.columns, self.inside, self.width = columns, inside, matrix.shape[3]
        # what lies beyond the lengths never reaches an answer; the end's own column costs nothing
        self.cost = _skew(torch.where(inside, flat, 0.0))
        in_end = (column == self.s[:, None, None]) & (pattern.end != "corner")
        up = (column == 0) | in_end | (pattern.up == "all")
        left = (column > 0) & (in_end | pattern.left)
        diagonal = (column > 0) & (~in_end | (pattern.end == "otam"))
        walls = torch.stack([diagonal.expand_as(flat), up.expand_as(flat), left.expand_as(flat)])
        self.walls = torch.stack([_skew(torch.where(w, 0.0, INF).to(flat.dtype)) for w in walls], 1)
        first = torch.full((3, self.rows, 1), INF, dtype=flat.dtype, device=flat.device)
        if pattern.start == "corner":
            first[DIAGONAL, 0] = 0
        elif pattern.start == "row":
            first[DIAGONAL] = 0
        else:
            first[LEFT] = 0
            first[DIAGONAL, 1:] = 0
        self.first = first

    def sweep(self, totals: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """(cost (T, N), predecessors (3, T, N)) of each diagonal; `totals` holds those before it."""
        empty = torch.full_like(self.cost[0], INF)
        wall = empty[:1]
        for d in range(len(self.cost)):
            old = totals[d - 1] if d else empty
            older = totals[d - 2] if d > 1 else empty
            before = torch.stack([torch.cat([wall, older[:-1]]), torch.cat([wall, old[:-1]]), old])
            before = before + self.walls[d]
            if d < self.rows:  # the cell of column 0 on this diagonal is (d, 0)
                before[:, d] = torch.minimum(before[:, d], self.first[:, d])
            yield self.cost[d], before

    def real_cells(self, weights: Tensor) -> Tensor:
        """(N, T, S) without the end's own column, zero beyond the lengths."""
        return torch.where(self.inside, weights, 0.0)[:, :, : self.width]

    def at_end(self, totals: list[Tensor]) -> Tensor:
        value = torch.full_like(totals[0][0], INF)
        row, last = (self.t - 1)[None], self.t - 1 + self.end
        for d, total in enumerate(totals):
            value = torch.where(last == d, total.gather(0, row)[0], value)
        return value


def _skew(matrix: Tensor) -> Tensor:
    """(N, T, S) -> (T+S-1, T, N): entry [d, t] is matrix[:, t, d-t], infinite where there is none.

    Rows padded to S+T and read as rows of S+T-1 shift each row by one more than the row above: a view, no
    gather.
    """
    n, t, s = matrix.shape
    padded = pad(matrix.permute(1, 2, 0), (0, 0, 0, t), value=INF).reshape(t * (s + t), n)
    return padded[: t * (s + t - 1)].reshape(t, s + t - 1, n).transpose(0, 1)


def _unskew(diagonals: Tensor, columns: int) -> Tensor:
    """(T+S-1, T, N) -> (N, T, S)."""
    t = torch.arange(diagonals.shape[1], device=diagonals.device)[:, None]
    s = torch.arange(columns, device=diagonals.device)
    return diagonals[t + s, t].permute(2, 0, 1)


def _up(diagonal: Tensor) -> Tensor:
    """What (t+1, .) has, at t."""
    return torch.cat([diagonal[1:], torch.zeros_like(diagonal[:1])])


# ---- one label per row, any jump forward


def labels(similarity: Tensor, t: Tensor, s: Tensor) -> Tensor:
    n, rows, columns = t.numel(), *similarity.shape[2:]
    t, s = t.reshape(-1), s.reshape(-1)
    flat = similarity.detach().reshape(n, rows, columns)
    column = torch.arange(columns, device=flat.device)
    most = torch.finfo(flat.dtype).max / (2 * rows)  # a path's sum stays finite, so forbidden cells compare
    real = column < s[:, None, None]
    scores = flat.nan_to_num(nan=-most).clamp(-most, most).masked_fill(~real, -INF)
    best = scores[:, 0]
    back = []
    for row in range(1, rows):
        reached, origin = _running_maximum(best, column)
        best = torch.where((row < t)[:, None], reached + scores[:, row], best)
        back.append(origin)
    end = best.argmax(1)
    state, out = end, [torch.where(t == rows, end, -1)]
    for row in range(rows - 2, -1, -1):
        state = torch.where(t - 1 > row, back[row].gather(1, state[:, None])[:, 0], end)
        out.append(torch.where(t > row, state, -1))
    return torch.stack(out[::-1], 1).view(*similarity.shape[:2], rows)


def _running_maximum(best: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
    """max over j <= k, and the lowest such j (torch's own cummax indices give the highest)."""
    running = best.cummax(1).values
    before = torch.cat([torch.full_like(running[:, :1], -INF), running[:, :-1]], 1)
    return running, torch.where(best > before, column, 0).cummax(1).values


def soft_labels(
    similarity: Tensor, t: Tensor, s: Tensor, gamma: float, want_expected: bool = True
) -> tuple[Tensor, Tensor | None]:
    n, rows, columns = t.numel(), *similarity.shape[2:]
    lt, ls = t.reshape(-1), s.reshape(-1)
    with torch.enable_grad():
        leaf = _wide(similarity).reshape(n, rows, columns).requires_grad_(want_expected)
        column, row = torch.arange(columns, device=leaf.device), torch.arange(rows, device=leaf.device)
        real = (column < ls[:, None, None]) & (row[:, None] < lt[:, None, None])
        logits = torch.where(real, leaf, 0.0) / gamma
        real = column < ls[:, None]
        total = logits[:, 0].masked_fill(~real, -INF)
        for i in range(1, rows):
            reached = total.logcumsumexp(1) + logits[:, i]
            total = torch.where((i < lt)[:, None], reached.masked_fill(~real, -INF), total)
        value = gamma * total.logsumexp(1)
        expected = torch.autograd.grad(value.sum(), leaf)[0] if want_expected else None
    values = value.detach().to(similarity.dtype).view(t.shape)
    if expected is None:
        return values, None
    return values, expected.nan_to_num(0.0).reshape(similarity.shape).to(similarity.dtype)


# ---- frames and steps may be left out


def drop(
    cost: Tensor, t: Tensor, s: Tensor, frame_drop: Tensor, step_drop: Tensor, contiguous: bool
) -> Tensor:
    n, rows, columns = t.numel(), *cost.shape[2:]
    lt, ls = t.reshape(-1), s.reshape(-1)
    row = torch.arange(rows, device=cost.device)[:, None]
    column = torch.arange(columns, device=cost.device)
    inside = (row < lt[:, None, None]) & (column < ls[:, None, None])
    flat = torch.where(inside, cost.detach().reshape(n, rows, columns).double(), 0.0)
    frame = frame_drop.reshape(n, rows).double()
    # a step that must not be left out costs more than everything else together: its sums stay numbers
    step = torch.where(column < ls[:, None], step_drop.reshape(n, columns).double(), 0.0)
    finite = torch.where(step.isfinite(), step, 0.0)
    everything = flat.nan_to_num(posinf=0.0).abs().amax((1, 2)) * rows + finite.abs().sum(1)
    forced = 1 + 2 * (everything + torch.where(frame.isfinite(), frame, 0.0).abs().sum(1))
    so_far = pad(torch.where(step.isfinite(), step, forced[:, None]).cumsum(1), (1, 0))  # (N, S+1)

    settled = so_far  # column k: k steps are done with
    matched = ends = torch.full_like(so_far, INF)  # step k - 1 has a frame; the last frame is its
    choices = torch.zeros(3, rows, *so_far.shape, dtype=torch.bool, device=cost.device)
    for i in range(rows):
        corner, further = settled[:, :-1], (ends if contiguous else matched)[:, 1:]
        choices[FURTHER, i, :, 1:] = further < corner
        ends = pad(flat[:, i] + torch.minimum(corner, further), (1, 0), value=INF)
        left_out = matched + frame[:, i, None]
        choices[LEFT_OUT, i] = left_out < ends
        matched = torch.minimum(ends, left_out)
        whole = matched.clone()
        whole[:, 0] = settled[:, 0] + frame[:, i]
        above = (
            whole - so_far
        )  # less what it costs to leave out all steps: then the best of 0..k is a running one
        running = above.cummin(1).values
        choices[MISSING, i, :, 1:] = running[:, :-1] < above[:, 1:]
        settled = running + so_far
    return _walk(choices, lt, ls, contiguous).view(*cost.shape[:2], rows)


FURTHER, LEFT_OUT, MISSING = 0, 1, 2


def _walk(choices: Tensor, t: Tensor, s: Tensor, contiguous: bool) -> Tensor:
    """Labels (N, T) from the choices (3, T, N, S+1) of `drop`: -1 for a frame left out."""
    rows, n = choices.shape[1:3]
    problem = torch.arange(n, device=choices.device)
    out = torch.full((n, rows), -1, dtype=torch.int64, device=choices.device)
    row, column = t - 1, s.clone()
    settled, ends = torch.ones_like(t, dtype=torch.bool), torch.zeros_like(t, dtype=torch.bool)
    for _ in range(rows + choices.shape[3] - 1):
        going = (row >= 0) & (column > 0)
        further, left_out, missing = choices[:, row.clamp(min=0), problem, column]
        missing = going & settled & missing
        left_out = going & ~missing & ~ends & left_out
        match = going & ~missing & ~left_out
        out[problem, row.clamp(min=0)] = torch.where(match, column - 1, out[problem, row.clamp(min=0)])
        row = torch.where(left_out | match, row - 1, row)
        column = torch.where(missing | (match & ~further), column - 1, column)
        ends = torch.where(left_out, False, torch.where(match, further & contiguous, ends))
        settled = torch.where(left_out, False, torch.where(match, ~further, settled))
    return out

"""Labels that know how long a step lasts, against every way of sharing the rows out, counted one by one."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stepclip.train.alignment import (
    duration_columns,
    duration_labels,
    duration_posteriors,
    duration_width,
    monotone,
    monotone_posteriors,
)


def ways(rows: int, steps: int) -> list[tuple[int, ...]]:
    """Every way to give `steps` steps at least one of `rows` rows each."""
    every = itertools.product(range(1, rows + 1), repeat=steps)
    return [counts for counts in every if sum(counts) == rows]


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 4), st.integers(0, 5), st.floats(0.2, 1.0), st.integers(0, 10**6))
def test_labels_and_posteriors_are_those_of_the_formula(steps, more, least, seed):
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.tensor([steps + more, steps]), torch.tensor([steps, steps - 1])
    score = 2 * torch.randn(2, steps + more, steps, generator=generator)
    shares = torch.rand(2, steps, generator=generator) + 0.1
    width = duration_width(steps + more, steps, least)
    columns, counts = duration_columns(shares, *sizes, least, width)
    got = duration_posteriors(score, shares, *sizes, least)
    labels = duration_labels(score, shares, *sizes, least)
    for b, (rows, real) in enumerate(zip(*(size.tolist() for size in sizes), strict=True)):
        copies = columns[b, : counts[b]].bincount(minlength=real).tolist()
        assert sum(copies) == max(round(least * rows), real) and min(copies) >= 1 and len(copies) == real
        want, total, best = torch.zeros(rows, steps), 0.0, (-math.inf, [])
        for way in ways(rows, real):
            path = [k for k, n in enumerate(way) for _ in range(n)]
            value = sum(float(score[b, t, k]) for t, k in enumerate(path))
            weight = math.exp(value) * math.prod(
                math.comb(n - 1, m - 1) for n, m in zip(way, copies, strict=True)
            )
            total += weight
            for t, k in enumerate(path):
                want[t, k] += weight
            if weight:
                best = max(best, (value, path))
        torch.testing.assert_close(got[b, :rows], want / total, atol=1e-5, rtol=1e-4)
        assert got[b, rows:].eq(0).all() and labels[b, rows:].eq(-1).all()
        assert labels[b, :rows].tolist() == best[1]


def test_copies_are_shared_out_as_the_steps_last():
    shares = torch.tensor([[1.0, 3.0, 6.0], [5.0, 5.0, math.nan]])
    rows, steps = torch.tensor([100, 40]), torch.tensor([3, 2])
    columns, counts = duration_columns(shares, rows, steps, 0.5, 60)
    assert counts.tolist() == [50, 20]
    assert columns[0, :50].bincount().tolist() == [6, 15, 29]  # one each, and 47 in the shares 1 : 3 : 6
    assert columns[1, :20].bincount().tolist() == [10, 10]
    assert columns[1, 20:].max() < 2  # beyond the count, but a real column


@pytest.mark.parametrize("rows", [3, 2])
def test_without_rows_to_spare_it_is_the_plain_form(rows):
    """One copy of each step; fewer rows than steps take free jumps."""
    score, size = torch.randn(1, rows, 3), (torch.tensor([rows]), torch.tensor([3]))
    shares = torch.rand(1, 3) + 0.1
    assert torch.equal(duration_labels(score, shares, *size, 0.5), monotone(score, size, visit_all=True))
    plain = monotone_posteriors(score, 1.0, size, visit_all=True).weights
    torch.testing.assert_close(duration_posteriors(score, shares, *size, 0.5), plain)

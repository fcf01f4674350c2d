"""The semi-Markov posteriors against every way of laying steps and rests over the frames, one by one."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stepclip.cache.errors import StepclipError
from stepclip.train.alignment import log_normal_durations, semi_markov


def ways(rows: int, steps: int):
    """Every (rest, step, rest, step, ..., rest) of lengths that fill the rows, each step at least one."""
    for lengths in itertools.product(range(rows + 1), repeat=2 * steps + 1):
        if sum(lengths) == rows and all(lengths[1::2]):
            yield lengths


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(0, 3), st.integers(1, 4), st.integers(0, 10**6))
def test_it_is_the_sum_over_all_ways(steps, more, longest, seed):
    generator = torch.Generator().manual_seed(seed)
    rows, pause, longer = torch.tensor([steps + more, steps]), 0.3, 0.7
    size = torch.tensor([steps, max(1, steps - 1)])
    log_p = torch.randn(2, steps + more, steps, generator=generator, dtype=torch.float64)
    rest = torch.randn(2, steps + more, generator=generator, dtype=torch.float64)
    lasts = torch.randn(2, steps, longest, generator=generator, dtype=torch.float64).log_softmax(2)
    got = semi_markov(log_p, rest, lasts, rows, size, pause=pause, longer=longer)
    for b, (t, s) in enumerate(zip(rows.tolist(), size.tolist(), strict=True)):
        total, shown, rests = 0.0, torch.zeros(t, s), torch.zeros(t, s + 1)
        for way in ways(t, s):
            if max(way[1::2]) > longest:
                continue
            weight, at, path = 1.0, 0, []
            for place, length in enumerate(way):
                k = place // 2
                if place % 2:
                    weight *= math.exp(float(lasts[b, k, length - 1] + log_p[b, at : at + length, k].sum()))
                elif length:
                    weight *= pause * longer ** (length - 1) * (1 - longer)
                    weight *= math.exp(float(rest[b, at : at + length].sum()))
                else:
                    weight *= 1 - pause
                path += [(place % 2, k)] * length
                at += length
            total += weight
            for frame, (is_step, k) in enumerate(path):
                (shown if is_step else rests)[frame, k] += weight
        if not total:
            assert got.value[b] == -math.inf and not got.steps[b].any() and not got.rests[b].any()
            continue
        assert float(got.value[b]) == pytest.approx(math.log(total))
        torch.testing.assert_close(got.steps[b, :t, :s].float(), shown / total, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(got.rests[b, :t, : s + 1].float(), rests / total, atol=1e-5, rtol=1e-4)
        assert not got.steps[b, t:].any() and not got.steps[b, :, s:].any() and not got.rests[b, t:].any()


def test_long_videos_keep_their_digits():
    log_p, rest = -200 * torch.rand(1, 300, 20), -200 * torch.rand(1, 300)
    lasts = log_normal_durations(torch.full((1, 20), 12.0), 0.3, 60)
    got = semi_markov(log_p, rest, lasts, torch.tensor([300]), torch.tensor([20]))
    torch.testing.assert_close(got.steps.sum(2) + got.rests.sum(2), torch.ones(1, 300), atol=1e-4, rtol=0)


def test_durations_stray_as_told():
    p = log_normal_durations(torch.tensor([20.0]), 0.2, 200).exp()[0]
    frames = torch.arange(1, 201)
    mean = float((p * frames).sum())
    assert float(p.sum()) == pytest.approx(1) and mean == pytest.approx(20, rel=0.08)
    assert float((p * (frames - mean) ** 2).sum()) ** 0.5 == pytest.approx(0.2 * mean, rel=0.1)


def test_shapes_that_do_not_fit_are_refused():
    one = torch.tensor([1])
    with pytest.raises(StepclipError, match=r"\(B, T, S\)"):
        semi_markov(torch.zeros(1, 4, 2), torch.zeros(1, 3), torch.zeros(1, 2, 4), one, one)

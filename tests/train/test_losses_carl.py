"""CARL's losses: against loops written from the formulas, the released numbers, and their own laws."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stepclip.train.losses.cross_video import align_frames, cross_video_loss, propagate
from stepclip.train.losses.cycle_consistency import cycle_consistency_loss
from stepclip.train.losses.time_contrast import time_contrast_loss
from stepclip.train.losses.timestamp_contrast import OFFICIAL_FLOOR, timestamp_contrast_loss

GOLDEN = Path(__file__).parents[3] / "shared" / "data" / "golden" / "carl.json"


def literal_contrast(z, s, m, variance, tau, batch=False, cutoff=0.0):
    """`methods/carl.md` 3, frame by frame: z (B, 2, T, E) unit rows, s times, m masks."""
    total, counted = 0.0, 0
    b, _, t, _ = z.shape
    for i in range(b):
        for v in (0, 1):
            for r in range(t):
                if not m[i, v, r]:
                    continue
                counted += 1
                w = 1 - v
                keys = [k for k in range(t) if m[i, w, k]]
                if not keys:
                    continue
                gaps = [abs(float(s[i, v, r]) - float(s[i, w, k])) for k in keys]
                if cutoff and min(gaps) > cutoff * math.sqrt(variance):
                    continue
                logs = [-(g**2) / (2 * variance) for g in gaps]
                top = max(logs)
                weights = [math.exp(x - top) for x in logs]
                prior = [x / sum(weights) for x in weights]
                similar = [float(z[i, v, r] @ z[i, w, k]) / tau for k in keys]
                rivals = list(similar)
                if batch:
                    rivals += [
                        float(z[i, v, r] @ z[j, u, k]) / tau
                        for j in range(b)
                        for u in (0, 1)
                        for k in range(t)
                        if j != i and m[j, u, k]
                    ]
                biggest = max(rivals)
                below = biggest + math.log(sum(math.exp(x - biggest) for x in rivals))
                for p, x in zip(prior, similar, strict=True):
                    if p > 0:
                        total += p * (math.log(p) - (x - below))
    return total / counted


def made(seed, b=3, t=7, e=5):
    g = torch.Generator().manual_seed(seed)
    views = torch.randn(b, 2, t, e, generator=g)
    times = (torch.rand(b, 2, t, generator=g) * 30).sort(-1).values
    lengths = torch.randint(2, t + 1, (b, 2), generator=g)
    return views, times, torch.arange(t) < lengths[..., None]


@pytest.mark.parametrize("negatives", ["single_noself", "batch_noself"])
@pytest.mark.parametrize("cutoff", [0.0, 1.0])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_the_loop(negatives, cutoff, masked):
    views, times, real = made(4)
    real = real if masked else torch.ones_like(real)
    found = timestamp_contrast_loss(
        views, times, real, sigma=2.0, temperature=0.2, negatives=negatives, row_cutoff=cutoff
    )
    unit = torch.nn.functional.normalize(views, dim=-1).double().numpy()
    wanted = literal_contrast(
        unit, times.numpy(), real.numpy(), 4.0, 0.2, negatives == "batch_noself", cutoff
    )
    assert float(found) == pytest.approx(wanted, abs=1e-5)


def golden_inputs():
    golden = json.loads(GOLDEN.read_text())
    p0, p1, p2, p3, p4 = golden["p"]
    b, v, t, d = np.meshgrid(np.arange(2), np.arange(2), np.arange(12), np.arange(8), indexing="ij")
    views = torch.tensor(np.sin(p0 + p1 * b + p2 * v + p3 * t + p4 * d))
    steps = torch.tensor((2 * t + 3 * v + b)[..., 0])
    real = torch.ones(2, 2, 12, dtype=torch.bool)
    real[1, 0, 9:] = real[0, 1, 11:] = False
    return views, steps, real, golden["scl"]


@pytest.mark.skipif(not GOLDEN.is_file(), reason="golden values of ../shared are not here")
@pytest.mark.parametrize("negatives", ["single_noself", "batch_noself"])
def test_equals_the_released_numbers(negatives):
    views, steps, real, golden = golden_inputs()
    for mask, name in ((None, negatives), (real, f"{negatives}_masked")):
        found = timestamp_contrast_loss(
            views, steps, mask, sigma=10**0.5, negatives=negatives, floor=OFFICIAL_FLOOR
        )
        assert float(found) == pytest.approx(golden[name], abs=5e-4)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_views_may_change_places_and_padding_is_never_read(seed):
    views, times, real = made(seed)
    loss = timestamp_contrast_loss(views, times, real, sigma=2.0)
    swapped = timestamp_contrast_loss(views.flip(1), times.flip(1), real.flip(1), sigma=2.0)
    assert float(loss) == pytest.approx(float(swapped), abs=1e-5)
    views[~real], times[~real] = 7.0, -3.0
    assert float(timestamp_contrast_loss(views, times, real, sigma=2.0)) == pytest.approx(
        float(loss), abs=1e-6
    )
    one = slice(0, 1)
    single = timestamp_contrast_loss(views[one], times[one], real[one], sigma=2.0)
    batch = timestamp_contrast_loss(views[one], times[one], real[one], sigma=2.0, negatives="batch_noself")
    assert float(single) == pytest.approx(float(batch), abs=1e-5)
    assert float(loss) > -1e-6


def test_is_zero_where_similarities_are_the_prior():
    t, sigma, tau = 12, 3.0, 0.2
    # points on a circle: 1 - cosine grows as the squared angle while it is small
    angle = torch.arange(t) * (math.sqrt(tau) / sigma)
    view = torch.stack([angle.cos(), angle.sin()], -1)
    near = angle[:, None] - angle[None]
    logits = near.cos() / tau
    prior = (-0.5 * ((torch.arange(t)[:, None] - torch.arange(t)).float() / sigma) ** 2).log_softmax(-1)
    wanted = (prior.exp() * (prior - logits.log_softmax(-1))).sum(-1).mean()
    views, times = view.expand(1, 2, t, 2), torch.arange(t).expand(1, 2, t)
    found = timestamp_contrast_loss(views, times, sigma=sigma, temperature=tau)
    assert float(found) == pytest.approx(float(wanted), abs=1e-6)
    assert float(found) < 0.01


def test_rows_without_overlap_give_no_gradient_beyond_the_cutoff():
    views = torch.randn(1, 2, 6, 4, requires_grad=True)
    times = torch.stack([torch.arange(6.0), torch.arange(6.0) + 100])[None]
    timestamp_contrast_loss(views, times, sigma=1.0, row_cutoff=3.0).backward()
    assert float(views.grad.abs().sum()) == 0
    views.grad = None
    timestamp_contrast_loss(views, times, sigma=1.0).backward()
    assert float(views.grad.abs().sum()) > 0 and torch.isfinite(views.grad).all()


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_gradient_is_finite_in_half_precision(kind):
    views, times, real = made(1)
    views = views.to(kind).requires_grad_()
    real[0, 1] = False  # a view with no frame at all
    for negatives in ("single_noself", "batch_noself"):
        views.grad = None
        timestamp_contrast_loss(views, times, real, sigma=0.01, negatives=negatives).backward()
        assert torch.isfinite(views.grad).all()


def literal_dtw(cost):
    t, s = cost.shape
    best = np.full((t + 1, s + 1), np.inf)
    best[0, 0] = 0
    for i in range(t):
        for j in range(s):
            best[i + 1, j + 1] = cost[i, j] + min(best[i, j], best[i, j + 1], best[i + 1, j])
    path, (i, j) = [], (t, s)
    while (i, j) != (0, 0):
        path.append((i - 1, j - 1))
        i, j = min([(i - 1, j - 1), (i - 1, j), (i, j - 1)], key=lambda ij: best[ij])
    return path[::-1], best[t, s]


def literal_cross(a, b, sa, sb, sigma, tau, confidence=0.0, matched=False):
    cost = 1 - a @ b.T
    path, value = literal_dtw(cost)
    total = 0.0
    for cells, times, logits in (
        (path, sb, a @ b.T / tau),
        ([(j, i) for i, j in path], sa, b @ a.T / tau),
    ):
        rows = []
        for i in range(len(logits)):
            met = np.array([times[j] for r, j in cells if r == i])
            spread = math.sqrt(sigma**2 + met.var()) if matched else sigma
            p = np.exp(-((met.mean() - times) ** 2) / (2 * spread**2))
            p /= p.sum()
            q = np.exp(logits[i]) / np.exp(logits[i]).sum()
            rows.append(sum(x * math.log(x / y) for x, y in zip(p, q, strict=True) if x > 0))
        total += float(np.mean(rows))
    weight = math.exp(-value / len(path) / confidence) if confidence else 1.0
    return total, weight


@pytest.mark.parametrize("matched", [False, True])
@pytest.mark.parametrize("confidence", [0.0, 0.3])
def test_cross_video_equals_the_loop(confidence, matched):
    rng = np.random.default_rng(3)
    t, u, e = 9, 7, 4
    lengths = [(9, 7), (5, 6), (8, 3)]
    first, second = rng.normal(size=(3, t, e)), rng.normal(size=(3, u, e))
    first_times, second_times = (
        np.sort(rng.uniform(0, 10, (3, t)), 1),
        np.sort(rng.uniform(0, 10, (3, u)), 1),
    )
    wanted = []
    for i, (n, m) in enumerate(lengths):
        a = first[i, :n] / np.linalg.norm(first[i, :n], axis=1, keepdims=True)
        b = second[i, :m] / np.linalg.norm(second[i, :m], axis=1, keepdims=True)
        wanted.append(
            literal_cross(a, b, first_times[i, :n], second_times[i, :m], 2.0, 0.5, confidence, matched)
        )
    of, at = torch.tensor(lengths).T
    found = cross_video_loss(
        torch.tensor(first),
        torch.tensor(second),
        torch.tensor(first_times),
        torch.tensor(second_times),
        torch.arange(t) < of[:, None],
        torch.arange(u) < at[:, None],
        sigma=2.0,
        temperature=0.5,
        confidence=confidence,
        matched_spread=matched,
    )
    expected = sum(x * w for x, w in wanted) / sum(w for _, w in wanted)
    assert float(found) == pytest.approx(expected, abs=1e-4)


def test_cross_video_learns_a_planted_warping_softly_too():
    """Two videos of one sequence at other speeds: the times that frames take over are the true ones."""
    g = torch.Generator().manual_seed(0)
    shown = torch.randn(6, 8, generator=g)
    slow, fast = shown.repeat_interleave(3, 0), shown.repeat_interleave(2, 0)
    unit = torch.nn.functional.normalize
    cost = 1 - unit(slow, dim=-1) @ unit(fast, dim=-1).T
    lengths = torch.tensor([[18, 12]])
    for gamma, ends in ((0.0, "closed"), (0.01, "closed"), (0.0, "open")):
        forth, _, _ = align_frames(cost[None], lengths, gamma, ends)
        found = propagate(forth, torch.arange(12.0)[None])
        true = torch.arange(18) // 3 * 2 + 0.5
        assert (found.times[0] - true).abs().max() <= 0.51
        assert found.met.all()


def test_open_ends_find_a_crop_in_the_whole():
    shown = torch.randn(12, 8, generator=torch.Generator().manual_seed(1))
    unit = torch.nn.functional.normalize(shown, dim=-1)
    cost = 1 - unit @ unit[3:8].T
    _, home, _ = align_frames(cost[None], torch.tensor([[12, 5]]), 0.0, "open")
    assert propagate(home, torch.arange(12.0)[None]).times[0].tolist() == [3, 4, 5, 6, 7]


def test_cross_video_has_gradient_for_both_sides_and_reads_no_padding():
    first, second = torch.randn(2, 6, 4, requires_grad=True), torch.randn(2, 5, 4, requires_grad=True)
    times = torch.arange(6.0).expand(2, 6), torch.arange(5.0).expand(2, 5)
    real = torch.arange(6) < torch.tensor([[6], [4]]), torch.arange(5) < torch.tensor([[5], [3]])
    loss = cross_video_loss(first, second, *times, *real, sigma=1.0)
    loss.backward()
    for x, mask in zip((first, second), real, strict=True):
        assert (x.grad[~mask] == 0).all() and (x.grad[mask].abs().sum(-1) > 0).all()
    with torch.no_grad():
        first[~real[0]], second[~real[1]] = 9.0, -9.0
    again = cross_video_loss(first, second, *times, *real, sigma=1.0)
    assert again.item() == pytest.approx(loss.item(), abs=1e-6)


def test_cycle_consistency_equals_the_loop():
    rng = np.random.default_rng(5)
    t, u, e, tau, lam = 6, 5, 3, 0.1, 0.001
    first, second = rng.normal(size=(2, t, e)), rng.normal(size=(2, u, e))
    times, lengths = np.tile(np.arange(t) / t, (2, 1)), [(6, 5), (4, 3)]
    pairs = []
    for i, (n, m) in enumerate(lengths):
        a, b, s = first[i, :n], second[i, :m], times[i, :n]
        losses = []
        for k in range(n):
            alpha = np.exp(-((a[k] - b) ** 2).sum(1) / e / tau)
            there = (alpha / alpha.sum()) @ b
            beta = np.exp(-((there - a) ** 2).sum(1) / e / tau)
            beta /= beta.sum()
            mu = (beta * s).sum()
            var = max((beta * (s - mu) ** 2).sum(), 1e-6)
            losses.append((s[k] - mu) ** 2 / var + lam * math.log(var))
        pairs.append(np.mean(losses))
    of, at = torch.tensor(lengths).T
    found = cycle_consistency_loss(
        torch.tensor(first),
        torch.tensor(second),
        torch.tensor(times),
        torch.arange(t) < of[:, None],
        torch.arange(u) < at[:, None],
    )
    assert float(found) == pytest.approx(float(np.mean(pairs)), rel=1e-4)


def test_time_contrast_equals_the_loop():
    rng = np.random.default_rng(6)
    a, p = rng.normal(size=(2, 5, 3)), rng.normal(size=(2, 5, 3))
    lengths = [5, 3]
    wanted = []
    for i, n in enumerate(lengths):
        rows = []
        for k in range(n):
            scores = a[i, k] @ p[i, :n].T
            rows.append(
                -scores[k]
                + math.log(np.exp(scores).sum())
                + 0.25 * 0.002 * ((a[i, k] ** 2).sum() + (p[i, k] ** 2).sum())
            )
        wanted.append(np.mean(rows))
    real = torch.arange(5) < torch.tensor(lengths)[:, None]
    found = time_contrast_loss(torch.tensor(a), torch.tensor(p), real)
    assert float(found) == pytest.approx(float(np.mean(wanted)), rel=1e-5)

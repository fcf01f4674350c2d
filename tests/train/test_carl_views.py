"""Views of videos: which rows they show, and what makes them look different."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stepclip.cache.packed import PackedFeatures
from stepclip.train.carl.augment import change_looks, fit_offsets
from stepclip.train.carl.knobs import CarlData
from stepclip.train.carl.views import draws_needed, sample_views


def drawn(lengths, frames, sampler, region=1.5, seed=0, **kinds):
    lengths = torch.as_tensor(lengths)
    needed = draws_needed(frames, int(lengths.max()), sampler, region)
    draws = torch.rand(len(lengths), 2, needed, generator=torch.Generator().manual_seed(seed))
    return sample_views(lengths, draws, frames, sampler, region, **kinds)


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(2, 90), min_size=1, max_size=6),
    frames=st.integers(2, 40),
    sampler=st.sampled_from(["window", "head", "whole"]),
    seed=st.integers(0, 10**6),
)
@example(lengths=[2, 54], frames=2, sampler="head", seed=1)  # both rows drawn lie beyond the end
def test_rows_are_sorted_unique_and_of_the_video(lengths, frames, sampler, seed):
    rows, real = drawn(lengths, frames, sampler, seed=seed)
    for i, length in enumerate(lengths):
        for v in (0, 1):
            kept = rows[i, v][real[i, v]]
            assert (kept.diff() > 0).all() and int(kept.min()) >= 0 and int(kept.max()) < length
            assert not real[i, v][len(kept) :].any()  # the padding comes last
            assert (rows[i, v][len(kept) :] == length - 1).all()
            if sampler != "head":
                assert len(kept) == min(length, frames)


def test_windows_are_windows_and_overlap():
    rows, real = drawn([3000] * 400, 80, "window", overlap=0.2)
    assert real.all()
    width = rows.amax(-1) - rows.amin(-1) + 1
    assert int(width.max()) <= 120 and int(width.min()) >= 80
    assert rows[:, 0, 0].float().std() > 500  # from everywhere
    # the second window begins within (1 - overlap) N of where the first view begins, and they share a stretch
    assert int((rows[:, 1, 0] - rows[:, 0, 0]).abs().max()) <= 64 + 40
    shared = rows.amax(-1).amin(1) - rows.amin(-1).amax(1) + 1
    assert int(shared.min()) >= 0.2 * 80 - 40 and float((shared >= 16).float().mean()) > 0.95


def test_views_without_overlap_are_independent():
    rows, _ = drawn([2000] * 500, 20, "window", overlap=0.0)
    starts = rows[:, :, 0].double()
    assert abs(float(torch.corrcoef(starts.T)[0, 1])) < 0.15


@pytest.mark.parametrize(
    ("length", "valid", "first", "same"),
    [(60, 0.60, 0.25, 0.80), (200, 0.81, 2.1, 0.32), (600, 0.81, 8.2, 0.11)],
)
def test_the_released_sampler_is_as_it_was_measured(length, valid, first, same):
    """The table of `methods/carl.md` 1.2, 3,000 draws each of the released code."""
    rows, real = drawn([length] * 3000, 80, "head")
    assert float(real.float().mean()) == pytest.approx(valid, abs=0.02)
    assert float(rows[:, :, 0].float().mean()) == pytest.approx(first, rel=0.25, abs=0.1)
    shares = []
    for a, b, m, n in zip(rows[:, 0], rows[:, 1], real[:, 0], real[:, 1], strict=True):
        x, y = set(a[m].tolist()), set(b[n].tolist())
        shares.append(len(x & y) / max(len(x), len(y)))
    assert float(np.mean(shares)) == pytest.approx(same, abs=0.06)


def test_positives_of_tcn_lie_a_little_earlier():
    rows, real = drawn([50, 9], 16, "earlier")
    back = rows[:, 0] - rows[:, 1]
    early = rows[:, 0] < 5
    assert ((back >= 1) | (rows[:, 0] == 0) | ~real[:, 0]).all()
    assert ((back <= 5) | early).all() and (rows[:, 1] >= 0).all()


def test_views_follow_from_the_draws_alone():
    one, again, other = (drawn([70, 40], 16, "window", seed=s).rows for s in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_a_view_may_be_kept_to_a_part_of_a_short_video():
    _, real = drawn([20, 100], 16, "window", limit=torch.tensor([10, 16]))
    assert real.sum(-1).tolist() == [[10, 10], [16, 16]]


def packed_with_copies(videos=40, length=12, copies=3, d=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    features = torch.randn(videos * length, d, generator=g)
    direction = torch.eye(d)[1]
    size = 2 * torch.randn(
        copies, videos, 1, 1, generator=g
    )  # copies differ along one direction, once a video
    views = features + (size * direction).expand(-1, -1, length, -1).reshape(copies, -1, d)
    views = views + 0.01 * torch.randn(views.shape, generator=g)
    offsets = torch.arange(videos + 1) * length
    ids = tuple(str(i) for i in range(videos))
    return PackedFeatures(features, torch.arange(videos * length).double(), offsets, ids, views=views)


def test_a_fitted_offset_is_what_the_copies_do():
    fitted = fit_offsets(packed_with_copies())
    torch.manual_seed(0)
    config = CarlData(mix=0.0, channels=0.0, gain=0.0, replace=0.0)
    zero = torch.zeros(300, 6)
    frames = torch.zeros(300, 2, 10, 6)
    found = change_looks(frames, config, spread=torch.ones(6), own_mean=zero, other_mean=zero, fitted=fitted)
    still = found.mean(2).flatten(0, 1)
    assert float(still[:, 1].std()) == pytest.approx(2.0, rel=0.25)
    assert float(still[:, [0, 2, 3, 4, 5]].std()) < 0.1
    assert float((found - found.mean(2, keepdim=True)).std()) < 0.05


def test_looks_change_by_view_and_processes_draw_alike():
    config, d = CarlData(), 8
    frames, means = torch.randn(6, 2, 10, d), torch.randn(6, d)

    def changed(part):
        torch.manual_seed(3)
        return change_looks(
            frames[part], config, spread=torch.ones(d), own_mean=means, other_mean=means.roll(1, 0), part=part
        )

    whole = changed(slice(None))
    assert torch.equal(whole[2:4], changed(slice(2, 4)))
    apart = whole - frames
    assert not torch.allclose(apart[:, 0].mean(1), apart[:, 1].mean(1), atol=0.1)
    nothing = CarlData(mix=0.0, channels=0.0, gain=0.0, replace=0.0, offset=0.0)
    same = change_looks(frames, nothing, spread=torch.ones(d), own_mean=means, other_mean=means)
    assert torch.equal(same, frames)

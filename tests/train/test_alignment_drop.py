"""Drop-DTW: every labelling of tiny problems, drop costs in all their forms, infinities."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stepclip.cache import StepclipError
from stepclip.train.alignment import drop_dtw, drop_dtw_labels, percentile_drop

from . import alignment_oracle as oracle

INF = math.inf
BACKENDS = ("numba", "torch")


def best_of_all(cost, frame, step, contiguous):
    """The least total of one problem, over every labelling."""
    rows, columns = cost.shape
    leave = step is not None
    frame, step = frame.tolist(), step.tolist() if leave else [0.0] * columns
    every = oracle.drop_labellings(rows, columns, leave_steps=leave, contiguous=contiguous)
    return min((oracle.drop_total(one, cost.tolist(), frame, step) for one in every), default=INF)


def total(labels, cost, frame, step):
    return oracle.drop_total(tuple(labels.tolist()), cost.tolist(), frame.tolist(), step.tolist())


@settings(max_examples=60, deadline=None)
@given(oracle.batches(4), st.booleans(), st.booleans(), st.integers(0, 2**20), st.sampled_from(BACKENDS))
def test_labels_are_the_best_of_all(batch, may_miss, contiguous, seed, backend):
    cost, t, s = batch
    generator = torch.Generator().manual_seed(seed)
    frame = torch.randint(-2, 4, cost.shape[:2], generator=generator) / 2
    step = torch.randint(-1, 5, cost.shape[::2], generator=generator) / 2
    more = {
        "step_drop": step if may_miss else None,
        "lengths": (t, s),
        "contiguous": contiguous,
        "backend": backend,
    }
    value, labels = drop_dtw(cost, frame, **more), drop_dtw_labels(cost, frame, **more)
    assert labels.dtype == torch.int64 and labels.shape == cost.shape[:2]
    for i in range(len(cost)):
        rows, columns = int(t[i]), int(s[i])
        real, f, k = cost[i, :rows, :columns], frame[i, :rows], step[i, :columns]
        best = best_of_all(real, f, k if may_miss else None, contiguous)
        assert value[i].item() == pytest.approx(best, abs=1e-5)
        assert labels[i, rows:].eq(-1).all()
        if best < INF:
            mine = tuple(labels[i, :rows].tolist())
            assert mine in set(
                oracle.drop_labellings(rows, columns, leave_steps=may_miss, contiguous=contiguous)
            )
            assert total(labels[i, :rows], real, f, k if may_miss else 0 * k) == pytest.approx(best, abs=1e-5)
        else:  # no way: no frame has a step
            assert labels[i].eq(-1).all()
        alone = drop_dtw_labels(
            real,
            f,
            k if may_miss else None,
            contiguous=contiguous,
            backend=backend,
        )
        assert alone.tolist() == labels[i, :rows].tolist()


@settings(max_examples=40, deadline=None)
@given(oracle.batches(6, whole=True), st.booleans(), st.booleans(), st.integers(-1, 2))
def test_backends_take_the_same_of_equally_good_labels(batch, may_miss, contiguous, drop):
    cost, t, s = batch
    more = {"step_drop": 1.0 if may_miss else None, "lengths": (t, s), "contiguous": contiguous}
    values = [drop_dtw(cost, float(drop), backend=backend, **more) for backend in BACKENDS]
    labels = [drop_dtw_labels(cost, float(drop), backend=backend, **more) for backend in BACKENDS]
    assert torch.equal(*values)
    assert torch.equal(*labels)


@pytest.mark.parametrize("backend", BACKENDS)
def test_background_and_missing_steps_are_found(backend):
    """Frames of steps 0, 2, 3 with background between; step 1 is not shown."""
    shown = [9, 0, 0, 9, 2, 2, 9, 3, 9]
    cost = torch.tensor([[0.1 if frame == step else 2.0 for step in range(4)] for frame in shown])
    labels = drop_dtw_labels(cost, 0.5, 0.7, backend=backend)
    assert labels.tolist() == [-1, 0, 0, -1, 2, 2, -1, 3, -1]
    assert drop_dtw(cost, 0.5, 0.7, backend=backend).item() == pytest.approx(5 * 0.1 + 4 * 0.5 + 0.7)
    must = drop_dtw_labels(cost, 0.5, backend=backend)  # no step may be missing: 1 takes a background frame
    assert set(must.tolist()) == {-1, 0, 1, 2, 3}
    assert drop_dtw(cost, 0.5, backend=backend).item() == pytest.approx(5 * 0.1 + 3 * 0.5 + 2.0)
    torn = torch.tensor([[0.1], [2.0], [0.1]])
    assert drop_dtw_labels(torn, 0.5, 9.0, backend=backend).tolist() == [0, -1, 0]
    whole = drop_dtw_labels(torn, 0.5, 9.0, contiguous=True, backend=backend).tolist()
    assert whole in ([0, -1, -1], [-1, -1, 0])


@pytest.mark.parametrize("backend", BACKENDS)
def test_drop_costs_in_all_their_forms(backend):
    generator = torch.Generator().manual_seed(0)
    cost = torch.rand(2, 3, 5, 4, generator=generator)
    frame, step = torch.rand(2, 3, generator=generator), torch.rand(2, 3, generator=generator)

    def value(frame, step):
        return drop_dtw(cost, frame, step, backend=backend)

    full = value(frame[..., None].expand(2, 3, 5), step[..., None].expand(2, 3, 4))
    assert torch.equal(value(frame, step), full)  # one per problem
    assert torch.equal(value(0.3, 0.4), value(torch.full((2, 3, 5), 0.3), torch.full((2, 3), 0.4)))
    assert torch.equal(value(None, 0.4), value(percentile_drop(cost), 0.4))
    per_row = torch.rand(5, generator=generator)
    assert torch.equal(value(per_row, 0.4), value(per_row.expand(2, 3, 5), 0.4))
    assert full.shape == (2, 3) and drop_dtw_labels(cost, backend=backend).shape == (2, 3, 5)
    assert drop_dtw(cost[0, 0], 0.3, 0.4, backend=backend).shape == ()
    assert drop_dtw(torch.zeros(0, 5, 4), 0.3, 0.4, backend=backend).shape == (0,)


def test_percentile_drop():
    cost = torch.rand(2, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for share in (0.0, 0.3, 0.5, 1.0):
        by_torch = cost.flatten(1).quantile(share, dim=1)
        torch.testing.assert_close(percentile_drop(cost, share), by_torch)
    assert percentile_drop(cost, 0.3, (1, 1)).tolist() == cost[:, 0, 0].tolist()
    assert percentile_drop(cost[0]).shape == () and percentile_drop(cost.float()).dtype == torch.float32


def test_percentile_drop_of_infinities():
    """Forbidden cells count as the dearest."""
    cost = torch.full((4, 4), INF)
    assert percentile_drop(cost) == INF
    cost[0, 0] = 1.0
    assert percentile_drop(cost) == INF
    cost[:2] = torch.arange(8.0).view(2, 4)
    assert percentile_drop(cost).item() == pytest.approx(0.3 * 15)
    for backend in BACKENDS:
        assert drop_dtw(torch.full((2, 2), INF), backend=backend) == INF


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("contiguous", [False, True])
def test_infinities(contiguous, backend):
    """A forbidden cell is not taken, a frame or step with an infinite drop cost is not left out."""
    generator = torch.Generator().manual_seed(4)
    for _ in range(60):
        cost, frame, step = (torch.rand(n, generator=generator) for n in ((4, 3), (4,), (3,)))
        for some, share in ((cost, 0.3), (frame, 0.4), (step, 0.5)):
            some[torch.rand(some.shape, generator=generator) < share] = INF
        best = best_of_all(cost, frame, step, contiguous)
        value = drop_dtw(cost, frame, step, contiguous=contiguous, backend=backend)
        assert value.item() == pytest.approx(best, abs=1e-5)
        if best < INF:
            labels = drop_dtw_labels(cost, frame, step, contiguous=contiguous, backend=backend)
            assert total(labels, cost, frame, step) == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_more_steps_than_frames_are_infinite_unless_they_may_be_missing(backend):
    cost = torch.rand(2, 4, generator=torch.Generator().manual_seed(0))
    assert drop_dtw(cost, 0.5, backend=backend) == INF
    assert drop_dtw(cost, 0.5, 0.5, backend=backend) < INF


@pytest.mark.parametrize("contiguous", [False, True])
def test_gradcheck(contiguous):
    generator = torch.Generator().manual_seed(3)
    cost, frame, step = (
        torch.rand(shape, dtype=torch.float64, generator=generator).requires_grad_()
        for shape in ((3, 5, 4), (3, 5), (3, 4))
    )
    lengths = (torch.tensor([5, 3, 1]), torch.tensor([4, 2, 4]))
    for backend in BACKENDS:
        assert torch.autograd.gradcheck(
            lambda c, f, k: drop_dtw(c, f, k, lengths, contiguous=contiguous, backend=backend),  # noqa: B023
            (cost, frame, step),
        )


@pytest.mark.parametrize(
    ("frame", "step", "says"),
    [
        (torch.zeros(4), None, r"frame_drop of shape \(4,\)"),
        (torch.zeros(3, 5), 0.5, r"frame_drop of shape \(3, 5\)"),
        (0.5, torch.zeros(2, 5), r"step_drop of shape \(2, 5\)"),
        (math.nan, None, "NaN in frame_drop"),
        (0.5, torch.tensor([0.1, math.nan, 0.1]), "NaN in step_drop"),
    ],
)
def test_bad_drop_costs_are_refused(frame, step, says):
    with pytest.raises(StepclipError, match=says):
        drop_dtw(torch.zeros(2, 5, 3), frame, step)


def test_drop_costs_beyond_the_lengths_are_never_read():
    cost = torch.rand(2, 5, 3, generator=torch.Generator().manual_seed(0))
    frame, step = torch.full((2, 5), 0.3), torch.full((2, 3), 0.3)
    clean = drop_dtw(cost, frame, step, (3, 2))
    frame[:, 3:], step[:, 2:], cost[:, 3:] = math.nan, -INF, math.nan
    for backend in BACKENDS:
        assert torch.equal(drop_dtw(cost, frame, step, (3, 2), backend=backend), clean)


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_quantile_is_a_share(share):
    with pytest.raises(StepclipError, match="quantile"):
        percentile_drop(torch.zeros(2, 2), share)


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_where_there_is_no_way_no_frame_has_a_step(backend):
    cost = torch.rand(3, 4, 6)  # four frames cannot show six steps
    assert drop_dtw(cost, 0.5, None, (4, torch.tensor([6, 4, 6])), backend=backend).isinf().tolist() == [
        True,
        False,
        True,
    ]
    labels = drop_dtw_labels(cost, 0.5, None, (4, torch.tensor([6, 4, 6])), backend=backend)
    assert labels[1].tolist() == [0, 1, 2, 3] and labels[[0, 2]].eq(-1).all()

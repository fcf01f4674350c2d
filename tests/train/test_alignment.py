"""The kernels against literal loops, and the properties that any alignment has."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stepclip.cache import StepclipError
from stepclip.train.alignment import dtw, dtw_path, monotone

INF = float("inf")


def dtw_by_loops(cost):
    """The recurrence, cell by cell."""
    rows, columns = len(cost), len(cost[0])
    total = [[INF] * columns for _ in range(rows)]
    for t in range(rows):
        for s in range(columns):
            before = [total[a][b] for a, b in ((t - 1, s - 1), (t - 1, s), (t, s - 1)) if a >= 0 and b >= 0]
            total[t][s] = cost[t][s] + (min(before) if before else 0.0)
    return total[-1][-1]


def best_labels(sim, visit_all):
    """The best total over every non-decreasing labelling, by enumeration."""
    rows, columns = len(sim), len(sim[0])
    best = -INF
    for labels in itertools.combinations_with_replacement(range(columns), rows):
        if visit_all and rows >= columns and len(set(labels)) < columns:
            continue
        best = max(best, sum(sim[t][k] for t, k in enumerate(labels)))
    return best


@st.composite
def batches(draw, most=7, whole=False):
    """(matrix (B, T, S) float64 with NaN beyond the lengths, lengths_t, lengths_s). Small whole numbers make
    ties."""
    b, t, s = draw(st.integers(1, 4)), draw(st.integers(1, most)), draw(st.integers(1, most))
    lt = draw(st.lists(st.integers(1, t), min_size=b, max_size=b))
    ls = draw(st.lists(st.integers(1, s), min_size=b, max_size=b))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    if whole or draw(st.booleans()):
        matrix = torch.randint(-2, 3, (b, t, s), generator=generator).double()
    else:
        matrix = torch.randn(b, t, s, generator=generator, dtype=torch.float64)
    for i in range(b):
        matrix[i, lt[i] :] = math.nan
        matrix[i, :, ls[i] :] = math.nan
    return matrix, lt, ls


@settings(max_examples=60, deadline=None)
@given(batches(9))
def test_dtw_is_the_loop_within_the_lengths(batch):
    cost, lt, ls = batch
    got = dtw(cost, (lt, ls))
    for i in range(len(cost)):
        assert got[i].item() == pytest.approx(dtw_by_loops(cost[i, : lt[i], : ls[i]].tolist()), abs=1e-12)
    torch.testing.assert_close(got, dtw(cost.mT, (ls, lt)))
    torch.testing.assert_close(
        dtw(cost, (lt, ls), normalise="L+N"), got / (torch.tensor(lt) + torch.tensor(ls))
    )
    largest = torch.maximum(torch.tensor(lt), torch.tensor(ls))
    torch.testing.assert_close(dtw(cost, (lt, ls), normalise="max"), got / largest)


@settings(max_examples=40, deadline=None)
@given(batches(8))
def test_a_dtw_path_is_one_and_costs_the_value(batch):
    cost, lt, ls = batch
    one = cost[0, : lt[0], : ls[0]]
    path = dtw_path(one)
    assert path[0].tolist() == [0, 0] and path[-1].tolist() == [lt[0] - 1, ls[0] - 1]
    assert {tuple(step) for step in path.diff(dim=0).tolist()} <= {(1, 1), (1, 0), (0, 1)}
    assert one[path[:, 0], path[:, 1]].sum().item() == pytest.approx(dtw(one).item(), abs=1e-12)


def test_the_gradient_of_dtw_is_its_path_and_ignores_padding():
    cost = torch.rand(3, 7, 5, dtype=torch.float64)
    cost[1, 4:], cost[2, :, 2:] = math.nan, math.nan
    cost.requires_grad_()
    dtw(cost, ([7, 4, 7], [5, 5, 2])).sum().backward()
    for i, (t, s) in enumerate([(7, 5), (4, 5), (7, 2)]):
        expected = torch.zeros(7, 5, dtype=torch.float64)
        path = dtw_path(cost[i, :t, :s])
        expected[path[:, 0], path[:, 1]] = 1
        torch.testing.assert_close(cost.grad[i], expected)


def test_dtw_keeps_leading_shape_and_broadcasts_lengths():
    cost = torch.rand(2, 3, 6, 4)
    got = dtw(cost, (5, torch.tensor([2, 3, 4])))
    assert got.shape == (2, 3)
    assert got[1, 2] == dtw(cost[1, 2, :5, :4])
    assert dtw(cost[0, 0]).shape == ()
    assert dtw(torch.zeros(0, 3, 4)).shape == (0,)
    assert dtw(torch.tensor([[1, 2], [3, 1]])) == 2  # whole numbers too
    walled = torch.tensor([[0.0, INF], [INF, 0.0]])
    assert dtw(walled) == 0 and dtw(torch.tensor([[0.0, INF], [5.0, 0.0]]), (2, 1)) == 5
    assert torch.isinf(dtw(torch.full((2, 2), INF)))


@settings(max_examples=80, deadline=None)
@given(batches(6), st.booleans())
def test_monotone_labels_are_the_best_of_all(batch, visit_all):
    sim, lt, ls = batch
    labels = monotone(sim, (lt, ls), visit_all=visit_all)
    assert labels.dtype == torch.int64 and labels.shape == sim.shape[:2]
    for i in range(len(sim)):
        path = labels[i, : lt[i]].tolist()
        assert labels[i, lt[i] :].eq(-1).all()
        assert path == sorted(path) and path[0] >= 0 and path[-1] < ls[i]
        if visit_all and lt[i] >= ls[i]:
            assert set(path) == set(range(ls[i]))
        real = sim[i, : lt[i], : ls[i]].tolist()
        assert sum(real[t][k] for t, k in enumerate(path)) == pytest.approx(
            best_labels(real, visit_all), abs=1e-9
        )
        alone = monotone(sim[i, : lt[i], : ls[i]], visit_all=visit_all)
        assert alone.tolist() == path  # the others of the batch and the padding change nothing


def test_ties_take_the_lowest_label():
    assert monotone(torch.zeros(4, 3)).tolist() == [0, 0, 0, 0]
    assert monotone(torch.tensor([[0.0, 0, 0], [-1, -1, 0]])).tolist() == [0, 2]
    assert monotone(torch.zeros(2, 5, 3), visit_all=True).tolist() == [[0, 0, 0, 1, 2]] * 2
    assert monotone(torch.full((3, 2), -INF)).tolist() == [0, 0, 0]
    assert monotone(torch.full((3, 2), -INF), visit_all=True).tolist() == [0, 0, 1]


def test_monotone_avoids_what_is_forbidden():
    sim = torch.zeros(3, 3)
    sim[0, 0] = sim[2, 2] = -INF
    assert monotone(sim).tolist() == [1, 1, 1]
    assert monotone(sim, visit_all=True).tolist() == [0, 1, 2]  # it must pass, whatever it costs
    assert monotone(torch.tensor([[0.0, INF], [0.0, 0.0]])).tolist() == [1, 1]


def golden_cosines():
    t, k = torch.arange(16, dtype=torch.float64)[:, None], torch.arange(20, dtype=torch.float64)
    return torch.stack(
        [
            0.25 + 0.10 * torch.sin(1.7 * t + 2.3 * k + 0.9 * b) + 0.05 * torch.cos(0.37 * t - 0.29 * k)
            for b in (0, 1)
        ]
    )


def test_the_released_viterbi_labels(shared_data):
    golden = json.loads((shared_data / "golden" / "weaksvr.json").read_text())["frame_sentence"]
    cosines = golden_cosines()
    assert cosines.sum().item() == pytest.approx(golden["C_sum"], abs=1e-9)
    for emission in (cosines.log(), cosines.log().float()):
        assert monotone(emission).tolist() == golden["viterbi_image"]
        assert monotone(emission.mT).tolist() == golden["viterbi_text"]
        assert monotone(emission, (None, golden["n"])).tolist() == golden["viterbi_image_n_masked_to_first_n"]


@pytest.mark.parametrize("kernel", [dtw, monotone])
@pytest.mark.parametrize(
    ("given", "lengths", "says"),
    [
        (torch.zeros(3), {}, "shape"),
        (torch.zeros(2, 0, 3), {}, "shape"),
        (torch.zeros(2, 3, 4), {"lengths": ([0, 2], None)}, "from 0 to 2"),
        (torch.zeros(2, 3, 4), {"lengths": (None, [5, 2])}, "column lengths from 2 to 5"),
        (torch.zeros(2, 3, 4), {"lengths": (None, [1, 2, 3])}, "one per problem"),
        (torch.zeros(2, 3, 4), {"lengths": (None, [1.5, 2.0])}, "whole numbers"),
        (torch.full((3, 4), math.nan), {}, "NaN"),
    ],
)
def test_bad_problems_are_refused(kernel, given, lengths, says):
    with pytest.raises(StepclipError, match=says):
        kernel(given, **lengths)


def test_other_refusals():
    with pytest.raises(StepclipError, match="did you mean 'sum'"):
        dtw(torch.zeros(2, 2), normalise="sums")
    with pytest.raises(StepclipError, match=r"\(T, S\)"):
        dtw_path(torch.zeros(1, 2, 2))


def test_half_precision_is_summed_in_float32():
    cost = torch.rand(1, 300, 300).half()
    torch.testing.assert_close(dtw(cost), dtw(cost.double()).float())
    assert monotone(cost).equal(monotone(cost.float()))

"""OTAM and subsequence alignment: the relaxed ends."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stepclip.train.alignment import (
    dtw,
    otam,
    otam_alignment,
    soft_dtw,
    soft_otam,
    subsequence,
    subsequence_alignment,
    subsequence_span,
)

from . import alignment_oracle as oracle

INF = math.inf
BACKENDS = ("numba", "torch")
TINY = [(1, 1), (1, 4), (4, 1), (2, 3), (4, 3), (4, 4)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_numbers_of_the_released_code(backend, shared_data):
    golden = json.loads((shared_data / "golden" / "tempclr.json").read_text())
    i, j = torch.meshgrid(torch.arange(4), torch.arange(6), indexing="ij")
    a = ((3 * i + 5 * j) % 7) / 7
    a = a.double() if backend == "torch" else a
    for name, cost in (("A", a), ("A_transposed", a.mT)):
        hard = otam(cost, symmetric=False, backend=backend)
        soft = soft_otam(cost, symmetric=False, backend=backend)
        assert hard.item() == pytest.approx(golden[f"{name}_hard_otam"], abs=1e-6)
        assert soft.item() == pytest.approx(golden[f"{name}_soft_otam"], abs=1e-6)
    both = golden["A_soft_otam"] + golden["A_transposed_soft_otam"]
    assert soft_otam(a, backend=backend).item() == pytest.approx(both, abs=2e-6)
    assert otam(a, backend=backend).item() == pytest.approx(15 / 7, abs=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", TINY)
def test_every_way_of_a_tiny_problem(shape, backend):
    cost = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
    exact = cost.double()
    t, s = (torch.tensor([n]) for n in shape)
    for gamma in (None, 0.05, 0.7):
        value = oracle.total_of(oracle.otam_ways(*shape), exact, gamma).item()
        assert oracle.otam(exact[None], t, s, gamma).item() == pytest.approx(value, abs=1e-12)
        got = otam_alignment(cost, gamma, backend=backend).value
        assert got.item() == pytest.approx(value, abs=1e-5)
        turned = oracle.total_of(oracle.otam_ways(*shape[::-1]), exact.mT, gamma).item()
        both = otam(cost, backend=backend) if gamma is None else soft_otam(cost, gamma, backend=backend)
        assert both.item() == pytest.approx(value + turned, abs=1e-5)

        value = oracle.total_of(oracle.span_ways(*shape), exact, gamma).item()
        assert oracle.subsequence(exact[None], t, s, gamma).item() == pytest.approx(value, abs=1e-12)
        assert subsequence(cost, gamma=gamma, backend=backend).item() == pytest.approx(value, abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(oracle.batches(), st.sampled_from(BACKENDS))
def test_an_otam_path_uses_each_column_and_its_weights_are_the_gradient(batch, backend):
    cost, t, s = batch
    value, weights = otam_alignment(cost, None, (t, s), backend=backend)
    for i, path in enumerate(otam_alignment(cost, None, (t, s), backend=backend).paths()):
        steps = {tuple(step) for step in path.diff(dim=0).tolist()}
        assert path[:, 1].unique().tolist() == list(range(int(s[i])))
        assert steps <= {(1, 0), (0, 1), (1, 1)} and int(path[:, 0].max()) < t[i]
        assert (path[:, 1] > 0).sum() == s[i] - 1  # the further columns once each
        assert cost[i][path[:, 0], path[:, 1]].sum().item() == pytest.approx(value[i].item(), abs=1e-5)
    leaf = cost.clone().requires_grad_()
    otam(leaf, (t, s), symmetric=False, backend=backend).sum().backward()
    assert torch.equal(leaf.grad, weights)
    leaf.grad = None
    soft_otam(leaf, 0.1, (t, s), symmetric=False, backend=backend).sum().backward()
    soft = otam_alignment(cost, 0.1, (t, s), backend=backend).weights
    assert torch.equal(leaf.grad, soft)
    for i in range(len(cost)):  # the further columns once each, in expectation too
        torch.testing.assert_close(soft[i, :, 1 : int(s[i])].sum(0), torch.ones(int(s[i]) - 1))


@settings(max_examples=40, deadline=None)
@given(oracle.batches(), st.sampled_from(BACKENDS))
def test_both_directions_together_are_symmetric(batch, backend):
    cost, t, s = batch
    near = {"rtol": 0, "atol": 2e-5}
    for normalise in ("sum", "path", "max"):
        more = {"normalise": normalise, "backend": backend}
        torch.testing.assert_close(otam(cost, (t, s), **more), otam(cost.mT, (s, t), **more), **near)
        there, back = soft_otam(cost, 0.1, (t, s), **more), soft_otam(cost.mT, 0.1, (s, t), **more)
        torch.testing.assert_close(there, back, **near)
    one = otam(cost, (t, s), symmetric=False, backend=backend)
    other = otam(cost.mT, (s, t), symmetric=False, backend=backend)
    torch.testing.assert_close(otam(cost, (t, s), backend=backend), one + other)
    # each direction is divided by its own path
    paths = [otam_alignment(c, None, n).weights.sum((1, 2)) for c, n in ((cost, (t, s)), (cost.mT, (s, t)))]
    by_path = otam(cost, (t, s), normalise="path", backend=backend)
    torch.testing.assert_close(by_path, one / paths[0] + other / paths[1])


@settings(max_examples=30, deadline=None)
@given(oracle.batches(whole=True))
def test_backends_take_the_same_of_equally_good_ways(batch):
    cost, t, s = batch
    for find in (otam_alignment, subsequence_alignment):
        found = [find(cost, lengths=(t, s), backend=backend) for backend in BACKENDS]
        assert torch.equal(found[0].value, found[1].value)
        assert torch.equal(found[0].weights, found[1].weights)


@settings(max_examples=40, deadline=None)
@given(oracle.batches(), st.sampled_from(BACKENDS))
def test_a_span_is_the_best_and_the_first_of_the_best_to_end(batch, backend):
    cost, t, s = batch
    value, start, end = subsequence_span(cost, (t, s), backend=backend)
    assert start.dtype == end.dtype == torch.int64
    assert torch.equal(value, subsequence(cost, (t, s), backend=backend))
    for i in range(len(cost)):
        rows = int(t[i])
        spans = {
            (a, b): dtw(cost[i, a : b + 1, : s[i]].double()).item()
            for a in range(rows)
            for b in range(a, rows)
        }
        best = min(spans.values())
        assert value[i].item() == pytest.approx(best, abs=1e-5)
        a, b = int(start[i]), int(end[i])
        assert spans[a, b] == pytest.approx(best, abs=1e-5)
        assert b == min(stop for (_, stop), total in spans.items() if total < best + 1e-9)


def test_a_script_is_found_inside_a_longer_video():
    """Steps 0 1 2 in frames 4 to 9 of 15; all other frames look like none of them."""
    shown = [9, 9, 9, 9, 0, 0, 1, 1, 1, 2, 9, 9, 9, 9, 9]
    cost = torch.tensor([[0.0 if frame == step else 1.0 for step in range(3)] for frame in shown])
    span = subsequence_span(cost)
    assert (span.value, span.start, span.end) == (0, 5, 9)  # the shortest span of no cost
    assert dtw(cost) > 0 and otam(cost, symmetric=False) > 0
    weights = subsequence_alignment(cost, gamma=0.01).weights
    assert weights[6, 1] > 0.99 and weights[10:].sum() < 0.02


@pytest.mark.parametrize("backend", BACKENDS)
def test_soft_subsequence_gradient_is_its_alignment(backend):
    cost = torch.rand(5, 8, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    subsequence(cost, gamma=0.1, backend=backend).sum().backward()
    weights = subsequence_alignment(cost, gamma=0.1, backend=backend).weights
    assert torch.equal(cost.grad, weights)
    assert bool((weights.sum(1) > 1 - 1e-5).all())  # each column is passed
    hard = subsequence(cost, backend=backend)
    assert bool((subsequence(cost, gamma=0.1, backend=backend) <= hard + 1e-6).all())
    torch.testing.assert_close(subsequence(cost, gamma=0.001, backend=backend), hard, rtol=0, atol=3e-3)
    assert bool((hard <= dtw(cost)).all() and (subsequence(cost, gamma=0.1) <= soft_dtw(cost)).all())


@pytest.mark.parametrize("backend", BACKENDS)
def test_infinities(backend):
    generator = torch.Generator().manual_seed(7)
    for _ in range(20):
        cost = torch.rand(4, 3, generator=generator)
        cost[torch.rand(4, 3, generator=generator) < 0.4] = INF
        for ways, door in ((oracle.otam_ways, otam_alignment), (oracle.span_ways, subsequence_alignment)):
            open_ways = [way for way in ways(4, 3) if all(cost[place] < INF for place in way)]
            for gamma in (None, 0.1):
                expected = oracle.total_of(open_ways, cost.double(), gamma).item() if open_ways else INF
                got = door(cost, gamma=gamma, backend=backend)
                assert got.value.item() == pytest.approx(expected, abs=1e-5)
                assert bool(got.weights.any()) == bool(open_ways)
    nowhere = subsequence_span(torch.full((2, 3, 3), INF), backend=backend)
    assert nowhere.start.tolist() == nowhere.end.tolist() == [-1, -1]


def test_gradcheck():
    generator = torch.Generator().manual_seed(1)
    cost = torch.rand(3, 5, 4, dtype=torch.float64, generator=generator).requires_grad_()
    lengths = (torch.tensor([5, 3, 1]), torch.tensor([4, 2, 4]))
    for backend in ("numba", "torch"):
        assert torch.autograd.gradcheck(lambda c: otam(c, lengths, backend=backend), cost)  # noqa: B023
        assert torch.autograd.gradcheck(lambda c: subsequence(c, lengths, backend=backend), cost)  # noqa: B023
    assert torch.autograd.gradcheck(lambda c: soft_otam(c, 0.2, lengths), cost)
    assert torch.autograd.gradcheck(lambda c: soft_otam(c, 0.2, lengths, symmetric=False), cost)
    assert torch.autograd.gradcheck(lambda c: subsequence(c, lengths, gamma=0.2, normalise="L*N"), cost)

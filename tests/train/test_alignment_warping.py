"""DTW and soft-DTW: published numbers, every path of tiny problems, properties, band, infinities."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stepclip.train.alignment import dtw, dtw_alignment, dtw_path, soft_dtw, soft_dtw_alignment, soft_otam

from . import alignment_oracle as oracle

INF = math.inf
BACKENDS = ("numba", "torch")


def test_the_numbers_of_the_released_code(shared_data):
    """methods/tempclr.md 7.6: the released functions on closed-form matrices, in float64."""
    golden = json.loads((shared_data / "golden" / "tempclr.json").read_text())
    i, j = torch.meshgrid(torch.arange(4), torch.arange(6), indexing="ij")
    a = (((3 * i + 5 * j) % 7) / 7).double().requires_grad_()
    for backend, cost in (("torch", a), ("numba", a.float().detach().requires_grad_())):
        soft = soft_dtw(cost, backend=backend)
        assert soft.item() == pytest.approx(golden["A_soft_dtw"], abs=1e-6)
        assert dtw(cost, backend=backend).item() == pytest.approx(golden["A_hard_dtw"], abs=1e-6)
        (gradient,) = torch.autograd.grad(soft, cost)
        assert gradient.sum().item() == pytest.approx(golden["A_soft_dtw_gradient_sum"], abs=1e-5)
        zeros = torch.zeros(5, 5, dtype=cost.dtype)
        assert soft_dtw(zeros, backend=backend).item() == pytest.approx(
            golden["zeros_5x5_soft_dtw"], abs=1e-6
        )
        assert soft_dtw(zeros, backend=backend).item() == pytest.approx(-0.1 * math.log(321), abs=1e-6)
        eye = torch.eye(5, dtype=cost.dtype)
        for name, near, far in (
            ("diag_0.4_off_0.9_5x5_soft_dtw", 0.4, 0.9),
            ("diag_0.70_off_0.75_5x5_soft_dtw", 0.7, 0.75),
        ):
            rows = far + (near - far) * eye
            ways = {
                "identity": rows,
                "rows_reversed": rows.flip(0),
                "rows_0_1_swapped": rows[[1, 0, 2, 3, 4]],
            }
            for way, value in golden[name].items():
                assert soft_dtw(ways[way], backend=backend).item() == pytest.approx(value, abs=2e-6), (
                    name,
                    way,
                )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (4, 1), (2, 3), (4, 4), (3, 5)])
def test_every_path_of_a_tiny_problem(shape, backend):
    generator = torch.Generator().manual_seed(sum(shape))
    cost = torch.randn(shape, generator=generator, dtype=torch.float64)
    ways = oracle.warping_ways(*shape)
    given = cost.float()
    t, s = (torch.tensor([n]) for n in shape)
    for gamma in (None, 0.05, 0.7):
        value = oracle.total_of(ways, given.double(), gamma).item()
        got = dtw(given, backend=backend) if gamma is None else soft_dtw(given, gamma, backend=backend)
        assert got.item() == pytest.approx(value, abs=1e-5)
        # and the loop that all lengths are held to
        assert oracle.dtw(given[None], t, s, gamma).item() == pytest.approx(value, abs=1e-12)
        if gamma is not None:  # each cell's weight is the probability of the paths through it
            weights = torch.zeros(shape, dtype=torch.float64)
            for way in ways:
                total = sum(given[place].double() for place in way)
                for place in way:
                    weights[place] += torch.exp((value - total) / gamma)
            got = soft_dtw_alignment(given, gamma, backend=backend).weights
            torch.testing.assert_close(got.double(), weights, rtol=0, atol=2e-5)


@settings(max_examples=40, deadline=None)
@given(oracle.batches(), st.sampled_from(BACKENDS))
def test_a_hard_path_is_a_way_and_costs_the_value(batch, backend):
    cost, t, s = batch
    value, weights = dtw_alignment(cost, (t, s), backend=backend)
    assert torch.equal(value, dtw(cost, (t, s), backend=backend))
    paths = dtw_alignment(cost, (t, s), backend=backend).paths()
    for i, path in enumerate(paths):
        assert path.dtype == torch.int64 and path.shape[1] == 2
        assert path[0].tolist() == [0, 0] and path[-1].tolist() == [t[i] - 1, s[i] - 1]
        assert {tuple(step) for step in path.diff(dim=0).tolist()} <= {(1, 1), (1, 0), (0, 1)}
        assert cost[i].double()[path[:, 0], path[:, 1]].sum().item() == pytest.approx(
            value[i].item(), abs=1e-5
        )
        assert weights[i].sum() == len(path)
        assert torch.equal(dtw_path(cost[i, : t[i], : s[i]], backend=backend), path)


@settings(max_examples=40, deadline=None)
@given(oracle.batches(), st.sampled_from([0.02, 0.1, 1.0]), st.sampled_from(BACKENDS))
def test_turned_around_it_is_the_same(batch, gamma, backend):
    cost, t, s = batch
    torch.testing.assert_close(
        dtw(cost, (t, s), backend=backend), dtw(cost.mT, (s, t), backend=backend), rtol=0, atol=1e-6
    )
    there = soft_dtw(cost, gamma, (t, s), backend=backend)
    torch.testing.assert_close(there, soft_dtw(cost.mT, gamma, (s, t), backend=backend), rtol=1e-6, atol=1e-5)
    for i in range(len(cost)):  # and read from the end
        turned = cost[i, : t[i], : s[i]].flip(0, 1)
        assert soft_dtw(turned, gamma, backend=backend).item() == pytest.approx(there[i].item(), abs=2e-5)


@settings(max_examples=40, deadline=None)
@given(oracle.batches(), st.sampled_from([0.02, 0.1, 1.0]), st.sampled_from(BACKENDS))
def test_the_soft_form_lies_below_and_its_gradient_is_an_expected_path(batch, gamma, backend):
    cost, t, s = batch
    leaf = cost.clone().requires_grad_()
    soft, hard = soft_dtw(leaf, gamma, (t, s), backend=backend), dtw(cost, (t, s), backend=backend)
    soft.sum().backward()
    _, weights = soft_dtw_alignment(cost, gamma, (t, s), backend=backend)
    assert torch.equal(leaf.grad, weights)
    assert bool((weights >= -1e-6).all()) and bool((weights <= 1 + 2e-5).all())
    for i in range(len(cost)):
        rows, columns = int(t[i]), int(s[i])
        paths = sum(math.comb(rows - 1, k) * math.comb(columns - 1, k) * 2**k for k in range(rows))
        assert -gamma * math.log(paths) - 1e-5 <= (soft[i] - hard[i]).item() <= 1e-5
        length = weights[i].sum().item()
        assert max(rows, columns) - 1e-4 <= length <= rows + columns - 1 + 1e-4
        assert weights[i, 0, 0].item() == pytest.approx(1, abs=2e-5)
        assert weights[i, rows - 1, columns - 1].item() == pytest.approx(1, abs=2e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_small_gamma_tends_to_the_hard_form(backend):
    cost = torch.rand(20, 9, 7, generator=torch.Generator().manual_seed(0))
    hard, path = dtw_alignment(cost, backend=backend)
    away = [
        (soft_dtw(cost, gamma, backend=backend) - hard).abs().max().item() for gamma in (0.1, 0.01, 0.001)
    ]
    assert away[0] > away[1] > away[2] and away[2] < 2e-3
    soft = soft_dtw_alignment(cost, 1e-4, backend=backend).weights
    assert (soft - path).abs().max() < 0.05


@settings(max_examples=30, deadline=None)
@given(oracle.batches(whole=True))
def test_backends_take_the_same_of_equally_good_paths(batch):
    cost, t, s = batch
    values, paths = zip(*(dtw_alignment(cost, (t, s), backend=backend) for backend in BACKENDS), strict=True)
    assert torch.equal(*values) and torch.equal(*paths)


@pytest.mark.parametrize("backend", BACKENDS)
def test_ties_go_to_the_diagonal_then_to_t_seen_from_the_end(backend):
    assert dtw_path(torch.zeros(3, 3), backend=backend).tolist() == [[0, 0], [1, 1], [2, 2]]
    assert dtw_path(torch.zeros(4, 2), backend=backend).tolist() == [[0, 0], [1, 0], [2, 0], [3, 1]]
    # around a wall in the middle both ways cost the same: back from the end, first the step in t
    walled = torch.tensor([[0.0, 0, 0], [0, INF, 0], [0, 0, 0]])
    assert dtw_path(walled, backend=backend).tolist() == [[0, 0], [0, 1], [1, 2], [2, 2]]


# ---- band


@settings(max_examples=40, deadline=None)
@given(oracle.batches(9), st.integers(0, 4), st.sampled_from(BACKENDS))
def test_a_band_forbids_what_lies_off_the_line(batch, band, backend):
    cost, t, s = batch
    walled = cost.clone()
    for i in range(len(cost)):
        for row in range(int(t[i])):
            for column in range(int(s[i])):
                if not oracle.in_band(row, column, int(t[i]), int(s[i]), band):
                    walled[i, row, column] = INF
    got = dtw(cost, (t, s), band=band, backend=backend)
    assert bool(got.isfinite().all())
    assert torch.equal(got, dtw(walled, (t, s), backend=backend))
    assert torch.equal(
        dtw_alignment(cost, (t, s), band=band, backend=backend).weights,
        dtw_alignment(walled, (t, s), backend=backend).weights,
    )
    soft = soft_dtw_alignment(cost, 0.1, (t, s), band=band, backend=backend)
    assert torch.equal(soft.weights, soft_dtw_alignment(walled, 0.1, (t, s), backend=backend).weights)
    assert bool((got >= dtw(cost, (t, s), band=band + 1, backend=backend)).all())
    assert torch.equal(dtw(cost, (t, s), band=99, backend=backend), dtw(cost, (t, s), backend=backend))


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (2, 7), (7, 2), (6, 6)])
def test_a_band_of_nothing_leaves_a_way(shape):
    assert dtw(torch.ones(shape), band=0) == max(shape)
    assert soft_dtw(torch.ones(shape), 0.01, band=0).isfinite()
    path = dtw_path(torch.rand(6, 6), band=0)
    assert path.tolist() == [[i, i] for i in range(6)]


# ---- normalisers


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("soft", [False, True])
def test_normalisers(soft, backend):
    generator = torch.Generator().manual_seed(3)
    cost, t, s = (
        torch.rand(6, 8, 5, generator=generator),
        torch.tensor([8, 1, 5, 3, 2, 8]),
        torch.tensor([5, 5, 1, 3, 4, 2]),
    )

    def value(kind: str, matrix: torch.Tensor) -> torch.Tensor:
        if soft:
            return soft_dtw(matrix, 0.1, (t, s), normalise=kind, backend=backend)
        return dtw(matrix, (t, s), normalise=kind, backend=backend)

    total = value("sum", cost)
    find = (
        soft_dtw_alignment(cost, 0.1, (t, s), backend=backend)
        if soft
        else dtw_alignment(cost, (t, s), backend=backend)
    )
    by = {
        "sum": torch.ones(6),
        "path": find.weights.sum((1, 2)),
        "L+N": t + s,
        "L*N": t * s,
        "max": torch.maximum(t, s),
    }
    for kind, divisor in by.items():
        leaf = cost.clone().requires_grad_()
        got = value(kind, leaf)
        torch.testing.assert_close(got, total / divisor)
        got.sum().backward()  # the divisor is a constant, the path's length too
        torch.testing.assert_close(leaf.grad, find.weights / divisor[:, None, None])
        torch.testing.assert_close(value(kind, cost), got.detach())  # with and without gradient


# ---- gradients


def test_gradcheck():
    cost = torch.rand(
        2, 3, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    ).requires_grad_()
    lengths = (torch.tensor([5, 3, 1]), torch.tensor([4, 2, 4]))
    for backend in ("auto", "numba", "torch"):
        assert torch.autograd.gradcheck(lambda c: dtw(c, lengths, backend=backend, normalise="max"), cost)  # noqa: B023
    for gamma in (0.1, 1.0):
        assert torch.autograd.gradcheck(lambda c: soft_dtw(c, gamma, lengths, band=1), cost)  # noqa: B023
    assert torch.autograd.gradcheck(lambda c: soft_otam(c, 0.3, lengths, normalise="L+N"), cost)


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_value_has_its_own_upstream_gradient(backend):
    cost = torch.rand(4, 3, 3, requires_grad=True)
    factors = torch.tensor([1.0, -2.0, 0.0, 0.5])
    (soft_dtw(cost, backend=backend) * factors).sum().backward()
    alone = soft_dtw_alignment(cost.detach(), backend=backend).weights
    torch.testing.assert_close(cost.grad, alone * factors[:, None, None])
    with torch.no_grad():
        assert not soft_dtw(cost, backend=backend).requires_grad
    assert not dtw_alignment(cost, backend=backend).weights.requires_grad


# ---- infinities


@pytest.mark.parametrize("backend", BACKENDS)
def test_infinite_costs_forbid_cells(backend):
    generator = torch.Generator().manual_seed(2)
    for _ in range(30):
        cost = torch.rand(4, 4, generator=generator)
        cost[torch.rand(4, 4, generator=generator) < 0.35] = INF
        ways = [way for way in oracle.warping_ways(4, 4) if all(cost[place] < INF for place in way)]
        for gamma in (None, 0.1):
            value = oracle.total_of(ways, cost.double(), gamma).item() if ways else INF
            leaf = cost.clone().requires_grad_()
            got = dtw(leaf, backend=backend) if gamma is None else soft_dtw(leaf, gamma, backend=backend)
            got.backward()
            assert got.item() == pytest.approx(value, abs=1e-5)
            assert bool(leaf.grad.isfinite().all())
            assert bool((leaf.grad[cost == INF].abs() < 2e-5).all())
            assert bool(leaf.grad.any()) == bool(ways)


@pytest.mark.parametrize("normalise", ["sum", "path", "L+N", "L*N", "max"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_no_way_is_infinite_whatever_it_is_divided_by(normalise, backend):
    cost = torch.full((2, 3, 3), INF)
    cost[0] = 1
    for value in (dtw, soft_dtw):
        got = value(cost, normalise=normalise, backend=backend)
        assert got[0].isfinite() and got[1] == INF


def test_numbers_of_any_size():
    """Costs that one multiplication overflows, and whole numbers; half precision is summed in float32."""
    huge = torch.full((3, 3), 1e38)
    assert dtw(huge).item() == pytest.approx(3e38, rel=1e-6)
    assert soft_dtw(torch.full((3, 3), 1e6), 0.1).item() == pytest.approx(3e6, rel=1e-6)
    assert dtw(torch.tensor([[1, 2], [3, 1]])) == 2
    cost = torch.rand(1, 300, 300).half()
    torch.testing.assert_close(dtw(cost), dtw(cost.double()).float())
    torch.testing.assert_close(soft_dtw(cost), soft_dtw(cost.double()).float(), rtol=0, atol=5e-5)
    assert soft_dtw(cost.bfloat16()).dtype == torch.float32

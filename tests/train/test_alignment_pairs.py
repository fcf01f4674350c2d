"""Costs of features, and all pairs of two sets against one loop per pair, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from stepclip.cache import StepclipError
from stepclip.train.alignment import COSTS, cost_matrix, dtw, otam, pairs, soft_dtw, soft_otam

from . import alignment_oracle as oracle

DISTANCES = ("dtw", "otam", "subsequence", "soft_dtw", "soft_otam", "soft_subsequence", "sinkhorn")
LOOPS = {
    "dtw": oracle.dtw,
    "otam": oracle.both_otam,
    "subsequence": oracle.subsequence,
}
TEMPERATURE, GAMMA = 0.5, 0.2


def sequences(count: int, rows: int, dim: int, seed: int) -> tuple[Tensor, Tensor]:
    """(count, rows, dim) float32 with NaN beyond the lengths, and these."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, rows + 1, (count,), generator=generator)
    if count:
        lengths[0] = rows
    features = torch.randn(count, rows, dim, generator=generator) / dim**0.5
    features[torch.arange(rows) >= lengths[:, None]] = math.nan
    return features, lengths


def by_loops(a: Tensor, t: Tensor, b: Tensor, s: Tensor, cost: str, distance: str) -> Tensor:
    """(B, C): the cost of each pair by its formula, then the loop over its cells."""
    costs = a.new_zeros(len(a), len(b), a.shape[1], b.shape[1])
    rows, columns = t[:, None].expand(len(a), len(b)), s.expand(len(a), len(b))
    filled = []
    for i in range(len(a)):
        for j in range(len(b)):
            one = oracle.cost_of(cost, a[i, : t[i]], b[j, : s[j]], TEMPERATURE)
            filled.append(torch.nn.functional.pad(one, (0, b.shape[1] - s[j], 0, a.shape[1] - t[i])))
    matrix, rows, columns = torch.stack(filled), rows.reshape(-1), columns.reshape(-1)
    if distance == "sinkhorn":
        plan = oracle.sinkhorn_plan(matrix.detach(), rows, columns, GAMMA, 50)
        value = (plan * matrix).sum((1, 2))
    else:
        gamma = GAMMA if distance.startswith("soft") else None
        value = LOOPS[distance.removeprefix("soft_")](matrix, rows, columns, gamma)
    return value.view(costs.shape[:2])


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("distance", DISTANCES)
def test_pairs_are_each_pair_alone(distance, cost):
    """Values and gradients of both sides; B < C and B > C, more and fewer than 16."""
    for (many_a, rows_a), (many_b, rows_b) in (((3, 5), (5, 4)), ((9, 3), (2, 4))):
        (a, t), (b, s) = sequences(many_a, rows_a, 6, 1), sequences(many_b, rows_b, 6, 2)
        exact = [x.nan_to_num(nan=0.5).double().requires_grad_() for x in (a, b)]
        expected = by_loops(exact[0], t, exact[1], s, cost, distance)
        upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0))
        a, b = a.requires_grad_(), b.requires_grad_()
        more = {"cost": cost, "temperature": TEMPERATURE, "gamma": GAMMA}
        got = pairs(a, b, distance, lengths_a=t, lengths_b=s, **more)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), expected.detach(), rtol=1e-6, atol=2e-5)
        wanted = torch.autograd.grad((expected * upstream).sum(), exact)
        found = torch.autograd.grad((got * upstream).sum(), (a, b))
        for mine, right, n in zip(found, wanted, (t, s), strict=True):
            torch.testing.assert_close(mine.double(), right, rtol=1e-4, atol=1e-4)
            assert not mine[torch.arange(mine.shape[1]) >= n[:, None]].any()  # NaN beyond: no gradient


@pytest.mark.parametrize(
    "sizes", [(1, 1), (1, 20), (20, 1), (7, 8), (8, 7), (17, 33), (33, 17), (16, 32), (31, 31)]
)
def test_any_count_of_sequences(sizes):
    (a, t), (b, s) = sequences(sizes[0], 4, 5, 1), sequences(sizes[1], 3, 5, 2)
    for distance in ("dtw", "soft_dtw", "soft_otam", "subsequence"):
        table = pairs(a, b, distance, lengths_a=t, lengths_b=s, gamma=GAMMA)
        assert table.shape == sizes
        clean = [x.nan_to_num(nan=0.5).double() for x in (a, b)]
        expected = by_loops(clean[0], t, clean[1], s, "cosine", distance)
        torch.testing.assert_close(table.double(), expected, rtol=1e-6, atol=2e-5)


@pytest.mark.parametrize("sizes", [(0, 4), (4, 0), (0, 0)])
def test_no_sequences_give_an_empty_table_with_gradients(sizes):
    a, b = torch.rand(sizes[0], 3, 4, requires_grad=True), torch.rand(sizes[1], 2, 4, requires_grad=True)
    for distance in DISTANCES:
        table = pairs(a, b, distance)
        assert table.shape == sizes
        table.sum().backward()
        assert not a.grad.any() and not b.grad.any()


@pytest.mark.parametrize("sizes", [(5, 18), (18, 5), (20, 20)])
@pytest.mark.parametrize("distance", ["dtw", "soft_dtw", "soft_otam", "soft_subsequence", "sinkhorn"])
def test_chunks_and_recomputation_change_nothing(distance, sizes):
    (a, t), (b, s) = sequences(sizes[0], 6, 8, 1), sequences(sizes[1], 5, 8, 2)
    results = []
    for more in ({}, {"chunk_bytes": 1}, {"keep_bytes": 0}, {"chunk_bytes": 30_000, "keep_bytes": 0}):
        one, other = a.clone().requires_grad_(), b.clone().requires_grad_()
        table = pairs(one, other, distance, lengths_a=t, lengths_b=s, cost="log-softmax", **more)
        (table * torch.arange(table.numel()).view(sizes)).sum().backward()
        results.append((table.detach(), one.grad, other.grad))
    for table, one, other in results[1:]:
        torch.testing.assert_close(table, results[0][0], rtol=1e-6, atol=1e-5)
        # weights up to the number of pairs: the products of other chunks differ in their last digits
        for got, first in ((one, results[0][1]), (other, results[0][2])):
            torch.testing.assert_close(got, first, rtol=1e-4, atol=1e-5 * float(first.abs().max()))


@pytest.mark.parametrize("normalise", ["sum", "path", "L+N", "L*N", "max"])
def test_normalisers(normalise):
    """As the doors divide, each pair alone (test_alignment_warping.py and _otam.py hold the doors)."""
    (a, t), (b, s) = sequences(4, 6, 5, 1), sequences(7, 4, 5, 2)
    for distance, door in (("dtw", dtw), ("soft_dtw", soft_dtw), ("otam", otam), ("soft_otam", soft_otam)):
        got = pairs(a, b, distance, lengths_a=t, lengths_b=s, normalise=normalise)
        for i in range(4):
            for j in range(7):
                right = door(cost_matrix(a[i, : t[i]], b[j, : s[j]]), normalise=normalise)
                assert got[i, j].item() == pytest.approx(right.item(), abs=2e-5)


@pytest.mark.parametrize(
    ("cost", "distance"),
    [
        *((cost, "soft_dtw") for cost in COSTS),
        *(("tempclr", name) for name in DISTANCES[:-1] if name != "soft_dtw"),
    ],
)
def test_gradcheck(cost, distance):
    (a, t), (b, s) = sequences(2, 3, 4, 1), sequences(3, 3, 4, 2)
    a, b = (x.nan_to_num(nan=0.5).double().requires_grad_() for x in (a, b))
    more = {"cost": cost, "temperature": TEMPERATURE, "gamma": GAMMA, "lengths_a": t, "lengths_b": s}
    assert torch.autograd.gradcheck(lambda x, y: pairs(x, y, distance, **more), (a, b))
    more |= {"lengths_a": s, "lengths_b": t}
    assert torch.autograd.gradcheck(lambda x, y: pairs(y, x, distance, **more), (a, b))  # B > C


def test_precisions_and_backends():
    (a, t), (b, s) = sequences(6, 5, 8, 1), sequences(4, 5, 8, 2)
    for distance in DISTANCES[:-1]:
        more = {"distance": distance, "lengths_a": t, "lengths_b": s}
        exact = pairs(a.double(), b.double(), **more)
        assert exact.dtype == torch.float64
        for backend in ("auto", "numba", "torch"):
            got = pairs(a, b, backend=backend, **more)
            torch.testing.assert_close(got.double(), exact, rtol=0, atol=2e-5)
        torch.testing.assert_close(pairs(a.double(), b, **more), exact)  # of two, the better
        torch.testing.assert_close(pairs(a, b.double(), **more), exact)
        half = pairs(a.half(), b.half(), **more)
        assert half.dtype == torch.float32
        torch.testing.assert_close(half.double(), exact, rtol=0, atol=0.05)


@pytest.mark.parametrize("cost", COSTS)
def test_mixed_precision_training_keeps_the_digits(cost):
    """Sums over paths need them: autocast's products do not come in here."""
    (a, t), (b, s) = sequences(20, 5, 8, 1), sequences(17, 4, 8, 2)
    for distance in DISTANCES:
        more = {"distance": distance, "lengths_a": t, "lengths_b": s, "cost": cost}
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = pairs(a, b, **more)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, pairs(a, b, **more), rtol=0, atol=2e-5)


def test_a_vector_of_zeros_has_no_direction_and_no_broken_gradient():
    """Twice the most of `cosine`'s middle: its cosine counts as 0."""
    a, b = torch.zeros(2, 3, 4, requires_grad=True), torch.rand(2, 3, 4, requires_grad=True)
    for cost in ("cosine", "tempclr", "squared"):
        table = pairs(a, b, "soft_dtw", cost=cost)
        table.sum().backward()
        assert bool(a.grad.isfinite().all()) and bool(b.grad.isfinite().all())
    torch.testing.assert_close(pairs(a, b), torch.full((2, 2), 3.0))


# ---- cost_matrix


@pytest.mark.parametrize("cost", COSTS)
def test_cost_matrix_is_its_formula(cost):
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 1, 5, 6, generator=generator), torch.randn(3, 4, 6, generator=generator)
    got = cost_matrix(a, b, cost, temperature=TEMPERATURE)
    assert got.shape == (2, 3, 5, 4)
    for i in range(2):
        for j in range(3):
            right = oracle.cost_of(cost, a[i, 0].double(), b[j].double(), TEMPERATURE)
            torch.testing.assert_close(got[i, j].double(), right, rtol=1e-5, atol=1e-5)
    exact = (a.double().requires_grad_(), b.double().requires_grad_())
    assert torch.autograd.gradcheck(lambda x, y: cost_matrix(x, y, cost, temperature=TEMPERATURE), exact)


def test_log_softmax_is_over_the_real_steps():
    a, b = torch.rand(2, 5, 6), torch.rand(2, 4, 6)
    got = cost_matrix(a, b, "log-softmax", steps=torch.tensor([2, 4]), temperature=TEMPERATURE)
    right = oracle.cost_of("log-softmax", a[0], b[0, :2], TEMPERATURE)
    torch.testing.assert_close(got[0, :, :2], right)
    torch.testing.assert_close((-got[1]).exp().sum(-1), torch.ones(5))
    assert not got[0, :, 2:].any()
    assert torch.equal(cost_matrix(a, b, steps=torch.tensor([2, 4])), cost_matrix(a, b))


# ---- refusals


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"distance": "sof_dtw"}, "did you mean 'soft_dtw'"),
        ({"cost": "cosin"}, "did you mean 'cosine'"),
        ({"normalise": "L+M"}, "did you mean 'L"),
        ({"backend": "nunba"}, "did you mean 'numba'"),
        ({"gamma": 0.0}, "gamma=0"),
        ({"gamma": -1.0}, "gamma=-1"),
        ({"distance": "sinkhorn", "normalise": "max"}, "sinkhorn"),
        ({"b": torch.zeros(2, 3, 5)}, r"features \("),
        ({"b": torch.zeros(3, 4)}, r"features \("),
        ({"b": torch.zeros(2, 0, 4)}, r"features \("),
        ({"lengths_a": torch.tensor([1, 2, 3])}, "lengths_a of shape"),
        ({"lengths_a": torch.tensor([1.0, 2.0])}, "lengths_a"),
        ({"lengths_a": torch.tensor([0, 2])}, "lengths_a from 0 to 2"),
        ({"lengths_b": torch.tensor([1, 4])}, "lengths_b from 1 to 4"),
        ({"a": torch.full((2, 3, 4), math.nan)}, "NaN or infinity in the features a"),
        ({"b": torch.full((2, 3, 4), math.inf)}, "NaN or infinity in the features b"),
    ],
)
def test_bad_requests_are_refused(given, says):
    arguments = {"a": torch.zeros(2, 3, 4), "b": torch.zeros(2, 3, 4), **given}
    with pytest.raises(StepclipError, match=says):
        pairs(**arguments)


def test_bad_cost_matrices_are_refused():
    with pytest.raises(StepclipError, match="did you mean 'cosine'"):
        cost_matrix(torch.zeros(2, 3), torch.zeros(2, 3), "cosin")
    for a, b in ((torch.zeros(2, 3), torch.zeros(2, 4)), (torch.zeros(3), torch.zeros(2, 3))):
        with pytest.raises(StepclipError, match=r"features \("):
            cost_matrix(a, b)


def test_without_checks_the_answer_is_the_same():
    (a, t), (b, s) = sequences(3, 5, 8, 1), sequences(4, 5, 8, 2)
    for distance in DISTANCES:
        more = {"distance": distance, "lengths_a": t, "lengths_b": s}
        assert torch.equal(pairs(a, b, **more), pairs(a, b, check=False, **more))

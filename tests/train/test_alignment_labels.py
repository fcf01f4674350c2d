"""Monotone labels, hard and soft: every labelling of tiny problems, the released Viterbi, infinities."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stepclip.train.alignment import monotone, monotone_posteriors, monotone_value, soft_monotone

from . import alignment_oracle as oracle

INF = math.inf
BACKENDS = ("numba", "torch")


@settings(max_examples=60, deadline=None)
@given(oracle.batches(6), st.booleans(), st.sampled_from(BACKENDS))
def test_labels_are_the_best_of_all(batch, visit_all, backend):
    sim, t, s = batch
    labels = monotone(sim, (t, s), visit_all=visit_all, backend=backend)
    value = monotone_value(sim, (t, s), visit_all=visit_all, backend=backend)
    assert labels.dtype == torch.int64 and labels.shape == sim.shape[:2]
    for i in range(len(sim)):
        rows, columns = int(t[i]), int(s[i])
        assert labels[i, rows:].eq(-1).all()
        path, real = labels[i, :rows].tolist(), sim[i, :rows, :columns].double()
        every = oracle.labellings(rows, columns, visit_all)
        assert tuple(enumerate(path)) in every
        best = -oracle.total_of(every, -real)
        assert sum(real[place] for place in enumerate(path)).item() == pytest.approx(best.item(), abs=1e-5)
        assert value[i].item() == pytest.approx(best.item(), abs=1e-5)
        alone = monotone(sim[i, :rows, :columns], visit_all=visit_all, backend=backend)
        assert alone.tolist() == path  # the others of the batch and the padding change nothing


@settings(max_examples=30, deadline=None)
@given(oracle.batches(6, whole=True), st.booleans())
def test_backends_take_the_same_of_equally_good_labels(batch, visit_all):
    sim, t, s = batch
    first, second = (monotone(sim, (t, s), visit_all=visit_all, backend=backend) for backend in BACKENDS)
    assert torch.equal(first, second)
    for i in range(len(sim)):  # "between equal ways the lowest label wins", seen from the end
        rows, columns = int(t[i]), int(s[i])
        every = oracle.labellings(rows, columns, visit_all)
        totals = [sum(int(sim[i][place]) for place in way) for way in every]
        best = [[k for _, k in way] for way, total in zip(every, totals, strict=True) if total == max(totals)]
        assert first[i, :rows].tolist() == min(best, key=lambda labels: labels[::-1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_ties_take_the_lowest_label(backend):
    assert monotone(torch.zeros(4, 3), backend=backend).tolist() == [0, 0, 0, 0]
    assert monotone(torch.tensor([[0.0, 0, 0], [-1, -1, 0]]), backend=backend).tolist() == [0, 2]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("visit_all", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (5, 1), (3, 3), (5, 3), (3, 4)])
def test_the_soft_form_sums_over_every_labelling(shape, visit_all, backend):
    sim = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
    every = oracle.labellings(*shape, visit_all)
    t, s = (torch.tensor([n]) for n in shape)
    loop = oracle.visit_all if visit_all else oracle.monotone
    for gamma in (0.05, 0.7):
        value = -oracle.total_of(every, -sim.double(), gamma)
        assert loop(sim.double()[None], t, s, gamma).item() == pytest.approx(value.item(), abs=1e-12)
        shares = torch.zeros(shape, dtype=torch.float64)
        for way in every:
            share = ((sum(sim[place].double() for place in way) - value) / gamma).exp()
            for place in way:
                shares[place] += share
        leaf = sim.clone().requires_grad_()
        got = soft_monotone(leaf, gamma, visit_all=visit_all, backend=backend)
        got.backward()
        assert got.item() == pytest.approx(value.item(), abs=1e-5)
        found = monotone_posteriors(sim, gamma, visit_all=visit_all, backend=backend)
        assert found.value == got.detach() and torch.equal(found.weights, leaf.grad)
        torch.testing.assert_close(found.weights.double(), shares, rtol=0, atol=2e-5)


@settings(max_examples=40, deadline=None)
@given(oracle.batches(), st.booleans(), st.sampled_from(BACKENDS))
def test_posteriors_are_probabilities_that_never_go_back(batch, visit_all, backend):
    sim, t, s = batch
    value, weights = monotone_posteriors(sim, 0.3, (t, s), visit_all=visit_all, backend=backend)
    best = monotone_value(sim, (t, s), visit_all=visit_all, backend=backend)
    assert bool((value >= best - 1e-5).all())
    for i in range(len(sim)):
        rows, columns = int(t[i]), int(s[i])
        torch.testing.assert_close(
            weights[i].sum(1), (torch.arange(sim.shape[1]) < rows).float(), rtol=0, atol=2e-5
        )
        assert not weights[i, :, columns:].any()
        behind = weights[i, :rows].cumsum(1)  # P(label <= k) falls from row to row
        assert bool((behind.diff(dim=0) <= 2e-5).all())
        if visit_all and rows >= columns:
            assert weights[i, 0, 0].item() == pytest.approx(1, abs=2e-5)
            assert bool((weights[i].sum(0)[:columns] >= 1 - 2e-5).all())


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_small_gamma_tends_to_the_labels(backend):
    sim = torch.rand(10, 9, 6, generator=torch.Generator().manual_seed(0))
    for visit_all in (False, True):
        labels = monotone(sim, visit_all=visit_all, backend=backend)
        soft = monotone_posteriors(sim, 1e-4, visit_all=visit_all, backend=backend)
        assert torch.equal(soft.weights.argmax(-1), labels)
        best = monotone_value(sim, visit_all=visit_all, backend=backend)
        torch.testing.assert_close(soft.value, best, rtol=0, atol=1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_more_columns_than_a_short_number_holds(backend):
    sim = torch.zeros(3, 40_000)
    sim[0, 35_000] = sim[1, 35_000] = sim[2, 39_000] = 1
    assert monotone(sim, backend=backend).tolist() == [35_000, 35_000, 39_000]


# ---- the released Viterbi


def test_the_released_viterbi_labels(shared_data):
    golden = json.loads((shared_data / "golden" / "weaksvr.json").read_text())["frame_sentence"]
    t, k = torch.arange(16, dtype=torch.float64)[:, None], torch.arange(20, dtype=torch.float64)
    cosines = torch.stack(
        [
            0.25 + 0.10 * torch.sin(1.7 * t + 2.3 * k + 0.9 * b) + 0.05 * torch.cos(0.37 * t - 0.29 * k)
            for b in (0, 1)
        ]
    )
    assert cosines.sum().item() == pytest.approx(golden["C_sum"], abs=1e-9)
    n = torch.tensor(golden["n"])
    for backend in BACKENDS:
        for emission in (cosines.log(), cosines.log().float()):
            # official: padding sentences take part; masked: only the first n
            assert monotone(emission, backend=backend).tolist() == golden["viterbi_image"]
            assert monotone(emission.mT, backend=backend).tolist() == golden["viterbi_text"]
            masked = golden["viterbi_image_n_masked_to_first_n"]
            assert monotone(emission, (None, n), backend=backend).tolist() == masked


# ---- infinities


@pytest.mark.parametrize("backend", BACKENDS)
def test_forbidden_labels_are_avoided_where_they_can_be(backend):
    sim = torch.zeros(3, 3)
    sim[0, 0] = sim[2, 2] = -INF
    assert monotone(sim, backend=backend).tolist() == [1, 1, 1]
    assert monotone(sim, visit_all=True, backend=backend).tolist() == [0, 1, 2]  # it must pass there
    assert monotone(torch.tensor([[0.0, INF], [0.0, 0.0]]), backend=backend).tolist() == [1, 1]
    assert monotone(torch.full((3, 2), -INF), backend=backend).tolist() == [0, 0, 0]
    assert monotone(torch.full((3, 2), -INF), visit_all=True, backend=backend).tolist() == [0, 0, 1]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("visit_all", [False, True])
def test_forbidden_labels_have_no_share(visit_all, backend):
    generator = torch.Generator().manual_seed(4)
    for _ in range(30):
        sim = torch.rand(4, 3, generator=generator)
        sim[torch.rand(4, 3, generator=generator) < 0.3] = -INF
        ways = [way for way in oracle.labellings(4, 3, visit_all) if all(sim[place] > -INF for place in way)]
        value = -oracle.total_of(ways, -sim.double(), 0.1).item() if ways else -INF
        got = monotone_posteriors(sim, 0.1, visit_all=visit_all, backend=backend)
        assert got.value.item() == pytest.approx(value, abs=1e-5)
        assert bool(got.weights.isfinite().all()) and bool((got.weights[sim == -INF].abs() < 2e-5).all())
        assert bool(got.weights.any()) == bool(ways)
        if ways:
            hard = monotone_value(sim, visit_all=visit_all, backend=backend)
            assert hard.item() == pytest.approx(-oracle.total_of(ways, -sim.double()).item(), abs=1e-5)


def test_fewer_rows_than_steps_take_free_jumps():
    sim = torch.rand(6, 3, 5, generator=torch.Generator().manual_seed(0))
    t, s = torch.tensor([3, 3, 2, 1, 3, 2]), torch.tensor([5, 3, 3, 1, 4, 2])
    for backend in BACKENDS:
        strict, free = (monotone(sim, (t, s), visit_all=v, backend=backend) for v in (True, False))
        assert torch.equal(strict[t < s], free[t < s])
        assert strict[1].tolist() == [0, 1, 2]
        soft = [soft_monotone(sim, 0.1, (t, s), visit_all=v, backend=backend) for v in (True, False)]
        torch.testing.assert_close(soft[0][t < s], soft[1][t < s])


def test_gradcheck():
    generator = torch.Generator().manual_seed(1)
    sim = torch.rand(3, 5, 4, dtype=torch.float64, generator=generator).requires_grad_()
    lengths = (torch.tensor([5, 3, 1]), torch.tensor([4, 2, 4]))
    for visit_all in (False, True):
        for backend in BACKENDS:
            assert torch.autograd.gradcheck(
                lambda x: monotone_value(x, lengths, visit_all=visit_all, backend=backend),  # noqa: B023
                sim,
            )
        assert torch.autograd.gradcheck(
            lambda x: soft_monotone(x, 0.2, lengths, visit_all=visit_all),  # noqa: B023
            sim,
        )


def test_half_precision_is_summed_in_float32():
    sim = torch.rand(1, 200, 200).half()
    assert monotone(sim).equal(monotone(sim.float()))

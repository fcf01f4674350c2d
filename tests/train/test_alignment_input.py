"""What the alignments refuse, and how; what they give where there is no way."""

from __future__ import annotations

import math

import pytest
import torch

from stepclip.cache import StepclipError
from stepclip.train.alignment import (
    cost_matrix,
    drop_dtw,
    dtw,
    dtw_path,
    monotone,
    monotone_posteriors,
    otam_alignment,
    percentile_drop,
    sinkhorn,
    sinkhorn_plan,
    soft_dtw,
    soft_dtw_alignment,
    soft_monotone,
    soft_otam,
    subsequence,
    subsequence_alignment,
)

from . import alignment_oracle as oracle
from .test_alignment_layout import EVERY, VALUES

INF = math.inf
BACKENDS = ("numba", "torch")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", [n for n in VALUES if n != "monotone_value"])
def test_no_way_at_all(name, backend):
    sign = -1 if name in ("soft_monotone", "soft_visit_all") else 1
    matrix = torch.full((3, 3, 3), sign * INF)
    matrix[1] = 0.5
    matrix.requires_grad_()
    value = VALUES[name](matrix, backend=backend)
    if name == "drop_dtw":
        value = drop_dtw(matrix, frame_drop=0.2, backend=backend)
    assert value[0] == value[2] == sign * INF and value[1].isfinite()
    (gradient,) = torch.autograd.grad(value[1], matrix)
    assert bool(gradient.isfinite().all()) and not gradient[[0, 2]].any()
    if name != "drop_dtw":
        value = VALUES[name](matrix, backend=backend)
        (gradient,) = torch.autograd.grad(value.sum(), matrix)
        assert not gradient[[0, 2]].any() and gradient[1].any()


# ---- refusals

ONLY_LENGTHS = {
    **EVERY,
    "sinkhorn": sinkhorn,
    "sinkhorn_plan": sinkhorn_plan,
    "percentile_drop": percentile_drop,
}


@pytest.mark.parametrize("name", ONLY_LENGTHS)
@pytest.mark.parametrize(
    ("matrix", "lengths", "says"),
    [
        (torch.zeros(3), None, r"a matrix of shape \(3,\)"),
        (torch.zeros(2, 0, 3), None, r"a matrix of shape \(2, 0, 3\)"),
        (torch.zeros(3, 0), None, r"a matrix of shape \(3, 0\)"),
        (torch.zeros(2, 3, 4), (torch.tensor([0, 2]), None), "row lengths from 0 to 2"),
        (torch.zeros(2, 3, 4), (None, [5, 2]), "column lengths from 2 to 5"),
        (torch.zeros(2, 3, 4), (-1, None), "row lengths from -1 to -1"),
        (torch.zeros(2, 3, 4), (None, [1, 2, 3]), r"column lengths of shape \(3,\)"),
        (torch.zeros(2, 3, 4), ([[1, 2]], None), r"row lengths of shape \(1, 2\)"),
        (torch.zeros(2, 3, 4), (None, [1.5, 2.0]), "column lengths of type torch.float32"),
        (torch.zeros(2, 3, 4), (torch.tensor([True, True]), None), "row lengths of type torch.bool"),
        (torch.zeros(2, 3, 4), (1, 2, 3), "a tuple of 3 lengths"),
        (torch.zeros(2, 3, 4), [3, 4], "lengths as a list"),
        (torch.zeros(2, 3, 4), torch.tensor([1, 2, 3]), r"lengths of shape \(3,\)"),
        (torch.zeros(2, 3, 4), torch.tensor(3), r"lengths of shape \(\)"),
        (torch.full((3, 4), math.nan), None, "NaN inside the lengths"),
        (torch.tensor([[[0.0, 1.0], [math.nan, 1.0]]]), (2, 1), "NaN inside the lengths"),
    ],
)
def test_bad_problems_are_refused(name, matrix, lengths, says):
    with pytest.raises(StepclipError, match=says):
        ONLY_LENGTHS[name](matrix, lengths=lengths)


@pytest.mark.parametrize("name", ONLY_LENGTHS)
def test_infinities_that_mean_nothing_are_refused(name):
    """+inf forbids a cell of a cost, -inf one of a similarity; the other sign would be a reward without end.
    Labels alone have no total to be infinite; a plan has to move its mass somewhere."""
    maximises = "monotone" in name or "visit_all" in name
    matrix = torch.zeros(2, 3, 3)
    matrix[1, 1, 1] = INF if maximises else -INF
    if name in ("monotone", "monotone_visit_all", "monotone_value"):
        ONLY_LENGTHS[name](matrix)
    else:
        with pytest.raises(StepclipError, match="inf inside the lengths"):
            ONLY_LENGTHS[name](matrix)
    assert ONLY_LENGTHS[name](matrix, lengths=(3, 1)) is not None  # beyond the lengths it is not read
    if name.startswith("sinkhorn"):
        with pytest.raises(StepclipError, match="inf inside the lengths"):
            ONLY_LENGTHS[name](-matrix)


@pytest.mark.parametrize(
    "request_",
    [
        lambda: dtw("abc"),
        lambda: dtw(None),
        lambda: dtw(torch.zeros(2, 2, dtype=torch.complex64)),
        lambda: dtw(torch.zeros(2, 2), ("a", 2)),
        lambda: soft_dtw(torch.zeros(2, 2), "x"),
        lambda: dtw(torch.zeros(2, 2), band="x"),
        lambda: cost_matrix("a", "b"),
        lambda: drop_dtw(torch.zeros(2, 2), "x"),
    ],
)
def test_wrong_types_are_refused(request_):
    with pytest.raises(StepclipError):
        request_()


@pytest.mark.parametrize("gamma", [0, -0.1, INF, math.nan])
@pytest.mark.parametrize(
    "door",
    [
        soft_dtw,
        soft_otam,
        soft_monotone,
        monotone_posteriors,
        soft_dtw_alignment,
        subsequence,
        otam_alignment,
        subsequence_alignment,
    ],
)
def test_gamma_is_a_positive_number(door, gamma):
    with pytest.raises(StepclipError, match="gamma="):
        door(torch.zeros(2, 2), gamma=gamma)


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (lambda: dtw(torch.zeros(2, 2), normalise="sums"), "did you mean 'sum'"),
        (lambda: soft_otam(torch.zeros(2, 2), normalise="paths"), "did you mean 'path'"),
        (lambda: dtw(torch.zeros(2, 2), backend="nunba"), "did you mean 'numba'"),
        (lambda: monotone(torch.zeros(2, 2), backend="pytorch"), "did you mean 'torch'"),
        (lambda: dtw(torch.zeros(2, 2), backend="cuda"), "backend 'cuda'"),
        (lambda: dtw(torch.zeros(2, 2), backend="triton"), "backend 'triton'"),
        (lambda: soft_dtw(torch.zeros(2, 2).double(), backend="numba"), "float64"),
        (lambda: soft_dtw(torch.full((2, 2), 1e6), 0.01, backend="numba"), "costs up to 1e"),
        (lambda: dtw(torch.zeros(2, 2), band=-1), "band=-1"),
        (lambda: dtw_path(torch.zeros(1, 2, 2)), r"shape \(1, 2, 2\)"),
        (lambda: dtw_path(torch.full((2, 2), INF)), "no path"),
        (lambda: sinkhorn(torch.zeros(2, 2), 0.0), "epsilon=0"),
        (lambda: sinkhorn(torch.zeros(2, 2), iterations=0), "iterations=0"),
        (lambda: sinkhorn_plan(torch.zeros(2, 2), -1.0), "epsilon=-1"),
    ],
)
def test_other_refusals(request_, says):
    with pytest.raises(StepclipError, match=says) as caught:
        request_()
    assert caught.value.expected


@pytest.mark.parametrize("name", VALUES)
def test_without_checks_the_answer_is_the_same(name):
    """check=False leaves out the look for NaN and for lengths out of range, and nothing else."""
    matrix = torch.rand(3, 6, 4, generator=torch.Generator().manual_seed(0))
    t, s = torch.tensor([6, 2, 4]), torch.tensor([4, 4, 1])
    checked = VALUES[name](matrix, lengths=(t, s))
    assert torch.equal(VALUES[name](matrix, lengths=(t, s), check=False), checked)
    dirty = torch.where(oracle.within(matrix, t, s), matrix, math.nan)
    assert torch.equal(VALUES[name](dirty, lengths=(t, s), check=False), checked)
    with pytest.raises(StepclipError, match="shape"):
        VALUES[name](matrix, lengths=([1, 2], None), check=False)

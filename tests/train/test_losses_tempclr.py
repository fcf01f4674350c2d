"""TempCLR's losses: golden numbers of the released functions, the literal loops, and the orders."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from stepclip.cache import StepclipError
from stepclip.train.alignment import cost_matrix
from stepclip.train.losses import (
    reordered,
    sequence_contrast_loss,
    sequence_distance,
    step_naming_loss,
    unit_contrast_loss,
)
from stepclip.train.tempclr.orders import draw_orders, listed_orders


@pytest.fixture(scope="module")
def literal(released: Callable[[str], ModuleType]) -> ModuleType:
    return released("tempclr")


@pytest.fixture(scope="module")
def golden(shared_data: Path) -> dict:
    return json.loads((shared_data / "golden" / "tempclr.json").read_text())


def wave() -> torch.Tensor:
    i, j = torch.arange(4)[:, None], torch.arange(6)
    return ((3 * i + 5 * j) % 7).double() / 7


def square(diagonal: float, off: float) -> torch.Tensor:
    return off + (diagonal - off) * torch.eye(5, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_golden_distances(golden: dict, dtype: torch.dtype) -> None:
    a = wave().to(dtype)
    for name, distance in (("soft_dtw", "soft_dtw"), ("hard_dtw", "dtw")):
        assert float(sequence_distance(a, distance=distance)) == pytest.approx(golden[f"A_{name}"], abs=5e-6)
    for name, distance in (("soft_otam", "soft_otam"), ("hard_otam", "otam")):
        both = golden[f"A_{name}"] + golden[f"A_transposed_{name}"]
        assert float(sequence_distance(a, distance=distance)) == pytest.approx(both, abs=1e-5)
    zeros = torch.zeros(5, 5, dtype=dtype)
    assert float(sequence_distance(zeros)) == pytest.approx(golden["zeros_5x5_soft_dtw"], abs=5e-6)
    leaf = a.clone().requires_grad_()
    sequence_distance(leaf).backward()
    assert float(leaf.grad.sum()) == pytest.approx(golden["A_soft_dtw_gradient_sum"], abs=1e-5)


@pytest.mark.parametrize("cells", [(0.4, 0.9), (0.70, 0.75)])
def test_golden_distances_of_reordered_rows(golden: dict, cells: tuple[float, float]) -> None:
    want = golden[f"diag_{cells[0]:.{2 if cells[0] == 0.7 else 1}f}_off_{cells[1]}_5x5_soft_dtw"]
    orders = {
        "identity": [0, 1, 2, 3, 4],
        "rows_reversed": [4, 3, 2, 1, 0],
        "rows_0_1_swapped": [1, 0, 2, 3, 4],
    }
    rows = torch.tensor([[list(orders[name]) for name in want]])
    found = sequence_distance(reordered(square(*cells)[None], rows=rows))
    assert found[0].tolist() == pytest.approx(list(want.values()), abs=5e-6)


@pytest.mark.parametrize("otam", [False, True])
def test_the_sequence_loss_is_the_literal_one(literal: ModuleType, otam: bool) -> None:
    """All 119 negatives on both sides: the released draw of 31 does not come into it."""
    torch.manual_seed(0)
    texts, clips = torch.randn(3, 5, 8), torch.randn(3, 5, 8).requires_grad_()
    want = literal.sequence_loss(list(texts), list(clips), 119, otam)
    (want_grad,) = torch.autograd.grad(want, clips)
    cost = cost_matrix(texts, clips, "tempclr")
    rows = listed_orders(3, 5, 119, cost.device).places
    distance = "soft_otam" if otam else "soft_dtw"
    found = sequence_contrast_loss(
        sequence_distance(cost, distance=distance),
        sequence_distance(reordered(cost, rows), distance=distance),
    )
    assert float(found.detach()) == pytest.approx(float(want.detach()), abs=1e-5)
    (grad,) = torch.autograd.grad(found, clips)
    torch.testing.assert_close(grad, want_grad, atol=1e-5, rtol=1e-4)


def test_the_loss_of_a_perfect_matrix_without_a_temperature(golden: dict) -> None:
    """`methods/tempclr.md` 2.5: 0.94 by DTW and 0.51 by OTAM, with all 119 (31 in the text, on average)."""
    for cells, distance, want in (((0.0, 1.0), "soft_dtw", 0.94), ((0.4, 0.9), "soft_dtw", 1.83)):
        torch.manual_seed(0)
        cost = square(*cells)[None].expand(60, 5, 5)
        rows = listed_orders(60, 5, 31, cost.device).places
        right, wrong = (sequence_distance(c, distance=distance) for c in (cost, reordered(cost, rows)))
        assert float(sequence_contrast_loss(right, wrong)) == pytest.approx(want, abs=0.05)


def test_the_released_unit_loss(literal: ModuleType) -> None:
    torch.manual_seed(0)
    clips, texts = torch.randn(7, 8), torch.randn(7, 8)
    assert float(unit_contrast_loss(clips, texts)) == pytest.approx(
        float(literal.unit_loss(clips, texts)), abs=1e-5
    )


def test_padding_does_not_enter_the_unit_loss() -> None:
    torch.manual_seed(0)
    clips, texts = torch.randn(5, 8), torch.randn(5, 8)
    unused = torch.tensor([0, 1, 2, 1, 0])[:, None] == torch.tensor([0, 1, 2, 1, 0])
    want = unit_contrast_loss(clips, texts, 10.0, unused=unused)
    more_clips = torch.cat([clips, torch.full((2, 8), 1e3)]).requires_grad_()
    more_texts = torch.cat([texts, torch.full((2, 8), -1e3)])
    wide = torch.zeros(7, 7, dtype=torch.bool)
    wide[:5, :5] = unused
    found = unit_contrast_loss(more_clips, more_texts, 10.0, unused=wide, real=torch.arange(7) < 5)
    assert found.item() == pytest.approx(float(want), abs=1e-5)
    found.backward()
    assert more_clips.grad is not None and more_clips.grad.isfinite().all()
    assert not more_clips.grad[5:].any()


def test_unused_pairs_are_neither_right_nor_wrong() -> None:
    torch.manual_seed(0)
    clips, texts = torch.randn(3, 8), torch.randn(3, 8)
    unused = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]]).bool()
    logits = 5 * F.normalize(clips, dim=-1) @ F.normalize(texts, dim=-1).T
    want = 0.0
    for m in (logits, logits.T):
        rows = [m[0, [0, 2]], m[1, [1, 2]], m[2]]
        right = [0, 0, 2]
        want += (
            sum(float(F.cross_entropy(r[None], torch.tensor([k]))) for r, k in zip(rows, right, strict=True))
            / 3
        )
    assert float(unit_contrast_loss(clips, texts, 5.0, unused=unused)) == pytest.approx(want, abs=1e-4)


def test_step_naming_is_the_mean_over_real_cells() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 4, 3), torch.tensor([[0, 1, 2, 0], [1, 0, 0, 0]])
    real, steps = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]]).bool(), torch.tensor([3, 2])
    cells = [
        F.binary_cross_entropy_with_logits(logits[v, p, k], torch.tensor(float(labels[v, p] == k)))
        for v in range(2)
        for p in range(4)
        for k in range(3)
        if real[v, p] and k < steps[v]
    ]
    assert float(step_naming_loss(logits, labels, real, steps)) == pytest.approx(
        float(sum(cells) / len(cells))
    )


# ---- orders


def test_listed_orders_are_without_replacement_and_never_the_own() -> None:
    torch.manual_seed(0)
    found = listed_orders(50, 5, 31, torch.device("cpu"))
    every = set(permutations(range(5))) - {tuple(range(5))}
    for orders in found.places.tolist():
        assert len({tuple(o) for o in orders} & every) == 31
    assert {tuple(o) for o in listed_orders(1, 5, 200, torch.device("cpu")).places[0].tolist()} == every


@settings(max_examples=40, deadline=None)
@given(
    runs=st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=6), min_size=1, max_size=3),
    granularity=st.sampled_from(["segments", "clips", "both"]),
    adjacent=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 99),
)
def test_orders_keep_segments_together(
    runs: list[list[int]], granularity: str, adjacent: float, seed: int
) -> None:
    torch.manual_seed(seed)
    lengths = torch.tensor([sum(r) for r in runs])
    n = int(lengths.max()) + 1
    segments = torch.stack(
        [
            torch.cat(
                [torch.arange(len(r)).repeat_interleave(torch.tensor(r)), torch.full((n - sum(r),), 99)]
            )
            for r in runs
        ]
    ).clamp(max=n - 1)
    found = draw_orders(segments, lengths, 8, granularity, adjacent=adjacent)
    for v, run in enumerate(runs):
        length = sum(run)
        for m, order in enumerate(found.places[v].tolist()):
            assert sorted(order[:length]) == list(range(length))
            assert order[length:] == list(range(length, n))
            shown = segments[v, order[:length]].tolist()
            visited = list(dict.fromkeys(shown))
            assert [k for k in visited for _ in range(run[k])] == shown  # each segment in one piece
            if granularity == "clips":
                assert visited == list(range(len(run)))
            if granularity == "segments":
                inside = [[p for p in order[:length] if int(segments[v, p]) == k] for k in visited]
                assert inside == [sorted(p) for p in inside]
            if granularity != "clips" and m < round(8 * adjacent):
                moved = [i for i, k in enumerate(visited) if i != k]
                assert moved == ([] if len(run) == 1 else [moved[0], moved[0] + 1])
            assert bool(found.real[v, m]) == (order[:length] != list(range(length)))


def test_orders_differ_from_draw_to_draw_and_reach_all() -> None:
    torch.manual_seed(0)
    found = draw_orders(torch.arange(4)[None], torch.tensor([4]), 2000)
    seen = {tuple(order) for order in found.places[0].tolist()}
    assert seen == set(permutations(range(4)))


def test_an_exchange_of_equal_sentences_is_no_other_sequence() -> None:
    torch.manual_seed(0)
    found = draw_orders(torch.arange(3)[None], torch.tensor([3]), 200, content=torch.tensor([[7, 8, 7]]))
    for order, real in zip(found.places[0].tolist(), found.real[0].tolist(), strict=True):
        assert real == ([[7, 8, 7][i] for i in order] != [7, 8, 7])


def test_clips_inside_their_segment_leave_the_distance_of_a_block_matrix() -> None:
    """`methods/tempclr.md` 2.3: inner shuffling alone does nothing to a correctly ordered matrix."""
    torch.manual_seed(0)
    segments = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
    cost = torch.where(torch.arange(3)[:, None] == segments, 0.3, 0.9)[None]
    inner = draw_orders(segments[None], torch.tensor([9]), 16, "clips").places
    own = sequence_distance(cost)
    torch.testing.assert_close(sequence_distance(reordered(cost, columns=inner)), own[:, None].expand(1, 16))
    outer = draw_orders(segments[None], torch.tensor([9]), 16, "segments")
    worse = sequence_distance(reordered(cost, columns=outer.places))
    assert (worse[outer.real] > own + 0.5).all()


def test_reordering_both_sides_is_reordering_one_after_the_other() -> None:
    torch.manual_seed(0)
    cost = torch.rand(2, 3, 4)
    rows = torch.stack([torch.randperm(3) for _ in range(10)]).view(2, 5, 3)
    columns = torch.stack([torch.randperm(4) for _ in range(10)]).view(2, 5, 4)
    both = reordered(cost, rows, columns)
    for v in range(2):
        for m in range(5):
            torch.testing.assert_close(both[v, m], cost[v][rows[v, m]][:, columns[v, m]])
            torch.testing.assert_close(reordered(cost, rows)[v, m], cost[v][rows[v, m]])
            torch.testing.assert_close(reordered(cost, columns=columns)[v, m], cost[v][:, columns[v, m]])


def test_videos_that_do_not_count_and_orders_that_are_not_real() -> None:
    right = torch.tensor([1.0, 2.0, 9.0], requires_grad=True)
    tau = torch.tensor(0.5, requires_grad=True)
    wrong = torch.tensor([[1.5, 3.0], [2.5, 0.0], [0.0, 0.0]])
    real = torch.tensor([[True, True], [True, False], [True, True]])
    found = sequence_contrast_loss(right, wrong, tau, real=real, counts=torch.tensor([True, True, False]))
    first = -F.log_softmax(-torch.tensor([1.0, 1.5, 3.0]) / 0.5, 0)[0]
    second = -F.log_softmax(-torch.tensor([2.0, 2.5]) / 0.5, 0)[0]
    assert found.item() == pytest.approx(float(first + second) / 2)
    found.backward()
    assert right.grad is not None and right.grad.isfinite().all()
    assert tau.grad is not None and tau.grad.isfinite() and tau.grad != 0
    assert float(sequence_contrast_loss(right, wrong, counts=torch.zeros(3).bool()).detach()) == 0


def test_unknown_names() -> None:
    with pytest.raises(StepclipError, match=r"soft_dwt.*did you mean 'soft_dtw'"):
        sequence_distance(wave(), distance="soft_dwt")  # type: ignore[arg-type]
    with pytest.raises(StepclipError, match="no order"):
        reordered(wave()[None])

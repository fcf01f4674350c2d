"""Any memory layout, leading shape, company, padding and number of threads gives the same; the disk too."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stepclip.train.alignment import (
    drop_dtw,
    drop_dtw_labels,
    dtw,
    dtw_alignment,
    monotone,
    monotone_posteriors,
    monotone_value,
    otam,
    otam_alignment,
    sinkhorn_plan,
    soft_dtw,
    soft_dtw_alignment,
    soft_monotone,
    soft_otam,
    subsequence,
    subsequence_alignment,
    subsequence_span,
)

from . import alignment_oracle as oracle

INF = math.inf
BACKENDS = ("numba", "torch")
#: differentiable: (matrix, lengths=, backend=) -> value
VALUES: dict[str, Callable[..., Tensor]] = {
    "dtw": dtw,
    "soft_dtw": soft_dtw,
    "otam": otam,
    "soft_otam": soft_otam,
    "subsequence": subsequence,
    "soft_subsequence": partial(subsequence, gamma=0.1),
    "soft_monotone": soft_monotone,
    "soft_visit_all": partial(soft_monotone, visit_all=True),
    "monotone_value": monotone_value,
    "drop_dtw": partial(drop_dtw, step_drop=0.6),
}
WHERE: dict[str, Callable[..., Any]] = {
    "dtw_alignment": dtw_alignment,
    "soft_dtw_alignment": soft_dtw_alignment,
    "otam_alignment": otam_alignment,
    "soft_otam_alignment": partial(otam_alignment, gamma=0.1),
    "subsequence_alignment": subsequence_alignment,
    "subsequence_span": subsequence_span,
    "monotone": monotone,
    "monotone_visit_all": partial(monotone, visit_all=True),
    "monotone_posteriors": monotone_posteriors,
    "visit_all_posteriors": partial(monotone_posteriors, visit_all=True),
    "drop_dtw_labels": partial(drop_dtw_labels, step_drop=0.6),
}
EVERY = {**VALUES, **WHERE}


def tensors(answer: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (answer,) if isinstance(answer, Tensor) else tuple(answer)


def equal(one: Any, other: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True))


# ---- layouts


def layouts() -> Iterator[tuple[str, Tensor]]:
    """(3, 16, 6, 5), and some other shapes, lying in memory in many ways."""
    g, t, s = 3, 6, 5
    generator = torch.Generator().manual_seed(0)

    def new(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    lanes = (0, 3, 1, 2)
    yield "contiguous", new(g, 16, t, s)
    yield "lanes innermost", new(g, t, s, 16).permute(lanes)
    yield "lanes innermost, 20 of them", new(g, t, s, 20).permute(lanes)
    yield "lanes innermost, 80 of them", new(g, t, s, 80).permute(lanes)
    yield "lanes innermost, columns outside", new(g, s, t, 16).permute(0, 3, 2, 1)
    yield "lanes innermost, sliced", new(g, t, s, 48).permute(lanes)[:, 16:32]
    yield "lanes innermost, cells sliced", new(g, t + 3, s + 4, 16).permute(lanes)[:, :, 1 : 1 + t, 2 : 2 + s]
    yield "lanes innermost, every second group", new(2 * g, t, s, 16).permute(lanes)[::2]
    yield "lanes innermost, groups last but one", new(t, s, g, 16).permute(2, 3, 0, 1)
    yield "transposed", new(g, 16, s, t).mT
    yield "sliced with gaps", new(g, 20, 2 * t, s + 3)[:, 2:18, ::2, 1 : 1 + s]
    yield "groups and lanes exchanged", new(16, g, t, s).transpose(0, 1)
    yield "expanded groups", new(1, 16, t, s).expand(g, 16, t, s)
    yield "expanded lanes", new(g, 1, t, s).expand(g, 16, t, s)
    yield "expanded columns", new(g, 16, t, 1).expand(g, 16, t, s)
    yield "lanes innermost, expanded groups", new(1, t, s, 16).permute(lanes).expand(g, 16, t, s)
    yield "lanes innermost, expanded columns", new(g, t, 1, 16).permute(lanes).expand(g, 16, t, s)
    yield "lanes innermost, expanded rows", new(g, 1, s, 16).permute(lanes).expand(g, 16, t, s)
    yield "lanes innermost, windows", new(1000).as_strided((g, 16, t, s), (160, 1, 16, 16))
    yield "one column of a batch", new(g, 16, 20, s)[..., 1:2]
    yield "one row of a batch", new(g, 16, t, 20)[:, :, 2:3]
    yield "all the same", new(1).expand(g, 16, t, s)


LAYOUTS = dict(layouts())


@pytest.mark.parametrize(
    ("layout", "backend"), [(name, b) for i, name in enumerate(LAYOUTS) for b in BACKENDS[: 2 - bool(i % 4)]]
)
def test_a_layout_changes_nothing(layout, backend):
    """Not a bit on numba, where problems do not share a vector's sums."""
    matrix = LAYOUTS[layout]
    generator = torch.Generator().manual_seed(1)
    t, s = (torch.randint(1, n + 1, matrix.shape[:2], generator=generator) for n in matrix.shape[2:])
    plain = matrix.clone(memory_format=torch.contiguous_format)
    for name, door in EVERY.items():
        for lengths in (None, (t, s)):
            got, right = (door(m, lengths=lengths, backend=backend) for m in (matrix, plain))
            same(got, right, backend == "numba", name)
    assert torch.equal(matrix, plain)  # nobody wrote into it
    for name, door in VALUES.items():
        gradients = []
        for m in (matrix, plain):
            leaf = m.detach().requires_grad_()
            door(leaf, lengths=(t, s), backend=backend).sum().backward()
            gradients.append(leaf.grad.clone())
        same(*gradients, backend == "numba", name)
    same(sinkhorn_plan(matrix, 0.1, (t, s)), sinkhorn_plan(plain, 0.1, (t, s)), False, "sinkhorn_plan")


def same(got: Any, right: Any, bits: bool, name: str) -> None:
    if bits:
        assert equal(got, right), name
    else:
        for one, other in zip(tensors(got), tensors(right), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6, msg=partial("{}: {}".format, name))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_gradient_of_an_expanded_cost_is_summed(backend):
    row = torch.rand(2, 6, 1, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    plain = row.detach().clone().requires_grad_()
    t = torch.arange(32).view(2, 16) % 6 + 1
    soft_dtw(row.expand(2, 6, 5, 16).permute(0, 3, 1, 2), 0.1, (t, None), backend=backend).sum().backward()
    cost = plain.permute(0, 3, 1, 2).repeat(1, 1, 1, 5)
    soft_dtw(cost, 0.1, (t, None), backend=backend).sum().backward()
    torch.testing.assert_close(row.grad, plain.grad)


# ---- leading shapes, lengths in all their forms


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", EVERY)
def test_leading_shapes(name, backend):
    door = partial(EVERY[name], backend=backend)
    matrix = torch.rand(2, 3, 6, 4, generator=torch.Generator().manual_seed(0))
    t, s = torch.tensor([[6, 2, 4], [1, 6, 5]]), torch.tensor([[4, 4, 1], [2, 3, 4]])
    every = door(matrix, lengths=(t, s))
    for answer in tensors(every):
        assert answer.shape[:2] == (2, 3)
    for i in range(2):
        for j in range(3):
            one = door(matrix[i, j], lengths=(t[i, j], s[i, j]))
            same(one, [x[i, j] for x in tensors(every)], backend == "numba", name)
    same(
        door(matrix.flatten(0, 1), lengths=(t.flatten(), s.flatten())),
        [x.flatten(0, 1) for x in tensors(every)],
        True,
        name,
    )
    for shape in ((0,), (0, 3), (2, 0)):
        for answer, full in zip(tensors(door(torch.zeros(*shape, 6, 4))), tensors(every), strict=True):
            assert answer.shape == (*shape, *full.shape[2:]) and answer.dtype == full.dtype
    # one length for all, one per column of problems, and both in one tensor
    same(door(matrix, lengths=(5, s)), door(matrix, lengths=(torch.full((2, 3), 5), s)), True, name)
    same(door(matrix, lengths=(t[0], None)), door(matrix, lengths=(t[0].expand(2, 3), 4)), True, name)
    same(door(matrix, lengths=torch.stack([t, s], -1)), every, True, name)
    same(door(matrix, lengths=(t.numpy(), s.int())), every, True, name)


@pytest.mark.parametrize("name", VALUES)
def test_an_empty_batch_has_an_empty_gradient(name):
    matrix = torch.zeros(0, 6, 4, requires_grad=True)
    VALUES[name](matrix).sum().backward()
    assert matrix.grad.shape == (0, 6, 4)


# ---- company and padding


@settings(max_examples=20, deadline=None)
@given(oracle.batches(), st.sampled_from([math.nan, INF, -INF, 7.0, 1e30]))
def test_neither_the_others_nor_the_padding_change_a_bit(batch, filler):
    matrix, t, s = batch
    inside = oracle.within(matrix, t, s)
    dirty = torch.where(inside, matrix, filler)
    for name, door in EVERY.items():
        together = door(dirty, lengths=(t, s), backend="numba")
        same(together, door(torch.where(inside, matrix, 0.0), lengths=(t, s), backend="numba"), True, name)
        i = len(matrix) - 1
        rows, columns = int(t[i]), int(s[i])
        alone = door(matrix[i, :rows, :columns], backend="numba")
        for one, other in zip(tensors(alone), tensors(together), strict=True):
            mine = other[i][tuple(slice(n) for n in one.shape)]  # weights and labels without the padding
            assert torch.equal(one, mine), name


@settings(max_examples=30, deadline=None)
@given(oracle.batches())
def test_backends_agree(batch):
    matrix, t, s = batch
    for name, door in EVERY.items():
        got = [tensors(door(matrix, lengths=(t, s), backend=backend)) for backend in BACKENDS]
        for one, other in zip(*got, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=2e-5, msg=partial("{}: {}".format, name))


@pytest.mark.parametrize("lanes", [False, True])
def test_large_problems_in_smaller_blocks(lanes):
    """Beyond 4096 cells blocks of problems are smaller; the last block is not full."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.rand(1, 90, 60, 80, generator=generator).permute(0, 3, 1, 2)
    matrix = matrix if lanes else matrix[:, :70].contiguous()
    t, s = (torch.randint(1, n + 1, matrix.shape[:2], generator=generator) for n in matrix.shape[2:])
    for name in ("dtw_alignment", "soft_dtw_alignment", "monotone", "monotone_posteriors", "drop_dtw_labels"):
        got = tensors(WHERE[name](matrix, lengths=(t, s), backend="numba"))
        right = tensors(WHERE[name](matrix.double(), lengths=(t, s), backend="torch"))
        for one, other in zip(got, right, strict=True):
            torch.testing.assert_close(
                one.double(), other.double(), rtol=0, atol=2e-5, msg=partial("{}: {}".format, name)
            )


# ---- threads and the disk


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("lanes", [False, True])
def test_any_number_of_threads_gives_the_same(threads, lanes):
    """A batch above the kernels' threshold for threads, 4 million cells."""
    generator = torch.Generator().manual_seed(0)
    if lanes:
        matrix = torch.rand(5, 33, 33, 768, generator=generator).permute(0, 3, 1, 2)
    else:
        matrix = torch.rand(3700, 33, 33, generator=generator)
    assert matrix.numel() > 4_000_000
    t, s = (torch.randint(1, 34, matrix.shape[:-2], generator=generator) for _ in range(2))
    for name in ("dtw_alignment", "soft_dtw_alignment", "monotone", "monotone_posteriors", "drop_dtw_labels"):
        answers = []
        for count in (1, 2, 3):
            threads(count)
            answers.append(WHERE[name](matrix, lengths=(t, s), backend="numba"))
        assert equal(answers[0], answers[1]) and equal(answers[0], answers[2]), name


ONCE = """
import torch
from stepclip.train.alignment import monotone
print(monotone(torch.eye(3)).tolist())
"""


@pytest.mark.slow
def test_compiled_code_is_kept_on_the_disk(tmp_path):
    """A second process finds what the first compiled: it writes nothing."""

    def run() -> dict[Path, int]:
        done = subprocess.run(
            [sys.executable, "-c", ONCE],
            env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == "[0, 1, 2]\n"
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}

    first = run()
    assert any(path.suffix == ".nbc" for path in first)
    assert run() == first

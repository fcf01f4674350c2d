"""The Triton kernels against plain torch in float64.

Where there is a GPU the tests run on it. Where there is none, the same tests run in Triton's interpreter, at
smaller sizes and in a process of their own (Triton reads TRITON_INTERPRET when it is imported); and every
kernel is compiled for a GPU, down to its machine code.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stepclip.cache import StepclipError
from stepclip.train.alignment import (
    drop_dtw,
    dtw,
    dtw_alignment,
    monotone,
    monotone_posteriors,
    otam,
    pairs,
    portable,
    soft_dtw,
    soft_dtw_alignment,
    subsequence_span,
)
from stepclip.train.alignment.patterns import DTW, OTAM, STAY_OR_NEXT, SUBSEQUENCE, Pattern

if find_spec("triton") is None:
    pytest.skip("triton is not installed: no GPU kernels here", allow_module_level=True)

CUDA = torch.cuda.is_available()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if CUDA else "cpu"
PATTERNS = pytest.mark.parametrize("pattern", [DTW, OTAM, SUBSEQUENCE, STAY_OR_NEXT], ids=lambda p: p.name)
INF = float("inf")

on_a_gpu = pytest.mark.skipif(
    not (CUDA or INTERPRETED), reason="no GPU: test_in_the_interpreter runs this in Triton's interpreter"
)
compiled = pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")


@pytest.fixture
def gpu() -> Any:
    from stepclip.train.alignment import gpu

    return gpu


@pytest.fixture
def many_strips(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strips of 8 places, so that small problems have several."""
    monkeypatch.setattr(gpu.tiles, "STRIP", 8)


@pytest.fixture
def large_tiles(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the interpreter an operation takes long, however much it works on: all problems in one tile."""
    if not CUDA:
        monkeypatch.setattr(gpu.tiles, "STRIP", 16)
        monkeypatch.setattr(gpu.tiles, "WARP", 16 * 2048)


def grid(
    t: list[int] | Tensor, s: list[int] | Tensor, seed: int = 0, low: float = 0.0, high: float = 2.0
) -> tuple[Tensor, Tensor, Tensor]:
    """(1, L, T, S) float32 from `low` to `high`, NaN beyond the lengths, in the layout of `pairs` on a GPU;
    lengths (1, L)."""
    t, s = torch.as_tensor(t)[None], torch.as_tensor(s)[None]
    rows, columns = int(t.max()), int(s.max())
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.rand(1, rows, t.numel(), columns, generator=generator).permute(0, 2, 1, 3)
    matrix = low + (high - low) * matrix
    inside = (torch.arange(rows) < t[..., None])[..., None] & (torch.arange(columns) < s[..., None])[
        ..., None, :
    ]
    return matrix.masked_fill(~inside, math.nan).to(DEVICE), t.to(DEVICE), s.to(DEVICE)


def assert_agrees(got: tuple[Tensor, Tensor], matrix: Tensor, right: tuple[Tensor, Tensor]) -> None:
    """Value within 1e-5, weights within 2e-5, zeros where the matrix is not real."""
    assert got[0].dtype == got[1].dtype == matrix.dtype and got[1].shape == matrix.shape
    torch.testing.assert_close(got[0].double(), right[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(got[1].double(), right[1], atol=2e-5, rtol=0)
    assert got[1].ge(0).all() and got[1][matrix.isnan()].eq(0).all()


@on_a_gpu
@PATTERNS
@pytest.mark.parametrize(("rows", "columns"), [(17, 19), (11, 9), (1, 4), (4, 1)])
def test_the_stencils_agree_with_plain_torch(
    gpu: Any, pattern: Pattern, rows: int, columns: int, many_strips: None
) -> None:
    lengths = torch.randint(1, 100, (2, 4), generator=torch.Generator().manual_seed(rows))
    t, s = lengths[0] % rows + 1, lengths[1] % columns + 1
    t[:3], s[:3] = rows, columns
    matrix, t, s = grid(t, s)
    matrix[0, 1, 0] *= 0.01  # ways along the borders: from strip to strip at both ends
    matrix[0, 1, :, -1] *= 0.01
    matrix[0, 2, :, 0] *= 0.01
    matrix[0, 2, -1] *= 0.01
    value, path = portable.hard(matrix.double(), t, s, pattern)
    assert_agrees(gpu.hard(matrix, t, s, pattern), matrix, (value, path))
    soft = portable.soft(matrix.double(), t, s, pattern, 0.1)
    found = gpu.soft(matrix, t, s, pattern, 0.1)
    assert_agrees(found, matrix, soft)
    if rows > 11:
        return
    alone = gpu.soft(matrix, t, s, pattern, 0.1, False)
    assert alone[1] is None and alone[0].equal(found[0])
    alone = gpu.hard(matrix.double(), t, s, pattern, False)
    assert alone[1] is None and alone[0].dtype == torch.float64
    torch.testing.assert_close(alone[0], value, atol=1e-12, rtol=0)


@on_a_gpu
@PATTERNS
def test_ties_are_broken_alike(gpu: Any, pattern: Pattern) -> None:
    matrix, t, s = grid([9, 7, 3, 8, 1, 9], [5, 5, 4, 2, 1, 3], seed=3)
    matrix = (matrix * 1.5).round()
    value, path = gpu.hard(matrix, t, s, pattern)
    right = portable.hard(matrix.double(), t, s, pattern)
    assert value.double().equal(right[0]) and path.double().equal(right[1])


@on_a_gpu
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "sliced", "expanded", "two groups"])
def test_any_memory_layout(gpu: Any, layout: str) -> None:
    whole = torch.rand(2, 3, 5, 6, device=DEVICE, generator=torch.Generator(DEVICE).manual_seed(1))
    matrix = {
        "contiguous": whole,
        "transposed": whole.mT,
        "sliced": whole[:, 1:, 1:, ::2],
        "expanded": whole[:1, :, :, :1].expand(2, 3, 5, 6),
        "two groups": whole.permute(1, 0, 2, 3),
    }[layout]
    t = torch.full(matrix.shape[:2], matrix.shape[2], device=DEVICE)
    s = torch.full((1, 1), matrix.shape[3], device=DEVICE).expand(matrix.shape[:2])
    right = portable.soft(matrix.double(), t, s, DTW, 0.1)
    assert_agrees(gpu.soft(matrix, t, s, DTW, 0.1), matrix, right)
    right = portable.hard(matrix.double(), t, s, OTAM)
    assert_agrees(gpu.hard(matrix, t, s, OTAM), matrix, right)
    matrix, t, s = matrix[:, :, :3], t.clamp(max=3), s  # a scan takes long in the interpreter
    assert gpu.labels(matrix, t, s).equal(portable.labels(matrix.double(), t, s))
    right = portable.soft_labels(matrix.double(), t, s, 0.1)
    assert_agrees(gpu.soft_labels(matrix, t, s, 0.1), matrix, right)


def every_pair(longest: int) -> tuple[Tensor, Tensor]:
    sides = torch.arange(1, longest + 1)
    return sides.repeat_interleave(longest), sides.repeat(longest)


@on_a_gpu
@PATTERNS
def test_every_pair_of_lengths_up_to_40(gpu: Any, pattern: Pattern, large_tiles: None) -> None:
    if not CUDA and pattern is not DTW:
        pytest.skip("needs a GPU: in the interpreter one pattern takes long enough")
    matrix, t, s = grid(*every_pair(40))
    right = portable.soft(matrix.double(), t, s, pattern, 0.1)
    assert_agrees(gpu.soft(matrix, t, s, pattern, 0.1), matrix, right)
    right = portable.hard(matrix.double(), t, s, pattern)
    assert_agrees(gpu.hard(matrix, t, s, pattern), matrix, right)


@on_a_gpu
def test_labels_of_every_pair_of_lengths(gpu: Any) -> None:
    matrix, t, s = grid(*every_pair(40 if CUDA else 3), low=-1, high=1)
    right = portable.soft_labels(matrix.double(), t, s, 0.1)
    assert_agrees(gpu.soft_labels(matrix, t, s, 0.1), matrix, right)
    assert gpu.soft_labels(matrix, t, s, 0.1, False)[0].equal(gpu.soft_labels(matrix, t, s, 0.1)[0])
    for tied in (matrix, (matrix * 2).round()):
        assert gpu.labels(tied, t, s).equal(portable.labels(tied.double(), t, s))


@on_a_gpu
def test_labels_of_a_longer_problem(gpu: Any) -> None:
    matrix, t, s = grid([300, 211, 5], [90, 90, 33]) if CUDA else grid([7, 5, 2], [11, 12, 3])
    right = portable.soft_labels(matrix.double(), t, s, 0.1)
    assert_agrees(gpu.soft_labels(matrix, t, s, 0.1), matrix, right)
    assert gpu.labels(matrix, t, s).equal(portable.labels(matrix.double(), t, s))


@on_a_gpu
@pytest.mark.parametrize("contiguous", [False, True])
def test_drop_agrees(gpu: Any, contiguous: bool) -> None:
    lengths = ([120, 97, 40, 18], [17, 17, 9, 18]) if CUDA else ([6, 5, 3, 4], [4, 2, 3, 4])
    for seed, whole in enumerate((False, True)):
        cost, t, s = grid(*lengths, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        frame = torch.rand(1, 4, cost.shape[2], generator=generator).to(DEVICE)
        step = torch.rand(1, 4, cost.shape[3], generator=generator).to(DEVICE)
        if whole:  # ties
            cost, frame, step = (cost * 2).round() / 2, (frame * 2).round() / 2, (step * 2).round() / 2
        for may_miss in (step, torch.full_like(step, INF)):
            right = portable.drop(cost.double(), t, s, frame, may_miss, contiguous)
            assert gpu.drop(cost, t, s, frame, may_miss, contiguous).equal(right)


@on_a_gpu
def test_drop_without_a_way_is_infinite() -> None:
    cost = torch.rand(2, 3, 4, device=DEVICE)
    value = drop_dtw(cost, 0.5, lengths=(3, torch.tensor([4, 2])), backend="triton")
    assert value[0] == INF and value[1].isfinite()


@on_a_gpu
def test_infinite_costs_forbid_and_no_way_is_infinite(gpu: Any) -> None:
    matrix, t, s = grid([5, 5, 5, 2], [4, 4, 4, 4], seed=5)
    matrix[0, 0, 2, 1:] = INF  # only column 0 is open in row 2
    matrix[0, 1, 2, :] = INF  # nothing is
    right = portable.soft(matrix.double(), t, s, DTW, 0.1)
    value, weights = gpu.soft(matrix, t, s, DTW, 0.1)
    assert_agrees((value, weights), matrix, right)
    assert weights[0, 0, 2].tolist() == pytest.approx([1, 0, 0, 0], abs=1e-6)
    assert value[0, 1] == INF and not weights[0, 1].any()
    found = gpu.hard(matrix, t, s, DTW)
    assert_agrees(found, matrix, portable.hard(matrix.double(), t, s, DTW))
    assert found[0][0, 1] == INF and not found[1][0, 1].any()
    value, weights = gpu.soft(matrix, t, s, STAY_OR_NEXT, 0.1)
    assert value[0, 3] == INF and not weights[0, 3].nan_to_num(1.0).any()  # 2 rows cannot visit 4 columns
    value, weights = gpu.soft_labels(-matrix, t, s, 0.1)
    assert value[0, 1] == -INF and not weights[0, 1].any() and value[0, 0].isfinite()
    assert monotone(-matrix, (t, s), backend="triton")[0, 0].tolist()[2] == 0


@on_a_gpu
def test_large_costs_keep_their_digits(gpu: Any) -> None:
    """Exponents far beyond any float, and small differences on top of them."""
    matrix, t, s = grid([12, 9], [11, 10])
    right = portable.soft((matrix * 64).double(), t, s, DTW, 0.1)
    value, weights = gpu.soft(matrix * 64, t, s, DTW, 0.1)  # a way costs 2^-5000 and less
    torch.testing.assert_close(value.double(), right[0], rtol=2e-7, atol=0)
    torch.testing.assert_close(weights.double(), right[1], atol=1e-4, rtol=0)


@on_a_gpu
def test_the_public_doors_agree_and_have_gradients() -> None:
    matrix, t, s = grid([7, 6, 2], [5, 3, 5])
    matrix, lengths = matrix[0], (t[0], s[0])
    for soft in (soft_dtw, lambda c, **how: otam(c, **how), lambda c, **how: dtw(c, **how)):
        results = []
        for backend, dtype in (("triton", torch.float32), ("torch", torch.float64)):
            cost = matrix.to(dtype, copy=True).requires_grad_()
            value = soft(cost, lengths=lengths, backend=backend)
            (value * torch.tensor([1.0, -2.0, 3.0], device=DEVICE)).sum().backward()
            results.append((value.double(), cost.grad.double()))
        torch.testing.assert_close(results[0][0], results[1][0], atol=1e-5, rtol=0)
        torch.testing.assert_close(results[0][1], results[1][1], atol=6e-5, rtol=0)
    for door in (soft_dtw_alignment, dtw_alignment):
        mine, plain = (door(matrix, lengths=lengths, backend=name) for name in ("triton", "torch"))
        torch.testing.assert_close(mine.weights, plain.weights, atol=2e-5, rtol=0)
    assert subsequence_span(matrix, lengths, backend="triton").start.equal(
        subsequence_span(matrix, lengths, backend="torch").start
    )
    for visit_all in (False, True):
        mine, plain = (
            monotone(-matrix, lengths, visit_all=visit_all, backend=name) for name in ("triton", "torch")
        )
        assert mine.equal(plain)
        mine, plain = (
            monotone_posteriors(-matrix, 0.1, lengths, visit_all=visit_all, backend=name).weights
            for name in ("triton", "torch")
        )
        torch.testing.assert_close(mine, plain, atol=2e-5, rtol=0)


@on_a_gpu
@pytest.mark.parametrize("distance", ["soft_dtw", "soft_otam", "subsequence"])
def test_pairs_and_their_gradients(distance: str) -> None:
    generator = torch.Generator().manual_seed(2)
    b, c, t, s = (24, 20, 32, 12) if CUDA else (3, 2, 5, 4)
    found = []
    for backend, dtype in (("triton", torch.float32), ("torch", torch.float64)):
        generator.manual_seed(2)
        video = torch.randn(b, t, 8, generator=generator).to(DEVICE, dtype).requires_grad_()
        text = torch.randn(c, s, 8, generator=generator).to(DEVICE, dtype).requires_grad_()
        lengths = {
            "lengths_a": torch.randint(1, t + 1, (b,), generator=generator).to(DEVICE),
            "lengths_b": torch.randint(1, s + 1, (c,), generator=generator).to(DEVICE),
        }
        table = pairs(video, text, distance, backend=backend, check=False, **lengths)
        table.sum().backward()
        found.append([x.double() for x in (table, video.grad, text.grad)])
    for mine, plain in zip(*found, strict=True):
        torch.testing.assert_close(mine, plain, atol=1e-4 if CUDA else 2e-5, rtol=1e-5)


@on_a_gpu
def test_no_problems_and_a_scratch_that_fits_one_program(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    empty, none = torch.zeros(0, 3, 4, 5, device=DEVICE), torch.zeros(0, 3, dtype=torch.int64, device=DEVICE)
    assert gpu.soft(empty, none, none, DTW, 0.1)[1].shape == empty.shape
    assert gpu.labels(empty, none, none).shape == (0, 3, 4)
    assert gpu.soft_labels(empty, none, none, 0.1)[0].shape == (0, 3)
    monkeypatch.setattr(gpu.tiles, "SCRATCH_BYTES", 1)  # one program goes through all tiles
    matrix, t, s = grid([5, 4, 3, 2, 5, 5, 1, 4, 2], [4, 4, 4, 1, 2, 3, 4, 1, 4])
    right = portable.soft(matrix.double(), t, s, SUBSEQUENCE, 0.1)
    assert_agrees(gpu.soft(matrix, t, s, SUBSEQUENCE, 0.1), matrix, right)


@pytest.mark.skipif(not CUDA, reason="needs a GPU: no interpreter is fast enough for these sizes")
@PATTERNS
def test_long_problems_on_a_gpu(gpu: Any, pattern: Pattern) -> None:
    generator = torch.Generator().manual_seed(4)
    t = torch.randint(1, 701, (64,), generator=generator)
    s = torch.randint(1, 301, (64,), generator=generator)
    matrix, t, s = grid(t, s)
    right = portable.soft(matrix.double(), t, s, pattern, 0.1)
    value, weights = gpu.soft(matrix, t, s, pattern, 0.1)
    torch.testing.assert_close(value.double(), right[0], rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(weights.double(), right[1], atol=2e-4, rtol=0)
    right = portable.hard(matrix.double(), t, s, pattern)
    value, path = gpu.hard(matrix, t, s, pattern)
    torch.testing.assert_close(value.double(), right[0], rtol=1e-6, atol=1e-5)
    assert path.double().equal(right[1])


@pytest.mark.skipif(not CUDA, reason="needs a GPU: the interpreter has no streams to wait for")
def test_nothing_waits_for_the_device(gpu: Any) -> None:
    matrix, t, s = grid([30, 20], [12, 12])
    for _ in range(2):  # the first compiles
        torch.cuda.set_sync_debug_mode("error" if _ else "default")
        try:
            gpu.soft(matrix, t, s, DTW, 0.1)
            gpu.hard(matrix, t, s, OTAM)
            gpu.labels(matrix, t, s)
            gpu.soft_labels(matrix, t, s, 0.1)
            gpu.drop(matrix, t, s, matrix[:, :, :, 0], matrix[:, :, 0], False)
        finally:
            torch.cuda.set_sync_debug_mode("default")


# ---- without a GPU


@pytest.mark.slow
@pytest.mark.skipif(CUDA or INTERPRETED, reason="the tests above ran by themselves")
def test_in_the_interpreter(project_root: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(
        command, cwd=project_root, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-6000:] + done.stderr[-2000:]


@compiled
def test_a_tensor_on_the_cpu_is_refused() -> None:
    with pytest.raises(StepclipError, match="tensor on cpu"):
        soft_dtw(torch.zeros(2, 3, 4), backend="triton")


KINDS = {
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.int64: "*i64",
    torch.int16: "*i16",
    torch.int8: "*i8",
}


class Compiler:
    """In a kernel's place: compiles what the launch would have compiled, for an H100, and runs nothing."""

    def __init__(self, kernel: Any) -> None:
        self.kernel, self.binaries, self.far = kernel, [], False  # far: strides that need 64 bits

    def __getitem__(self, programs: Any) -> Callable[..., None]:
        return self.compile

    def compile(self, *arguments: Any, num_warps: int, **constexprs: Any) -> None:
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        names, arguments = self.kernel.arg_names, (*arguments, *constexprs.values())
        assert len(arguments) == len(names)
        signature: dict[str, str] = {}
        for parameter, value in zip(self.kernel.params, arguments, strict=True):
            if parameter.is_constexpr:
                signature[parameter.name] = "constexpr"
            elif isinstance(value, Tensor):
                signature[parameter.name] = KINDS[value.dtype]
            elif isinstance(value, float):
                signature[parameter.name] = "fp32"
            else:
                signature[parameter.name] = "i64" if self.far and parameter.name.endswith("_step") else "i32"
        constants = {
            name: value
            for name, value in zip(names, arguments, strict=True)
            if signature[name] == "constexpr"
        }
        source = ASTSource(self.kernel, signature, constants)
        made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": num_warps})
        self.binaries.append(made.asm)


@pytest.fixture
def bench(project_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """benchmarks/bench_alignment_gpu.py, as it is when run as a script."""
    monkeypatch.syspath_prepend(str(project_root / "benchmarks"))
    names = {"bench_alignment_gpu", "block_per_pair", "machine", "rounds"} - set(sys.modules)
    yield import_module("bench_alignment_gpu")
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.skipif(CUDA, reason="there is a GPU")
def test_the_benchmark_without_a_gpu_writes_nothing(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench_alignment_gpu.py", "--out", str(tmp_path / "out")])
    bench.main()
    assert "no CUDA device" in capsys.readouterr().out and not (tmp_path / "out").exists()


@on_a_gpu
def test_the_contenders_of_the_benchmark_agree(bench: Any) -> None:
    size = bench.Size("tiny", 3, 2, 7, 5)
    found = {name: work() for name, work in bench.contenders(size.costs(DEVICE)).items()}
    assert len(found) == 3 and max(max(off) for off in bench.agree(found).values()) < 1e-4
    value, gradient = found[bench.BLOCK]
    with pytest.raises(AssertionError, match="off by"):
        bench.agree(found | {bench.BLOCK: (value, gradient + 0.1)})
    if CUDA:
        result = bench.run(1, (size,))
        assert len(result["rows"]) == 3 and bench.markdown(result).count("| tiny |") == 3


@pytest.fixture
def compilers(gpu: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, Compiler]]:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(gpu.tiles, "check_device", lambda matrix: None)
    found = {name: Compiler(getattr(gpu, name)) for name in vars(gpu) if name.endswith("_tiles")}
    for name, compiler in found.items():
        monkeypatch.setattr(gpu, name, compiler)
    yield found


ALL = (DTW, OTAM, SUBSEQUENCE, STAY_OR_NEXT)


@compiled
@pytest.mark.parametrize(
    ("rows", "columns", "patterns"), [(70, 6, ALL[1:2]), pytest.param(33, 40, ALL, marks=pytest.mark.slow)]
)
def test_every_kernel_compiles_for_a_gpu(
    gpu: Any, compilers: dict[str, Compiler], rows: int, columns: int, patterns: tuple[Pattern, ...]
) -> None:
    matrix = torch.zeros(2, 3, rows, columns)
    t = s = torch.ones(2, 3, dtype=torch.int64)
    for compiler in compilers.values():
        compiler.far = rows < columns
    for n, pattern in enumerate(patterns):
        gpu.soft(matrix if n < 2 else matrix.mT, t, s, pattern, 0.1, n < 3)
        gpu.hard((matrix if n % 2 else matrix.double()).mT, t, s, pattern, n < 3)
    gpu.labels(matrix, t, s)
    gpu.soft_labels(matrix, t, s, 0.1)
    gpu.drop(matrix, t, s, torch.zeros(2, 3, rows), torch.zeros(2, 3, columns), rows > columns)
    assert {name: len(compiler.binaries) for name, compiler in compilers.items()} == {
        "drop_tiles": 1, "hard_tiles": len(patterns), "label_tiles": 1, "soft_label_tiles": 1,
        "soft_tiles": len(patterns),
    }  # fmt: skip
    for compiler in compilers.values():
        for made in compiler.binaries:
            assert len(made["cubin"]) > 1000 and ".target sm_90" in made["ptx"]


@compiled
@pytest.mark.slow
def test_the_baseline_of_the_benchmark_compiles_for_a_gpu(
    bench: Any, compilers: dict[str, Compiler], monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = import_module("block_per_pair")
    for name in ("forward", "backward"):
        compilers[name] = Compiler(getattr(kernels, name))
        monkeypatch.setattr(kernels, name, compilers[name])
    bench.block_per_pair(torch.zeros(2, 100, 9), 0.1)
    assert all(len(compilers[name].binaries) == 1 for name in ("forward", "backward"))

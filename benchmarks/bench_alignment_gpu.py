"""Soft-DTW on a GPU, value and gradient: the Triton kernels against plain torch and a block per pair.

    python benchmarks/bench_alignment_gpu.py [--out DIR] [--rounds 7]

The block per pair is the design of pytorch-softdtw-cuda written as Triton kernels: one thread block a pair,
one thread a row, log-domain softmin, D in global memory, a barrier after each anti-diagonal, a second kernel
for the gradient. All start from the same costs, laid out as `pairs` lays them out, and are compared before
anything is timed. Contenders take turns, round by round; device time by CUDA events, median of the rounds.

Two bounds stand beside each figure: the bytes that any contender must move (read a cost, write a gradient) at
the speed of a device-to-device copy on the same GPU, and the cells a second. Writes alignment_gpu.json and
alignment_gpu.md. Without a GPU it says so and writes nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from machine import machine
from rounds import in_turn, measured
from torch import Tensor

HERE = Path(__file__).parent
GAMMA = 0.1
OURS, TORCH, BLOCK = "StepCLIP, Triton", "plain torch, wavefront", "a block per pair"


@dataclass(frozen=True)
class Size:
    """`left` x `right` pairs, each a (rows, columns) problem."""

    name: str
    left: int
    right: int
    rows: int
    columns: int

    @property
    def problems(self) -> int:
        return self.left * self.right

    @property
    def cells(self) -> int:
        return self.problems * self.rows * self.columns

    def costs(self, device: str) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        shape = (self.left, self.rows, self.right, self.columns)
        return 2 * torch.rand(shape, generator=generator).permute(0, 2, 1, 3).to(device)


SIZES = (
    Size("a", 64, 64, 32, 12),
    Size("b", 32, 32, 128, 16),
    Size("c", 8, 16, 256, 256),
    Size("B512 L256", 1, 512, 256, 256),
)


def contenders(costs: Tensor) -> dict[str, Callable[[], tuple[Tensor, Tensor]]]:
    """Each gives the values and the gradient of their sum."""
    from stepclip.train.alignment import soft_dtw

    def ours(backend: str) -> Callable[[], tuple[Tensor, Tensor]]:
        def run() -> tuple[Tensor, Tensor]:
            leaf = costs.detach().requires_grad_()
            value = soft_dtw(leaf, GAMMA, backend=backend, check=False)
            (gradient,) = torch.autograd.grad(value.sum(), leaf)
            return value.detach(), gradient

        return run

    flat = costs.reshape(-1, *costs.shape[2:]).contiguous()  # what that design takes

    def block() -> tuple[Tensor, Tensor]:
        value, gradient = block_per_pair(flat, GAMMA)
        return value.view(costs.shape[:2]), gradient.view(costs.shape)

    return {OURS: ours("triton"), TORCH: ours("torch"), BLOCK: block}


def block_per_pair(costs: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """(B, T, S) -> values (B,), gradient (B, T, S), as pytorch-softdtw-cuda computes them."""
    import triton
    from block_per_pair import backward, forward

    b, rows, columns = costs.shape
    if rows > 1024:
        raise ValueError(f"{rows} rows: that design has one thread for each, 1024 at most")
    threads = triton.next_power_of_2(max(rows, 32))
    total = costs.new_full((b, rows + 2, columns + 2), float("inf"))
    total[:, 0, 0] = 0
    how = {"THREADS": threads, "num_warps": threads // 32}
    forward[(b,)](costs, total, rows, columns, gamma, **how)
    value = total[:, -2, -2].clone()
    padded = torch.nn.functional.pad(costs, (1, 1, 1, 1))
    total[:, :, -1] = float("-inf")
    total[:, -1, :] = float("-inf")
    total[:, -1, -1] = value
    weight = torch.zeros_like(total)
    weight[:, -1, -1] = 1
    backward[(b,)](padded, total, weight, rows, columns, gamma, **how)
    upstream = torch.ones_like(value)
    return value, upstream[:, None, None] * weight[:, 1:-1, 1:-1]


def copy_speed() -> float:
    """Bytes a second, read and written, of a device-to-device copy of 1 GiB."""
    source = torch.empty(1 << 28, device="cuda")
    target = torch.empty_like(source)
    seconds = min(device_seconds(lambda: target.copy_(source), 10) for _ in range(5))
    return 2 * source.numel() * source.element_size() / seconds


def device_seconds(work: Callable[[], Any], times: int) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(times):
        work()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1000 / times


def timed(work: Callable[[], Any]) -> Callable[[], float]:
    """Measures `work` in a loop of some 0.2 s, as in a training."""
    times = max(1, int(0.2 / device_seconds(work, 1)))
    return lambda: device_seconds(work, times)


def agree(found: dict[str, tuple[Tensor, Tensor]]) -> dict[str, list[float]]:
    """Largest differences (value, gradient) to plain torch in the same precision; the benchmark stops where
    they are not those of rounding."""
    right = found[TORCH]
    out = {}
    for name, (value, gradient) in found.items():
        off = [float((value - right[0]).abs().max()), float((gradient - right[1]).abs().max())]
        # float32 sums of hundreds of costs, over gamma, in an exponential
        assert off[0] < 1e-3 and off[1] < 2e-2, f"{name} is off by {off}"
        out[name] = off
    return out


def run(rounds: int, sizes: tuple[Size, ...] = SIZES) -> dict[str, Any]:
    speed = copy_speed()
    rows = []
    for size in sizes:
        costs = size.costs("cuda")
        who = contenders(costs)
        off = agree({name: work() for name, work in who.items()})  # compiles, too
        torch.cuda.empty_cache()
        found = in_turn(rounds, {name: timed(work) for name, work in who.items()})
        least = 8 * size.cells
        for name in who:
            time = measured([1e6 * second for second in found[name]])
            rows.append(
                {
                    "size": size.name,
                    "name": name,
                    "us": time,
                    "bound_us": float(f"{1e6 * least / speed:.3g}"),
                    "gcells_per_s": float(f"{size.cells / time['median'] / 1e3:.3g}"),
                    "largest_difference_to_torch": off[name],
                }
            )
            print(f"{size.name:10} {time['median']:>12,.1f} us  {name}", flush=True)
    return {
        "what": {"rounds": rounds, "gamma": GAMMA, "sizes": [asdict(size) for size in sizes]},
        "machine": machine("torch", "triton")
        | {
            "gpu": torch.cuda.get_device_name(),
            "cuda": torch.version.cuda,
            "copy_gb_per_s": float(f"{speed / 1e9:.4g}"),
        },
        "rows": rows,
    }


def markdown(result: dict[str, Any]) -> str:
    on = result["machine"]
    lines = [
        f"{on['gpu']}, CUDA {on['cuda']}, torch {on['torch']}, triton {on['triton']}; a copy moves "
        f"{on['copy_gb_per_s']:,.0f} GB/s. Soft-DTW, value and gradient, gamma {result['what']['gamma']}, "
        f"device time of the whole batch, median of {result['what']['rounds']} rounds.",
        "",
        "| size | contender | microseconds | times the bytes' bound | Gcells/s |",
        "|---|---|---:|---:|---:|",
    ]
    for row in result["rows"]:
        time, bound = row["us"]["median"], row["bound_us"]
        lines.append(
            f"| {row['size']} | {row['name']} | {time:,} | {time / bound:.1f} (of {bound:,}) "
            f"| {row['gcells_per_s']:,} |"
        )
    lines += [""]
    lines += [
        f"({size['name']}) {size['left']} x {size['right']} pairs of {size['rows']} x {size['columns']}. "
        for size in result["what"]["sizes"]
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device here: nothing was measured, nothing is written")
        return
    result = run(options.rounds)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "alignment_gpu.json").write_text(json.dumps(result, indent=1) + "\n")
    (options.out / "alignment_gpu.md").write_text(markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main()

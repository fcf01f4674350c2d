"""CARL's loss and training step: frame by frame, as released, and StepCLIP's.

    python benchmarks/bench_carl_speed.py [--rounds 5] [--device cpu] [--quick]

The loss forward and backward at B videos of two views of T frames, and a whole step: gather, forward, loss,
backward, clip, Adam. Contenders take turns, the median counts; on a CPU one thread and CPU time. They are
checked to give the same loss first. Writes carl_speed.json and .md beside this script.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from carl_literal import all_pairs, frame_by_frame
from machine import machine
from rounds import in_turn

HERE = Path(__file__).parent
VARIANCE, TAU = 10.0, 0.1
ASKED = 20.0  # times the loop, of the loss


@dataclass(frozen=True)
class Sizes:
    rounds: int = 5
    batch: int = 16
    frames: int = 240
    dim: int = 512
    device: str = "cpu"


def run(sizes: Sizes) -> dict[str, Any]:
    from stepclip.train.losses.timestamp_contrast import timestamp_contrast_loss

    torch.manual_seed(0)
    b, t, device = sizes.batch, sizes.frames, torch.device(sizes.device)
    z = F.normalize(torch.randn(b, 2, t, 128, device=device), dim=-1).requires_grad_()
    times = (
        torch.arange(t, device=device).float().repeat(b, 2, 1)
        + torch.tensor([0.0, 5.0], device=device)[:, None]
    )

    def ours(x: torch.Tensor) -> torch.Tensor:
        return timestamp_contrast_loss(x, times, sigma=VARIANCE**0.5, temperature=TAU)

    losses: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "frame by frame": lambda x: frame_by_frame(x, times, VARIANCE, TAU),
        "as released": lambda x: all_pairs(x, times, VARIANCE, TAU),
        "ours": ours,
    }
    values = {name: float(loss(z).detach()) for name, loss in losses.items()}
    if max(values.values()) - min(values.values()) > 2e-3:
        raise SystemExit(f"the losses differ: {values}")
    timed = {name: _timed(lambda loss=loss: _backward(loss(z), z), device) for name, loss in losses.items()}  # type: ignore[misc]
    loss_ms = {name: 1e3 * statistics.median(v) for name, v in in_turn(sizes.rounds, timed).items()}
    steps = {name: _timed(_step(sizes, loss, device), device) for name, loss in losses.items()}
    step_ms = {name: 1e3 * statistics.median(v) for name, v in in_turn(sizes.rounds, steps).items()}
    frames = b * 2 * t
    return {
        "what": asdict(sizes) | {"asked": ASKED},
        "values": values,
        "loss_ms": loss_ms,
        "step_ms": step_ms,
        "frames_per_s": {name: 1e3 * frames / ms for name, ms in step_ms.items()},
        "times_the_loop": loss_ms["frame by frame"] / loss_ms["ours"],
        "times_the_released": loss_ms["as released"] / loss_ms["ours"],
        "machine": machine("torch")
        | {"gpu": torch.cuda.get_device_name() if device.type == "cuda" else None},
    }


def _timed(work: Callable[[], Any], device: torch.device) -> Callable[[], float]:
    clock = time.process_time if device.type == "cpu" else time.perf_counter

    def once() -> float:
        began = clock()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return clock() - began

    return once


def _backward(loss: torch.Tensor, z: torch.Tensor) -> None:
    z.grad = None
    loss.backward()


def _step(
    sizes: Sizes, loss: Callable[[torch.Tensor], torch.Tensor], device: torch.device
) -> Callable[[], None]:
    from stepclip.train.carl.knobs import CarlModel
    from stepclip.train.carl.model import FrameEncoder

    model = FrameEncoder(CarlModel(), sizes.frames, sizes.dim).to(device).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    cached = torch.randn(sizes.batch * 400, sizes.dim, device=device)
    rows = torch.randint(len(cached), (sizes.batch, 2, sizes.frames), device=device)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        frames = cached.index_select(0, rows.flatten()).view(-1, sizes.frames, sizes.dim)
        z = F.normalize(model(frames).projected, dim=-1).unflatten(0, (sizes.batch, 2))
        loss(z).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimiser.step()

    return step


def markdown(result: dict[str, Any]) -> str:
    what, on = result["what"], result["machine"]
    device = on.get("gpu") or f"{on['cpu']}, one thread, CPU time"
    lines = [
        f"Milliseconds, median of {what['rounds']} rounds in turn; {device}; torch {on['torch']}. "
        f"{what['batch']} videos, two views of {what['frames']} frames, features of {what['dim']}.",
        "",
        "| contrast of two views | loss, forward and backward | whole step | frames/s of a step |",
        "|---|---:|---:|---:|",
    ]
    for name in result["loss_ms"]:
        lines.append(
            f"| {name} | {result['loss_ms'][name]:,.1f} | {result['step_ms'][name]:,.0f} | "
            f"{result['frames_per_s'][name]:,.0f} |"
        )
    met = "met" if result["times_the_loop"] >= what["asked"] else "missed"
    lines += [
        "",
        f"The loss: {result['times_the_loop']:.0f} times the loop (asked: {what['asked']:g} or more; {met}), "
        f"{result['times_the_released']:.1f} times the released structure.",
    ]
    return "\n".join(lines) + "\n"


def save(result: dict[str, Any], out: Path = HERE) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "carl_speed.json").write_text(json.dumps(result, indent=1) + "\n")
    (out / "carl_speed.md").write_text(markdown(result))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    if args.device == "cpu":
        torch.set_num_threads(1)
    sizes = Sizes(args.rounds, device=args.device)
    if args.quick:
        sizes = Sizes(1, 2, 12, 16, args.device)
    result = run(sizes)
    save(result, args.out)
    print(markdown(result))


if __name__ == "__main__":
    main()

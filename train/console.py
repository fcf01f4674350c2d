"""Where a run computes, in which precision, and what it shows of itself on the terminal."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from ..cache.errors import StepclipError


def pick_device(name: str) -> torch.device:
    """The device of a name; "auto" is the GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise StepclipError(
            f"the device '{name}' cannot be used: {str(error).splitlines()[0]}", "auto, cpu, cuda"
        ) from None
    return device


def pick_precision(asked: str, device: torch.device) -> str:
    """fp32 or bf16; "auto" is bf16 on a GPU that has it and on a CPU with AVX512-BF16 or AMX."""
    if asked != "auto":
        return asked
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    able = device.type == "cpu" and any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)
    return "bf16" if able else "fp32"


@contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """Ctrl-C ends the loop that calls what this gives, wherever it strikes.

    Python drops an exception that is raised in a destructor or a callback from C, KeyboardInterrupt too; so
    the signal is also remembered, and raised again at the next call.
    """
    struck = False

    def strike(number: int, frame: object) -> None:
        nonlocal struck
        struck = True
        raise KeyboardInterrupt

    def check() -> None:
        if struck:
            raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGINT, strike)
    except ValueError:  # not the main thread: signals are not its business
        yield check
        return
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def show_progress(
    shown: bool, heads: list[str], start: int, total: int
) -> Iterator[Callable[[int, float, float], None]]:
    """The first lines, then a bar; gives the function to call with step, loss and videos per second."""
    if not shown:
        yield lambda step, loss, rate: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    for line in heads:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TextColumn("{task.fields[rate]} videos/s"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=total, completed=start, loss="-", rate="-")

        def advance(step: int, loss: float, rate: float) -> None:
            bar.update(task, completed=step, loss=f"{loss:.4f}", rate=f"{rate:,.0f}")

        yield advance

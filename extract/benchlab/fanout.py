"""Many recordings, rendered by several processes under one progress bar."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

Job = TypeVar("Job")
Made = TypeVar("Made")


def in_processes(
    make: Callable[[Job], Made],
    jobs: Sequence[Job],
    frames: Callable[[Made], int],
    *,
    workers: int,
    progress: bool = True,
) -> list[Made]:
    """`make(job)` for every job, in order; one worker works in this process.

    `make` is a function of a module and its jobs can be pickled. `frames` counts what was rendered.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    done: list[Made] = []
    columns = (
        TextColumn("rendering"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("videos, {task.fields[rate]}left"),
        TimeRemainingColumn(),
    )
    with (
        _mapped(make, jobs, workers) as results,
        Progress(*columns, console=Console(stderr=True), disable=not progress) as bar,
    ):
        row, total = bar.add_task("render", total=len(jobs), rate=""), 0
        for made in results:
            done.append(made)
            total += frames(made)
            spent = bar.tasks[0].elapsed or 1e-9
            bar.update(row, advance=1, rate=f"{total / spent:.0f} frames/s, ")
    return done


@contextmanager
def _mapped(make: Callable[[Job], Made], jobs: Sequence[Job], workers: int) -> Iterator[Iterator[Made]]:
    if workers == 1:
        yield map(make, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield pool.imap(make, jobs, chunksize=2)

"""The status of a running extraction: first what runs on what, then a bar with each stage's rate."""

from __future__ import annotations

import time
from typing import Any

from .report import ExtractionReport


class Display:
    """A context manager; writes to standard error. With `progress=False` it is silent."""

    def __init__(self, report: ExtractionReport, progress: bool) -> None:
        self.report, self.progress = report, progress
        self.bar: Any = None
        self.started = time.monotonic()

    def __enter__(self) -> Display:
        if not self.progress:
            return self
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        console.print(self.report.run, markup=False, highlight=False, soft_wrap=True)
        self.bar = Progress(
            TextColumn("extract"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[state]}"),
            console=console,
        )
        past = self.report.skipped + self.report.failed
        self.task = self.bar.add_task("extract", total=self.report.inputs, completed=past, state="")
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def show(self, queues: str = "") -> None:
        """Say how far the run is; `queues`: what waits between its stages."""
        if self.bar is not None:
            r = self.report
            self.bar.update(self.task, completed=r.skipped + r.done + r.failed, state=self._state(queues))

    def _state(self, queues: str) -> str:
        stages, seconds = self.report.stages, time.monotonic() - self.started
        parts = [f"{stage} {rate:.0f}/s" for stage, rate in stages.rates().items() if rate]
        if stages.writing:
            parts.append(f"write {stages.written / stages.writing / 1e6:.0f} MB/s")
        if queues:
            parts.append(queues)
        if limit := stages.limit(seconds):
            parts.append(f"limit {limit}")
        if self.report.failed:
            parts.append(f"{self.report.failed} failed")
        return " · ".join(parts)

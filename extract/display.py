"""The status of a running extraction: what runs on what, then how far it is, each stage's rate, the limit."""

from __future__ import annotations

import time
from typing import Any

from .report import ExtractionReport

EVERY = 30.0  # seconds from one line to the next where there is no terminal, in a log file for example


class Display:
    """A context manager; writes to standard error. With `progress=False` it is silent."""

    def __init__(self, report: ExtractionReport, progress: bool) -> None:
        self.report, self.progress = report, progress
        self.bar: Any = None
        self.queues = ""
        self.started = self.told = time.monotonic()

    def __enter__(self) -> Display:
        if not self.progress:
            return self
        from rich.console import Console
        from rich.live import Live
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self.console = Console(stderr=True)
        self.console.print(self.report.run, markup=False, highlight=False, soft_wrap=True)
        self.bar = Progress(
            TextColumn("extract"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[counts]}"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=self.console,
        )
        self.task = self.bar.add_task(
            "extract", total=self.report.inputs, completed=self._past(), counts=self.counts()
        )
        self.live = Live(get_renderable=self._shown, console=self.console, refresh_per_second=4)
        if self.console.is_terminal:
            self.live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is None:
            return
        self._update()
        if self.console.is_terminal:
            self.live.stop()
        else:
            self._tell()

    def show(self, queues: str = "") -> None:
        """Say how far the run is; `queues`: what waits between its stages."""
        if self.bar is None:
            return
        self.queues = queues
        self._update()
        if not self.console.is_terminal and time.monotonic() - self.told > EVERY:
            self._tell()

    def counts(self) -> str:
        """Videos done, failed, skipped and left."""
        r = self.report
        parts = [f"{r.done} done", f"{r.failed} failed"] + ([f"{r.skipped} skipped"] if r.skipped else [])
        return ", ".join([*parts, f"{r.inputs - self._past()} left"])

    def state(self) -> str:
        """Frames/s all together and of each stage if it never waited; what waits; the limit."""
        stages, seconds = self.report.stages, max(time.monotonic() - self.started, 1e-9)
        if not stages.decoded:
            return "nothing more to decode" if self._past() == self.report.inputs else "the first frames"
        parts = [f"{stages.encoded / seconds:.0f} frames/s"]
        parts += [f"{stage} {rate:,.0f}/s" for stage, rate in stages.rates().items() if rate]
        if stages.writing:
            parts.append(f"{stages.written / stages.writing / 1e6:.0f} MB/s")
        if self.queues:
            parts.append(self.queues)
        if limit := stages.limit(seconds):
            parts.append(f"limit {limit}")
        return " · ".join(parts)

    def _past(self) -> int:
        return self.report.skipped + self.report.done + self.report.failed

    def _update(self) -> None:
        self.bar.update(self.task, completed=self._past(), counts=self.counts())

    def _shown(self) -> Any:
        from rich.console import Group
        from rich.text import Text

        return Group(self.bar, Text(self.state()))

    def _tell(self) -> None:
        self.told = time.monotonic()
        task = self.bar.tasks[0]
        left = "-" if task.time_remaining is None else f"{task.time_remaining:.0f} s"
        line = f"{self.counts()} · ETA {left} · {self.state()}"
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

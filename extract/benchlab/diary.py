"""What training the encoder tells of itself: a bar on the terminal, a line in a file now and then."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

EVERY = 200  # steps between two lines of the file
SHOWN = 0.5  # seconds between two readings of the losses for the bar: each waits for the device


class Diary:
    """`path`: a JSON-lines file, started anew (None: tells nothing, for a process that is not the first).

    frames: pictures per step, for the rate. The bar shows the share of the budget that is spent.
    """

    def __init__(self, path: Path | None, frames: int, progress: bool) -> None:
        self.path, self.frames, self.progress = path, frames, progress
        self.file: TextIO | None = None
        self.bar: Any = None

    def __enter__(self) -> Diary:
        self.began, self.shown = time.monotonic(), 0.0
        if self.path is None:
            return self
        self.file = self.path.open("w", encoding="utf-8")
        if self.progress:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

            self.bar = Progress(
                TextColumn("training"),
                BarColumn(bar_width=16),
                TaskProgressColumn(),
                TextColumn("{task.fields[text]} left"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self.task = self.bar.add_task("", total=1.0, text="-")
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            if kind is None:
                self.bar.update(self.task, completed=1.0)
            self.bar.stop()
        if self.file is not None:
            self.file.close()

    def write(self, step: int, share: float, parts: dict[str, Any]) -> None:
        """After step `step` (1 is the first), at `share` in [0, 1) of the budget; `parts`: losses by name."""
        if self.file is None:
            return
        spent = time.monotonic() - self.began
        rate = step * self.frames / max(spent, 1e-9)
        if step == 1 or step % EVERY == 0:
            values = {name: round(float(loss), 4) for name, loss in parts.items()}
            line = {"step": step, **values, "seconds": round(spent, 1), "frames_per_second": round(rate, 1)}
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()
        if self.bar is not None and spent - self.shown > SHOWN:
            self.shown = spent
            told = " ".join(f"{name} {float(loss):.2f}" for name, loss in parts.items())
            self.bar.update(self.task, completed=share, text=f"{told}, {rate:,.0f} frames/s,")

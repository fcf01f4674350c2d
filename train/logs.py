"""The log of a run: one JSON object a line, and the same numbers for TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..cache.files import write_atomically

Log = Callable[[dict[str, Any]], None]


@contextmanager
def open_log(folder: Path, heads: list[str], step: int, going_on: bool) -> Iterator[Log]:
    """`log.jsonl` and `tensorboard/` in `folder`. Going on, lines up to `step` are kept, and what a killed
    run wrote beyond its checkpoint is cut (TensorBoard is told to forget it)."""
    path = folder / "log.jsonl"
    kept = _lines_until(path, step) if going_on else []
    with write_atomically(path, "w") as file:
        file.writelines(line + "\n" for line in [*kept, json.dumps({"step": step, "says": heads})])
    from torch.utils.tensorboard.writer import SummaryWriter

    board = SummaryWriter(folder / "tensorboard", purge_step=step + 1 if going_on else None, max_queue=100)
    try:
        with open(path, "a", encoding="utf-8") as file:

            def write(row: dict[str, Any]) -> None:
                plain = {k: None if isinstance(v, float) and v - v != 0 else v for k, v in row.items()}
                file.write(json.dumps(plain) + "\n")
                file.flush()
                for name, value in row.items():
                    if name != "step" and isinstance(value, int | float):
                        board.add_scalar(f"train/{name}", value, row["step"])

            yield write
    finally:
        board.close()


@contextmanager
def no_log() -> Iterator[Log]:
    """For the processes beside the first."""
    yield lambda row: None


def _lines_until(path: Path, step: int) -> list[str]:
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            if json.loads(line).get("step", step + 1) <= step:
                kept.append(line)
        except (ValueError, AttributeError):  # a line cut by a kill
            continue
    return kept

"""What every training set makes of the manifest's rows: checked, and as numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..cache.errors import StepclipError
from ..cache.manifest import VideoRow


def check_rows(rows: Sequence[VideoRow], scripts: bool = True) -> None:
    """StepclipError where there is nothing to train on; with `scripts`, where a video has no steps."""
    if not rows:
        raise StepclipError(
            "no video to train on has features", "a cache of this manifest", "stepclip extract"
        )
    if scripts and (empty := [row.video_id for row in rows if not row.steps]):
        raise StepclipError(f"the video '{empty[0]}' has no steps", "at least one step per video")


def numbers(names: Sequence[str]) -> Tensor:
    """(V,) int64: equal names have equal numbers, from 0 on, in the order of the alphabet."""
    place = {name: i for i, name in enumerate(sorted(set(names)))}
    return torch.tensor([place[name] for name in names])


def procedures_of(rows: Sequence[VideoRow]) -> Tensor:
    """(V,) int64: which procedure of which task each video shows."""
    return numbers([f"{row.task}\n{row.procedure}" for row in rows])


def script_table(
    rows: Sequence[VideoRow], width: int = 0, beyond: int | None = None
) -> tuple[list[str], Tensor]:
    """All sentences, sorted, and each script as their places, (V, S) int64: S is the longest script, or
    `width` where that is more; `beyond` a script's end stands the number of sentences, or what is asked."""
    sentences = sorted({step for row in rows for step in row.steps})
    place = {sentence: i for i, sentence in enumerate(sentences)}
    longest = max(len(row.steps) for row in rows)
    table = torch.full((len(rows), max(width, longest)), len(sentences) if beyond is None else beyond)
    for i, row in enumerate(rows):  # once, at the start
        table[i, : len(row.steps)] = torch.tensor([place[step] for step in row.steps])
    return sentences, table

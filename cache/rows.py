"""The rows of a manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class VideoRow:
    """One video (or one trimmed part of it) and its script.

    `start` and `end` trim it, in seconds of the file. `step_start` and `step_end` are the hidden truth, in
    seconds from the first frame of the (trimmed) video, one per step; None where unknown.
    """

    video_id: str
    path: str
    task: str = ""
    procedure: str = ""
    split: str = ""
    start: float | None = None
    end: float | None = None
    steps: tuple[str, ...] = ()
    step_start: tuple[float, ...] | None = None
    step_end: tuple[float, ...] | None = None

    @property
    def paragraph(self) -> str:
        """The script as one text: its steps joined by ", "."""
        return ", ".join(self.steps)


@dataclass(frozen=True)
class Pair:
    """Two videos to verify. `kind`: matched, or how they differ (order, deletion, addition, other)."""

    video_a: str
    video_b: str
    matched: bool
    kind: str = ""
    split: str = ""


@dataclass(frozen=True)
class MatchRow:
    """Text-to-video matching: the script of `procedure` belongs to video `candidates[answer]`."""

    procedure: str
    candidates: tuple[str, ...]
    answer: int
    split: str = ""


def procedure_of(steps: Sequence[str]) -> str:
    """The name of a script that has none: a short hash of its steps, so that equal ones are one procedure."""
    return "p" + hashlib.sha256("\n".join(steps).encode()).hexdigest()[:8]

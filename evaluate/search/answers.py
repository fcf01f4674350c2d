"""What a search answers, and which videos it may answer with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from ...cache.errors import StepclipError


@dataclass(frozen=True)
class Matched:
    """Where a step of the query happens in an answer: seconds of the file, and the mean cosine there.

    `start` and `end` are None where the video has fewer moments than the script has steps, and none is left
    for this one.
    """

    step: str
    start: float | None
    end: float | None
    score: float


@dataclass(frozen=True)
class Answer:
    """One video that answers a query: `start`, `end` around the best moment `peak`, seconds of the file.

    `score` is the cosine of query and moment, step or whole video; for a script or another video, the score
    of the ordered alignment (`ordered`). `step` is the sentence of its own script that ordered alignment puts
    at the peak, "" where the video has no script features. `steps`: for a script that was asked for, where
    each of its sentences is.
    """

    video_id: str
    path: str
    score: float
    start: float
    end: float
    peak: float
    step: str
    task: str = ""
    procedure: str = ""
    split: str = ""
    duration: float = 0.0
    steps: tuple[Matched, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Filter:
    """Which videos may answer: of a task, a split, a procedure; from and up to so many seconds long.

    An empty field allows everything. `without`: ids that must not answer.
    """

    task: str | None = None
    split: str | None = None
    procedure: str | None = None
    least_seconds: float | None = None
    most_seconds: float | None = None
    without: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        low, high = self.least_seconds, self.most_seconds
        if low is not None and high is not None and low > high:
            raise StepclipError(f"videos of at least {low:g} and at most {high:g} seconds", "least <= most")

    def __bool__(self) -> bool:
        return self != Filter()


def best_of(answers: Iterable[Answer], top: int) -> list[Answer]:
    """The `top` of them, best first; equal ones stay in their order."""
    return sorted(answers, key=lambda answer: -answer.score)[:top]

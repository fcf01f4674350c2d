"""Which frames of a video are taken: `Sampling` says it, `Picker` does it while frames stream by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np

from ...cache.errors import StepclipError
from ...cache.segments import Take, check_take, kept_frames

# Seconds: a frame this little after an instant counts as shown at it (rounded pts, float32 times).
# Irrational, so that no frame of any time base lies on the edge, where the last digit of a float would
# decide.
TOLERANCE = 2**0.5 / 1000

Payload = TypeVar("Payload")


@dataclass(frozen=True)
class Sampling:
    """Which frames of a (trimmed) video are taken; exactly one of the five is set.

    fps: the frame shown at each instant k / fps, from the start of the trim.
    frames: the frame shown in the middle of each of N equal parts, by time.
    every: each n-th frame, from the one shown at the start of the trim.
    all: every frame.
    weaksvr: WeakSVR's, by the number of frames: "test" for its 48 test frames, or how many candidates of each
    of its 16 segments (a multiple of 4), the test frames among them; `cache/segments.py` has the rule, and
    says which row is which.
    A frame is taken once, however many instants fall on it.
    """

    fps: float | None = 4.0
    frames: int | None = None
    every: int | None = None
    all: bool = False
    weaksvr: Take | None = None

    def __post_init__(self) -> None:
        if self.fps == 4.0 and len(self._given()) > 1:
            object.__setattr__(self, "fps", None)  # the default gives way to what was asked for
        given = self._given()
        if len(given) != 1:
            raise StepclipError(
                f"sampling by {' and '.join(given) or 'nothing'}",
                "exactly one of fps, frames, every, all and weaksvr",
            )
        name, value = next(iter(given.items()))
        if name == "weaksvr":
            object.__setattr__(self, "weaksvr", check_take(value))
        elif name != "all":
            whole = name == "fps" or int(value) == value
            if not (0 < value < float("inf") and whole):
                raise StepclipError(
                    f"sampling with {name}={value}", "a number above 0 (frames, every: a whole one)"
                )

    def _given(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value is not None and value is not False}

    def fields(self) -> dict[str, Any]:
        """For the fingerprint: `sampling.` and the name and value of the one that is set."""
        return {f"sampling.{name}": value for name, value in self._given().items()}

    def __str__(self) -> str:
        if self.fps is not None:
            return f"{self.fps:g} frames/s"
        if self.frames is not None:
            return f"{self.frames} frames"
        if self.weaksvr is not None:
            return "WeakSVR's 48" if self.weaksvr == "test" else f"WeakSVR's 16 x {self.weaksvr}"
        return "all frames" if self.all else f"every {self.every}. frame"

    @property
    def counts(self) -> bool:
        """Whether the video's length, or the number of its frames, has to be known beforehand."""
        return self.frames is not None or self.weaksvr is not None

    @property
    def step(self) -> int | None:
        """Of frames counted: each how manieth is taken; None where time decides."""
        return 1 if self.all else self.every


@dataclass(frozen=True)
class Shown(Generic[Payload]):
    """A frame with its `time`, in seconds from the video's first frame; it is shown for `length` seconds."""

    time: float
    length: float
    payload: Payload


def end_of(time: float, length: float, declared: float | None) -> float:
    """When the last frame ends: a declared duration inside it cuts it, its own length being a guess."""
    return declared if declared is not None and time < declared < time + length else time + length


def weaksvr_instants(
    times: np.ndarray, stop: float, take: Take, start: float = 0.0, end: float | None = None
) -> tuple[tuple[float, ...], int]:
    """When the frames that `take` asks for are shown, in seconds from the video's first frame; and how many
    frames the trim has.

    times: (F,) of all frames of the untrimmed video; stop: the end of the last one.
    """
    until = stop if end is None else min(stop, end)
    ends = np.append(times[1:], np.inf)
    inside = times[(ends > start + TOLERANCE) & (times < until - TOLERANCE)]
    if not len(inside):
        return (), 0
    return tuple(np.maximum(inside[kept_frames(len(inside), take)], start).tolist()), len(inside)


@dataclass
class Picker(Generic[Payload]):
    """Chooses frames as `sampling` says while they stream by in order of presentation; holds one at most.

    `total`: the video's duration, which `frames` needs beforehand; `declared`: the container's. `instants`:
    those of `weaksvr`; `inside`: how many frames it counted in the trim. After the run: `stop`, the end of
    the last frame; `gap`, the longest time of the trim without a new one; `seen` frames, `passed` of them in
    the trim, `taken` chosen.
    """

    sampling: Sampling
    start: float = 0.0
    end: float | None = None
    total: float | None = None
    declared: float | None = None
    instants: tuple[float, ...] = ()
    inside: int | None = None
    stop: float = field(default=0.0, init=False)
    gap: float = field(default=0.0, init=False)
    seen: int = field(default=0, init=False)
    passed: int = field(default=0, init=False)
    taken: int = field(default=0, init=False)
    reached_end: bool = field(default=False, init=False)

    def __call__(self, frames: Iterable[Shown[Payload]]) -> Iterator[tuple[float, Payload]]:
        """Yield `(time from the start of the trim, payload)` of each chosen frame."""
        targets = self._targets()
        target = next(targets, None)
        previous: Shown[Payload] | None = None
        for frame in frames:
            before = max(self.start, previous.time if previous is not None else 0.0)
            self.gap = max(self.gap, frame.time - before)
            # else `previous` is not shown inside the trim
            if previous is not None and frame.time > self.start + TOLERANCE:
                wanted, target = self._wanted(previous, frame.time, target, targets)
                if wanted:
                    yield max(previous.time - self.start, 0.0), previous.payload
            self.seen += 1
            self.stop = end_of(frame.time, frame.length, self.declared)
            previous = frame
            if self.end is not None and frame.time >= self.end - TOLERANCE:
                self.reached_end = True
                return
        if previous is not None and self.stop > self.start + TOLERANCE:
            until = self.stop if self.end is None else min(self.stop, self.end)
            if self._wanted(previous, until, target, targets, last=True)[0]:
                yield max(previous.time - self.start, 0.0), previous.payload

    def _targets(self) -> Iterator[float]:
        """The instants to be shown, in seconds from the video's first frame."""
        if self.sampling.fps is not None:
            k = 0
            while True:
                instant = self.start + k / self.sampling.fps
                if k and self.end is not None and instant >= self.end - TOLERANCE:
                    return
                yield instant
                k += 1
        if self.sampling.frames is not None:
            stop = min(value for value in (self.end, self.total) if value is not None)
            for k in range(self.sampling.frames):
                yield self.start + (k + 0.5) * (stop - self.start) / self.sampling.frames
        yield from self.instants

    def _wanted(
        self,
        frame: Shown[Payload],
        until: float,
        target: float | None,
        targets: Iterator[float],
        last: bool = False,
    ) -> tuple[bool, float | None]:
        """Whether an instant falls on `frame`, shown up to `until`; and the first instant after it."""
        wanted = False
        if self.sampling.step is not None:
            wanted = self.passed % self.sampling.step == 0
        # the next frame takes over at its own time, less the tolerance; the last one ends with the video
        while target is not None and target < until - TOLERANCE:
            wanted = True
            target = next(targets, None)
        if last and self.sampling.frames is not None and target is not None:
            wanted = True  # a total that was a little too long: the last instants fall on the last frame
        self.passed += 1
        self.taken += wanted
        return wanted, target

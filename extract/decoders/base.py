"""What decoders share: sampling by presentation time, the frames they give, the reasons of failures."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from ...cache.errors import StepclipError

REASONS = (
    "missing-file",
    "not-a-file",
    "empty-file",
    "unreadable",
    "no-video-stream",
    "truncated",
    "damaged",
    "no-frames",
    "trim-outside",
    "unsupported",
    "decoder-unavailable",
)
# Seconds: a frame this little after an instant counts as shown at it (rounded pts, float32 times).
# Irrational, so that no frame of any time base lies on the edge, where the last digit of a float would
# decide.
TOLERANCE = 2**0.5 / 1000

Payload = TypeVar("Payload")


class DecodeError(StepclipError):
    """A video that cannot be decoded. `reason` is one of `REASONS`; the message says what to do."""

    def __init__(self, reason: str, found: str, expected: str = "", run: str = "") -> None:
        super().__init__(found, expected, run)
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.reason, self.found, self.expected, self.run)


@dataclass(frozen=True)
class Sampling:
    """Which frames of a (trimmed) video are taken; exactly one of the three is set.

    fps: the frame shown at each instant k / fps, from the start of the trim.
    frames: the frame shown in the middle of each of N equal parts, by time.
    every: each n-th frame, from the one shown at the start of the trim.
    A frame is taken once, however many instants fall on it.
    """

    fps: float | None = 4.0
    frames: int | None = None
    every: int | None = None

    def __post_init__(self) -> None:
        if self.fps == 4.0 and (self.frames is not None or self.every is not None):
            object.__setattr__(self, "fps", None)  # the default gives way to what was asked for
        given = {name: value for name, value in vars(self).items() if value is not None}
        if len(given) != 1:
            raise StepclipError(
                f"sampling by {' and '.join(given) or 'nothing'}", "exactly one of fps, frames and every"
            )
        name, value = next(iter(given.items()))
        whole = name == "fps" or int(value) == value
        if not (0 < value < float("inf") and whole):
            raise StepclipError(
                f"sampling with {name}={value}", "a number above 0 (frames, every: a whole one)"
            )

    def fields(self) -> dict[str, Any]:
        """For the fingerprint: `sampling.fps`, `sampling.frames` or `sampling.every`."""
        return {f"sampling.{name}": value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Frames:
    """Decoded frames: images (T, H, W, 3) uint8 RGB, upright; times (T,) float64; duration in seconds.

    `times` are presentation times in seconds from the start of the trim (the first frame shown there has time
    0); they increase strictly. `duration` is that of the trimmed video. `bad`: damaged packets and frames
    passed over.
    """

    images: np.ndarray
    times: np.ndarray
    duration: float
    bad: int = 0


@dataclass(frozen=True)
class End:
    """What is known once a video has been read: its (trimmed) duration, and the damage passed over."""

    duration: float
    bad: int = 0


@dataclass(frozen=True)
class Backend:
    """One decoder or encoder backend: whether it can be used here, and how to install it where not."""

    name: str
    kind: str
    usable: bool
    version: str
    install: str


@dataclass(frozen=True)
class Shown(Generic[Payload]):
    """A frame with its `time`, in seconds from the video's first frame; it is shown for `length` seconds."""

    time: float
    length: float
    payload: Payload


def end_of(time: float, length: float, declared: float | None) -> float:
    """When the last frame ends: a declared duration inside it cuts it, its own length being a guess."""
    return declared if declared is not None and time < declared < time + length else time + length


@dataclass
class Picker(Generic[Payload]):
    """Chooses frames as `sampling` says while they stream by in order of presentation; holds one at most.

    `total`: the video's duration, which `frames` needs beforehand; `declared`: the container's. After the
    run: `stop`, the end of the last frame; `gap`, the longest time between two frames.
    """

    sampling: Sampling
    start: float = 0.0
    end: float | None = None
    total: float | None = None
    declared: float | None = None
    stop: float = field(default=0.0, init=False)
    gap: float = field(default=0.0, init=False)
    seen: int = field(default=0, init=False)
    reached_end: bool = field(default=False, init=False)

    def __call__(self, frames: Iterable[Shown[Payload]]) -> Iterator[tuple[float, Payload]]:
        """Yield `(time from the start of the trim, payload)` of each chosen frame."""
        targets = self._targets()
        target = next(targets, None)
        previous: Shown[Payload] | None = None
        index = 0
        for frame in frames:
            if previous is not None:
                self.gap = max(self.gap, frame.time - previous.time)
                if frame.time > self.start + TOLERANCE:  # so that `previous` is shown inside the trim
                    taken, target = self._taken(previous, frame.time, index, target, targets)
                    if taken:
                        yield max(previous.time - self.start, 0.0), previous.payload
                    index += 1
            self.seen += 1
            self.stop = end_of(frame.time, frame.length, self.declared)
            previous = frame
            if self.end is not None and frame.time >= self.end - TOLERANCE:
                self.reached_end = True
                return
        if previous is not None and self.stop > self.start + TOLERANCE:
            until = self.stop if self.end is None else min(self.stop, self.end)
            if self._taken(previous, until, index, target, targets, last=True)[0]:
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

    def _taken(
        self,
        frame: Shown[Payload],
        until: float,
        index: int,
        target: float | None,
        targets: Iterator[float],
        last: bool = False,
    ) -> tuple[bool, float | None]:
        """Whether an instant falls on `frame`, shown up to `until`; and the first instant after it."""
        if self.sampling.every is not None:
            return index % self.sampling.every == 0, None
        taken = False
        # the next frame takes over at its own time, less the tolerance; the last one ends with the video
        while target is not None and target < until - TOLERANCE:
            taken = True
            target = next(targets, None)
        if last and self.sampling.frames is not None and target is not None:
            taken = True  # a total that was a little too long: the last instants fall on the last frame
        return taken, target


class Decoder(ABC):
    """Reads a video file. `decode` gives all of its chosen frames, `stream` one by one in bounded memory."""

    name: ClassVar[str]
    version: str = ""

    @abstractmethod
    def stream(
        self,
        path: str | os.PathLike[str],
        sampling: Sampling,
        start: float | None = None,
        end: float | None = None,
        size: int | None = None,
    ) -> Iterator[tuple[float, np.ndarray] | End]:
        """Yield `(time, image)` for each chosen frame (see `Frames`), and one `End` as the last item.

        start, end: the trim, in seconds from the video's first frame; size: the short side to which larger
        frames are brought (bicubic, aspect kept) while decoding. Raises DecodeError, also after frames were
        given: then those frames are not to be used.
        """

    def decode(
        self,
        path: str | os.PathLike[str],
        sampling: Sampling,
        start: float | None = None,
        end: float | None = None,
        size: int | None = None,
    ) -> Frames:
        """All chosen frames at once; arguments and errors as in `stream`."""
        times: list[float] = []
        images: list[np.ndarray] = []
        finish = End(0.0)
        for item in self.stream(path, sampling, start, end, size):
            if isinstance(item, End):
                finish = item
            else:
                times.append(item[0])
                images.append(item[1])
        return Frames(np.stack(images), np.asarray(times, np.float64), finish.duration, finish.bad)


def check_file(path: str | os.PathLike[str]) -> Path:
    """The path of a file that can be opened; DecodeError otherwise (a FIFO or a device is not a file)."""
    path = Path(path)
    if not os.path.lexists(path):
        raise DecodeError(
            "missing-file", f"no file at {path}", "a video file", "check the path in the manifest"
        )
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "a broken link" if path.is_symlink() else "not a plain file"
        reason = "missing-file" if kind == "a broken link" else "not-a-file"
        raise DecodeError(reason, f"{path} is {kind}", "a video file")
    try:
        with open(path, "rb") as file:
            if not file.read(1):
                raise DecodeError("empty-file", f"{path} is empty (0 bytes)", "a video file", "copy it again")
    except OSError as error:
        raise DecodeError(
            "unreadable", f"{path} cannot be read: {error.strerror}", "a readable file"
        ) from error
    return path


def check_trim(path: Path, start: float | None, end: float | None, duration: float | None = None) -> float:
    """The start of the trim in seconds; DecodeError `trim-outside` where it holds nothing of the video."""
    begin = start or 0.0
    if begin < 0 or (end is not None and end <= begin):
        raise DecodeError("trim-outside", f"{path}: a trim from {begin:g} to {end} s", "0 <= start < end")
    if duration is not None and begin >= duration - TOLERANCE:
        raise DecodeError(
            "trim-outside", f"{path}: the trim starts at {begin:g} s", f"a start within its {duration:g} s"
        )
    return begin


def check_complete(path: Path, picker: Picker[Any], bad: int, detail: str = "") -> End:
    """The End of a video that was read as far as it goes, or DecodeError where that is not far enough.

    A file that was cut decodes without an error up to the cut, so the last time is compared with the duration
    that the container declares: short by more than 1 s and more than 10 % means truncated. Likewise a hole
    left by packets that could not be decoded.
    """
    said = f" ({detail})" if detail else ""
    declared = picker.declared
    if not picker.seen:
        raise DecodeError("no-frames", f"{path}: not one frame could be decoded{said}", "a video with frames")
    wanted = picker.end if declared is None else min(picker.end or declared, declared)
    if declared is not None and wanted is not None and not picker.reached_end:
        missing = wanted - picker.stop
        if missing > max(1.0, 0.1 * wanted):
            raise DecodeError(
                "truncated",
                f"{path}: its frames end at {picker.stop:.2f} s of {declared:.2f} s{said}",
                "a whole file",
                "copy or download it again",
            )
    check_trim(path, picker.start, picker.end, picker.stop)
    if bad and picker.gap > max(1.0, 0.1 * picker.stop):
        raise DecodeError(
            "damaged",
            f"{path}: {bad} damaged packets leave a hole of {picker.gap:.2f} s{said}",
            "a whole file",
            "copy or download it again",
        )
    stop = picker.stop if picker.end is None else min(picker.stop, picker.end)
    return End(stop - picker.start, bad)

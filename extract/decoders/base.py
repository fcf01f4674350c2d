"""What decoders share: the frames they give, checks of files and of completeness, reasons of failures."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ...cache.errors import StepclipError
from .sampling import TOLERANCE, Picker, Sampling, Shown, end_of, weaksvr_instants

__all__ = [
    "REASONS",
    "TOLERANCE",
    "Backend",
    "DecodeError",
    "Decoder",
    "End",
    "Frames",
    "Picker",
    "Sampling",
    "Shown",
    "check_complete",
    "check_file",
    "check_order",
    "check_trim",
    "end_of",
    "weaksvr_instants",
]

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
BACKWARDS = 0.1  # share of a video's frames whose times may run backwards


class DecodeError(StepclipError):
    """A video that cannot be decoded. `reason` is one of `REASONS`; the message says what to do."""

    def __init__(self, reason: str, found: str, expected: str = "", run: str = "") -> None:
        super().__init__(found, expected, run)
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.reason, self.found, self.expected, self.run)


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


class Decoder(ABC):
    """Reads a video file. `decode` gives all of its chosen frames, `stream` one by one in bounded memory."""

    name: ClassVar[str]
    version: str = ""
    threads: int = 0  # that decode one video, where the library can be told; 0: as many as it likes

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
    path = Path(os.path.abspath(path))  # a relative name may look like an address (`a:b.mp4`) or an option
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


def check_order(path: Path, backwards: int, seen: int) -> None:
    """DecodeError where more than a few frames are not after the one before: such are never shown."""
    if backwards > BACKWARDS * (seen + backwards):
        raise DecodeError(
            "damaged",
            f"{path}: the times of {backwards} of its {seen + backwards} frames run backwards",
            "one recording with times that advance",
            "the recordings that it was joined from, one by one",
        )


def check_complete(path: Path, picker: Picker[Any], bad: int, detail: str = "", dropped: float = 0.0) -> End:
    """The End of a video that was read as far as it goes, or DecodeError where that is not far enough.

    A file that was cut decodes without an error up to the cut, so the last time is compared with the duration
    that the container declares: short by more than 1 s and more than 10 % means truncated. Likewise a hole
    left by packets that could not be decoded. dropped: the end of the last frame left out as damaged.
    """
    said = f" ({detail})" if detail else ""
    declared = picker.declared
    if not picker.seen:
        raise DecodeError("no-frames", f"{path}: not one frame could be decoded{said}", "a video with frames")
    wanted = picker.end if declared is None else min(picker.end or declared, declared)
    if declared is not None and wanted is not None and not picker.reached_end:
        allowed = max(1.0, 0.1 * wanted)
        if wanted - max(picker.stop, dropped) > allowed:
            raise DecodeError(
                "truncated",
                f"{path}: its frames end at {picker.stop:.2f} s of {declared:.2f} s{said}",
                "a whole file",
                "copy or download it again",
            )
        picker.gap = max(picker.gap, dropped - picker.stop)
    check_trim(path, picker.start, picker.end, picker.stop)
    if bad and picker.gap > max(1.0, 0.1 * max(picker.stop, dropped)):
        raise DecodeError(
            "damaged",
            f"{path}: damage leaves a hole of {picker.gap:.2f} s, {bad} packets and frames{said}",
            "a whole file",
            "copy or download it again",
        )
    if picker.inside is not None and picker.taken != len(picker.instants):
        raise DecodeError(
            "damaged",
            f"{path}: {picker.taken} of WeakSVR's {len(picker.instants)} frames were found{said}",
            "a whole file",
            "sampling by time (--fps), which does without the lost ones",
        )
    if picker.inside is not None and not bad and picker.passed != picker.inside:
        raise DecodeError(
            "damaged",
            f"{path}: {picker.passed} frames were decoded of the {picker.inside} it tells of{said}",
            "as many frames as packets",
            "sampling by time (--fps)",
        )
    stop = picker.stop if picker.end is None else min(picker.stop, picker.end)
    return End(stop - picker.start, bad)

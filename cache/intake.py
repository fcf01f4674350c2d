"""What a writer is given of a video: checked, and copied into memory that serves shard after shard."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .errors import StepclipError
from .shard import Video
from .source import Source

# of a dtype: the bits of -0.0 and of infinity
_BITS: dict[str, tuple[Any, Any]] = {
    "float16": (np.float16(-0.0).view(np.uint16), np.float16(np.inf).view(np.uint16)),
    "float32": (np.float32(-0.0).view(np.uint32), np.float32(np.inf).view(np.uint32)),
}


class Room:
    """Memory for the features of one shard, used again for the next: fresh pages cost as much as the disk."""

    def __init__(self, dtype: str, size: int) -> None:
        """size: bytes; those that are never used take no memory."""
        self._size, self._used = size, 0
        self._memory = np.empty(0, dtype)

    def take(self, shape: tuple[int, ...]) -> np.ndarray:
        count = math.prod(shape)
        if self._memory.size - self._used < count:  # what lies in the old memory keeps it
            self._memory = np.empty(max(count, self._size // self._memory.itemsize), self._memory.dtype)
            self._used = 0
        self._used += count
        return self._memory[self._used - count : self._used].reshape(shape)

    def clear(self) -> None:
        """Whatever was taken may be overwritten."""
        self._used = 0


def refused(video_id: str, found: str, expected: str) -> StepclipError:
    return StepclipError(f"the features of '{video_id}' are refused: {found}", expected)


def check_name(text: str) -> None:
    """Raise StepclipError when a text cannot be kept as the name of a video, or as a sentence."""
    try:
        good = isinstance(text, str) and text != "" and b"\0" not in text.encode()
    except UnicodeEncodeError:
        good = False
    if not good:
        raise StepclipError(
            f"{text!r:.80} cannot be kept as a name or text", "text that is not empty, without NUL"
        )


def checked_video(
    room: Room,
    dim: int,
    copies: int,
    video_id: str,
    features: np.ndarray,
    times: np.ndarray,
    duration: float,
    views: np.ndarray | None,
    source: Source | None,
) -> Video:
    """The video for a cache of `dim` dimensions and so many `copies`, in `room`. Raises StepclipError."""

    def fault(found: str, expected: str) -> StepclipError:
        return refused(video_id, found, expected)

    check_name(video_id)
    given = np.asarray(features)
    if given.ndim != 2 or given.shape[1] != dim or not len(given) or given.dtype.kind != "f":
        raise fault(
            f"shape {given.shape} of {given.dtype}", f"floats of shape (frames, {dim}), 1 frame or more"
        )
    kept = _checked_rows(room, given, fault)
    others = None
    if copies or views is not None:
        others = np.empty((0, 0, 0)) if views is None else np.asarray(views)
        if others.shape != (copies, *given.shape) or others.dtype.kind != "f":
            raise fault(
                f"views of shape {None if views is None else others.shape}",
                f"floats of shape {(copies, *given.shape)}" if copies else "no views in this cache",
            )
        others = _checked_rows(room, others, fault)
    stamps = np.array(times, np.float64)
    if stamps.shape != (len(kept),) or not np.isfinite(stamps).all():
        raise fault(f"times of shape {stamps.shape}", f"{len(kept)} finite times, one per row")
    if not (rises := stamps[1:] > stamps[:-1]).all():
        at = int(np.argmin(rises))
        raise fault(f"times {stamps[at]:g}, {stamps[at + 1]:g} (frame {at + 1})", "strictly increasing times")
    seconds = float(duration)
    if not np.isfinite(seconds) or seconds < 0:
        raise fault(f"a duration of {seconds:g} s", "a finite duration from 0")
    return Video(video_id, kept, stamps, seconds, others, source)


def _checked_rows(room: Room, given: np.ndarray, fault: Callable[[str, str], StepclipError]) -> np.ndarray:
    """A copy in the cache's dtype, each row finite and not all zero."""
    kept = room.take(given.shape)
    with np.errstate(over="ignore"):
        kept[...] = given
    # the bits of a float without its sign grow with it, from zero to infinity and what is none: one fast pass
    sign, infinite = _BITS[kept.dtype.name]
    largest = (kept.view(infinite.dtype) & ~sign).max(axis=-1)
    if largest.max() >= infinite:
        at = np.argwhere(largest >= infinite)[0]
        raise fault(f"row {at[-1]} is not finite as {kept.dtype}", "finite numbers")
    if not largest.min():
        at = np.argwhere(largest == 0)[0]
        raise fault(f"row {at[-1]} is all zero", "features of a frame in every row")
    return kept

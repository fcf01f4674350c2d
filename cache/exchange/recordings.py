"""One video in others' files: which of its arrays are features, times, labels; all brought to one form."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from .arrays import ForeignFault, Look, NamedArrays, open_arrays

KNOWN = {
    "features": ("features",),
    "times": ("times", "timestamps", "timestamps_ms", "times_ms", "pts", "pts_ms"),
    "labels": ("labels",),
    "fps": ("fps",),
    "duration": ("duration",),
}
OTHERS = {name for role, names in KNOWN.items() if role != "features" for name in names}
_MILLISECONDS = re.compile(r"(^|[_.\- ])(ms|msecs?|millis|milliseconds?)$")


@dataclass(frozen=True)
class Keys:
    """How the arrays of one video are called, where it is not as in `KNOWN`."""

    features: str | None = None
    times: str | None = None
    labels: str | None = None


@dataclass(frozen=True)
class Entry:
    """Where one video lies. members: names of its arrays -> their names in a file of many videos, None where
    the file is its own; beside: names of further arrays -> files of their own."""

    video_id: str
    path: Path
    members: Mapping[str, str] | None = None
    beside: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Recording:
    """What is said of one video. features (T, D) floats, None where only the rest was asked for; times (T,)
    float64 and duration in seconds; labels (T,) int64 or text; None: not said."""

    frames: int
    dim: int
    features: np.ndarray | None = None
    times: np.ndarray | None = None
    fps: float | None = None
    duration: float | None = None
    labels: np.ndarray | None = None

    def clock(self, fps: float | None) -> tuple[np.ndarray, float]:
        """Times (T,) and duration in seconds: those said, else i / fps and T / fps.

        Raises ForeignFault when there are neither times nor frames per second, or they contradict each other.
        """
        rate = fps or self.fps
        times, duration = self.times, self.duration
        if times is None:
            if rate is None:
                raise ForeignFault("no-times", "no times and no frames per second", "one of them", "--fps N")
            times = np.arange(self.frames) / rate
            duration = self.frames / rate if duration is None else duration
        elif not np.isfinite(times).all() or times[0] < 0 or (np.diff(times) <= 0).any():
            raise ForeignFault(
                "bad-times",
                f"times from {times[0]:g} to {times[-1]:g} that do not rise from frame to frame",
                "strictly increasing seconds from 0",
            )
        step = float(np.median(np.diff(times))) if self.frames > 1 else 0.0
        duration = float(times[-1]) + step if duration is None else duration
        if times[-1] > duration + max(step, 1e-6):
            raise ForeignFault(
                "bad-times",
                f"the last frame is at {times[-1]:g} s of a video of {duration:g} s",
                "times and duration in seconds, or in milliseconds under a name that ends in _ms",
            )
        return times, duration


class Members:
    """The arrays of one video: those in its file, and those in files beside it, which come first."""

    def __init__(self, arrays: NamedArrays, entry: Entry) -> None:
        self._arrays, self._beside = arrays, entry.beside
        self._names = entry.members or {name: name for name in arrays.names}

    def roles(self, keys: Keys) -> dict[str, str]:
        """Which array is what. Raises ForeignFault when none can be told to be the features."""
        names = [*self._beside, *self._names]
        lowered = {name.lower(): name for name in reversed(names)}
        roles = {
            role: next(lowered[each] for each in known if each in lowered)
            for role, known in KNOWN.items()
            if any(each in lowered for each in known)
        }
        for role, name in (("features", keys.features), ("times", keys.times), ("labels", keys.labels)):
            if name is not None:
                if name not in names:
                    raise self._lacking(role, name)
                roles[role] = name
        if "features" not in roles:
            others = [name for name in self._names if name.lower() not in OTHERS | set(roles.values())]
            looks = {name: self._arrays.glance(self._names[name]) for name in others}
            floats = [name for name, look in looks.items() if len(look.shape) > 1 and look.kind in "f?"]
            if len(others) != 1 and len(floats) != 1:
                raise self._lacking("features", KNOWN["features"][0], floats or others)
            roles["features"] = (floats if len(floats) == 1 else others)[0]
        return roles

    def _lacking(self, role: str, name: str, better: Sequence[str] = ()) -> ForeignFault:
        found = ", ".join(
            f"{each} {self._arrays.glance(full)}" for each, full in list(self._names.items())[:12]
        )
        more = f", ... ({len(self._names)} in all)" if len(self._names) > 12 else ""
        choice = better[0] if better else "NAME"
        return ForeignFault(
            f"no-{role}",
            f"{self._arrays.path} holds no array '{name}'; found: {found or 'nothing'}{more}",
            f"its {role} under that name" + (", or one array only" if role == "features" else ""),
            f"the same with --{role}-key {choice} (in Python: {role}_key={choice!r})",
        )

    def look(self, name: str) -> Look:
        return self._arrays.look(self._names[name])

    def read(self, name: str) -> np.ndarray:
        return (
            _read_file(self._beside[name]) if name in self._beside else self._arrays.read(self._names[name])
        )

    def recording(self, keys: Keys, transposed: bool = False, features: bool = True) -> Recording:
        """All that is said of the video; without `features`, all but those. Raises ForeignFault."""
        roles = self.roles(keys)
        frames, dim = matrix(self.look(roles["features"]), transposed)
        given = None
        if features:
            given = self.read(roles["features"])
            given = given.reshape(given.shape[-2:])
            given = given.T if transposed else given
        recording = Recording(
            frames, dim, given, None, self._number(roles, "fps"), self._number(roles, "duration")
        )
        if name := roles.get("times"):
            recording = replace(recording, times=_seconds(name, self.read(name), frames))
        if name := roles.get("labels"):
            recording = replace(recording, labels=_labels(self.read(name), frames))
        return recording

    def _number(self, roles: Mapping[str, str], role: str) -> float | None:
        if role not in roles:
            return None
        value = self.read(roles[role])
        if value.size != 1 or value.dtype.kind not in "iuf" or not 0 < float(value.reshape(())) < np.inf:
            raise ForeignFault("bad-times", f"{role} is {value.tolist()!r:.60}", "one number over 0")
        return float(value.reshape(()))


def matrix(look: Look, transposed: bool = False) -> tuple[int, int]:
    """(T, D) of an array, leading ones left out. Raises ForeignFault when it is no matrix of floats."""
    if look.kind != "f":
        raise ForeignFault(
            "not-floats", f"the features are {look}", "float16, float32 or float64 (frames, D)"
        )
    shape = look.shape
    while len(shape) > 2 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) != 2 or 0 in shape:
        raise ForeignFault("bad-shape", f"the features are {look}", "shape (frames, D), one frame or more")
    return (shape[1], shape[0]) if transposed else (shape[0], shape[1])


def _seconds(name: str, values: np.ndarray, frames: int) -> np.ndarray:
    if values.size != frames or max(values.shape, default=1) != frames or values.dtype.kind not in "iuf":
        raise ForeignFault(
            "bad-times", f"'{name}' is {values.shape} {values.dtype}", f"{frames} numbers, one per frame"
        )
    if name.lower() == "pts" and values.dtype.kind != "f":
        raise ForeignFault(
            "bad-times", "'pts' are integers: ticks of an unknown length", "seconds, as floats"
        )
    seconds = values.reshape(-1).astype(np.float64)
    return seconds / 1000 if _MILLISECONDS.search(name.lower()) else seconds


def _labels(values: np.ndarray, frames: int) -> np.ndarray:
    flat = values.reshape(-1) if max(values.shape, default=1) == values.size else values
    if flat.dtype.kind == "S":
        flat = np.char.decode(flat, "utf-8", "replace")
    whole = flat.dtype.kind == "f" and bool((flat == np.round(flat)).all())
    if flat.shape != (frames,) or not (flat.dtype.kind in "iubU" or whole):
        raise ForeignFault(
            "bad-labels",
            f"labels of shape {values.shape} and type {values.dtype}",
            f"{frames} numbers or names, one per frame",
        )
    return flat if flat.dtype.kind == "U" else flat.astype(np.int64)


def _read_file(path: Path) -> np.ndarray:
    """The one array of an npy file, or the lines of a text file: numbers, or names."""
    if path.suffix.lower() != ".txt":
        with open_arrays(path) as arrays:
            return arrays.read("")
    try:
        words = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ForeignFault("bad-labels", f"{path} cannot be read: {error}", "UTF-8 text") from error
    return np.array(words, np.int64 if all(word.isdecimal() for word in words) else str)

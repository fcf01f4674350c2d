"""Decoding with PyAV, the default: exact times, every common codec, and it gets past damaged packets."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import av
import numpy as np
from av.sidedata.sidedata import Type as SideData
from av.video.reformatter import Interpolation

from ..geometry import short_side
from .base import (
    DecodeError,
    Decoder,
    End,
    Picker,
    Sampling,
    Shown,
    check_complete,
    check_file,
    check_trim,
    end_of,
)

SEEKABLE = ("mov", "matroska", "avi", "flv")  # containers whose index can be trusted (MPEG-TS has none)
SEEK_FROM = 10.0  # seconds: a trim that starts earlier is reached by decoding up to it


@dataclass(frozen=True)
class Probe:
    """What the container declares of its main video stream; `duration` in seconds, None if it is not said."""

    index: int
    format: str
    codec: str
    width: int
    height: int
    fps: float
    duration: float | None
    audio: bool


def open_video(path: Path) -> tuple[Any, Any]:
    """The open container and its main video stream, as FFmpeg judges it; DecodeError if there is none."""
    try:
        container = av.open(str(path), metadata_errors="replace")
    except (av.FFmpegError, ValueError, OSError) as error:
        raise DecodeError(
            "unreadable",
            f"{path} is not a video that can be read: {getattr(error, 'strerror', '') or error}",
            "a video file that was copied to its end (an mp4 has its index there)",
        ) from error
    streams = [
        stream
        for stream in container.streams.video
        if not stream.disposition & av.stream.Disposition.attached_pic
    ]
    if not streams:
        kinds = " and ".join(sorted({stream.type for stream in container.streams})) or "no"
        container.close()
        raise DecodeError("no-video-stream", f"{path} has no video, only {kinds} streams", "a video")
    best = container.streams.best("video")
    return container, best if best in streams else streams[0]


def probe(path: str | os.PathLike[str]) -> Probe:
    """What the container at `path` declares, without decoding. Raises DecodeError as `open_video`."""
    container, stream = open_video(check_file(path))
    with container:
        context = stream.codec_context
        audio = len(container.streams.audio) > 0
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        duration = _declared(container, stream)
        if context is None:
            return Probe(stream.index, container.format.name, "", 0, 0, rate, duration, audio)
        name = context.codec.canonical_name
        return Probe(
            stream.index, container.format.name, name, context.width, context.height, rate, duration, audio
        )


def measure(path: str | os.PathLike[str]) -> float:
    """The duration in seconds, first frame to end of last, by reading every packet and decoding none."""
    container, stream = open_video(check_file(path))
    first, last, tail = float("inf"), float("-inf"), 0.0
    with container:
        declared = _declared(container, stream)
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        usual = 1 / rate if rate else 0.0
        try:
            for packet in container.demux(stream):
                if packet.pts is not None and not packet.is_discard:
                    time = float(packet.pts * packet.time_base)
                    length = float(packet.duration * packet.time_base) if packet.duration else usual
                    first = min(first, time)
                    last, tail = max((last, tail), (time, length))
        except av.FFmpegError:
            pass  # what lies behind the damage is judged when it is decoded
    return max(end_of(last - first, tail, declared), 0.0)


class PyAVDecoder(Decoder):
    """The default decoder."""

    name: ClassVar[str] = "pyav"
    version = av.__version__

    def stream(
        self,
        path: str | os.PathLike[str],
        sampling: Sampling,
        start: float | None = None,
        end: float | None = None,
        size: int | None = None,
    ) -> Iterator[tuple[float, np.ndarray] | End]:
        path = check_file(path)
        begin = check_trim(path, start, end)
        total = None
        if sampling.frames is not None:
            total = measure(path)
            check_trim(path, start, end, total or None)
        container, video = open_video(path)
        with container:
            picker: Picker[Any] = Picker(sampling, begin, end, total, _declared(container, video))
            reader = _Reader(container, video, begin)
            convert = _Converter(size)
            for time, frame in picker(reader.frames()):
                yield time, convert(frame)
            yield check_complete(path, picker, reader.bad, reader.detail)


class _Reader:
    """Frames of a stream in order of presentation, with damaged packets passed over and counted."""

    def __init__(self, container: Any, stream: Any, start: float) -> None:
        self.container, self.stream, self.start = container, stream, start
        self.bad, self.detail = 0, ""
        stream.thread_type = "AUTO"
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        self.usual = 1 / rate if rate else 0.04

    def frames(self) -> Iterator[Shown[Any]]:
        origin: float | None = None
        latest = float("-inf")
        source = self._decoded()
        for frame in source:
            time = float(frame.pts * self.stream.time_base)
            if origin is None:
                origin = time
                if self._worth_seeking():
                    yield from self._from_start(origin, frame)
                    return
            if time <= latest:
                continue  # a frame that repeats or runs backwards is never shown
            latest = time
            yield self._shown(frame, origin)

    def _from_start(self, origin: float, first: Any) -> Iterator[Shown[Any]]:
        """The frames from the key frame before the trim on; from the first one if the seek overshoots."""
        yield self._shown(first, origin)
        wanted = int((origin + self.start) / self.stream.time_base)
        latest = float(first.pts * self.stream.time_base)
        try:
            self.container.seek(wanted, stream=self.stream, backward=True)
            source = self._decoded()
            frame = next(source, None)
        except av.FFmpegError:
            frame = None
        if frame is None or float(frame.pts * self.stream.time_base) > origin + self.start:
            self.container.seek(0, backward=True, any_frame=False)
            source = self._decoded()
            frame = next(source, None)
        while frame is not None:
            time = float(frame.pts * self.stream.time_base)
            if time > latest:
                latest = time
                yield self._shown(frame, origin)
            frame = next(source, None)

    def _worth_seeking(self) -> bool:
        name = self.container.format.name
        return self.start > SEEK_FROM and any(kind in name for kind in SEEKABLE)

    def _shown(self, frame: Any, origin: float) -> Shown[Any]:
        length = float(frame.duration * self.stream.time_base) if frame.duration else self.usual
        return Shown(float(frame.pts * self.stream.time_base) - origin, length, frame)

    def _decoded(self) -> Iterator[Any]:
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError as error:  # the container itself is cut or damaged
                self._count(error)
                packet = None
            if packet is None:
                yield from self._usable(self._flush())
                return
            if packet.size == 0:
                continue  # the flush that `demux` adds; done above, once
            try:
                decoded = packet.decode()
            except av.FFmpegError as error:
                self._count(error)
                continue
            yield from self._usable(decoded)

    def _flush(self) -> list[Any]:
        try:
            return list(self.stream.decode(None))
        except av.FFmpegError as error:
            if not isinstance(error, av.EOFError):
                self._count(error)
            return []

    def _usable(self, frames: list[Any]) -> Iterator[Any]:
        for frame in frames:
            if frame.pts is None or frame.is_corrupt:
                self._count("a corrupt frame" if frame.is_corrupt else "a frame without a time")
            else:
                yield frame

    def _count(self, what: object) -> None:
        self.bad += 1
        self.detail = self.detail or str(what)


class _Converter:
    """Frames to upright RGB images of one size, resized while they are converted."""

    # accurate chroma when resizing; at the native size FFmpeg's defaults, to be equal to its own output
    resizing = int(Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT)

    def __init__(self, size: int | None) -> None:
        self.size = size
        self.shape: tuple[int, int] | None = None

    def __call__(self, frame: Any) -> np.ndarray:
        here = (frame.height, frame.width)
        if self.shape is None:  # a stream may change its size on the way: its first frame decides
            smaller = self.size is not None and min(here) > self.size
            self.shape = short_side(*here, self.size or 0) if smaller else here
        flags = None if here == self.shape else self.resizing
        rgb = frame.reformat(self.shape[1], self.shape[0], "rgb24", interpolation=flags, threads=1)
        return upright(rgb.to_ndarray(), frame)


def upright(image: np.ndarray, frame: Any) -> np.ndarray:
    """`image` (H, W, 3) turned and mirrored as the frame's display matrix says (multiples of 90 degrees)."""
    matrix = frame.side_data.get(SideData.DISPLAYMATRIX)
    if matrix is None:
        return image
    # a point (p, q) of the coded frame is shown at x = a p + c q, y = b p + d q
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    if abs(a) + abs(d) < abs(b) + abs(c):
        image, x, y = image.transpose(1, 0, 2), c, b
    else:
        x, y = a, d
    image = image[:, ::-1] if x < 0 else image
    image = image[::-1] if y < 0 else image
    return np.ascontiguousarray(image)


def _declared(container: Any, stream: Any) -> float | None:
    """The duration in seconds that the container declares for the stream or for itself; None if unsaid."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    starts = float((stream.start_time or 0) * stream.time_base)
    if "matroska" in container.format.name:  # its durations are ends, counted from the clock's zero
        tag = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", ""))
        if tag:
            return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3]) - starts or None
        return container.duration / 1e6 - starts if container.duration else None
    if container.duration:
        return ((container.start_time or 0) + container.duration) / 1e6 - starts
    return None

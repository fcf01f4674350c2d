"""The container of a video: which stream is the video, what is declared of it. Read with PyAV."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av

from .base import DecodeError, check_file

# a file may be a playlist or a script that names addresses: they are not opened
OPTIONS = {"protocol_whitelist": "file"}


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
        container = av.open(str(path), metadata_errors="replace", container_options=OPTIONS)
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
        kinds = sorted({stream.type for stream in container.streams} - {"video"})
        covers = ["a cover picture"] if container.streams.video else []
        container.close()
        found = " and ".join(kinds + covers) or "nothing"
        raise DecodeError("no-video-stream", f"{path} has no video, only {found}", "a video")
    best = container.streams.best("video")
    return container, best if best in streams else streams[0]


@contextmanager
def opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """`open_video`, closed at the end."""
    container, stream = open_video(path)
    with container:
        yield container, stream


def probe(path: str | os.PathLike[str]) -> Probe:
    """What the container at `path` declares, without decoding. Raises DecodeError as `open_video`."""
    container, stream = open_video(check_file(path))
    with container:
        context = stream.codec_context
        audio = len(container.streams.audio) > 0
        rate, duration = declared_rate(stream), declared_duration(container, stream)
        if context is None:
            return Probe(stream.index, container.format.name, "", 0, 0, rate, duration, audio)
        name = context.codec.canonical_name
        return Probe(
            stream.index, container.format.name, name, context.width, context.height, rate, duration, audio
        )


def codec_of(stream: Any) -> str:
    """The name of its codec, "" where that is unknown."""
    return "" if stream.codec_context is None else str(stream.codec_context.codec.canonical_name)


def share_out(stream: Any, threads: int) -> None:
    """Decode the stream on so many threads; 0: on as many as there are cores."""
    if stream.codec_context is not None:  # else its codec is unknown, and decoding says so
        stream.thread_type = "NONE" if threads == 1 else "AUTO"
        stream.codec_context.thread_count = threads


def declared_rate(stream: Any) -> float:
    """Frames per second by the container's account, 0.0 if it gives none."""
    return float(stream.average_rate or stream.guessed_rate or 0)


def declared_duration(container: Any, stream: Any) -> float | None:
    """The duration in seconds that the container declares for the stream or for itself; None if unsaid."""
    if container.format.name == "avi" and stream.frames and stream.average_rate:
        return float(stream.frames / stream.average_rate)  # its duration is a guess from the file's size
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

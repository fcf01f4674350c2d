"""Decoding with an ffmpeg program (by ffmpeg-python): the system's, else imageio-ffmpeg's.

It paints over what it cannot decode, and does not say in which frames: a file in which it did is refused.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import cache
from typing import IO, ClassVar

import ffmpeg
import numpy as np

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
    check_order,
    check_trim,
)
from .container import OPTIONS, probe
from .listing import list_frames
from .pyav import picker_for

_BASE = re.compile(rb"config in time_base: (\d+)/(\d+)")
_FRAME = re.compile(rb"\bn: *\d+ pts: *(-?\d+|NOPTS) .*?(?:duration: *(-?\d+) .*)?\bs:(\d+)x(\d+)")
# said of pictures that are made up in part, and then used to predict others
_CONCEALED = re.compile(rb"concealing \d+|corrupt decoded frame|Error while decoding|Error submitting packet")


@cache
def ffmpeg_binary() -> str:
    """The path of an ffmpeg program. Raises DecodeError `decoder-unavailable` where there is none."""
    if found := shutil.which("ffmpeg"):
        return found
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:
        raise DecodeError(
            "decoder-unavailable", "no ffmpeg program on this machine", "ffmpeg", "pip install imageio-ffmpeg"
        ) from error


@cache
def ffmpeg_version(binary: str) -> str:
    """The version that `binary -version` prints."""
    done = subprocess.run([binary, "-version"], capture_output=True, text=True, check=False)
    match = re.search(r"version (\S+)", done.stdout)
    return match[1] if match else "unknown"


class FFmpegDecoder(Decoder):
    """Frames through a pipe, resized by ffmpeg, with the times that its filter `showinfo` prints."""

    name: ClassVar[str] = "ffmpeg"

    def __init__(self) -> None:
        self.binary = ffmpeg_binary()
        self.version = ffmpeg_version(self.binary)

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
        declared = probe(path)
        listing = list_frames(path) if sampling.counts else None
        picker: Picker[np.ndarray] = picker_for(path, sampling, begin, end, declared.duration, listing)
        graph = ffmpeg.input(str(path), **OPTIONS)[str(declared.index)]
        if size is not None and min(declared.width, declared.height) > size:
            # the display matrix is applied before the filter, so the size is told by whichever side is
            # shorter there
            high, wide = short_side(declared.height, declared.width, size)
            shape = {
                "w": f"if(gt(iw,ih),{max(high, wide)},{size})",
                "h": f"if(gt(iw,ih),{size},{max(high, wide)})",
            }
            graph = graph.filter("scale", flags="bicubic+accurate_rnd+full_chroma_int", **shape)
        graph = graph.filter("showinfo", checksum=0)
        options = {"fps_mode": "passthrough"} if self._knows_fps_mode() else {"vsync": "passthrough"}
        output = ffmpeg.output(
            graph, "pipe:", format="rawvideo", pix_fmt="rgb24", enc_time_base="1/90000", **options
        )
        arguments = ffmpeg.compile(
            output.global_args("-nostdin", "-hide_banner", "-nostats", "-loglevel", "level+info"),
            cmd=self.binary,
        )
        with _Pipe(arguments, 1 / declared.fps if declared.fps else 0.04) as pipe:
            yield from picker(pipe.frames())
            check_order(path, pipe.backwards, picker.seen)
            finish = check_complete(path, picker, pipe.errors, pipe.detail)
            if pipe.concealed:
                raise DecodeError(
                    "damaged",
                    f"{path}: ffmpeg tells {pipe.concealed} times of damaged pictures ({pipe.detail})",
                    "a whole file",
                    "--decoder pyav, which leaves such pictures out",
                )
            yield finish

    def _knows_fps_mode(self) -> bool:
        match = re.match(r"n?(\d+)\.(\d+)", self.version)
        return match is None or (int(match[1]), int(match[2])) >= (5, 1)


class _Pipe:
    """A running ffmpeg: images from its output, their times from what it says of itself."""

    def __init__(self, arguments: list[str], usual: float) -> None:
        self.arguments, self.usual = arguments, usual
        self.base = 0.0
        self.errors, self.detail = 0, ""
        self.backwards = self.concealed = 0
        self.told: list[tuple[float | None, float, int, int]] = []
        self.ended = False
        self.news = threading.Condition()

    def __enter__(self) -> _Pipe:
        self.process = subprocess.Popen(self.arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.listener = threading.Thread(target=self._listen, args=(self.process.stderr,), daemon=True)
        self.listener.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.listener.join()
        for stream in (self.process.stdout, self.process.stderr):
            if stream:
                stream.close()

    def frames(self) -> Iterator[Shown[np.ndarray]]:
        """Every frame that ffmpeg gives, in order."""
        assert self.process.stdout is not None
        origin = latest = shape = None
        index = 0
        while (told := self._told(index)) is not None:
            time, length, width, height = told
            shape = shape or (height, width, 3)  # ffmpeg brings all frames to the size of the first
            data = self.process.stdout.read(math.prod(shape))
            if len(data) < math.prod(shape):
                return
            index += 1
            if time is None or (latest is not None and time <= latest):
                self.backwards += 1
                continue
            origin, latest = time if origin is None else origin, time
            yield Shown(time - origin, length, np.frombuffer(data, np.uint8).reshape(shape))

    def _told(self, index: int) -> tuple[float | None, float, int, int] | None:
        with self.news:
            self.news.wait_for(lambda: len(self.told) > index or self.ended)
            if len(self.told) <= index:
                return None
            told, self.told[index] = self.told[index], (0.0, 0.0, 0, 0)
            return told

    def _listen(self, stream: IO[bytes]) -> None:
        for line in stream:
            if b"Parsed_showinfo" in line:
                if match := _BASE.search(line):
                    self.base = int(match[1]) / int(match[2])
                elif match := _FRAME.search(line):
                    length = int(match[2] or 0) * self.base or self.usual
                    time = None if match[1] == b"NOPTS" else int(match[1]) * self.base
                    with self.news:
                        self.told.append((time, length, int(match[3]), int(match[4])))
                        self.news.notify()
            elif concealed := _CONCEALED.search(line) or b"[error]" in line or b"[fatal]" in line:
                self.errors += 1
                self.concealed += concealed is not True
                self.detail = self.detail or line.decode("utf-8", "replace").strip()
        with self.news:
            self.ended = True
            self.news.notify()

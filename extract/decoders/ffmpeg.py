"""Decoding with an ffmpeg program (by ffmpeg-python): the system's, else imageio-ffmpeg's."""

from __future__ import annotations

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
from .base import DecodeError, Decoder, End, Picker, Sampling, Shown, check_complete, check_file, check_trim
from .pyav import measure, probe

_BASE = re.compile(rb"config in time_base: (\d+)/(\d+)")
_FRAME = re.compile(rb"\bn: *\d+ pts: *(-?\d+) .*?(?:duration: *(-?\d+) .*)?\bs:(\d+)x(\d+)")


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
        total = None
        if sampling.frames is not None:
            total = measure(path)
            check_trim(path, start, end, total or None)
        graph = ffmpeg.input(str(path))[str(declared.index)]
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
        arguments = ffmpeg.compile(output.global_args("-nostdin", "-hide_banner"), cmd=self.binary)
        picker: Picker[np.ndarray] = Picker(sampling, begin, end, total, declared.duration)
        with _Pipe(arguments, 1 / declared.fps if declared.fps else 0.04) as pipe:
            yield from picker(pipe.frames())
            yield check_complete(path, picker, pipe.errors, pipe.detail)

    def _knows_fps_mode(self) -> bool:
        match = re.match(r"n?(\d+)\.(\d+)", self.version)
        return match is None or (int(match[1]), int(match[2])) >= (5, 1)


class _Pipe:
    """A running ffmpeg: images from its output, their times from what it says of itself."""

    def __init__(self, arguments: list[str], usual: float) -> None:
        self.arguments, self.usual = arguments, usual
        self.base = 0.0
        self.errors, self.detail = 0, ""
        self.told: list[tuple[float, float, int, int]] = []
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
        origin, index, latest = None, 0, float("-inf")
        while (told := self._told(index)) is not None:
            time, length, width, height = told
            data = self.process.stdout.read(3 * width * height)
            if len(data) < 3 * width * height:
                return
            origin = time if origin is None else origin
            index += 1
            if time > latest:
                latest = time
                image = np.frombuffer(data, np.uint8).reshape(height, width, 3)
                yield Shown(time - origin, length, image)

    def _told(self, index: int) -> tuple[float, float, int, int] | None:
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
                    with self.news:
                        self.told.append((int(match[1]) * self.base, length, int(match[3]), int(match[4])))
                        self.news.notify()
            elif b"rror" in line or b"nvalid" in line or b"corrupt" in line or b"missing" in line:
                self.errors += 1
                self.detail = self.detail or line.decode("utf-8", "replace").strip()
        with self.news:
            self.ended = True
            self.news.notify()

"""Decoding with decord, on files whose frames it counts and times as they are.

Others are refused: MPEG-TS and -PS, AVI with B-frames, edit lists, and AV1, for which it has no decoder.
Passing over frames is safe for H.264 only: for HEVC decord 0.6 then gives wrong pictures (on h265_video.mp4
of the test data, every fifth frame), so other codecs are read frame by frame. In damaged packets it paints
over what it cannot decode and does not tell.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import decord
import numpy as np

from ..geometry import short_side
from .base import (
    DecodeError,
    Decoder,
    End,
    Picker,
    Sampling,
    check_complete,
    check_file,
    check_trim,
)
from .container import probe
from .listing import check_listed, list_frames
from .pyav import picker_for

SKIPS_WELL = {"h264"}
BATCH_BYTES = 64 * 2**20  # frames are fetched in batches of about this size


class DecordDecoder(Decoder):
    """decord.VideoReader behind the same sampling; times are decord's own, in float32 seconds."""

    name: ClassVar[str] = "decord"
    version = decord.__version__

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
        listing = list_frames(path)
        if declared.codec == "av1":
            raise _unsupported(path, "AV1")
        check_listed(path, listing, declared.format)
        try:
            # fault_tol: else a frame that cannot be decoded is replaced by its neighbour
            reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1, fault_tol=1e-9)
            spans = np.asarray(reader.get_frame_timestamp(np.arange(len(reader))), np.float64).reshape(-1, 2)
        except (decord.DECORDError, RuntimeError, IndexError) as error:
            raise DecodeError(
                "unreadable",
                f"{path}: decord cannot read it: {_first_line(error)}",
                "a whole file",
                "--decoder pyav",
            ) from error
        times = spans[:, 0] - spans[:1, 0]
        if len(times) != len(listing.times) or not np.allclose(times, listing.times, rtol=2e-7, atol=2e-3):
            raise _unsupported(
                path, f"a video of {len(listing.times)} frames, of {len(times)} by decord's account"
            )
        picker: Picker[int] = picker_for(path, sampling, begin, end, declared.duration, listing)
        chosen = list(picker(listing.shown()))
        finish = check_complete(path, picker, 0)
        wanted = [index for _, index in chosen]
        read = wanted if declared.codec in SKIPS_WELL else list(range(wanted[-1] + 1))
        kept = iter(chosen)
        time, index = next(kept)
        step = max(1, BATCH_BYTES // max(1, 3 * declared.width * declared.height))
        for first in range(0, len(read), step):
            batch = read[first : first + step]
            try:
                images = reader.get_batch(batch).asnumpy()
            except (decord.DECORDError, RuntimeError, IndexError) as error:
                raise DecodeError(
                    "unreadable",
                    f"{path}: decord stops at {times[batch[0]]:.2f} s or after: {_first_line(error)}",
                    "a whole file",
                    "--decoder pyav",
                ) from error
            for here, image in zip(batch, images, strict=True):
                if here == index:
                    yield time, _resized(image, size)
                    time, index = next(kept, (0.0, -1))
        yield finish


def _unsupported(path: Path, what: str) -> DecodeError:
    return DecodeError(
        "unsupported", f"{path} is {what}, which decord gets wrong", "another decoder", "--decoder pyav"
    )


def _resized(image: np.ndarray, size: int | None) -> np.ndarray:
    height, width = image.shape[:2]
    if size is None or min(height, width) <= size:
        return image
    from PIL import Image

    high, wide = short_side(height, width, size)
    return np.asarray(Image.fromarray(image).resize((wide, high), Image.Resampling.BICUBIC))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__

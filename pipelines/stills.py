"""Single frames of videos, for the report and the web page: found by seeking, no file is read whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ..cache.manifest import VideoRow

WITHIN = 0.5  # seconds after the moment in which a frame is looked for
SMALL = 96  # short side of the report's frames, in pixels


def still(path: str, seconds: float, size: int) -> np.ndarray:
    """The frame (H, W, 3) shown `seconds` into the file (the last one, beyond its end), of at most `size`
    pixels along its short side. DecodeError when the file cannot be read."""
    from ..extract.decoders import DecodeError, Sampling, get_decoder

    decoder = get_decoder("pyav")
    try:
        frames = decoder.decode(path, Sampling(frames=1), seconds, seconds + WITHIN, size=size)
        if len(frames.images):
            return frames.images[0]
    except DecodeError as error:
        if error.reason not in ("trim-outside", "no-frames") or not seconds:
            raise
    return decoder.decode(path, Sampling(frames=2), size=size).images[-1]


def stills(row: VideoRow, seconds: Sequence[float]) -> list[np.ndarray]:
    """Small frames of a (trimmed) video; none where its file cannot be read."""
    from ..cache.errors import StepclipError

    try:
        return [still(row.path, (row.start or 0.0) + at, SMALL) for at in seconds]
    except StepclipError:
        return []

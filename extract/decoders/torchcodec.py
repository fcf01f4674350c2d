"""Decoding with torchcodec, on the CPU or on an NVIDIA GPU's decoder (NVDEC), in its exact seek mode only.

It needs FFmpeg's shared libraries (`apt install ffmpeg`), and a torch of the same kind: torchcodec 0.13 goes
with a CPU build, 0.14 and later with a CUDA build. Every frame must come with the time that its packet has,
so a file that torchcodec counts or times otherwise than it is (MPEG-TS, AVI with B-frames) is refused. In
damaged packets it paints over what it cannot decode and does not tell.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torchcodec
from torchcodec.decoders import VideoDecoder

from ..geometry import short_side
from .base import (
    TOLERANCE,
    DecodeError,
    Decoder,
    End,
    Picker,
    Sampling,
    check_complete,
    check_file,
    check_trim,
)
from .container import Probe, probe
from .listing import check_listed, list_frames
from .pyav import picker_for

BATCH_BYTES = 64 * 2**20  # frames are fetched in batches of about this size


class TorchCodecDecoder(Decoder):
    """torchcodec's VideoDecoder behind the same sampling; times are the packets' own."""

    name: ClassVar[str] = "torchcodec"
    device: ClassVar[str] = "cpu"
    version: str = torchcodec.__version__

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
        declared, listing = probe(path), list_frames(path)
        check_listed(path, listing, declared.format)
        picker: Picker[int] = picker_for(path, sampling, begin, end, declared.duration, listing)
        chosen = list(picker(listing.shown()))
        finish = check_complete(path, picker, 0)
        reader = self._open(path, declared)
        if len(reader) != len(listing.times):
            raise _unsupported(path, f"torchcodec counts {len(reader)} of its {len(listing.times)} frames")
        step = max(1, BATCH_BYTES // max(1, 3 * declared.width * declared.height))
        for first in range(0, len(chosen), step):
            batch = chosen[first : first + step]
            numbers = [number for _, number in batch]
            try:
                frames = reader.get_frames_at(numbers)
            except (RuntimeError, IndexError, ValueError) as error:
                raise _unreadable(path, error) from error
            times = frames.pts_seconds.numpy() - reader.metadata.begin_stream_seconds
            if np.abs(times - listing.times[numbers]).max() > TOLERANCE:
                raise _unsupported(path, "torchcodec gives other frames than those asked for")
            images = _resized(frames.data, size).cpu().numpy()
            yield from ((time, image) for (time, _), image in zip(batch, images, strict=True))
        yield finish

    def _open(self, path: Path, declared: Probe) -> Any:
        try:
            return VideoDecoder(
                str(path),
                stream_index=declared.index,
                dimension_order="NHWC",
                num_ffmpeg_threads=0,
                device=self.device,
                seek_mode="exact",
            )
        except (RuntimeError, ValueError, AssertionError) as error:
            raise _unreadable(path, error) from error


class NvdecDecoder(TorchCodecDecoder):
    """The same on the GPU: its pictures differ a little, so a cache made with it has another fingerprint."""

    name: ClassVar[str] = "torchcodec:cuda"
    device: ClassVar[str] = "cuda"

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise DecodeError(
                "decoder-unavailable",
                "no NVIDIA GPU that torch can use",
                "a GPU, and CUDA builds of torch and torchcodec",
                "--decoder torchcodec, on the CPU",
            )
        if "+cpu" in self.version:
            raise DecodeError(
                "decoder-unavailable",
                f"torchcodec {self.version} is a CPU build",
                "a CUDA build of torchcodec",
                'pip install -c constraints.txt -e ".[gpu]"',
            )


def _resized(images: torch.Tensor, size: int | None) -> torch.Tensor:
    """(T, H, W, 3) uint8 with the short side brought down to `size`."""
    height, width = images.shape[1:3]
    if size is None or min(height, width) <= size:
        return images
    from ..encoders.preprocess import in_two_passes

    shape, planes = short_side(height, width, size), images.permute(0, 3, 1, 2)
    if images.device.type == "cpu":
        small = torch.nn.functional.interpolate(planes, size=shape, mode="bicubic", antialias=True)
    else:
        small = in_two_passes(planes, shape)
    return small.permute(0, 2, 3, 1).contiguous()


def _unsupported(path: Path, why: str) -> DecodeError:
    return DecodeError("unsupported", f"{path}: {why}", "another decoder", "--decoder pyav")


def _unreadable(path: Path, error: Exception) -> DecodeError:
    said = str(error).strip().splitlines()
    return DecodeError(
        "unreadable",
        f"{path}: torchcodec cannot read it: {said[0] if said else type(error).__name__}",
        "a whole file",
        "--decoder pyav",
    )

"""The frames of a video as its packets list them: read without decoding, which is some hundred times faster.

It tells how many frames there are, when each is shown, and from which key frame on each can be decoded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from .base import DecodeError, Shown, check_file, end_of
from .container import declared_duration, declared_rate, open_video

# containers in which every packet is one frame with a time of its own; not so in MPEG-TS and -PS (a packet
# may be a field, or have no time) nor in bare streams
ONE_EACH = ("mov", "matroska", "flv", "avi", "gif", "apng", "asf", "ogg")


@dataclass(frozen=True)
class Listing:
    """A video's F frames in order of presentation, told by its packets.

    times: (F,) float64, seconds from the first frame; stop: the end of the last one; timed: every packet has
    a time; exact: and each is one frame and whole, so that F and the times are those that decoding gives.
    corrupt: packets that the container knows to be damaged.
    ticks: (F,) int64, the times in the stream's time base; packets: (F,) int64, the number of each frame's
    packet in the file; keys: (K,) int64, the numbers of the packets at which decoding can start, with their
    key_ticks and key_dts (int64).
    """

    times: np.ndarray
    stop: float
    timed: bool
    exact: bool
    corrupt: int
    ticks: np.ndarray
    packets: np.ndarray
    keys: np.ndarray
    key_ticks: np.ndarray
    key_dts: np.ndarray

    def shown(self) -> Iterator[Shown[int]]:
        """The numbers of the frames, with their times."""
        ends = [*self.times[1:].tolist(), self.stop]
        return (
            Shown(time, end - time, number)
            for number, (time, end) in enumerate(zip(self.times.tolist(), ends, strict=True))
        )

    def entry(self, frame: int) -> int:
        """Place in `keys` of the last one from which `frame` can be decoded; -1: the beginning of the file.

        Of a key frame whose followers are shown before it, those followers need the key frame before.
        """
        place = int(np.searchsorted(self.keys, self.packets[frame], "right")) - 1
        while place >= 0 and self.key_ticks[place] > self.ticks[frame]:
            place -= 1
        return place


def list_frames(path: str | os.PathLike[str]) -> Listing:
    """The listing of a video's main stream, up to where the file is cut. DecodeError as `probe`."""
    container, stream = open_video(check_file(path))
    ticks: list[int] = []
    places: list[int] = []
    keys: list[tuple[int, int, int]] = []
    lengths: list[int] = []
    untimed = number = corrupt = 0
    with container:
        declared, rate, base = declared_duration(container, stream), declared_rate(stream), stream.time_base
        name = container.format.name
        avi, vp8 = name == "avi", stream.codec_context is not None and stream.codec_context.name == "vp8"
        starts_with_key = True
        try:
            for packet in container.demux(stream):
                if packet.size == 0:
                    continue
                tick = packet.pts if packet.pts is not None or not avi else packet.dts
                if not number:
                    starts_with_key = packet.is_keyframe
                number += 1
                if packet.is_discard or (vp8 and not memoryview(packet)[0] & 0x10):  # not shown
                    continue
                corrupt += packet.is_corrupt
                if tick is None:
                    untimed += 1
                    continue
                if packet.is_keyframe:
                    keys.append((number - 1, tick, tick if packet.dts is None else packet.dts))
                ticks.append(tick)
                places.append(number - 1)
                lengths.append(packet.duration or 0)
        except av.FFmpegError:
            pass  # what lies behind the damage is judged when it is decoded
    shown = np.asarray(ticks, np.int64)
    order = np.argsort(shown, kind="stable")
    shown = shown[order]
    times = seconds(shown, base) - (seconds(shown[:1], base) if len(shown) else 0.0)
    table = np.asarray(keys, np.int64).reshape(-1, 3)
    timed = len(shown) > 0 and not untimed
    distinct = timed and bool((np.diff(shown) > 0).all())
    leading = len(table) > 0 and starts_with_key and bool(shown[:1] < table[0, 1]) and table[0, 0] == 0
    exact = (
        distinct and starts_with_key and not (leading or corrupt) and any(kind in name for kind in ONE_EACH)
    )
    stop = 0.0
    if len(shown):
        length = lengths[order[-1]] * float(base) or (1 / rate if rate else 0.0)
        stop = max(end_of(float(times[-1]), length, declared), 0.0)
    return Listing(times, stop, timed, exact, corrupt, shown, np.asarray(places, np.int64)[order], *table.T)


def check_listed(path: Path, listing: Listing, container: str) -> None:
    """DecodeError where a decoder that goes by numbers of frames could give others than those asked for."""
    if listing.corrupt:
        raise DecodeError(
            "damaged",
            f"{path}: {listing.corrupt} of its packets are cut or damaged",
            "a whole file",
            "--decoder pyav, which leaves such frames out",
        )
    if not listing.exact:
        raise DecodeError(
            "unsupported",
            f"{path}: its packets ({container}) do not tell its frames one by one",
            "another decoder",
            "--decoder pyav",
        )


def seconds(ticks: np.ndarray, base: Any) -> np.ndarray:
    """Ticks of a time base in seconds, to the last digit as `float(tick * base)`."""
    return ticks * base.numerator / base.denominator

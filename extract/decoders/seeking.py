"""Frames of a listing read from the key frames before them, over what nobody wants in between.

Over whole stretches it jumps; and of an H.264 video the frames on the way that no other is predicted from are
not decoded (their packets say so), which is every second one or more of most videos.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import av

from .container import codec_of, share_out
from .listing import Listing

SEEKABLE = ("mov", "matroska", "flv")  # containers in which packets are found again by their time
SKIP = 12  # packets: fewer are decoded rather than passed over
NEAR = 64  # packets: fewer are read and dropped rather than sought past
LEAN = ("h264",)  # codecs in which a packet says that no frame is predicted from it
THIN = 2  # frames for each one wanted: fewer are decoded one and all


class Astray(Exception):
    """What was decoded is not what the listing promised: the frames have to be read from the start."""


def jumps(listing: Listing, wanted: Sequence[int]) -> list[bool]:
    """For each of the frames `wanted` (increasing numbers), whether to go on from another key frame."""
    found, position = [], 0
    for frame in wanted:
        entry = listing.entry(frame)
        found.append(entry >= 0 and int(listing.keys[entry]) - position >= SKIP)
        position = max(position, int(listing.packets[frame]) + 1)
    return found


def pays(listing: Listing, wanted: Sequence[int], codec: str) -> bool:
    """Whether to pass over anything for the frames `wanted`, rather than decode all one after the other."""
    reach, count = (wanted[-1] + 1, len(wanted)) if wanted else (0, 0)
    thin = count < reach and THIN * count <= reach + 1
    return (codec in LEAN and thin) or any(jumps(listing, wanted))


class Sought:
    """Reads chosen frames of the stream of an open container. Where anything is amiss it raises Astray."""

    def __init__(self, container: Any, stream: Any, listing: Listing, threads: int = 0) -> None:
        self.container, self.stream, self.listing = container, stream, listing
        share_out(stream, threads)
        self.packets = container.demux(stream)
        self.position = 0  # packets read so far
        self.ready: deque[Any] = deque()  # decoded and not looked at
        self.drained = False
        self.key: int | None = None  # the tick of the key frame that has to come out first
        self.lean = codec_of(stream) in LEAN
        self.wanted: set[int] = set()  # ticks

    def frames(self, wanted: Sequence[int]) -> Iterator[Any]:
        """The frames of these (increasing) numbers."""
        leaps = [*jumps(self.listing, wanted), True]  # after the last one nothing more is to be read
        self.wanted = {int(self.listing.ticks[frame]) for frame in (0, *wanted)}
        if wanted and wanted[0]:
            self._find(0, drain=leaps[0])  # times count from the first frame: it must be the listing's
        for place, frame in enumerate(wanted):
            if leaps[place]:
                self._jump(self.listing.entry(frame))
            yield self._find(frame, drain=leaps[place + 1])

    def _find(self, frame: int, drain: bool) -> Any:
        """The frame of this number. drain: it is the last one wanted before a jump or the end."""
        tick, packet = int(self.listing.ticks[frame]), int(self.listing.packets[frame])
        while True:
            while self.ready:
                found = self.ready.popleft()
                if found.pts is None:
                    raise Astray
                if self.key is not None and found.pts >= self.key:
                    if found.pts > self.key or not found.key_frame:
                        raise Astray
                    self.key = None
                if found.is_corrupt and self.key is None:  # what is wanted may be predicted from it
                    raise Astray
                if found.pts >= tick:
                    if found.pts > tick or found.is_corrupt:
                        raise Astray
                    return found
            if self.drained:
                raise Astray
            self._decode(None if drain and self.position > packet else self._read())

    def _decode(self, packet: Any) -> None:
        if self.lean and packet is not None:
            skip = "DEFAULT" if packet.pts in self.wanted else "NONREF"
            self.stream.codec_context.skip_frame = skip
        try:
            self.ready.extend(self.stream.decode(packet))
        except av.EOFError:
            pass
        except av.FFmpegError as error:
            raise Astray from error
        self.drained = packet is None

    def _read(self) -> Any:
        """The next packet; None at the end."""
        try:
            for packet in self.packets:
                if packet.size:
                    self.position += 1
                    return packet
        except av.FFmpegError as error:
            raise Astray from error
        return None

    def _jump(self, entry: int) -> None:
        """Go on with the packet of the key frame `entry` of the listing."""
        listing = self.listing
        number, tick, dts = (int(each[entry]) for each in (listing.keys, listing.key_ticks, listing.key_dts))
        self.ready.clear()
        self.stream.codec_context.flush_buffers()
        self.drained, self.key = False, tick
        if (
            number - self.position >= NEAR or number < self.position
        ):  # frames come later than packets are read
            try:
                self.container.seek(dts, stream=self.stream, backward=True)
            except av.FFmpegError as error:
                raise Astray from error
            self.packets = self.container.demux(self.stream)
        while (packet := self._read()) is not None:
            here = tick if packet.dts is None and packet.pts == tick else packet.dts
            if packet.pts == tick and here == dts:
                break
            if here is not None and here > dts:
                raise Astray
        if packet is None or not packet.is_keyframe:
            raise Astray
        self.position = number + 1
        self._decode(packet)

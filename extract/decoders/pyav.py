"""Decoding with PyAV, the default: exact times, every common codec, and it gets past damaged packets.

Frames are read one after the other, except where frames that nobody wants can be passed over: if the packets
of the container are known exactly (mp4, mkv, webm, flv) and it pays (`seeking.pays`), decoding goes on from
the key frame before the next wanted frame, or leaves out what nothing is predicted from. Every frame found so
must have the time that its packet promised, and every key frame be one by the decoder's own account; if not,
all is read from the start. So the frames are those of reading all of them.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from copy import copy
from pathlib import Path
from typing import Any, ClassVar

import av
import numpy as np
from av.filter import Graph
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
    check_order,
    check_trim,
    end_of,
    weaksvr_instants,
)
from .container import Probe, codec_of, declared_duration, declared_rate, opened, probe, share_out
from .listing import Listing, list_frames
from .seeking import LEAN, SEEKABLE, SKIP, THIN, Astray, Sought, pays

__all__ = ["Probe", "PyAVDecoder", "picker_for", "probe"]

SEEK_FROM = 10.0  # seconds: a trim that starts earlier is reached by decoding up to it


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
        convert = _Converter(size)
        given: list[float] = []
        with ExitStack() as stack:
            container, video = stack.enter_context(opened(path))
            declared = declared_duration(container, video)
            can_seek = any(kind in container.format.name for kind in SEEKABLE)
            enough = THIN if codec_of(video) in LEAN else SKIP
            sparse = begin > SEEK_FROM or _between(sampling, declared_rate(video)) >= enough
            listing = list_frames(path) if sampling.counts or (can_seek and sparse) else None
            picker = picker_for(path, sampling, begin, end, declared, listing)
            if listing is not None and listing.exact and can_seek:
                plan = copy(picker)
                chosen = list(plan(listing.shown()))
                numbers = [number for _, number in chosen]
                if pays(listing, numbers, codec_of(video)):
                    finish = check_complete(path, plan, 0)
                    sought = Sought(container, video, listing, self.threads).frames(numbers)
                    try:
                        for (time, _), frame in zip(chosen, sought, strict=True):
                            yield time, convert(frame)
                            given.append(time)
                        yield finish
                        return
                    except Astray:
                        container, video = stack.enter_context(opened(path))
            for careful in (False, True):
                picks, reader = copy(picker), _Reader(container, video, careful, self.threads)
                try:
                    for place, (time, frame) in enumerate(picks(reader.frames())):
                        if place >= len(given):
                            yield time, convert(frame)
                            given.append(time)
                        elif abs(time - given[place]) > 1e-6:
                            raise DecodeError(
                                "damaged", f"{path}: read again, it gives other frames", "a whole file"
                            )
                    check_order(path, reader.backwards, picks.seen)
                    yield check_complete(path, picks, reader.bad, reader.detail, reader.dropped)
                    return
                except _Damaged:
                    container, video = stack.enter_context(opened(path))


def picker_for(
    path: Path,
    sampling: Sampling,
    start: float,
    end: float | None,
    declared: float | None,
    listing: Listing | None,
) -> Picker[Any]:
    """A Picker that knows beforehand what `sampling` needs to; `listing`: needed where `sampling.counts`."""
    if not sampling.counts:
        return Picker(sampling, start, end, None, declared)
    assert listing is not None
    times, stop = listing.times, listing.stop
    if not (listing.exact or (listing.timed and sampling.weaksvr is None)):
        times, stop = _decoded_times(path, declared)
    check_trim(path, start, end, stop or None)
    if sampling.weaksvr is None:
        return Picker(sampling, start, end, stop, declared)
    return Picker(
        sampling, start, end, stop, declared, *weaksvr_instants(times, stop, sampling.weaksvr, start, end)
    )


def _decoded_times(path: Path, declared: float | None) -> tuple[np.ndarray, float]:
    """The times of all frames and the end of the last, by decoding them: where packets do not tell."""
    shown: list[tuple[float, float]] = []
    for careful in (False, True):
        with opened(path) as (container, video), suppress(_Damaged):
            shown = [(each.time, each.length) for each in _Reader(container, video, careful).frames()]
            break
    if not shown:
        return np.empty(0), 0.0
    return np.asarray([time for time, _ in shown]), end_of(*shown[-1], declared)


def _between(sampling: Sampling, rate: float) -> float:
    """About how many frames lie between two that are wanted; 0 where only the video's length tells."""
    if sampling.fps is not None:
        return rate / sampling.fps
    return sampling.step or 0


class _Clock:
    """The times of frames as they come out of the decoder, in ticks of the stream's time base."""

    def __init__(self, container: Any, stream: Any) -> None:
        # an AVI says when a picture is shown, not which: the earliest time not given yet is the next one's
        self.pool: list[int] | None = [] if container.format.name == "avi" else None
        rate = declared_rate(stream)
        self.usual = max(round(1 / (rate * stream.time_base)), 1) if rate else 0
        self.latest: int | None = None if stream.start_time is not None else -self.usual
        self.first: int | None = None  # the earliest time of all packets

    def feed(self, packet: Any) -> None:
        tick = packet.dts if packet.pts is None else packet.pts
        if tick is not None and not packet.is_discard:
            self.first = tick if self.first is None else min(self.first, tick)
            if self.pool is not None:
                heapq.heappush(self.pool, tick)

    def lose(self, packet: Any) -> None:
        """No frame comes of this packet."""
        tick = packet.dts if packet.pts is None else packet.pts
        if self.pool is not None and tick in self.pool:
            self.pool.remove(tick)
            heapq.heapify(self.pool)

    def __call__(self, frame: Any) -> int | None:
        """None: a frame before the first one that has a time."""
        tick: int | None = heapq.heappop(self.pool) if self.pool else frame.pts
        if tick is None and self.latest is not None:
            tick = self.latest + (frame.duration or self.usual)
        self.latest = self.latest if tick is None else tick
        return tick


class _Damaged(Exception):
    """Something could not be decoded: the file has to be read again, carefully."""


class _Reader:
    """All whole frames of a stream in order of presentation.

    Reading as fast as it goes, it raises _Damaged at the first fault. Reading carefully, on one thread (so
    that an error is the fault of the packet at hand), it passes over it. A damaged packet spoils what is
    predicted from it, so frames are dropped from there to the next key frame: `bad` counts both, `dropped` is
    the end of the last frame left out.
    """

    def __init__(self, container: Any, stream: Any, careful: bool, threads: int = 0) -> None:
        self.container, self.stream, self.careful = container, stream, careful
        self.bad, self.detail, self.backwards, self.dropped = 0, "", 0, 0.0
        share_out(stream, 1 if careful else threads)
        rate = declared_rate(stream)
        self.usual = 1 / rate if rate else 0.04
        self.clock = _Clock(container, stream)
        self.fed = 0
        self.number: dict[int, int] = {}  # of the packets on their way, by their time
        self.spoilt: int | None = None  # the number of the last damaged packet

    def frames(self) -> Iterator[Shown[Any]]:
        base = self.stream.time_base
        origin = latest = None
        for frame in self._decoded():
            tick = self.clock(frame)
            if tick is None:
                self._count("a frame without a time")
                continue
            if origin is None:  # damage at the start shall not shift the times of what follows
                first = self.clock.first if self.bad and self.clock.first is not None else tick
                origin = float(min(tick, first) * base)
            time = float(tick * base) - origin
            length = float(frame.duration * base) if frame.duration else self.usual
            if not self._whole(frame):
                self.dropped = time + length
            elif latest is not None and tick <= latest:
                self.backwards += 1
            else:
                latest = tick
                yield Shown(time, length, frame)

    def _whole(self, frame: Any) -> bool:
        """Whether the frame is neither damaged nor predicted from one that is."""
        number = self.number.pop(frame.pts, self.fed)
        if frame.is_corrupt:
            self._spoil("a corrupt frame", number)
            return False
        if self.spoilt is None or number < self.spoilt:
            return True
        if frame.key_frame and number > self.spoilt:
            self.spoilt = None
            return True
        self.bad += 1
        return False

    def _decoded(self) -> Iterator[Any]:
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError as error:  # the container itself is cut or damaged
                self._count(error)
                packet = None
            if packet is None:
                yield from self._flush()
                return
            if packet.size == 0:
                continue  # the flush that `demux` adds; done above, once
            self.clock.feed(packet)
            self.fed += 1
            if packet.pts is not None:
                self.number[packet.pts] = self.fed
            if packet.is_corrupt:
                self._spoil("a corrupt packet", self.fed)
            try:
                decoded = packet.decode()
            except av.FFmpegError as error:
                self._spoil(error, self.fed)
                self.clock.lose(packet)
                continue
            yield from decoded

    def _flush(self) -> list[Any]:
        try:
            return list(self.stream.decode(None))
        except av.FFmpegError as error:
            if not isinstance(error, av.EOFError):
                self._count(error)
            return []

    def _spoil(self, what: object, number: int) -> None:
        self.spoilt = number if self.spoilt is None else max(self.spoilt, number)
        self._count(what)

    def _count(self, what: object) -> None:
        if not self.careful:
            raise _Damaged
        self.bad += 1
        self.detail = self.detail or str(what)


class _Converter:
    """Frames to upright RGB images of one size, resized while they are converted."""

    resizing = int(Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT)

    def __init__(self, size: int | None) -> None:
        self.size = size
        self.shape: tuple[int, int] | None = None
        self.graphs: dict[tuple[Any, ...], Graph] = {}

    def __call__(self, frame: Any) -> np.ndarray:
        here = (frame.height, frame.width)
        if self.shape is None:  # a stream may change its size on the way: its first frame decides
            smaller = self.size is not None and min(here) > self.size
            self.shape = short_side(*here, self.size or 0) if smaller else here
        # a frame marked as interlaced would have its two fields scaled apart, which leaves combs
        if here == self.shape:  # to the last digit as the ffmpeg program does
            rgb = self._filtered(frame, setfield="prog", scale="flags=bicubic", format="rgb24")
        else:
            whole = self._filtered(frame, setfield="prog") if frame.interlaced_frame else frame
            rgb = whole.reformat(
                self.shape[1], self.shape[0], "rgb24", interpolation=self.resizing, threads=1
            )
        return upright(rgb.to_ndarray(), frame)

    def _filtered(self, frame: Any, **filters: str) -> Any:
        key = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range, *filters)
        if key not in self.graphs:
            graph = Graph()
            graph.threads = 1
            last = graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
            )
            for name, options in filters.items():
                last.link_to(added := graph.add(name, options))
                last = added
            last.link_to(graph.add("buffersink"))
            graph.configure()
            self.graphs = {key: graph}  # of one kind of frame at a time
        self.graphs[key].push(frame)
        return self.graphs[key].pull()


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

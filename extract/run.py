"""A running extraction: takes what the decoders send, encodes it in batches across videos, writes each whole.

The encoder works in a thread of its own, one batch ahead, so that it need not wait while frames are collected
and finished videos are written. It is only ever given whole batches of its own size, the last one filled up:
then a frame's features do not depend on what it travelled with, and a run that was cut gives what an unbroken
one gives.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np

from ..cache.errors import StepclipError
from ..cache.layout import Failure, read_failures
from ..cache.manifest import VideoRow
from ..cache.source import Source
from ..cache.writer import FeatureWriter
from .display import Display
from .encoders import Encoder
from .pool import Chunk, DecodePool, Done, Failed
from .report import ExtractionReport
from .views import View, draw

BATCH = 256  # frames that are encoded together, whichever videos they are of, by an encoder without `at_once`
COMMIT = 60.0  # seconds of work that a kill may cost, beside the videos that are on their way


class TooManyFailures(StepclipError):
    """The run was told to stop after this many."""


@dataclass(frozen=True)
class Piece:
    """Frames of one video on their way to the encoder: `view` is None for the canonical ones."""

    index: int
    view: int | None
    images: np.ndarray


@dataclass
class Video:
    """A video on its way: what has come of it so far, per view (None: canonical) in order."""

    source: Source | None
    views: list[View]
    times: list[np.ndarray] = field(default_factory=list)
    features: dict[int | None, list[np.ndarray]] = field(default_factory=dict)
    frames: int = 0
    encoded: int = 0  # over all views
    duration: float | None = None
    bad: int = 0

    @property
    def ready(self) -> bool:
        """Whether its end is known and all of its frames are encoded, in every view."""
        return self.duration is not None and self.encoded == self.frames * (1 + len(self.views))


class Run:
    """Feeds the encoder from the pool and the writer from the encoder; counts into the report."""

    def __init__(
        self,
        rows: Sequence[VideoRow],
        writer: FeatureWriter,
        encoder: Encoder,
        report: ExtractionReport,
        display: Display,
        *,
        max_failures: int | None = None,
    ) -> None:
        self.rows, self.writer, self.encoder = rows, writer, encoder
        self.size = int(encoder.fields().get("preprocess.size", encoder.image_size))
        self.batch = int(getattr(encoder, "batch", 1))
        self.at_once = int(getattr(encoder, "at_once", BATCH))
        # for an encoder that has nothing to do: one batch of the two that each of its threads gets
        self.least = max(self.at_once // 2, self.batch) if self.batch > 1 else self.at_once
        self.report, self.display, self.max_failures = report, display, max_failures
        self.open: dict[int, Video] = {}
        self.waiting: dict[tuple[int, ...], list[Piece]] = {}  # by shape: only alike frames stack
        self.attempts = {failure.video_id: failure.attempts for failure in read_failures(writer.path)}
        self.failed_now = 0
        self.noted: list[Failure] = []  # not yet in failed.jsonl, which is written whole each time
        self.note_at = self.committed_at = time.monotonic()

    def consume(self, pool: DecodePool) -> None:
        """Until the pool has no more events. Raises TooManyFailures; videos that were whole stay written."""
        with ThreadPoolExecutor(1, "encoder") as thread:
            self.thread = thread
            self.flying: deque[tuple[list[Piece], Future[np.ndarray]]] = deque()
            try:
                self._consume(pool)
            finally:
                self._tell_failures()

    def _consume(self, pool: DecodePool) -> None:
        for event in pool:
            if isinstance(event, Chunk):
                self._take(event)
            elif isinstance(event, Done):
                video = self._video(event.index)
                video.duration, video.bad = event.end.duration, event.end.bad
                self._finish(event.index)
            else:
                self._fail(event)
            stages = self.report.stages
            stages.decoding, stages.decoded = pool.decoding, pool.decoded
            self.display.show(f"queue {pool.waiting}/{pool.room}+{len(self.flying)}")
        for shape in list(self.waiting):
            self._encode(shape, all_=True)
        self._land(0)

    def _video(self, index: int) -> Video:
        """The video on its way; its file is noted as it is now, at its first frames."""
        if index not in self.open:
            row = self.rows[index]
            views = [draw(row.video_id, view) for view in range(self.writer.views)]
            self.open[index] = Video(Source.of(row.path, row.start, row.end), views)
        return self.open[index]

    def _take(self, chunk: Chunk) -> None:
        video = self._video(chunk.index)
        video.times.append(chunk.times)
        video.frames += len(chunk.times)
        self._wait(Piece(chunk.index, None, chunk.images))
        for number, view in enumerate(video.views):
            augmented = view.apply(chunk.images, self.encoder.image_size, self.size, self.encoder.device)
            self._wait(Piece(chunk.index, number, augmented))
        counts = {shape: sum(len(p.images) for p in pieces) for shape, pieces in self.waiting.items()}
        shape = max(counts, key=lambda each: counts[each])
        # frames of many sizes shall not pile up: then the largest heap goes, although it is no full batch
        idle = all(future.done() for _, future in self.flying)
        if counts[shape] >= (self.least if idle else self.at_once):
            self._encode(shape)
        elif sum(counts.values()) >= 4 * self.at_once:
            self._encode(shape, all_=True)

    def _wait(self, piece: Piece) -> None:
        self.waiting.setdefault(piece.images.shape[1:], []).append(piece)

    # ---- encoding

    def _encode(self, shape: tuple[int, ...], all_: bool = False) -> None:
        """Give the encoder as many whole batches of this shape as wait, or all of it."""
        pieces = [piece for piece in self.waiting.pop(shape) if piece.index in self.open]
        over = 0 if all_ else sum(len(piece.images) for piece in pieces) % self.batch
        while over:  # frames at the end that fill no batch wait on
            last = pieces.pop()
            keep = max(len(last.images) - over, 0)
            if keep:
                pieces.append(replace(last, images=last.images[:keep]))
            self.waiting.setdefault(shape, []).insert(0, replace(last, images=last.images[keep:]))
            over -= len(last.images) - keep
        if pieces:
            self.flying.append((pieces, self.thread.submit(self._encode_batch, pieces)))
            self._land(1)

    def _encode_batch(self, pieces: Sequence[Piece]) -> np.ndarray:
        began = time.monotonic()
        images = np.concatenate([piece.images for piece in pieces])
        count, short = len(images), -len(images) % self.batch
        if short:
            images = np.concatenate([images, np.zeros((short, *images.shape[1:]), images.dtype)])
        features = self.encoder.encode_images(images)[:count]
        self.report.stages.encoding += time.monotonic() - began
        self.report.stages.encoded += len(features)
        return features

    def _land(self, most: int) -> None:
        """Take the features of batches that are encoded, until at most `most` are under way."""
        while len(self.flying) > most:
            pieces, future = self.flying.popleft()
            features, place = future.result(), 0
            for piece in pieces:
                end = place + len(piece.images)
                if piece.index in self.open:  # it may have failed meanwhile
                    video = self.open[piece.index]
                    video.features.setdefault(piece.view, []).append(features[place:end])
                    video.encoded += end - place
                place = end
            for index in dict.fromkeys(piece.index for piece in pieces):
                self._finish(index)

    # ---- the end of a video

    def _finish(self, index: int) -> None:
        """Write the video if it is ready."""
        if index not in self.open or not self.open[index].ready:
            return
        video, row = self.open.pop(index), self.rows[index]
        if not video.frames or video.duration is None:
            return
        features, times = np.concatenate(video.features[None]), np.concatenate(video.times)
        views = [np.concatenate(video.features[view]) for view in range(len(video.views))]
        began = time.monotonic()
        try:
            self.writer.add(
                row.video_id,
                features,
                times,
                video.duration,
                views=np.stack(views) if views else None,
                source=video.source,
                replace=True,
            )
        except StepclipError as error:
            # only what is wrong with this video's numbers is its own failure; a full disk is the run's
            if not error.found.startswith("the features of"):
                raise
            self._note(row, "bad-features", str(error), video.source)
            return
        stages = self.report.stages
        stages.writing += time.monotonic() - began
        stages.written += (
            len(times) * (1 + len(views)) * self.encoder.dim * np.dtype(self.writer.dtype).itemsize
        )
        stages.kept += len(times) * (1 + len(views))
        if time.monotonic() - self.committed_at > COMMIT:
            self.writer.commit()
            self.committed_at = time.monotonic()
        self.report.done += 1
        self.report.frames += len(times)
        if video.bad:
            self.report.damaged[row.video_id] = video.bad

    def _fail(self, event: Failed) -> None:
        video, row = self.open.pop(event.index, None), self.rows[event.index]
        source = video.source if video else Source.of(row.path, row.start, row.end)
        self._note(row, event.reason, event.detail, source)

    def _note(self, row: VideoRow, reason: str, detail: str, source: Source | None) -> None:
        attempts = self.attempts.get(row.video_id, 0) + 1
        kept = source.json if source else ""
        failure = Failure(row.video_id, row.path, reason, detail, attempts, kept)
        self.noted.append(failure)
        if time.monotonic() > self.note_at:
            self._tell_failures()
        self.report.failed += 1
        self.report.failures.append(failure)
        self.failed_now += 1
        if self.max_failures is not None and self.failed_now > self.max_failures:
            reasons = ", ".join(f"{why} ({count})" for why, count in self.report.reasons().items())
            raise TooManyFailures(
                f"{self.failed_now} videos failed, more than --max-failures {self.max_failures}: {reasons}",
                "videos that decode; what is done is kept, failed.jsonl has each reason",
                "mend what is wrong, then the same again; or a larger --max-failures",
            )

    def _tell_failures(self) -> None:
        """Write them down, and not again before twenty times as long has passed: many cost little then."""
        if self.noted:
            began = time.monotonic()
            self.writer.fail(*self.noted)
            self.noted.clear()
            self.note_at = time.monotonic() + 20 * (time.monotonic() - began)

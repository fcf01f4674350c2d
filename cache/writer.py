"""Writing the feature cache: one shard in memory, then its data file, then its rows, which are the commit.

While a shard is written, the next one is collected. A `kill -9`, a full disk or a lost machine costs at most
the shard in flight and what was collected meanwhile. Several processes write into one folder, each with a
writer of its own.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np

from .catalogue import Catalogue
from .commit import commit_shard, own_name
from .errors import StepclipError
from .files import TEMPORARY, locked
from .fingerprint import Fingerprint
from .intake import Room, check_name, checked_video, refused
from .layout import (
    LOCK,
    CacheInfo,
    Failure,
    read_about,
    read_failures,
    write_about,
    write_failures,
)
from .shard import SCHEMA, Video
from .source import Source
from .texts import TextTable, known_kind, read_texts, write_texts

__all__ = ["FeatureWriter"]

SHARD_BYTES = 64 << 20  # a shard is also full at this size, so that long videos do not fill the memory
_log = logging.getLogger("stepclip")
_DTYPES = ("float16", "float32")


@dataclass(frozen=True, eq=False, slots=True)
class _Flight:
    """A shard that is being written: its videos, the memory they lie in, and how it ends."""

    videos: dict[str, Video]
    room: Room
    written: Future[Path]


class FeatureWriter:
    """Adds videos to the cache folder `path`, made when missing. A context manager; one per process.

    views: augmented copies of every frame that are kept beside it. Raises StepclipError when the folder was
    made by another fingerprint, with the difference key by key.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        fingerprint: Fingerprint,
        *,
        dim: int,
        dtype: str = "float16",
        shard_videos: int = 64,
        name: str | None = None,
        views: int = 0,
    ) -> None:
        if dim < 1 or shard_videos < 1 or views < 0 or str(dtype) not in _DTYPES:
            raise StepclipError(
                f"a cache of dim {dim}, dtype {dtype}, {views} views, {shard_videos} videos per shard",
                f"a positive dim and shard size, 0 views or more, dtype {' or '.join(_DTYPES)}",
            )
        self.name = name or own_name()
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise StepclipError(f"'{self.name}' cannot name a shard", "letters, digits, '.', '_' and '-'")
        self.path = Path(path)
        self.fingerprint, self.dim, self.dtype, self.views = fingerprint, dim, str(dtype), views
        self.shard_videos = shard_videos
        self._about = CacheInfo(fingerprint, dim, self.dtype, views)
        self._process = os.getpid()
        self._numbers = count()
        self._waiting: dict[str, Video] = {}
        self._bytes = 0  # of the features that wait
        self._flight: _Flight | None = None
        self._room, self._spare = self._new_room(), self._new_room()  # where the features lie that wait
        self._pool = ThreadPoolExecutor(1, "stepclip-writer")
        self._closed = False
        self._catalogue = Catalogue(self.path, fingerprint.digest)
        self._claim_folder()
        self._done = self._catalogue.intact()
        for problem in (*self._catalogue.notes, *self._catalogue.lost):
            if TEMPORARY not in problem:  # most likely another writer at work
                _log.warning("%s: %s; what it held counts as missing", self.path, problem)

    def _claim_folder(self) -> None:
        about = read_about(self.path)
        if about is None:
            if strangers := self._catalogue.strangers:
                raise StepclipError(
                    f"{self.path} has no cache.json, but shards of another origin ({strangers[0].file.name})",
                    f"an empty folder, or shards of the fingerprint {self.fingerprint.digest}",
                    f"give another DATASET name or --root, or remove {self.path} by hand",
                )
            write_about(self.path, self._about, self.name)
            about = read_about(self.path)
        mine = self._about.with_shape()
        shown = Fingerprint({}) if about is None else about.with_shape()
        if shown != mine:
            raise StepclipError(
                f"the cache {self.path} was made in another way than is asked for now:\n"
                + shown.table(mine, "cache", "asked"),
                "one way of making all features of a cache",
                f"the same under another DATASET name or --root, or remove {self.path} by hand first",
            )
        if about is not None and about.schema < SCHEMA:
            write_about(self.path, self._about, self.name)  # an older StepCLIP would not see the new shards

    def _new_room(self) -> Room:
        return Room(self.dtype, 2 * SHARD_BYTES)

    def done(self) -> set[str]:
        """The ids that any writer committed, in shards whose file is there in full."""
        self._land()
        self._catalogue.refresh()
        return self._catalogue.intact()

    def source(self, video_id: str) -> Source | None:
        """The file that a video was extracted from, as it was then; None where unknown."""
        rows, row = self._catalogue.where.get(video_id, (None, 0))
        return None if rows is None else rows.source(row)

    # ---- frames

    def add(
        self,
        video_id: str,
        features: np.ndarray,
        times: np.ndarray,
        duration: float,
        *,
        views: np.ndarray | None = None,
        source: Source | None = None,
        replace: bool = False,
    ) -> None:
        """Take the features (T, D) of a video, its frames' times (T,) and its duration, both in seconds.

        views (V, T, D): the augmented copies, in a cache that keeps them; source: the file they are of;
        replace: take it although the video is there, whose newest features count then. Every full shard is
        committed on the way, while the next videos are taken; that it could not be written is raised by a
        later add, commit or close. Raises StepclipError, and takes nothing, when the shape is wrong, a value
        is not finite in the cache's dtype, a row is all zero, times do not increase, or the video is there.
        """
        self._alive()
        if self._flight is not None and self._flight.written.done():
            self._land()
        flying = self._flight is not None and video_id in self._flight.videos
        if video_id in self._waiting or ((flying or video_id in self._done) and not replace):
            raise refused(
                video_id,
                "this video is in the cache already",
                "each video once (done() says which are there)",
            )
        video = checked_video(
            self._room, self.dim, self.views, video_id, features, times, duration, views, source
        )
        self._waiting[video_id] = video
        self._bytes += video.nbytes
        if len(self._waiting) >= self.shard_videos or self._bytes >= SHARD_BYTES:
            self._take_off()

    def commit(self) -> None:
        """Write what waits as one shard: its data, then its rows. Once it returns, nothing of it can be lost.

        Raises StepclipError when it cannot be written; the videos go on waiting, and nothing half-written
        counts.
        """
        self._alive()
        self._take_off()
        self._land()

    def _take_off(self) -> None:
        """Begin to write what waits, in the background; one shard is in flight at a time."""
        self._land()
        if not self._waiting:
            return
        # later than all that is there: what replaces a video counts, whatever other clocks say
        now = max(time.time_ns(), self._catalogue.newest() + 1)
        videos = list(self._waiting.values())
        written = self._pool.submit(
            commit_shard, self.path, self.name, self._numbers, self._about, videos, now
        )
        self._flight = _Flight(self._waiting, self._room, written)
        self._waiting, self._bytes, self._room, self._spare = {}, 0, self._spare, self._new_room()

    def _land(self) -> None:
        """Wait for the shard in flight. What went wrong with it is raised here, and its videos wait again."""
        if (flight := self._flight) is None:
            return
        wait([flight.written])  # an interrupt leaves it in flight
        self._flight = None
        if error := flight.written.exception():
            self._waiting = flight.videos | self._waiting
            self._bytes = sum(video.nbytes for video in self._waiting.values())
            raise error
        flight.room.clear()
        self._spare = flight.room
        self._done |= flight.videos.keys()
        self._forgive(set(flight.videos))

    # ---- texts

    def missing_text(self, strings: Iterable[str], kind: str) -> list[str]:
        """The distinct strings, in order, that have no features yet."""
        table = self._texts().get(known_kind(kind))
        return [string for string in dict.fromkeys(strings) if table is None or string not in table.index]

    def add_text(self, strings: Sequence[str], features: np.ndarray, kind: str) -> None:
        """Add the features (n, D) of n strings of a kind, step or paragraph; D may differ from the frames'.

        A string that is there keeps the features it has. text.h5 is rewritten atomically, under a lock.
        """
        self._alive()
        known_kind(kind)
        kept = np.array(features, np.float32)
        if kept.ndim != 2 or len(kept) != len(strings) or (len(kept) and not kept.shape[1]):
            raise StepclipError(
                f"text features of shape {kept.shape} for {len(strings)} strings", "one row per string"
            )
        if not np.isfinite(kept).all():
            raise StepclipError(f"the features of a {kind} are not finite", "finite numbers")
        for string in strings:
            check_name(string)
        with locked(self.path / LOCK):
            tables = self._texts(put_aside=True)
            rows = {string: row for row, string in reversed(list(enumerate(strings)))}
            table = tables.get(kind)
            fresh = [
                string for string in dict.fromkeys(strings) if table is None or string not in table.index
            ]
            if not fresh:
                return
            for other in tables.values():
                if other.features.shape[1] != kept.shape[1]:
                    raise StepclipError(
                        f"{kind} features of {kept.shape[1]} dimensions",
                        f"{other.features.shape[1]}, as the texts that {self.path / 'text.h5'} holds",
                    )
            added = kept[[rows[string] for string in fresh]]
            tables[kind] = TextTable(
                {string: row for row, string in enumerate([*(table.index if table else ()), *fresh])},
                added if table is None else np.concatenate([table.features, added]),
            )
            account = {**self._about.account(self.name), "fingerprint": self.fingerprint.json}
            write_texts(self.path / "text.h5", account, tables)

    def _texts(self, put_aside: bool = False) -> dict[str, TextTable]:
        """What text.h5 holds; a damaged one counts as missing, and is named."""
        try:
            return read_texts(self.path / "text.h5", self.fingerprint.digest)
        except StepclipError as error:
            _log.warning("%s: its texts are encoded again", error.found)
            if put_aside:
                os.replace(self.path / "text.h5", self.path / "text.damaged.h5")
            return {}

    # ---- failures

    def fail(self, *failures: Failure) -> None:
        """Note that videos could not be done, in place of what was noted of them before."""
        self._alive()
        with locked(self.path / LOCK):
            write_failures(self.path, [*read_failures(self.path), *failures])

    def _forgive(self, video_ids: set[str]) -> None:
        if not (self.path / "failed.jsonl").exists():
            return
        with locked(self.path / LOCK):
            failures = read_failures(self.path)
            left = [failure for failure in failures if failure.video_id not in video_ids]
            if len(left) < len(failures):
                write_failures(self.path, left)

    # ---- the end

    def close(self) -> None:
        """Commit what waits; the writer takes no more."""
        if not self._closed:
            self.commit()
            self._closed = True
            self._pool.shutdown()
            self._catalogue.refresh()
            self._catalogue.keep_copy()

    def _alive(self) -> None:
        if self._closed or os.getpid() != self._process:
            raise StepclipError(
                "the feature writer is closed"
                if self._closed
                else "the feature writer was made in another process",
                "one open FeatureWriter per process",
            )

    def __enter__(self) -> FeatureWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        try:
            self.close()  # also after an error elsewhere: the videos that wait are good
        except StepclipError:
            if error is None:
                raise

"""Writing the feature cache: one shard in memory, then its data file, then its rows, which are the commit.

A `kill -9`, a full disk or a lost machine costs at most the shard in flight. Several processes write into one
folder, each with a writer of its own.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from .catalogue import Catalogue
from .errors import StepclipError
from .files import TEMPORARY, locked, write_atomically
from .fingerprint import Fingerprint
from .layout import (
    LOCK,
    CacheInfo,
    Failure,
    read_about,
    read_failures,
    write_about,
    write_failures,
)
from .shard import SCHEMA, Video, shard_image, write_rows
from .source import Source
from .texts import TextTable, known_kind, read_texts, write_texts

__all__ = ["FeatureWriter"]

SHARD_BYTES = 64 << 20  # a shard is also full at this size, so that long videos do not fill the memory
_log = logging.getLogger("stepclip")
_DTYPES = ("float16", "float32")


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
        host = re.sub(r"[^A-Za-z0-9]+", "", socket.gethostname())[:16] or "host"
        self.name = name or f"{host}-{os.getpid()}-{secrets.token_hex(3)}"
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise StepclipError(f"'{self.name}' cannot name a shard", "letters, digits, '.', '_' and '-'")
        self.path = Path(path)
        self.fingerprint, self.dim, self.dtype, self.views = fingerprint, dim, str(dtype), views
        self.shard_videos = shard_videos
        self._about = CacheInfo(fingerprint, dim, self.dtype, views)
        self._process = os.getpid()
        self._number = 0
        self._waiting: dict[str, Video] = {}
        self._closed = False
        self._catalogue = Catalogue(self.path, fingerprint.digest)
        self._claim_folder()
        self._done = self._catalogue.intact()
        for problem in self._catalogue.notes:
            if TEMPORARY not in problem:  # most likely another writer at work
                _log.warning("%s: %s; what it held is done again", self.path, problem)
        for fault in self._catalogue.faults.values():
            _log.warning("%s: what it held is done again", fault)

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

    def done(self) -> set[str]:
        """The ids that any writer committed, in shards whose file is there in full."""
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
        committed on the way. Raises StepclipError, and takes nothing, when the shape is wrong, a value is not
        finite in the cache's dtype, a row is all zero, times do not increase, or the video is there already.
        """
        self._alive()
        if video_id in self._waiting or (video_id in self._done and not replace):
            raise _refused(
                video_id,
                "this video is in the cache already",
                "each video once (done() says which are there)",
            )
        video = self._checked(video_id, features, times, duration, views, source)
        self._waiting[video_id] = video
        if (
            len(self._waiting) >= self.shard_videos
            or sum(v.features.nbytes * (1 + self.views) for v in self._waiting.values()) >= SHARD_BYTES
        ):
            self.commit()

    def _checked(
        self,
        video_id: str,
        features: np.ndarray,
        times: np.ndarray,
        duration: float,
        views: np.ndarray | None,
        source: Source | None,
    ) -> Video:
        def fault(found: str, expected: str) -> StepclipError:
            return _refused(video_id, found, expected)

        _storable(video_id)
        given = np.asarray(features)
        if given.ndim != 2 or given.shape[1] != self.dim or not len(given) or given.dtype.kind != "f":
            raise fault(
                f"shape {given.shape} of {given.dtype}",
                f"floats of shape (frames, {self.dim}), 1 frame or more",
            )
        kept = self._storable_rows(given, fault)
        copies = None
        if self.views or views is not None:
            others = np.empty((0, 0, 0)) if views is None else np.asarray(views)
            if others.shape != (self.views, *given.shape) or others.dtype.kind != "f":
                raise fault(
                    f"views of shape {None if views is None else others.shape}",
                    f"floats of shape {(self.views, *given.shape)}"
                    if self.views
                    else "no views in this cache",
                )
            copies = self._storable_rows(others, fault)
        stamps = np.array(times, np.float64)
        if stamps.shape != (len(kept),) or not np.isfinite(stamps).all():
            raise fault(f"times of shape {stamps.shape}", f"{len(kept)} finite times, one per row")
        if (falls := np.diff(stamps) <= 0).any():
            at = int(np.argmax(falls))
            raise fault(
                f"times {stamps[at]:g}, {stamps[at + 1]:g} (frame {at + 1})", "strictly increasing times"
            )
        seconds = float(duration)
        if not np.isfinite(seconds) or seconds < 0:
            raise fault(f"a duration of {seconds:g} s", "a finite duration from 0")
        return Video(video_id, kept, stamps, seconds, copies, source)

    def _storable_rows(self, given: np.ndarray, fault: Callable[[str, str], StepclipError]) -> np.ndarray:
        """A copy in the cache's dtype, each row finite and not all zero."""
        with np.errstate(over="ignore"):
            kept = np.array(given, self.dtype, order="C")
        if not (finite := np.isfinite(kept).all(axis=-1)).all():
            at = np.argwhere(~finite)[0]
            raise fault(f"row {at[-1]} is not finite as {self.dtype}", "finite numbers")
        if not (present := kept.any(axis=-1)).all():
            at = np.argwhere(~present)[0]
            raise fault(f"row {at[-1]} is all zero", "features of a frame in every row")
        return kept

    def commit(self) -> None:
        """Write what waits as one shard: its data, then its rows. Once it returns, nothing of it can be lost.

        Raises StepclipError when it cannot be written; the videos go on waiting, and nothing half-written
        counts.
        """
        self._alive()
        if not self._waiting:
            return
        videos = list(self._waiting.values())
        # later than all that is there: what replaces a video counts, whatever other clocks say
        now = max(time.time_ns(), self._catalogue.newest() + 1)
        about = {**self._about.account(self.name), "committed": now}
        image, places = shard_image({**about, "fingerprint": self.fingerprint.json}, videos)
        shard = self._place(image)
        frames = [len(video.features) for video in videos]
        rows = {
            "video_id": [video.video_id for video in videos],
            "first": np.cumsum([0, *frames])[:-1],
            "frames": frames,
            "duration": [video.duration for video in videos],
            "crc32": [video.checksum() for video in videos],
            "source": [video.source.json if video.source else None for video in videos],
        }
        try:
            write_rows(shard.with_suffix(".parquet"), {**about, **places, "bytes": len(image)}, rows)
        except BaseException:
            shard.unlink(missing_ok=True)  # data without rows would only take up room
            raise
        self._done |= self._waiting.keys()
        self._waiting = {}
        self._forgive({video.video_id for video in videos})

    def _place(self, image: memoryview) -> Path:
        """Put the data under the next free name; two writers of one name never share a shard."""
        while True:
            shard = self.path / "shards" / f"{self.name}-{self._number:05d}.h5"
            self._number += 1
            if shard.exists() or shard.with_suffix(".parquet").exists():
                continue
            try:
                with write_atomically(shard, exclusive=True) as file:
                    file.write(image)
                return shard
            except FileExistsError:
                continue

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
            _storable(string)
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

    def fail(self, failure: Failure) -> None:
        """Note that a video could not be done, in place of what was noted of it before."""
        self._alive()
        with locked(self.path / LOCK):
            others = [each for each in read_failures(self.path) if each.video_id != failure.video_id]
            write_failures(self.path, [*others, failure])

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


def _refused(video_id: str, found: str, expected: str) -> StepclipError:
    return StepclipError(f"the features of '{video_id}' are refused: {found}", expected)


def _storable(text: str) -> None:
    if (
        not isinstance(text, str)
        or not text
        or "\0" in text
        or any("\ud800" <= letter <= "\udfff" for letter in text)
    ):
        raise StepclipError(
            f"{text!r:.80} cannot be kept as a name or text", "text that is not empty, without NUL"
        )

"""Writing the feature cache: one shard in memory, then its data file, then its rows, which are the commit.

A `kill -9`, a full disk or a lost machine costs at most the shard in flight. Several processes write into one
folder, each with a writer of its own.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import socket
import time
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from .errors import StepclipError
from .files import TEMPORARY, locked, write_atomically, write_json
from .fingerprint import Fingerprint
from .layout import (
    ROWS_CHECK,
    ROWS_KEY,
    SCHEMA,
    CacheInfo,
    Failure,
    ShardRows,
    TextTable,
    known_kind,
    read_about,
    read_failures,
    read_texts,
    scan,
    text_checksum,
)

__all__ = ["FeatureWriter"]

SHARD_BYTES = 64 << 20  # a shard is also full at this size, so that long videos do not fill the memory
_log = logging.getLogger("stepclip")
_DTYPES = ("float16", "float32")


@dataclass(frozen=True, eq=False)
class _Video:
    video_id: str
    features: np.ndarray
    times: np.ndarray
    duration: float


class FeatureWriter:
    """Adds videos to the cache folder `path`, made when missing. A context manager; one per process.

    Raises StepclipError when the folder was made by another fingerprint, with the difference key by key.
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
    ) -> None:
        if dim < 1 or shard_videos < 1 or str(dtype) not in _DTYPES:
            raise StepclipError(
                f"a cache of dim {dim}, dtype {dtype}, {shard_videos} videos per shard",
                f"a positive dim and shard size, dtype {' or '.join(_DTYPES)}",
            )
        host = re.sub(r"[^A-Za-z0-9]+", "", socket.gethostname())[:16] or "host"
        self.name = name or f"{host}-{os.getpid()}-{secrets.token_hex(3)}"
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise StepclipError(f"'{self.name}' cannot name a shard", "letters, digits, '.', '_' and '-'")
        self.path = Path(path)
        self.fingerprint, self.dim, self.dtype, self.shard_videos = fingerprint, dim, str(dtype), shard_videos
        self._process = os.getpid()
        self._number = 0
        self._waiting: dict[str, _Video] = {}
        self._known: dict[str, ShardRows] = {}
        self._closed = False
        self._claim_folder()
        self._done = self.done()
        for problem in scan(self.path, fingerprint.digest, self._known)[1]:
            if TEMPORARY not in problem:  # most likely another writer at work
                _log.warning("%s: %s; what it held is done again", self.path, problem)
        for rows in self._known.values():
            if fault := rows.fault():
                _log.warning("%s: what it held is done again", fault)

    def _claim_folder(self) -> None:
        about = read_about(self.path)
        if about is None:
            if strangers := [rows for rows in self._scan_all() if rows.digest != self.fingerprint.digest]:
                raise StepclipError(
                    f"{self.path} has no cache.json, but shards of another origin ({strangers[0].file.name})",
                    f"an empty folder, or shards of the fingerprint {self.fingerprint.digest}",
                    f"give another DATASET name or --root, or remove {self.path} by hand",
                )
            write_json(self.path / "cache.json", {**_account(self), "fingerprint": self.fingerprint.fields})
            about = read_about(self.path)
        mine = _with_shape(CacheInfo(self.fingerprint, self.dim, self.dtype))
        shown = Fingerprint({}) if about is None else _with_shape(about)
        if shown != mine:
            raise StepclipError(
                f"the cache {self.path} was made in another way than is asked for now:\n"
                + shown.table(mine, "cache", "asked"),
                "one way of making all features of a cache",
                f"the same under another DATASET name or --root, or remove {self.path} by hand first",
            )

    def _scan_all(self) -> list[ShardRows]:
        scan(self.path, self.fingerprint.digest, self._known)
        return list(self._known.values())

    def done(self) -> set[str]:
        """The ids that any writer committed, in shards whose file is there in full."""
        shards, _ = scan(self.path, self.fingerprint.digest, self._known)
        return {video_id for rows in shards if not rows.fault() for video_id in rows.ids}

    # ---- frames

    def add(self, video_id: str, features: np.ndarray, times: np.ndarray, duration: float) -> None:
        """Take the features (T, D) of a video, its frames' times (T,) and its duration, both in seconds.

        Every full shard is committed on the way. Raises StepclipError, and takes nothing, when the shape is
        wrong, a value is not finite in the cache's dtype, a row is all zero, times do not increase, or the
        video is there already.
        """
        self._alive()
        video = self._checked(video_id, features, times, duration)
        self._waiting[video_id] = video
        if (
            len(self._waiting) >= self.shard_videos
            or sum(v.features.nbytes for v in self._waiting.values()) >= SHARD_BYTES
        ):
            self.commit()

    def _checked(self, video_id: str, features: np.ndarray, times: np.ndarray, duration: float) -> _Video:
        def fault(found: str, expected: str) -> StepclipError:
            return StepclipError(f"the features of '{video_id}' are refused: {found}", expected)

        _storable(video_id)
        if video_id in self._waiting or video_id in self._done:
            raise fault("this video is in the cache already", "each video once (done() says which are there)")
        source = np.asarray(features)
        if source.ndim != 2 or source.shape[1] != self.dim or not len(source) or source.dtype.kind != "f":
            raise fault(
                f"shape {source.shape} of {source.dtype}",
                f"floats of shape (frames, {self.dim}), 1 frame or more",
            )
        with np.errstate(over="ignore"):
            kept = np.array(source, self.dtype, order="C")
        if not np.isfinite(kept).all():
            at = int(np.argmin(np.isfinite(kept).all(axis=1)))
            raise fault(f"row {at} is not finite as {self.dtype}", "finite numbers")
        if not (present := kept.any(axis=1)).all():
            raise fault(f"row {int(np.argmin(present))} is all zero", "features of a frame in every row")
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
        return _Video(video_id, kept, stamps, seconds)

    def commit(self) -> None:
        """Write what waits as one shard: its data, then its rows. Once it returns, nothing of it can be lost.

        Raises StepclipError when it cannot be written; the videos go on waiting, and nothing half-written
        counts.
        """
        self._alive()
        if not self._waiting:
            return
        videos = list(self._waiting.values())
        checksums = [zlib.crc32(video.times.data, zlib.crc32(video.features.data)) for video in videos]
        image, places = self._image(videos, checksums)
        shard = self._place(image)
        self._write_rows(shard, {"bytes": len(image), **places}, videos, checksums)
        self._done |= self._waiting.keys()
        self._waiting = {}
        self._forgive({video.video_id for video in videos})

    def _image(self, videos: list[_Video], checksums: list[int]) -> tuple[bytes, dict[str, int]]:
        """The whole HDF5 file, made in memory: a full disk then fails in a plain write, not inside HDF5."""
        import h5py

        offsets = np.cumsum([0] + [len(video.features) for video in videos], dtype=np.int64)
        with h5py.File(
            "shard", "w", driver="core", backing_store=False, alignment_threshold=1, alignment_interval=64
        ) as file:
            file.attrs.update({**_account(self), "fingerprint": self.fingerprint.json})
            file.create_dataset("features", data=np.concatenate([video.features for video in videos]))
            file.create_dataset("times", data=np.concatenate([video.times for video in videos]))
            file.create_dataset("offsets", data=offsets)
            file.create_dataset("durations", data=np.array([video.duration for video in videos], np.float64))
            file.create_dataset("crc32", data=np.array(checksums, np.uint32))
            file.create_dataset("ids", data=[video.video_id for video in videos], dtype=h5py.string_dtype())
            file.flush()
            return file.id.get_file_image(), {
                f"{key}_at": file[key].id.get_offset() for key in ("features", "times")
            }

    def _place(self, image: bytes) -> Path:
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

    def _write_rows(
        self, shard: Path, data: dict[str, int], videos: list[_Video], checksums: list[int]
    ) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        frames = [len(video.features) for video in videos]
        said = json.dumps({**_account(self), **data, "committed": time.time_ns()}).encode()
        table = pa.table(
            {
                "video_id": pa.array([video.video_id for video in videos], pa.string()),
                "first": pa.array(np.cumsum([0, *frames])[:-1], pa.int64()),
                "frames": pa.array(frames, pa.int64()),
                "duration": pa.array([video.duration for video in videos], pa.float64()),
                "crc32": pa.array(checksums, pa.uint32()),
            }
        ).replace_schema_metadata({ROWS_KEY: said, ROWS_CHECK: str(zlib.crc32(said))})
        try:
            with write_atomically(shard.with_suffix(".parquet")) as file:
                pq.write_table(table, file, write_page_checksum=True)
        except BaseException:
            shard.unlink(missing_ok=True)  # data without rows would only take up room
            raise

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
        with locked(self.path / ".lock"):
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
            self._write_texts(tables)

    def _write_texts(self, tables: dict[str, TextTable]) -> None:
        import h5py

        with h5py.File("text", "w", driver="core", backing_store=False) as file:
            file.attrs.update({**_account(self), "fingerprint": self.fingerprint.json})
            for kind, table in tables.items():
                group = file.create_group(kind)
                group.create_dataset("features", data=table.features)
                group.create_dataset("strings", data=list(table.index), dtype=h5py.string_dtype())
                group.attrs["crc32"] = text_checksum(list(table.index), table.features)
            file.flush()
            image = file.id.get_file_image()
        with write_atomically(self.path / "text.h5") as target:
            target.write(image)

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
        with locked(self.path / ".lock"):
            others = [each for each in read_failures(self.path) if each.video_id != failure.video_id]
            self._write_failures([*others, failure])

    def _forgive(self, video_ids: set[str]) -> None:
        if not (self.path / "failed.jsonl").exists():
            return
        with locked(self.path / ".lock"):
            failures = read_failures(self.path)
            left = [failure for failure in failures if failure.video_id not in video_ids]
            if len(left) < len(failures):
                self._write_failures(left)

    def _write_failures(self, failures: list[Failure]) -> None:
        with write_atomically(self.path / "failed.jsonl", "w") as file:
            file.writelines(json.dumps(asdict(failure)) + "\n" for failure in failures)

    # ---- the end

    def close(self) -> None:
        """Commit what waits; the writer takes no more."""
        if not self._closed:
            self.commit()
            self._closed = True

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


def _account(writer: FeatureWriter) -> dict[str, str | int]:
    from .. import __version__

    return {
        "schema": SCHEMA,
        "digest": writer.fingerprint.digest,
        "dim": writer.dim,
        "dtype": writer.dtype,
        "writer": f"stepclip {__version__}, {writer.name}",
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _with_shape(about: CacheInfo) -> Fingerprint:
    return Fingerprint({**about.fingerprint.fields, "cache.dim": about.dim, "cache.dtype": about.dtype})


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

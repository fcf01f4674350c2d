"""One shard: an HDF5 file of many videos' features, and its row file, which is the commit.

<name>.h5       features (N, D), times (N,), views (V, N, D) where there are any: contiguous, uncompressed;
                offsets, durations, crc32, ids, sources: one entry per video; attributes: the fingerprint,
                the JSON it is made of, the schema, who wrote it and when
<name>.parquet  one row per video; what the data file must look like stands in its footer
"""

from __future__ import annotations

import json
import math
import mmap
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import StepclipError
from .files import write_atomically
from .source import Source

if TYPE_CHECKING:
    import h5py
SCHEMA = 2  # 1: without views and sources
READABLE = (1, 2)
# Parquet checks its pages, we what we say in its footer
ROWS_KEY, ROWS_CHECK = b"stepclip.shard", b"stepclip.crc32"
ROWS_TYPES = {
    "video_id": "string",
    "first": "int64",
    "frames": "int64",
    "duration": "double",
    "crc32": "uint32",
    "source": "string",
}


@dataclass(frozen=True, eq=False, slots=True)
class Video:
    """What is kept of one video: features (T, D), times (T,), duration, views (V, T, D) or None; crc32.

    committed: nanoseconds since 1970; 0 before its commit. A copy in another shard keeps it.
    """

    video_id: str
    features: np.ndarray
    times: np.ndarray
    duration: float
    views: np.ndarray | None = None
    source: Source | None = None
    committed: int = 0
    crc32: int = field(init=False)

    def __post_init__(self) -> None:  # once, while the video is in the processor's cache
        object.__setattr__(self, "crc32", checksum(self.features, self.times, self.views))

    @property
    def nbytes(self) -> int:
        """Bytes of the features and their views."""
        return self.features.nbytes + (0 if self.views is None else self.views.nbytes)


@dataclass(frozen=True, eq=False)
class ShardRows:
    """What the row file of one shard says."""

    file: Path
    bytes: int
    digest: str
    dtype: str
    dim: int
    views: int
    places: tuple[int, int, int]  # bytes before features, times and views in the data file; -1: no views
    committed: int  # nanoseconds since 1970; of copies, the newest
    ids: list[str]
    first: list[int]
    frames: list[int]
    durations: list[float]
    crc32: list[int]
    sources: list[str | None]
    runs: list[tuple[int, int]]  # of copies: (how many videos, when each of them was committed), in order
    head: int | None = None  # crc32 of all that lies around the arrays; None: an older StepCLIP kept none

    @property
    def name(self) -> str:
        return self.file.stem

    @cached_property
    def key(self) -> tuple[str, int]:
        """No two shards have the same: a name may be taken again once its shard is gone."""
        return self.name, self.committed

    @property
    def count(self) -> int:
        """N: frames of all its videos."""
        return self.first[-1] + self.frames[-1]

    def fault(self) -> str:
        """What is wrong with the data file at a glance, or ""."""
        try:
            return self.fault_of(self.file.stat().st_size)
        except OSError as error:
            return f"the shard {self.file} is missing ({error.strerror})"

    def fault_of(self, size: int) -> str:
        return (
            ""
            if size == self.bytes
            else f"the shard {self.file} has {size} bytes where {self.bytes} were written"
        )

    @cached_property
    def commits(self) -> list[int]:
        """When each video was committed, nanoseconds since 1970."""
        return [committed for count, committed in self.runs for _ in range(count)]

    def source(self, row: int) -> Source | None:
        text = self.sources[row]
        return Source.from_json(text) if text else None


@dataclass(frozen=True, eq=False, slots=True)
class Mapped:
    """A shard's arrays, mapped read-only: features (N, D), times (N,), views (V, N, D) or None."""

    features: np.ndarray
    times: np.ndarray
    views: np.ndarray | None


def checksum(features: np.ndarray, times: np.ndarray, views: np.ndarray | None = None) -> int:
    """crc32 over a video's features, its times and its views, as their bytes lie in C order."""
    value = zlib.crc32(np.ascontiguousarray(times).data, zlib.crc32(np.ascontiguousarray(features).data))
    return value if views is None else zlib.crc32(np.ascontiguousarray(views).data, value)


# ---- writing


def shard_pieces(
    account: Mapping[str, str | int], videos: Sequence[Video]
) -> tuple[list[bytes | memoryview | np.ndarray], dict[str, int]]:
    """The HDF5 file as pieces to write one after the other, and where its arrays lie in it.

    HDF5 makes, in memory, all but the arrays, which are copied nowhere. A full disk then fails in a plain
    write, not inside HDF5.
    """
    import h5py

    features = [video.features for video in videos]
    count, (_, dim), dtype = sum(map(len, features)), features[0].shape, features[0].dtype
    arrays: dict[str, tuple[tuple[int, ...], np.dtype, list[np.ndarray]]] = {
        "times": ((count,), np.dtype("<f8"), [np.concatenate([video.times for video in videos])]),
        "features": ((count, dim), dtype, features),
    }
    if (views := [video.views for video in videos if video.views is not None]) != []:
        copies = len(views[0])
        arrays["views"] = ((copies, count, dim), dtype, [part[k] for k in range(copies) for part in views])
    texts = h5py.string_dtype()
    names = [video.video_id for video in videos]
    sources = [video.source.json if video.source else "" for video in videos]
    size = sum(math.prod(shape) * kind.itemsize for shape, kind, _ in arrays.values())
    around = _Around(-1, size + (64 << 20) + 64 * sum(len(text) for text in (*names, *sources)))
    with h5py.File(around, "w", driver="fileobj", alignment_threshold=1, alignment_interval=64) as file:
        file.attrs.update(account)
        file["offsets"] = np.cumsum([0, *map(len, features)], dtype=np.int64)
        file["durations"] = np.array([video.duration for video in videos], np.float64)
        file["crc32"] = np.array([video.crc32 for video in videos], np.uint32)
        now = account.get("committed", 0)
        file["committed"] = np.array([video.committed or now for video in videos], np.int64)
        file.create_dataset("ids", data=names, dtype=texts)
        file.create_dataset("sources", data=sources, dtype=texts)
        places = {key: _reserve(file, key, shape, kind) for key, (shape, kind, _) in arrays.items()}
    pieces: list[bytes | memoryview | np.ndarray] = []
    done = 0
    for key, place in places.items():  # as they lie in the file
        shape, kind, parts = arrays[key]
        pieces += [memoryview(around)[done:place], *map(np.ascontiguousarray, parts)]
        done = place + math.prod(shape) * kind.itemsize
    pieces.append(memoryview(around)[done : around.end])
    head = 0
    for piece in pieces:
        head = zlib.crc32(piece, head) if isinstance(piece, memoryview) else head
    return pieces, {
        **{f"{key}_at": places.get(key, -1) for key in ("features", "times", "views")},
        "head_crc32": head,
    }


class _Around(mmap.mmap):
    """A file in memory, for HDF5 to write what stands around the arrays; their room takes none."""

    end = 0

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:  # type: ignore[override]
        super().seek(place + self.end if whence == os.SEEK_END else place)
        return self.tell()

    def write(self, data: Any) -> int:
        written = super().write(data)
        self.end = max(self.end, self.tell())
        return written

    def truncate(self, size: int) -> None:
        self.end = size


def _reserve(file: h5py.File, key: str, shape: tuple[int, ...], dtype: np.dtype) -> int:
    """A contiguous dataset whose bytes are written by others; its place in the file."""
    from h5py import h5d, h5p, h5s, h5t

    how = h5p.create(h5p.DATASET_CREATE)
    how.set_layout(h5d.CONTIGUOUS)
    how.set_alloc_time(h5d.ALLOC_TIME_EARLY)
    how.set_fill_time(h5d.FILL_TIME_NEVER)
    made = h5d.create(
        file.id, key.encode(), h5t.py_create(dtype, logical=True), h5s.create_simple(shape), how
    )
    return made.get_offset()


def write_rows(
    path: Path, about: Mapping[str, Any], rows: Mapping[str, Any], *, replace: bool = True
) -> None:
    """Write a row file; once it is there, the videos are committed.

    about: bytes, features_at, times_at, views_at, digest, dim, dtype, views, schema, committed, and runs
    where its videos were committed at several times; rows: the columns of ROWS_TYPES.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    said = json.dumps({**about, "rows_crc32": rows_checksum(*(rows[key] for key in ROWS_TYPES))}).encode()
    types = {key: pa.string() if kind == "string" else getattr(pa, _ARROW[kind])() for key, kind in _types()}
    table = pa.table({key: pa.array(rows[key], types[key]) for key in types})
    table = table.replace_schema_metadata({ROWS_KEY: said, ROWS_CHECK: str(zlib.crc32(said))})
    with write_atomically(path, exclusive=not replace) as file:
        pq.write_table(table, file, write_page_checksum=True)


_ARROW = {"int64": "int64", "double": "float64", "uint32": "uint32"}


def _types() -> list[tuple[str, str]]:
    return list(ROWS_TYPES.items())


# ---- reading


def read_rows(path: Path) -> ShardRows:
    """The row file of one shard. Raises StepclipError when it is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with open(path, "rb") as file:
            table = pq.ParquetFile(file, page_checksum_verification=True).read(use_threads=False)
        said = table.schema.metadata[ROWS_KEY]
        if int(table.schema.metadata[ROWS_CHECK]) != zlib.crc32(said) or not table.num_rows:
            raise ValueError("its checksum is not the one written")
        about = json.loads(said)
        if about["schema"] not in READABLE:
            raise ValueError(f"it has schema {about['schema']}, this StepCLIP reads up to {SCHEMA}")
        wanted = _types()[: 5 if about["schema"] == 1 else None]
        if [(field.name, str(field.type)) for field in table.schema] != wanted:
            raise ValueError("its columns are not those written")
        columns = [column.to_pylist() for column in table.columns]
        if about.get("rows_crc32") not in (None, rows_checksum(*columns)):
            raise ValueError("the checksum of its rows is not the one written")
        return shard_rows(path.with_suffix(".h5"), about, *columns)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise StepclipError(f"the row file {path} is damaged: {reason}", "a whole Parquet file") from error


def shard_rows(
    file: Path,
    about: Mapping[str, object],
    ids: list[str],
    first: list[int],
    frames: list[int],
    durations: list[float],
    crc32: list[int],
    sources: list[str | None] | None = None,
) -> ShardRows:
    """Rows from columns and footer. Raises KeyError, ValueError or TypeError when a part is lacking."""

    def number(key: str, default: int | None = None) -> int:
        return int(about[key] if default is None else about.get(key, default))  # type: ignore[call-overload]

    runs = about.get("runs") or [[len(ids), number("committed")]]
    times = [(int(count), int(committed)) for count, committed in runs]  # type: ignore[attr-defined]
    if sum(count for count, _ in times) != len(ids):
        raise ValueError("its times of commit are not those of its videos")
    return ShardRows(
        file=file,
        bytes=number("bytes"),
        digest=str(about["digest"]),
        dtype=str(about["dtype"]),
        dim=number("dim"),
        views=number("views", 0),
        places=(number("features_at"), number("times_at"), number("views_at", -1)),
        committed=number("committed"),
        ids=ids,
        first=first,
        frames=frames,
        durations=durations,
        crc32=crc32,
        sources=[None] * len(ids) if sources is None else sources,
        runs=times,
        head=None if about.get("head_crc32") is None else number("head_crc32"),
    )


def rows_checksum(
    ids: Sequence[str],
    first: Sequence[int],
    frames: Sequence[int],
    durations: Sequence[float],
    crc32: Sequence[int],
    sources: Sequence[str | None] = (),
) -> int:
    """crc32 over the columns of a row file: Parquet's own leave the headers of its pages out."""
    value = zlib.crc32("\0".join(source or "" for source in sources).encode())
    value = zlib.crc32("\0".join(ids).encode(), value)
    for column, kind in ((first, "<i8"), (frames, "<i8"), (durations, "<f8"), (crc32, "<u4")):
        value = zlib.crc32(np.asarray(column, kind).data, value)
    return value


def head_checksum(rows: ShardRows) -> int:
    """crc32 of what lies around the arrays in a data file. Raises OSError when it cannot be read."""
    item = np.dtype(rows.dtype).itemsize * rows.dim * rows.count
    sizes = (item, 8 * rows.count, item * rows.views)
    value = done = 0
    with open(rows.file, "rb") as file:
        for place, size in sorted(zip(rows.places, sizes, strict=True)):
            if place >= 0:
                file.seek(done)
                value = zlib.crc32(file.read(max(0, place - done)), value)
                done = place + size
        file.seek(done)
        return zlib.crc32(file.read(), value)


def map_shard(rows: ShardRows) -> Mapped:
    """A shard's arrays, mapped where its rows say that they lie. Raises StepclipError when it is damaged."""
    again = "stepclip cache repair, which saves its whole videos; then stepclip extract does the others again"
    if fault := rows.fault():
        raise StepclipError(fault, "the shard as it was written", again)
    count, dtype = rows.count, np.dtype(rows.dtype)
    shapes = {"features": (count, rows.dim), "times": (count,)}
    if rows.views:
        shapes["views"] = (rows.views, count, rows.dim)
    try:
        # also: another shard may have taken the name of one that was removed. HDF5 is not asked: it loops or
        # crashes on some damaged bytes
        whole = _says_the_same(rows, shapes) if rows.head is None else head_checksum(rows) == rows.head
        mapped = np.memmap(rows.file, np.uint8, "r").view(np.ndarray)
    except (OSError, KeyError, ValueError, RuntimeError, AttributeError) as error:
        raise StepclipError(
            f"the shard {rows.file} is damaged: {error}", "the HDF5 file as it was written", again
        ) from error
    if not whole:
        raise StepclipError(
            f"the shard {rows.file} does not hold what its rows say", "one contiguous dataset", again
        )

    def view(key: str, place: int) -> np.ndarray:
        shape, kind = shapes[key], np.dtype("<f8") if key == "times" else dtype
        size = int(np.prod(shape)) * kind.itemsize
        return mapped[place : place + size].view(kind).reshape(shape)

    features_at, times_at, views_at = rows.places
    return Mapped(
        view("features", features_at),
        view("times", times_at),
        view("views", views_at) if rows.views else None,
    )


def _says_the_same(rows: ShardRows, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether HDF5 says of a shard of schema 1 what its rows say."""
    import h5py

    # the file never changes: HDF5's own lock would only refuse folders that cannot lock
    with h5py.File(rows.file, "r", locking=False) as file:
        return (
            file.attrs["digest"] == rows.digest
            and file["crc32"][:].tolist() == rows.crc32
            and all(
                file[key].shape == shape
                and file[key].dtype == np.dtype("<f8" if key == "times" else rows.dtype)
                and file[key].id.get_offset() == place
                for (key, shape), place in zip(shapes.items(), rows.places, strict=False)
            )
        )


def whole_video(rows: ShardRows, row: int, mapped: Mapped) -> Video:
    """A video as it was written, in memory. Raises StepclipError when its checksum is another one."""
    here = slice(rows.first[row], rows.first[row] + rows.frames[row])
    video = Video(
        rows.ids[row],
        mapped.features[here].copy(),
        mapped.times[here].copy(),
        rows.durations[row],
        None if mapped.views is None else mapped.views[:, here].copy(),
        rows.source(row),
        rows.commits[row],
    )
    if video.crc32 != rows.crc32[row]:
        raise StepclipError(
            f"the features of '{video.video_id}' in {rows.file} are not those that were written",
            "the checksum in its row",
            "stepclip cache repair",
        )
    return video

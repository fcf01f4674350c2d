"""One shard: an HDF5 file of many videos' features, and its row file, which is the commit.

<name>.h5       features (N, D), times (N,), views (V, N, D) where there are any: contiguous, uncompressed;
                offsets, durations, crc32, ids, sources: one entry per video; attributes: the fingerprint,
                the JSON it is made of, the schema, who wrote it and when
<name>.parquet  one row per video; what the data file must look like stands in its footer
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .errors import StepclipError
from .files import write_atomically
from .source import Source

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
    """What is kept of one video: features (T, D), times (T,), duration, views (V, T, D) or None."""

    video_id: str
    features: np.ndarray
    times: np.ndarray
    duration: float
    views: np.ndarray | None = None
    source: Source | None = None

    def checksum(self) -> int:
        return checksum(self.features, self.times, self.views)


@dataclass(frozen=True, eq=False, slots=True)
class ShardRows:
    """What the row file of one shard says."""

    file: Path
    bytes: int
    digest: str
    dtype: str
    dim: int
    views: int
    places: tuple[int, int, int]  # bytes before features, times and views in the data file; -1: no views
    committed: int  # nanoseconds since 1970
    ids: list[str]
    first: list[int]
    frames: list[int]
    durations: list[float]
    crc32: list[int]
    sources: list[str | None]

    @property
    def name(self) -> str:
        return self.file.stem

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


def shard_image(
    account: Mapping[str, str | int], videos: Sequence[Video]
) -> tuple[memoryview, dict[str, int]]:
    """The whole HDF5 file, made in memory, and where its arrays lie in it.

    A full disk then fails in a plain write, not inside HDF5.
    """
    import h5py

    lengths = [len(video.features) for video in videos]
    texts = h5py.string_dtype()
    with h5py.File(
        "shard", "w", driver="core", backing_store=False, alignment_threshold=1, alignment_interval=64
    ) as file:
        file.attrs.update(account)
        file.create_dataset("offsets", data=np.cumsum([0, *lengths], dtype=np.int64))
        file.create_dataset("durations", data=np.array([video.duration for video in videos], np.float64))
        file.create_dataset("crc32", data=np.array([video.checksum() for video in videos], np.uint32))
        file.create_dataset("ids", data=[video.video_id for video in videos], dtype=texts)
        file.create_dataset(
            "sources", data=[video.source.json if video.source else "" for video in videos], dtype=texts
        )
        file.create_dataset("times", data=np.concatenate([video.times for video in videos]))
        file.create_dataset("features", data=np.concatenate([video.features for video in videos]))
        if (views := [video.views for video in videos if video.views is not None]) != []:
            file.create_dataset("views", data=np.concatenate(views, axis=1))
        file.flush()
        places = {
            f"{key}_at": file[key].id.get_offset() if key in file else -1
            for key in ("features", "times", "views")
        }
        return memoryview(file.id.get_file_image()), places


def write_rows(
    path: Path, about: Mapping[str, str | int], rows: Mapping[str, Any], *, replace: bool = True
) -> None:
    """Write a row file; once it is there, the videos are committed.

    about: bytes, features_at, times_at, views_at, digest, dim, dtype, views, schema and committed; rows: the
    columns of ROWS_TYPES.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    said = json.dumps(dict(about)).encode()
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
    )


def map_shard(rows: ShardRows) -> Mapped:
    """A shard's arrays, mapped where HDF5 says that they lie. Raises StepclipError when it is damaged."""
    import h5py

    again = "stepclip cache repair, which saves its whole videos; then stepclip extract does the others again"
    if fault := rows.fault():
        raise StepclipError(fault, "the shard as it was written", again)
    count, dtype = rows.count, np.dtype(rows.dtype)
    shapes = {"features": (count, rows.dim), "times": (count,)}
    if rows.views:
        shapes["views"] = (rows.views, count, rows.dim)
    try:
        # the file never changes: HDF5's own lock would only refuse folders that cannot lock
        with h5py.File(rows.file, "r", locking=False) as file:
            whole = file.attrs["digest"] == rows.digest and all(
                file[key].shape == shape
                and file[key].dtype == (np.dtype("<f8") if key == "times" else dtype)
                and file[key].id.get_offset() == place
                for (key, shape), place in zip(shapes.items(), rows.places, strict=False)
            )
    except (OSError, KeyError, RuntimeError, AttributeError) as error:
        raise StepclipError(
            f"the shard {rows.file} is damaged: {error}", "the HDF5 file as it was written", again
        ) from error
    if not whole:
        raise StepclipError(
            f"the shard {rows.file} does not hold what its rows say", "one contiguous dataset", again
        )
    mapped = np.memmap(rows.file, np.uint8, "r").view(np.ndarray)

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

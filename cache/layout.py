"""What lies in a cache folder, for the reader and the writer alike.

cache.json               schema, fingerprint, dimension, dtype
shards/<name>.h5         features (N, D) contiguous, times, offsets, ids, durations, crc32
shards/<name>.parquet    one row per video of that shard: the commit. A video exists when its row says so.
text.h5                  step/ and paragraph/: features (n, D) and strings
failed.jsonl             one row per video that could not be done
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import StepclipError, nearest
from .files import TEMPORARY, read_json
from .fingerprint import Fingerprint

SCHEMA = 1
KINDS = ("step", "paragraph")
ROWS_KEY, ROWS_CHECK = (
    b"stepclip.shard",
    b"stepclip.crc32",
)  # Parquet checks its pages, we what we say in its footer
ROWS_TYPES = {
    "video_id": "string",
    "first": "int64",
    "frames": "int64",
    "duration": "double",
    "crc32": "uint32",
}
_log = logging.getLogger("stepclip")


@dataclass(frozen=True)
class Failure:
    """Why a video is not in the cache. `reason` is a short slug: missing-file, no-video-stream, truncated."""

    video_id: str
    path: str
    reason: str
    detail: str = ""
    attempts: int = 1


@dataclass(frozen=True, eq=False)
class ShardRows:
    """What the row file of one shard says."""

    file: Path
    bytes: int
    digest: str
    dtype: str
    dim: int
    places: tuple[int, int]  # bytes before the features and before the times in the data file
    committed: int  # nanoseconds since 1970
    ids: list[str]
    first: list[int]
    frames: list[int]
    durations: list[float]

    def fault(self) -> str:
        """What is wrong with the data file at a glance, or ""."""
        try:
            size = self.file.stat().st_size
        except OSError as error:
            return f"the shard {self.file} is missing ({error.strerror})"
        return (
            ""
            if size == self.bytes
            else f"the shard {self.file} has {size} bytes where {self.bytes} were written"
        )


@dataclass(frozen=True)
class CacheInfo:
    """The contents of cache.json."""

    fingerprint: Fingerprint
    dim: int
    dtype: str


def read_about(folder: Path) -> CacheInfo | None:
    """cache.json, checked; None when there is none. Raises StepclipError: damaged, or of another schema."""
    path = folder / "cache.json"
    if not path.exists():
        return None
    by_hand = f"remove {path} and extract again with the same options: the shards are kept"
    try:
        kept = read_json(path)
    except StepclipError as error:
        raise StepclipError(error.found, "the cache.json that StepCLIP wrote", by_hand) from error
    if not isinstance(kept, dict) or not isinstance(schema := kept.get("schema"), int):
        raise StepclipError(
            f"{path} is not the account of a feature cache", "the cache.json that StepCLIP wrote", by_hand
        )
    if schema != SCHEMA:
        newer = schema > SCHEMA
        raise StepclipError(
            f"the cache {folder} has schema {schema}",
            f"schema {SCHEMA}",
            "update StepCLIP: a newer one wrote this"
            if newer
            else "stepclip extract under another DATASET name or --root",
        )
    try:
        info = CacheInfo(Fingerprint(kept["fingerprint"]), int(kept["dim"]), str(kept["dtype"]))
        intact = info.fingerprint.digest == kept["digest"]
    except (KeyError, TypeError, ValueError, AttributeError):
        intact = False
    if not intact:
        raise StepclipError(
            f"{path} was changed after it was written", "its digest to fit its fields", by_hand
        )
    return info


def scan(
    folder: Path, digest: str, known: dict[str, ShardRows] | None = None
) -> tuple[list[ShardRows], list[str]]:
    """The committed shards of this fingerprint, and in words what else lies there; `known` is kept."""
    shards: list[ShardRows] = []
    problems: list[str] = []
    try:
        names = sorted(os.listdir(folder / "shards"))
    except FileNotFoundError:
        return shards, problems
    except OSError as error:
        raise StepclipError(
            f"{folder / 'shards'} cannot be read: {error.strerror}", "a folder that can be read"
        ) from error
    there = set(names)
    for name in names:
        if name.endswith(TEMPORARY):
            problems.append(f"shards/{name} was never finished (or is being written now)")
        elif name.endswith(".h5") and name[:-3] + ".parquet" not in there:
            problems.append(f"shards/{name} has no row file: its writer was stopped before the commit")
        elif name.endswith(".parquet"):
            rows = (known or {}).get(name)
            try:
                rows = rows or read_rows(folder / "shards" / name)
            except StepclipError as error:
                problems.append(error.found)
                continue
            if known is not None:
                known[name] = rows
            if rows.digest == digest:
                shards.append(rows)
            else:
                problems.append(f"shards/{name} has the fingerprint {rows.digest}, the cache {digest}")
    return shards, problems


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
        if [(field.name, str(field.type)) for field in table.schema] != list(ROWS_TYPES.items()):
            raise ValueError("its columns are not those written")
        about = json.loads(said)
        return ShardRows(
            file=path.with_suffix(".h5"),
            bytes=int(about["bytes"]),
            digest=about["digest"],
            dtype=about["dtype"],
            dim=int(about["dim"]),
            places=(int(about["features_at"]), int(about["times_at"])),
            committed=int(about["committed"]),
            ids=table["video_id"].to_pylist(),
            first=table["first"].to_pylist(),
            frames=table["frames"].to_pylist(),
            durations=table["duration"].to_pylist(),
        )
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise StepclipError(f"the row file {path} is damaged: {reason}", "a whole Parquet file") from error


def map_shard(rows: ShardRows) -> tuple[np.ndarray, np.ndarray]:
    """The features (N, D) and times (N,) of a shard, mapped read-only where HDF5 says that they lie."""
    import h5py

    again = "stepclip extract, which does its videos again"
    if fault := rows.fault():
        raise StepclipError(fault, "the shard as it was written", again)
    count = rows.first[-1] + rows.frames[-1]
    try:
        # the file never changes: HDF5's own lock would only refuse folders that cannot lock
        with h5py.File(rows.file, "r", locking=False) as file:
            features, times = file["features"], file["times"]
            places = features.id.get_offset(), times.id.get_offset()
            whole = (
                features.shape == (count, rows.dim)
                and features.dtype == np.dtype(rows.dtype)
                and times.shape == (count,)
                and file.attrs["digest"] == rows.digest
                and places == rows.places
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

    def view(place: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return mapped[place : place + size].view(dtype).reshape(shape)

    return view(places[0], (count, rows.dim), rows.dtype), view(places[1], (count,), "<f8")


@dataclass(frozen=True, eq=False)
class TextTable:
    """The distinct texts of one kind: `features[index[string]]`, float32."""

    index: dict[str, int]
    features: np.ndarray


def read_texts(path: Path, digest: str) -> dict[str, TextTable]:
    """The tables of text.h5 by kind; none when there is no file. Raises StepclipError when it is damaged."""
    if not path.exists():
        return {}
    import h5py

    tables: dict[str, TextTable] = {}
    again = f"remove {path} and extract again: texts are encoded in moments"
    try:
        with h5py.File(path, "r", locking=False) as file:
            other = file.attrs["digest"] != digest
            for kind in KINDS:
                if kind in file:
                    strings = file[kind]["strings"].asstr()[:].tolist()
                    features = file[kind]["features"][:]
                    if file[kind].attrs["crc32"] != text_checksum(strings, features):
                        raise OSError(f"the checksum of its {kind}s is not the one written")
                    tables[kind] = TextTable({string: row for row, string in enumerate(strings)}, features)
    except (
        OSError,
        KeyError,
        RuntimeError,
        AttributeError,
        UnicodeDecodeError,
        TypeError,
        ValueError,
    ) as error:
        raise StepclipError(
            f"{path} is damaged: {error}", "the HDF5 file as it was written", again
        ) from error
    if other:
        raise StepclipError(
            f"{path} was made by another encoder than the cache", "one fingerprint in one cache", again
        )
    return tables


def text_checksum(strings: list[str], features: np.ndarray) -> int:
    """crc32 over the features and the strings."""
    return zlib.crc32(json.dumps(strings).encode(), zlib.crc32(features.tobytes()))


def read_failures(folder: Path) -> list[Failure]:
    """The rows of failed.jsonl by id, the newest of each; an unreadable line is named and left out."""
    path = folder / "failed.jsonl"
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return []
    found: dict[str, Failure] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                failure = Failure(**json.loads(line))
                if not isinstance(failure.video_id, str):
                    raise TypeError("no video id")
            except (ValueError, TypeError):
                _log.warning("%s, line %d cannot be read and is left out", path, number)
                continue
            found[failure.video_id] = failure
    return [found[video_id] for video_id in sorted(found)]


def known_kind(kind: str) -> str:
    """`kind` itself. Raises StepclipError when it is not one of `KINDS`."""
    if kind not in KINDS:
        raise StepclipError(
            f"'{kind}' is no kind of text{nearest(kind, KINDS)}", f"one of {', '.join(KINDS)}"
        )
    return kind

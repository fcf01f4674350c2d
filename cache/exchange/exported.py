"""Reading what `export` wrote, exactly as it was in the cache; a damaged file costs its own videos alone.

Arrays lie uncompressed in .npy, safetensors and tar files alike, so they are read at the place that
stepclip.json gives and compared with the checksum written there: a damaged header of a large file costs
nothing, a cut one only what is missing. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ..errors import StepclipError, nearest
from ..files import read_json
from ..fingerprint import Fingerprint
from ..layout import CacheInfo, Failure
from ..shard import Video
from ..source import Source
from ..texts import KINDS, TextTable, text_checksum

ABOUT = "stepclip.json"
MANIFEST = "manifest"  # a folder that `Manifest.read` takes, where a manifest was given
KIND, VERSION = "stepclip features", 1
FORMATS = ("npy", "safetensors", "parquet", "webdataset")

Place = tuple[str, int]  # a file of the export, and the bytes before the array in it


@dataclass(frozen=True, slots=True)
class Entry:
    """What stepclip.json says of one video. `places`: of its arrays; `rows`: (file, row group, first row)."""

    video_id: str
    frames: int
    duration: float
    crc32: int
    source: Source | None
    places: dict[str, Place] = field(default_factory=dict)
    rows: tuple[str, int, int] | None = None

    @property
    def files(self) -> list[str]:
        return [self.rows[0]] if self.rows else [file for file, _ in self.places.values()]


@dataclass(frozen=True, eq=False)
class Exported:
    """An exported folder, read. `about` is what a FeatureWriter needs to restore the cache that it was.

    texts: by kind, float32; failures: the videos that the cache could not do; problems: what of the export
    cannot be read besides videos, in words; files: all that the export wrote, relative to its folder.
    """

    folder: Path
    format: str
    about: CacheInfo
    entries: tuple[Entry, ...]
    texts: dict[str, TextTable]
    failures: list[Failure]
    problems: tuple[str, ...]
    files: frozenset[str]

    @property
    def video_ids(self) -> tuple[str, ...]:
        return tuple(entry.video_id for entry in self.entries)

    @property
    def frames(self) -> int:
        """Frames of all its videos."""
        return sum(entry.frames for entry in self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def videos(self) -> Iterator[Video | Failure]:
        """Every video, one at a time; one whose file is missing, cut or changed comes as a Failure instead.

        features (T, D) and views (V, T, D) in the export's dtype, times (T,) float64 in seconds. The reason
        of a Failure is missing-file, cut-file, changed-file or damaged-file; its path the file in the export.
        """
        tables = _Tables(self.folder, self.about)
        for entry in self.entries:
            try:
                yield self._video(entry, tables)
            except _Damaged as damage:
                detail = f"{damage.path}: {damage.detail}"
                yield Failure(entry.video_id, str(damage.path), damage.reason, detail)

    def _video(self, entry: Entry, tables: _Tables) -> Video:
        about = self.about
        if entry.rows:
            arrays = tables.read(entry)
        else:
            arrays = {
                part: read_array(self.folder, entry.places[part], dtype, shape)
                for part, (dtype, shape) in shapes(about, entry.frames).items()
            }
        video = Video(
            entry.video_id,
            arrays["features"],
            arrays["times"],
            entry.duration,
            arrays.get("views"),
            entry.source,
        )
        if video.crc32 != entry.crc32:
            raise _Damaged(
                self.folder / entry.files[0],
                "changed-file",
                "what it holds of this video is not what was written",
            )
        return video


def shapes(about: CacheInfo, frames: int) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """The dtype and shape of each array of a video."""
    dtype = np.dtype(about.dtype).newbyteorder("<")
    found = {"features": (dtype, (frames, about.dim)), "times": (np.dtype("<f8"), (frames,))}
    if about.views:
        found["views"] = (dtype, (about.views, frames, about.dim))
    return found


def is_export(folder: str | os.PathLike[str]) -> bool:
    """Whether the folder says of itself that `export` made it."""
    return (Path(folder) / ABOUT).is_file()


def read_export(folder: str | os.PathLike[str]) -> Exported:
    """What an exported folder holds; its videos are read by `Exported.videos()`.

    Raises StepclipError when the folder is no export, when its stepclip.json is damaged or of a newer
    StepCLIP. Damaged texts are left out and named in `problems`, damaged videos by `videos()`.
    """
    folder = Path(folder)
    path = folder / ABOUT
    if not path.is_file():
        raise StepclipError(
            f"{folder} is no exported cache: it has no {ABOUT}",
            "a folder that `stepclip cache export` wrote to its end",
            "export again: an export that was stopped leaves nothing under its name",
        )
    said = read_json(path)
    if not isinstance(said, dict) or said.get("kind") != KIND:
        raise StepclipError(f"{path} is not of an exported cache", f"one of the kind '{KIND}'")
    if not isinstance(version := said.get("version"), int) or version > VERSION:
        raise StepclipError(
            f"{path} has version {version}",
            f"a version that this StepCLIP reads: up to {VERSION}",
            "update StepCLIP: a newer one wrote this",
        )
    try:
        crc32 = said.pop("crc32")
        if crc32 != about_checksum(said):
            raise ValueError("its checksum is not the one written")
        if said["format"] not in FORMATS:
            raise ValueError(f"format '{said['format']}'{nearest(said['format'], FORMATS)}")
        about = CacheInfo(Fingerprint(said["fingerprint"]), said["dim"], said["dtype"], said["views"])
        entries = tuple(_entry(each, about) for each in said["videos"])
        texts, problems = _texts(folder, said["texts"])
        named = {file for entry in entries for file in entry.files}
        return Exported(
            folder,
            said["format"],
            about,
            entries,
            texts,
            [Failure(**each) for each in said["failures"]],
            problems,
            frozenset({*named, *said["beside"], ABOUT}),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StepclipError(
            f"{path} was changed after it was written ({error})",
            "the file as `export` wrote it",
            "export again",
        ) from error


def about_checksum(said: Mapping[str, Any]) -> int:
    """crc32 of all that stepclip.json says besides this number, however it is laid out."""
    return zlib.crc32(json.dumps(said, sort_keys=True, separators=(",", ":")).encode())


def _entry(each: Mapping[str, Any], about: CacheInfo) -> Entry:
    rows = each.get("rows")
    places = {} if rows else {part: (str(each[part][0]), int(each[part][1])) for part in shapes(about, 1)}
    return Entry(
        each["id"],
        int(each["frames"]),
        float(each["duration"]),
        each["crc32"],
        Source(**each["source"]) if each["source"] else None,
        places,
        (str(rows[0]), int(rows[1]), int(rows[2])) if rows else None,
    )


class _Damaged(Exception):
    def __init__(self, path: Path, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.path, self.reason, self.detail = path, reason, detail


def _inside(folder: Path, name: str) -> Path:
    """A file of the export; one who wrote a stepclip.json by hand leads nobody out of its folder."""
    if os.path.isabs(name) or ".." in PurePosixPath(name).parts:
        raise _Damaged(Path(name), "damaged-file", f"{ABOUT} names a file outside of {folder}")
    return folder / name


def read_array(folder: Path, place: Place, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """An array as it lies in a file. Raises `_Damaged` when the file is not there or ends before it."""
    path, at = _inside(folder, place[0]), place[1]
    size = dtype.itemsize * int(np.prod(shape))
    try:
        with open(path, "rb") as file:
            whole = os.fstat(file.fileno()).st_size
            if at < 0 or whole < at + size:
                raise _Damaged(path, "cut-file", f"it has {whole} bytes, this video ends at {at + size}")
            array = np.empty(shape, dtype)
            file.seek(at)
            file.readinto(array.data.cast("B"))
            return array
    except FileNotFoundError as error:
        raise _Damaged(path, "missing-file", "the file is not there") from error
    except OSError as error:
        raise _Damaged(path, "damaged-file", f"it cannot be read: {error.strerror}") from error


class _Tables:
    """Reads videos from Parquet files; holds one file and one row group, for neighbours lie together."""

    def __init__(self, folder: Path, about: CacheInfo) -> None:
        self.folder, self.about = folder, about
        self.columns = ["time", "features", *(f"view_{view}" for view in range(about.views))]
        self._file: tuple[Path, Any] | None = None
        self._group: tuple[Path, int, Any] | None = None

    def read(self, entry: Entry) -> dict[str, np.ndarray]:
        assert entry.rows is not None
        path = _inside(self.folder, entry.rows[0])
        wanted = shapes(self.about, entry.frames)
        dtype, shape = wanted["features"]
        with _decoding(path):
            table = self._table(path, entry.rows[1]).slice(entry.rows[2], entry.frames)
            columns = [column.combine_chunks() for column in table.columns]
            times, *vectors = [
                np.array((column if name == "time" else column.flatten()).to_numpy(zero_copy_only=False))
                for name, column in zip(self.columns, columns, strict=True)
            ]
            features, *views = [each.astype(dtype, copy=False).reshape(shape) for each in vectors]
            found = {
                "features": features,
                "times": times.astype("<f8", copy=False).reshape(wanted["times"][1]),
            }
            return found | ({"views": np.stack(views)} if views else {})

    def _table(self, path: Path, group: int) -> Any:
        if self._group is None or self._group[:2] != (path, group):
            self._group = None
            if self._file is None or self._file[0] != path:
                self._file = None
                self._file = path, _parquet(path)
            table = self._file[1].read_row_group(group, self.columns, use_threads=False)
            self._group = path, group, table.select(self.columns)
        return self._group[2]


def _parquet(path: Path) -> Any:
    """Opened by Arrow itself: its threads shall never wait for Python, which may be about to end."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.exists():
        raise FileNotFoundError(path)
    return pq.ParquetFile(pa.OSFile(str(path)), pre_buffer=False)


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Whatever a damaged Parquet file makes of itself becomes one kind of fault."""
    try:
        yield
    except FileNotFoundError as error:
        raise _Damaged(path, "missing-file", "the file is not there") from error
    except (
        Exception
    ) as error:  # ArrowException, OSError, MemoryError, a column that is another: all were seen
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise _Damaged(path, "damaged-file", f"it cannot be read as Parquet: {reason}") from error


def _texts(folder: Path, said: Mapping[str, Any]) -> tuple[dict[str, TextTable], tuple[str, ...]]:
    tables: dict[str, TextTable] = {}
    problems = []
    for kind, about in said.items():
        if kind not in KINDS:
            raise ValueError(f"texts of the kind '{kind}'")
        try:
            if "place" in about:
                strings = read_json(_inside(folder, about["strings"]))[kind]
                place, shape = about["place"], (about["count"], about["dim"])
                features = read_array(folder, (place[0], place[1]), np.dtype("<f4"), shape)
            else:
                strings, features = _text_rows(_inside(folder, about["strings"]), kind, about["dim"])
            if len(strings) != len(features) or text_checksum(strings, features) != about["crc32"]:
                raise _Damaged(
                    folder / about["strings"], "changed-file", "its checksum is not the one written"
                )
        except _Damaged as damage:
            problems.append(f"the {kind}s are lost: {damage.path}: {damage.detail}")
        except (StepclipError, KeyError, TypeError) as error:
            problems.append(f"the {kind}s are lost: {getattr(error, 'found', error)}")
        else:
            tables[kind] = TextTable({string: row for row, string in enumerate(strings)}, features)
    return tables, tuple(problems)


def _text_rows(path: Path, kind: str, dim: int) -> tuple[list[str], np.ndarray]:
    with _decoding(path):
        table = _parquet(path).read(use_threads=False)
        rows = [row for row, other in enumerate(table["kind"].to_pylist()) if other == kind]
        table = table.take(rows)
        features = table["features"].combine_chunks().flatten().to_numpy()
        return table["text"].to_pylist(), features.astype("<f4", copy=False).reshape(-1, dim)

"""One shard, every byte of it read and compared: which of its videos are whole, and what is wrong with it.

Files are read in plain blocks, never mapped: one that is cut while it is mapped kills the process.
"""

from __future__ import annotations

import errno
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import StepclipError
from ..shard import ROWS_CHECK, ROWS_KEY, SCHEMA, ShardRows, Video, head_checksum, read_rows
from ..source import Source
from .header import Header, NewerSchema, ends_before, read_header, rows_fault

Shape = tuple[str, int, str, int]  # digest, dim, dtype, views: what all shards of a cache have in common
_BLOCK = 4 << 20  # bytes read at once
_REPLACED = {"file", "bytes", "head"}  # what a row file and a data file need not say alike


@dataclass(frozen=True)
class Finding:
    """Something that is not as it was written. touched: the videos of it that are not whole in this file."""

    file: str  # relative to the cache folder
    kind: str
    detail: str
    touched: tuple[str, ...] = ()
    texts: bool = False  # whether features of texts are lost by it


@dataclass(eq=False)
class Shard:
    """What is known of a shard: its row file (rows), its data file (size, header), its whole videos."""

    name: str
    folder: Path  # where its two files lie
    has_rows: bool
    size: int | None  # bytes of the data file; None where there is none
    rows: ShardRows | None = None
    unread: str = ""  # why there are no rows
    copied: ShardRows | None = None  # what rows.parquet says
    sealed: bool | None = None  # whether the header has the checksum that its rows say; None: they say none
    header: Header | None = None
    findings: list[Finding] = field(default_factory=list)
    intact: dict[str, tuple[ShardRows, int]] = field(default_factory=dict)  # by id: where its bytes lie
    faults: dict[str, tuple[str, str]] = field(default_factory=dict)  # by id: kind and words

    @property
    def data(self) -> Path:
        return self.folder / f"{self.name}.h5"

    @property
    def row_file(self) -> Path:
        return self.folder / f"{self.name}.parquet"

    @property
    def shape(self) -> Shape | None:
        """None where neither file can be read."""
        rows = self.rows or (self.header.rows if self.header else None)
        return None if rows is None else (rows.digest, rows.dim, rows.dtype, rows.views)

    @property
    def unsure(self) -> bool:
        """Whether HDF5 is to read bytes that no checksum vouches for: where the rows do not tell all."""
        if self.size is None or self.sealed:
            return False
        told = self.rows is not None and self.rows.head is not None and self.rows.ids == list(self.intact)
        return not told and not ends_before(self.data)

    @property
    def cut(self) -> bool:
        """Whether the data file has another size than its rows say."""
        return self.rows is not None and self.size is not None and self.size != self.rows.bytes

    def find(self, data: bool, kind: str, detail: str, touched: tuple[str, ...] = ()) -> None:
        file = self.data if data else self.row_file
        self.findings.append(Finding(f"{self.folder.name}/{file.name}", kind, detail, touched))


def open_shard(folder: Path, name: str, copied: ShardRows | None) -> Shard:
    """The row file, read, and the header's checksum. Raises StepclipError: unreadable, a newer schema."""
    shard = Shard(name, folder, False, None, copied=copied)
    shard.has_rows = must_read(shard.row_file)
    if must_read(shard.data):
        with suppress(FileNotFoundError):
            shard.size = shard.data.stat().st_size
    if shard.has_rows:
        try:
            shard.rows = read_rows(shard.row_file)
            if fault := rows_fault(shard.rows):
                shard.rows, shard.unread = None, fault
        except StepclipError as error:
            if (schema := _schema(shard.row_file)) > SCHEMA:
                raise newer(shard.row_file, schema) from error
            shard.unread = error.found.split(" is damaged: ")[-1]
    known = shard.rows or copied
    if known and known.head is not None and shard.size == known.bytes:
        with suppress(OSError):
            shard.sealed = head_checksum(known) == known.head
    return shard


def read_by_rows(shard: Shard, tick: Callable[[int], None]) -> None:
    """Read the videos where their rows say that they lie."""
    if shard.size is not None and (known := shard.rows or shard.copied):
        _read(shard, known, tick)


def conclude(shard: Shard, safe: bool, tick: Callable[[int], None]) -> None:
    """Read the header, and by it the videos that the rows did not lead to; fill in the findings.

    safe: HDF5 may read what is `unsure`.
    """
    known = shard.rows or shard.copied
    if shard.size is None:
        ids = tuple(known.ids) if known else ()
        words = "the data file is gone" if shard.rows else f"no data file, and rows that say: {shard.unread}"
        shard.find(False, "no-data", f"{words}; it had {len(ids)} videos", ids)
        return
    if shard.has_rows and shard.rows is None:
        shard.find(False, "damaged-rows", f"the row file cannot be read: {shard.unread}")
    why = "the bytes around its arrays are not those written (crc32)" if shard.sealed is False else ""
    if shard.unsure and not safe:
        why = "HDF5 crashes on it or comes to no end with it"
    elif shard.unsure or shard.sealed:
        try:
            shard.header = read_header(shard.data)
        except NewerSchema as error:
            if shard.rows is None:
                raise newer(shard.data, error) from error
            why = why or str(error)
        except ValueError as error:
            why = why or str(error)
    elif not shard.rows:
        why = "the file ends before its data do"
    own = shard.header.rows if shard.header else None
    if own and not shard.rows and not shard.sealed:  # the copied rows are of another file that had this name
        shard.intact, shard.faults = {}, {}
    if own:
        _read(shard, own, tick)
    lost = tuple(name for name in shard.faults if name not in shard.intact)
    whole = f"{len(shard.intact)} of {len(shard.intact) + len(lost)} videos are whole"
    if not shard.has_rows:
        words = "data without a row file: its writer was stopped, or it is lost"
        shard.find(True, "no-rows", f"{words}; {whole}")
    if shard.cut and shard.rows:
        shard.find(True, "size", f"{shard.size} bytes where {shard.rows.bytes} were written; {whole}", lost)
        return
    if why:
        shard.find(True, "damaged-header", why)
    elif shard.rows and own and (keys := differences(shard.rows, own, shard.header)):
        shard.find(True, "contradiction", f"not what its row file says: {', '.join(keys)}")
    for name in lost:
        kind, words = shard.faults[name]
        shard.find(True, kind, f"'{name}': {words}", (name,))


def _read(shard: Shard, rows: ShardRows, tick: Callable[[int], None]) -> None:
    with Data(shard.data, tick) as data:
        for row, video_id in enumerate(rows.ids):
            if video_id in shard.intact:
                continue
            if fault := data.fault(rows, row):
                shard.faults.setdefault(video_id, fault)
            else:
                shard.intact[video_id] = rows, row


def must_read(path: Path) -> bool:
    """Whether the file is there. Raises StepclipError when it may not be read: that is no damage."""
    try:
        with open(path, "rb"):
            return True
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno == errno.EIO:
            return True
        raise StepclipError(
            f"{path} cannot be read: {error.strerror or error}", "a cache folder whose files can be read"
        ) from error


def newer(path: Path, schema: object) -> StepclipError:
    return StepclipError(
        f"{path} is of a newer schema ({schema})",
        f"a cache of schema {SCHEMA} or older",
        "update StepCLIP: a newer one wrote this; nothing was changed",
    )


def _schema(row_file: Path) -> int:
    """The schema in the footer of a row file that cannot be read as one of ours; 0 where there is none."""
    import pyarrow.parquet as pq

    with suppress(Exception):  # any damage
        said = pq.read_schema(row_file).metadata
        if int(said[ROWS_CHECK]) == zlib.crc32(said[ROWS_KEY]):
            return int(json.loads(said[ROWS_KEY])["schema"])
    return 0


def differences(rows: ShardRows, own: ShardRows, header: Header | None = None) -> list[str]:
    """What two accounts of one shard do not say alike."""
    untold = {"committed", "runs"} if header and header.about.schema == 1 else set()
    keys = [each.name for each in fields(ShardRows) if each.name not in _REPLACED | untold]
    return [key for key in keys if _plain(getattr(rows, key)) != _plain(getattr(own, key))]


def _plain(value: Any) -> Any:
    return [each or None for each in value] if isinstance(value, list) else value


# ---- the bytes of videos


class Data:
    """A data file whose videos are read where rows say that they lie."""

    def __init__(self, path: Path, tick: Callable[[int], None] = lambda _: None) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed in __exit__
        self._tick = tick
        self._room = bytearray(_BLOCK)

    def __enter__(self) -> Data:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def fault(self, rows: ShardRows, row: int) -> tuple[str, str] | None:
        """(kind, words) of what is wrong with a video; None when all its bytes are as they were written."""
        value, wrong = 0, ""
        try:
            for part in _parts(rows, row):
                done, last = 0, -np.inf
                for block in self._blocks(part):
                    value = zlib.crc32(block.data, value)
                    if not wrong and (found := _unlikely(block, part, last)):
                        wrong = f"frame {done + found[0]} of its {part.name}: {found[1]}"
                    done, last = done + len(block), block[-1, 0]
        except (OSError, ValueError) as error:
            return "checksum", f"it cannot be read: {error}"
        if value != rows.crc32[row]:
            return (
                "checksum",
                f"its bytes are not those written (crc32 {value:08x}, not {rows.crc32[row]:08x})",
            )
        if not 0 <= rows.durations[row] < np.inf:
            wrong = wrong or f"a duration of {rows.durations[row]:g} s"
        return ("values", wrong) if wrong else None

    def video(self, rows: ShardRows, row: int) -> Video:
        """A whole video, in memory."""
        arrays = [
            np.concatenate([block.copy() for block in self._blocks(part)]) for part in _parts(rows, row)
        ]
        features, times, *views = arrays
        return Video(
            rows.ids[row],
            features,
            times[:, 0],
            rows.durations[row],
            np.stack(views) if views else None,
            _source(rows, row),
            rows.commits[row],
        )

    def _blocks(self, part: _Part) -> Iterator[np.ndarray]:
        """The rows of a part, some at a time, in memory that is used again. Raises ValueError at a cut."""
        unit = part.width * part.dtype.itemsize
        at_once = max(1, len(self._room) // unit)
        if at_once * unit > len(self._room):
            self._room = bytearray(unit)
        self._file.seek(part.place)
        for first in range(0, part.count, at_once):
            block = memoryview(self._room)[: min(at_once, part.count - first) * unit]
            done = 0
            while done < len(block):
                if not (got := self._file.readinto(block[done:])):
                    raise ValueError("the file ends before it does")
                done += got
            self._tick(done)
            yield np.frombuffer(block, part.dtype).reshape(-1, part.width)


@dataclass(frozen=True, slots=True)
class _Part:
    """One array of one video: `count` rows of `width` numbers from the byte `place` of the file."""

    name: str
    place: int
    count: int
    width: int
    dtype: np.dtype


def _parts(rows: ShardRows, row: int) -> Iterator[_Part]:
    """The arrays of a video in the order of its checksum: features, times, each of its views."""
    first, count, dtype = rows.first[row], rows.frames[row], np.dtype(rows.dtype)
    frame = rows.dim * dtype.itemsize
    features_at, times_at, views_at = rows.places
    yield _Part("features", features_at + first * frame, count, rows.dim, dtype)
    yield _Part("times", times_at + first * 8, count, 1, np.dtype("<f8"))
    for copy in range(rows.views):
        place = views_at + (copy * rows.count + first) * frame
        yield _Part(f"view {copy}", place, count, rows.dim, dtype)


def _unlikely(block: np.ndarray, part: _Part, last: float) -> tuple[int, str] | None:
    """(row, words) of the first value that no writer takes. last: the time before those of this block."""
    if part.name == "times":
        times = np.concatenate([[last], block[:, 0]])
        bad = {"a time that is not after the one before": ~(np.diff(times) > 0) | ~np.isfinite(times[1:])}
    else:
        # the bits of a float without its sign grow with it: 0 is zero, infinity's and above are not finite
        bits = block.view(f"u{part.dtype.itemsize}")
        largest = (bits & np.iinfo(bits.dtype).max // 2).max(axis=1)
        infinite = np.array(np.inf, part.dtype).view(bits.dtype)
        bad = {"not finite": largest >= infinite, "all zero": largest == 0}
    for words, rows in bad.items():
        if rows.any():
            return int(rows.argmax()), words
    return None


def _source(rows: ShardRows, row: int) -> Source | None:
    with suppress(ValueError, TypeError):
        return rows.source(row)
    return None

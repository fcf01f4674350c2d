"""Which shards a cache folder has and where each video lies: what the row files say, looked up together.

A large cache has thousands of row files. rows.parquet is a copy of them all, for opening at once; a row file
whose name, size and time are not as the copy says is read itself, so the copy is never needed, never wrong.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path

from .errors import StepclipError
from .files import TEMPORARY, write_atomically
from .shard import ROWS_CHECK, ROWS_KEY, ROWS_TYPES, ShardRows, read_rows, rows_checksum, shard_rows

COPY = "rows.parquet"
_WORTH = 64  # row files that no copy has before a new copy is worth its write
_log = logging.getLogger("stepclip")


class Catalogue:
    """The committed shards of one fingerprint, and where each video lies: in its newest intact copy."""

    def __init__(self, folder: Path, digest: str) -> None:
        self.folder, self.digest = folder, digest
        self._known: dict[str, tuple[tuple[int, int], ShardRows]] = {}  # by row file: (bytes, time), rows
        self._copied: set[str] = set()
        self.shards: list[ShardRows] = []
        self.strangers: list[ShardRows] = []  # of another fingerprint
        self.faults: dict[str, str] = {}  # by shard: why its data cannot be read
        self.notes: list[str] = []  # what else lies there
        self.unread: list[str] = []  # of these: row files that are damaged
        self.where: dict[str, tuple[ShardRows, int]] = {}
        self.refresh()

    def refresh(self) -> None:
        """Look again: what other writers committed, what was compacted or lost."""
        while not self._refreshed():
            pass

    def _refreshed(self) -> bool:
        """False when a row file was removed meanwhile: what it held lies in a newer shard."""
        there = listing(self.folder / "shards")
        wanted = [name for name in there if name.endswith(".parquet") and not name.startswith(".")]
        if not self._known and len(wanted) >= _WORTH:
            self._known = read_copy(self.folder)
            self._copied = set(self._known)
        self.notes, self.unread, self.faults, self.strangers = [], [], {}, []
        shards = []
        known = {}
        for name in sorted(there):
            if name.endswith(TEMPORARY):
                self.notes.append(f"shards/{name} was never finished (or is being written now)")
            elif name.endswith(".h5") and name[:-3] + ".parquet" not in there:
                self.notes.append(f"shards/{name} has no row file: its writer was stopped before the commit")
            elif name in wanted:
                stamp, rows = self._known.get(name, (None, None))
                if rows is None or stamp != there[name]:
                    try:
                        rows = read_rows(self.folder / "shards" / name)
                    except StepclipError as error:
                        if not (self.folder / "shards" / name).exists():
                            return False
                        self.notes.append(error.found)
                        self.unread.append(error.found)
                        continue
                known[name] = (there[name], rows)
                if rows.digest != self.digest:
                    self.notes.append(
                        f"shards/{name} has the fingerprint {rows.digest}, the cache {self.digest}"
                    )
                    self.strangers.append(rows)
                    continue
                data = there.get(rows.name + ".h5")
                if fault := rows.fault() if data is None else rows.fault_of(data[0]):
                    self.faults[rows.name] = fault
                shards.append(rows)
        self._known = known
        shards.sort(key=lambda rows: (rows.name not in self.faults, rows.committed, rows.name))
        self.shards = shards
        self.where = {
            rows.ids[row]: (rows, row) for rows, first, last in self._by_age() for row in range(first, last)
        }
        return True

    def _by_age(self) -> Iterator[tuple[ShardRows, int, int]]:
        """All videos in the order of their commits, as (shard, rows from, rows to); damaged shards first."""
        runs = []
        for rows in self.shards:
            first = 0
            for count, committed in rows.runs:
                key = (rows.name not in self.faults, committed, rows.name, first)
                runs.append((key, rows, first + count))
                first += count
        for key, rows, last in sorted(runs, key=lambda run: run[0]):
            yield rows, key[-1], last

    @property
    def lost(self) -> list[str]:
        """The faults of shards that hold the only copy of a video."""
        if not self.faults:
            return []
        needed = {rows.name for rows, _ in self.where.values() if rows.name in self.faults}
        return [self.faults[name] for name in sorted(needed)]

    def intact(self) -> set[str]:
        """The ids of videos whose data file is there in full."""
        return {video_id for video_id, (rows, _) in self.where.items() if rows.name not in self.faults}

    def newest(self) -> int:
        """The time of the latest commit, nanoseconds since 1970."""
        return max((rows.committed for rows in self.shards), default=0)

    def keep_copy(self, always: bool = False) -> None:
        """Write rows.parquet anew when many row files are not in it; a disk that refuses costs nothing."""
        fresh = len(self._known.keys() - self._copied)
        if fresh >= _WORTH or (always and (fresh or self._copied - self._known.keys())):
            try:
                write_copy(self.folder, self._known)
                self._copied = set(self._known)
            except StepclipError as error:
                _log.warning("%s", error.found)


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Each file's size and time.

    One look may miss a shard that is made while it goes on, and also the smaller ones that it took the place
    of, if they are gone when their turn comes. Two looks, of which the second lacks nothing, cannot.
    """
    before = _look(folder)
    while True:
        now = _look(folder)
        if all(name in now or name.startswith(".") for name in before):
            return now
        before = now


def _look(folder: Path) -> dict[str, tuple[int, int]]:
    try:
        with os.scandir(folder) as entries:
            found = {}
            for entry in entries:
                try:
                    stat = entry.stat()
                except FileNotFoundError:  # it was renamed or removed just now
                    continue
                found[entry.name] = (stat.st_size, stat.st_mtime_ns)
            return found
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StepclipError(
            f"{folder} cannot be read: {error.strerror}", "a folder that can be read"
        ) from error


def write_copy(folder: Path, known: dict[str, tuple[tuple[int, int], ShardRows]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    shards = [
        {
            "name": name,
            "stamp": stamp,
            "videos": len(rows.ids),
            "bytes": rows.bytes,
            "digest": rows.digest,
            "dtype": rows.dtype,
            "dim": rows.dim,
            "views": rows.views,
            "features_at": rows.places[0],
            "times_at": rows.places[1],
            "views_at": rows.places[2],
            "committed": rows.committed,
            "runs": rows.runs,
            "head_crc32": rows.head,
        }
        for name, (stamp, rows) in known.items()
    ]
    every = [rows for _, rows in known.values()]

    def flat(values: Iterable[Sequence[object]]) -> list[object]:
        return [value for part in values for value in part]

    columns = {
        "video_id": pa.array(flat(rows.ids for rows in every), pa.string()),
        "first": pa.array(flat(rows.first for rows in every), pa.int64()),
        "frames": pa.array(flat(rows.frames for rows in every), pa.int64()),
        "duration": pa.array(flat(rows.durations for rows in every), pa.float64()),
        "crc32": pa.array(flat(rows.crc32 for rows in every), pa.uint32()),
        "source": pa.array(flat(rows.sources for rows in every), pa.string()),
    }
    said = json.dumps(shards).encode()
    check = str(zlib.crc32(said, rows_checksum(*(column.to_pylist() for column in columns.values()))))
    table = pa.table(columns).replace_schema_metadata({ROWS_KEY: said, ROWS_CHECK: check})
    with write_atomically(folder / COPY) as file:
        pq.write_table(table, file, write_page_checksum=True)


def read_copy(folder: Path) -> dict[str, tuple[tuple[int, int], ShardRows]]:
    """What rows.parquet holds, by row file; nothing when it is missing, damaged or of another StepCLIP."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with open(folder / COPY, "rb") as file:
            table = pq.ParquetFile(file, page_checksum_verification=True).read(use_threads=False)
        said = table.schema.metadata[ROWS_KEY]
        columns = [table[key].to_pylist() for key in ROWS_TYPES]
        if int(table.schema.metadata[ROWS_CHECK]) != zlib.crc32(said, rows_checksum(*columns)):
            return {}
        shards = json.loads(said)
        ends = list(accumulate((about["videos"] for about in shards), initial=0))
        return {
            about["name"]: (
                (about["stamp"][0], about["stamp"][1]),
                shard_rows(
                    (folder / "shards" / about["name"]).with_suffix(".h5"),
                    about,
                    *(column[start:end] for column in columns),
                ),
            )
            for about, start, end in zip(shards, ends, ends[1:], strict=False)
        }
    except (OSError, ValueError, KeyError, TypeError, IndexError, pa.ArrowException):
        return {}

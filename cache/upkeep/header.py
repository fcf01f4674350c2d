"""What a data file says of itself, read also where it may be damaged.

HDF5 trusts its own bytes: one flipped bit in a thousand makes it loop forever or crash. A file that no
checksum vouches for is therefore tried in a child process first.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import StepclipError
from ..fingerprint import Fingerprint
from ..layout import CacheInfo
from ..shard import SCHEMA, ShardRows, shard_rows
from ..texts import scan_texts

_SECONDS = 10  # of the processor, for one file, which takes milliseconds
_DAMAGED = (OSError, KeyError, RuntimeError, AttributeError, TypeError, MemoryError, OverflowError)


@dataclass(frozen=True, eq=False)
class Header:
    """The rows that a data file tells of itself, and the cache that it was made for."""

    rows: ShardRows
    about: CacheInfo


class NewerSchema(ValueError):
    """A newer StepCLIP wrote this."""


def read_header(path: Path) -> Header:
    """Raises ValueError, in words, when it is damaged or of a newer schema.

    May never return, or crash, on a damaged file that `survivors` did not pass.
    """
    import h5py

    try:
        # the file never changes: HDF5's own lock would only refuse folders that cannot lock
        with h5py.File(path, "r", locking=False) as file:
            said = {
                key: value.item() if hasattr(value, "item") else value for key, value in file.attrs.items()
            }
            if (schema := int(said["schema"])) > SCHEMA:
                raise NewerSchema(f"it has schema {schema}, this StepCLIP reads up to {SCHEMA}")
            sets = {key: file[key] for key in file}
            rows = _rows(sets, path, said)
            if fault := rows_fault(rows) or _arrays_fault(sets, rows):
                raise ValueError(fault)
        fingerprint = Fingerprint(json.loads(said["fingerprint"]))
        if fingerprint.digest != rows.digest:
            raise ValueError("its digest does not fit its fingerprint")
        return Header(rows, CacheInfo(fingerprint, rows.dim, rows.dtype, rows.views, schema))
    except (*_DAMAGED, StepclipError) as error:
        raise ValueError((str(error).splitlines() or [type(error).__name__])[0]) from error


def ends_before(path: Path) -> bool:
    """Whether a data file is shorter than its first bytes say, so that HDF5 refuses it."""
    with open(path, "rb") as file:
        first = file.read(48)
        return len(first) < 48 or int.from_bytes(first[40:], "little") > os.fstat(file.fileno()).st_size


def _rows(sets: dict[str, Any], path: Path, said: dict[str, Any]) -> ShardRows:
    size = path.stat().st_size

    def column(key: str) -> Any:
        if (found := sets[key]).nbytes > size:
            raise ValueError(f"its {key} are larger than the file")
        values = found[:].tolist()
        return [value.decode() for value in values] if key in ("ids", "sources") else values

    ids, offsets = column("ids"), column("offsets")
    committed = said.get("committed", path.stat().st_mtime_ns)  # schema 1 kept it in the row file alone
    times = column("committed") if "committed" in sets else [committed] * len(ids)
    sources: list[str | None] = [None] * len(ids)
    if "sources" in sets:
        sources = [text or None for text in column("sources")]
    durations, crc32 = column("durations"), column("crc32")
    if {len(ids), len(offsets) - 1} != {len(durations)} or {*map(len, (crc32, times, sources))} != {len(ids)}:
        raise ValueError("its columns are not of one length")
    about = {
        **said,
        "bytes": size,
        "committed": max(times, default=committed),
        "runs": [(len(list(run)), time) for time, run in groupby(times)],
    }
    for key in ("features", "times", "views"):
        about[f"{key}_at"] = sets[key].id.get_offset() if key in sets else -1
    frames = [end - start for start, end in pairwise(offsets)]
    return shard_rows(path, about, ids, offsets[:-1], frames, durations, crc32, sources)


def rows_fault(rows: ShardRows) -> str:
    """What no writer writes: rows that overlap, or an id twice; "" when there is nothing of that."""
    if not rows.ids or min(rows.frames) < 1 or rows.first != np.cumsum([0, *rows.frames])[:-1].tolist():
        return "its videos do not lie one after the other"
    if len(set(rows.ids)) < len(rows.ids):
        return "it has a video twice"
    return ""


def _arrays_fault(sets: dict[str, Any], rows: ShardRows) -> str:
    shapes: dict[str, tuple[int, ...]] = {"features": (rows.count, rows.dim), "times": (rows.count,)}
    if rows.views:
        shapes["views"] = (rows.views, rows.count, rows.dim)
    for key, shape in shapes.items():
        wanted = np.dtype("<f8" if key == "times" else rows.dtype)
        if key not in sets or (sets[key].shape, sets[key].dtype) != (shape, wanted):
            return f"its {key} are not of the shape and dtype that it says"
    return ""


# ---- a child that may die of it


def survivors(files: Sequence[Path]) -> set[Path]:
    """The files that HDF5 comes to an end with, for good or ill; 0.3 s in all, and 10 s for one it loops on.

    Raises StepclipError when no child process can be started.
    """
    left, passed = list(files), set[Path]()
    while left:
        paths = os.pathsep.join(path for path in sys.path if path)
        child = subprocess.run(
            [sys.executable, "-c", "from stepclip.cache.upkeep.header import try_files; try_files()"],
            input="\0".join(map(os.path.abspath, left)).encode(errors="surrogateescape"),
            capture_output=True,
            env={**os.environ, "PYTHONPATH": paths},
        )
        done = len(child.stdout)
        if child.returncode > 0 or (child.returncode == 0 and done < len(left)):
            said = (child.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
            raise StepclipError(
                f"a child process that tries damaged files cannot be started: {said}",
                f"that {sys.executable} can import stepclip",
            )
        passed.update(left[:done])
        left = left[done + 1 :]
    return passed


def try_files() -> None:
    """The child: reads each file whose path it is given, and says so with one letter."""
    import signal

    for name in sys.stdin.buffer.read().decode(errors="surrogateescape").split("\0"):
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_PROF, _SECONDS)  # ends the process, wherever it is
        with suppress(Exception):
            path = Path(name)
            scan_texts(path, "") if path.name == "text.h5" else read_header(path)
        sys.stdout.write(".")
        sys.stdout.flush()

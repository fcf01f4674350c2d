"""What lies in a cache folder besides its shards, for the reader and the writer alike.

cache.json               schema, fingerprint, dimension, dtype, number of views
shards/<name>.h5         see shard.py
shards/<name>.parquet    one row per video of that shard: the commit. A video exists when its row says so.
rows.parquet             a copy of all row files, so that a large cache opens at once; see catalogue.py
text.h5                  see texts.py
failed.jsonl             one row per video that could not be done
damaged/                 what `stepclip cache repair` put aside
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from .errors import StepclipError
from .files import read_json, write_atomically, write_json
from .fingerprint import Fingerprint
from .shard import READABLE, SCHEMA

LOCK = ".lock"  # held while one of the files that all writers share is changed
UPKEEP = ".upkeep"  # locked by whoever moves videos from shard to shard: a merge, a compaction
_log = logging.getLogger("stepclip")


@dataclass(frozen=True)
class Failure:
    """Why a video is not in the cache. `reason` is a short slug: missing-file, no-video-stream, truncated.

    `source`: the file that failed, as `Source.json`; "" where there was none.
    """

    video_id: str
    path: str
    reason: str
    detail: str = ""
    attempts: int = 1
    source: str = ""


@dataclass(frozen=True)
class CacheInfo:
    """The contents of cache.json. `views`: augmented copies of every frame that are kept beside it."""

    fingerprint: Fingerprint
    dim: int
    dtype: str
    views: int = 0
    schema: int = SCHEMA

    def account(self, writer: str) -> dict[str, str | int]:
        """What every file says of its origin."""
        from .. import __version__

        return {
            "schema": SCHEMA,
            "digest": self.fingerprint.digest,
            "dim": self.dim,
            "dtype": self.dtype,
            "views": self.views,
            "writer": f"stepclip {__version__}, {writer}",
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def with_shape(self) -> Fingerprint:
        """All that must be the same in one cache, as one fingerprint, to compare key by key."""
        return Fingerprint(
            {
                **self.fingerprint.fields,
                "cache.dim": self.dim,
                "cache.dtype": self.dtype,
                "cache.views": self.views,
            }
        )


def cache_folder(path: str | os.PathLike[str]) -> Path:
    """`path` itself, or its folder `features` when the cache is there."""
    folder = Path(path)
    inner = folder / "features"
    return inner if not (folder / "cache.json").exists() and (inner / "cache.json").exists() else folder


def read_about(folder: Path) -> CacheInfo | None:
    """cache.json, checked; None when there is none. Raises StepclipError: damaged, or of another schema."""
    path = folder / "cache.json"
    if not path.exists():
        return None
    by_hand = "stepclip cache repair, which makes it anew from the shards"
    try:
        kept = read_json(path)
    except StepclipError as error:
        raise StepclipError(error.found, "the cache.json that StepCLIP wrote", by_hand) from error
    if not isinstance(kept, dict) or not isinstance(schema := kept.get("schema"), int):
        raise StepclipError(
            f"{path} is not the account of a feature cache", "the cache.json that StepCLIP wrote", by_hand
        )
    if schema not in READABLE:
        raise StepclipError(
            f"the cache {folder} has schema {schema}",
            f"one of the schemas that this StepCLIP reads: {', '.join(map(str, READABLE))}",
            "update StepCLIP: a newer one wrote this"
            if schema > SCHEMA
            else "stepclip extract under another DATASET name or --root",
        )
    try:
        info = CacheInfo(
            Fingerprint(kept["fingerprint"]),
            int(kept["dim"]),
            str(kept["dtype"]),
            int(kept.get("views", 0)),
            schema,
        )
        intact = info.fingerprint.digest == kept["digest"]
    except (KeyError, TypeError, ValueError, AttributeError):
        intact = False
    if not intact:
        raise StepclipError(
            f"{path} was changed after it was written", "its digest to fit its fields", by_hand
        )
    return info


def write_about(folder: Path, info: CacheInfo, writer: str) -> None:
    """Write cache.json, atomically."""
    write_json(folder / "cache.json", {**info.account(writer), "fingerprint": info.fingerprint.fields})


def read_failures(folder: Path) -> list[Failure]:
    """The rows of failed.jsonl by id, the newest of each; an unreadable line is named and left out."""
    found, damaged = scan_failures(folder)
    for number in damaged:
        _log.warning("%s, line %d cannot be read and is left out", folder / "failed.jsonl", number)
    return found


def scan_failures(folder: Path) -> tuple[list[Failure], list[int]]:
    """The failures by id, the newest of each, and the numbers of the lines that cannot be read."""
    try:
        lines = (folder / "failed.jsonl").read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return [], []
    found: dict[str, Failure] = {}
    damaged = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                failure = Failure(**json.loads(line))
                if not isinstance(failure.video_id, str):
                    raise TypeError("no video id")
            except (ValueError, TypeError):
                damaged.append(number)
                continue
            found[failure.video_id] = failure
    return [found[video_id] for video_id in sorted(found)], damaged


def write_failures(folder: Path, failures: Iterable[Failure]) -> None:
    """Write failed.jsonl anew, atomically, the last of each video; hold the folder's lock meanwhile."""
    with write_atomically(folder / "failed.jsonl", "w") as file:
        newest = {failure.video_id: failure for failure in failures}
        file.writelines(json.dumps(vars(failure)) + "\n" for failure in newest.values())

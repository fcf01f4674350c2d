"""The commit of a shard: its data under a name of its own, then its row file, with which its videos exist."""

from __future__ import annotations

import os
import re
import secrets
import socket
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from .files import write_atomically, write_pieces
from .layout import CacheInfo
from .shard import Video, shard_pieces, write_rows


def own_name(kind: str = "") -> str:
    """A name for shards that no other process takes: the host, the process, random digits."""
    return "-".join([*([kind] if kind else []), host_name(), str(os.getpid()), secrets.token_hex(3)])


def host_name() -> str:
    return re.sub(r"[^A-Za-z0-9]+", "", socket.gethostname())[:16] or "host"


def commit_shard(
    folder: Path, name: str, numbers: Iterator[int], info: CacheInfo, videos: Sequence[Video], now: int
) -> Path:
    """Write videos as one shard `name`-number of a cache folder; on return they exist, at the time `now`.

    A video that has a time of commit already keeps it, so that a copy never counts as newer than what it is a
    copy of. Raises StepclipError when the disk refuses; nothing half-written counts then.
    """
    times = [video.committed or now for video in videos]
    about = {**info.account(name), "committed": max(times)}
    pieces, places = shard_pieces({**about, "fingerprint": info.fingerprint.json}, videos)
    shard, size = _place(folder / "shards", name, numbers, pieces)
    frames = [len(video.features) for video in videos]
    rows = {
        "video_id": [video.video_id for video in videos],
        "first": np.cumsum([0, *frames])[:-1],
        "frames": frames,
        "duration": [video.duration for video in videos],
        "crc32": [video.crc32 for video in videos],
        "source": [video.source.json if video.source else None for video in videos],
    }
    said: dict[str, Any] = {**about, **places, "bytes": size}
    if len(runs := [(len(list(same)), committed) for committed, same in groupby(times)]) > 1:
        said["runs"] = runs
    try:
        write_rows(shard.with_suffix(".parquet"), said, rows)
    except BaseException:
        shard.unlink(missing_ok=True)  # data without rows would only take up room
        raise
    return shard


def _place(
    shards: Path, name: str, numbers: Iterator[int], pieces: Sequence[bytes | memoryview | np.ndarray]
) -> tuple[Path, int]:
    """Put the data under the next free number; two writers of one name never share a shard."""
    while True:
        shard = shards / f"{name}-{next(numbers):05d}.h5"
        if shard.exists() or shard.with_suffix(".parquet").exists():
            continue
        try:
            with write_atomically(shard, exclusive=True) as file:
                size = write_pieces(file, pieces)
            return shard, size
        except FileExistsError:
            continue

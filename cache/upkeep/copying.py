"""Videos from shard to shard: what a merge and a compaction have in common."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np

from ..catalogue import Catalogue
from ..commit import commit_shard, host_name, own_name
from ..errors import StepclipError
from ..files import TEMPORARY, sync_folder
from ..layout import CacheInfo
from ..shard import ShardRows, Video, map_shard, whole_video
from ..store import FeatureStore
from .header import read_header, survivors
from .mergereport import MergeReport

SHARD_BYTES = 256 << 20
BUSY = "another repair, merge or compaction"
_MADE = "merged"  # what the names of our shards begin with


@dataclass(frozen=True, eq=False)
class Opened:
    """A cache whose shards are copied from."""

    folder: Path
    info: CacheInfo
    catalogue: Catalogue


def open_cache(path: str | os.PathLike[str]) -> Opened:
    """Raises StepclipError when there is no cache."""
    store = FeatureStore.open(path)
    info = CacheInfo(store.fingerprint, store.dim, store.dtype, store.views)
    return Opened(store.path, info, store._catalogue)


def frame_bytes(info: CacheInfo) -> int:
    """What one frame takes, with its views and its time."""
    return info.dim * np.dtype(info.dtype).itemsize * (1 + info.views) + 8


def by_shard(catalogue: Catalogue, video_ids: Iterable[str]) -> Iterator[tuple[ShardRows, list[int]]]:
    """Where videos lie, shard by shard, in the order of the files: (shard, rows)."""
    shards: dict[str, tuple[ShardRows, list[int]]] = {}
    for video_id in video_ids:
        rows, row = catalogue.where[video_id]
        shards.setdefault(rows.name, (rows, []))[1].append(row)
    for _, (rows, picks) in sorted(shards.items()):
        yield rows, sorted(picks)


def read_videos(rows: ShardRows, picks: Iterable[int]) -> Iterator[tuple[int, Video | str]]:
    """Some videos of a shard, by their rows, each in memory; instead of a damaged one, what is wrong."""
    try:
        mapped = map_shard(rows)
    except StepclipError as error:
        yield from ((row, error.found) for row in picks)
        return
    for row in picks:
        try:
            yield row, whole_video(rows, row, mapped)
        except StepclipError as error:
            yield row, error.found


def counted(faults: Iterable[str]) -> list[str]:
    """Each of the words once, with the number of videos where they were of several."""
    return [why if count == 1 else f"{why} ({count} videos)" for why, count in Counter(faults).items()]


class Copies:
    """Copies of videos, collected and then written as one new shard after the other.

    Each keeps the time of its first commit: it never counts as newer than what others commit meanwhile.
    tick: is told how many bytes were done.
    """

    def __init__(
        self, folder: Path, info: CacheInfo, report: MergeReport, tick: Callable[[int], None]
    ) -> None:
        self._folder, self._info, self._report, self._tick = folder, info, report, tick
        self.name, self._numbers = own_name(_MADE), count()
        self._frame = frame_bytes(info)
        self.videos: list[Video] = []
        self.bytes = 0  # of those that wait

    def add(self, video: Video) -> None:
        self.videos.append(video)
        self.bytes += self._frame * len(video.times)
        self._tick(self._frame * len(video.times))

    def commit(self) -> None:
        """Write what waits as one shard."""
        if not self.videos:
            return
        shard = commit_shard(self._folder, self.name, self._numbers, self._info, self.videos, time.time_ns())
        self._report.videos += len(self.videos)
        self._report.frames += sum(len(video.times) for video in self.videos)
        self._report.bytes += self.bytes
        self._report.freed -= size_of(shard) + size_of(shard.with_suffix(".parquet"))
        self.videos, self.bytes = [], 0


def sweep(catalogue: Catalogue) -> None:
    """Remove what a merge or compaction of this host left that was killed before its commit; hold UPKEEP.

    Data without rows may also be a shard whose row file was lost: it stays, for `stepclip cache repair`, when
    it has a video that lies nowhere else.
    """
    ours = f"{_MADE}-{host_name()}-"
    for path in (catalogue.folder / "shards").glob(f"*{ours}*"):
        aside = path.name.startswith("." + ours) and path.name.endswith(TEMPORARY)
        alone = path.name.startswith(ours) and not path.with_suffix(".parquet").exists()
        if aside or (alone and _lies_elsewhere(path, catalogue)):
            remove(path)


def _lies_elsewhere(data: Path, catalogue: Catalogue) -> bool:
    """Whether each video of data without rows is committed, as new or newer, in a shard that is there."""
    try:
        rows = read_header(data).rows if survivors([data]) else None
    except ValueError:
        return False
    there = {video_id: catalogue.where[video_id] for video_id in catalogue.intact()}
    return rows is not None and all(
        video_id in there and there[video_id][0].commits[there[video_id][1]] >= committed
        for video_id, committed in zip(rows.ids, rows.commits, strict=True)
    )


def remove_shards(shards: Iterable[ShardRows]) -> None:
    """Remove shards whose videos lie in others as well.

    The data goes before the rows: rows without data, which a kill in between leaves, still say which videos
    they were of, so that the next run knows that nothing is lacking.
    """
    shards = list(shards)
    for suffix in (".h5", ".parquet"):
        for rows in shards:
            remove(rows.file.with_suffix(suffix))
        for folder in {rows.file.parent for rows in shards}:
            sync_folder(folder)


def remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StepclipError(
            f"{path} cannot be removed: {error.strerror or error}",
            "files that this user may remove, which nobody holds open",
            "the same again; nothing is lost",
        ) from error


def size_of(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0

"""The many small shards of a cache become few large ones, and what was replaced goes.

A shard is removed only when every video of it lies in another one that stays, committed then or later. Where
a compaction was killed, that rule alone tells the next one what is left to do.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence

from ..files import locked
from ..layout import UPKEEP, read_about, write_about
from ..progress import byte_bar
from ..shard import SCHEMA, ShardRows, Video
from .copying import (
    BUSY,
    SHARD_BYTES,
    Copies,
    Opened,
    by_shard,
    counted,
    frame_bytes,
    open_cache,
    read_videos,
    remove_shards,
    size_of,
    sweep,
)
from .mergereport import MergeReport


def compact(
    path: str | os.PathLike[str], *, shard_bytes: int = SHARD_BYTES, progress: bool = True
) -> MergeReport:
    """Bring the videos of a cache's small shards into shards of about shard_bytes; drop replaced copies.

    Readers and writers may be at work; what they commit meanwhile is not part of it. It takes up to twice
    shard_bytes of memory, and as much room on the disk besides the cache. A damaged shard is not touched, and
    named in the report. Raises StepclipError when there is no cache, when another compaction is at work, or
    when the disk refuses; nothing is lost then.
    """
    began = time.monotonic()
    cache = open_cache(path)
    report = MergeReport("compact", str(cache.folder))
    with locked(cache.folder / UPKEEP, BUSY):
        cache.catalogue.refresh()
        report.shards_before = len(cache.catalogue.shards)
        _Compaction(cache, shard_bytes, report).run(progress)
        sweep(cache.catalogue)
        report.shards_after = len(cache.catalogue.shards)
    report.seconds = time.monotonic() - began
    return report


class _Compaction:
    """One compaction; the lock is held."""

    def __init__(self, cache: Opened, shard_bytes: int, report: MergeReport) -> None:
        self.folder, self.info, self.catalogue = cache.folder, cache.info, cache.catalogue
        self.shard_bytes, self.report = shard_bytes, report
        self.frame = frame_bytes(self.info)
        self.live: dict[str, list[int]] = {rows.name: [] for rows in self.catalogue.shards}
        for rows, row in self.catalogue.where.values():
            self.live[rows.name].append(row)

    def run(self, progress: bool) -> None:
        before = [rows.key for rows in self.catalogue.shards]
        touchable = self._touchable()
        self._remove([rows for rows in touchable if not self.live[rows.name]])
        self.report.damaged += [*self.catalogue.faults.values(), *self.catalogue.unread]
        small = [
            rows
            for rows in touchable
            if self.live[rows.name]
            and rows.name not in self.catalogue.faults
            and (rows.count * self.frame < self.shard_bytes or self._replaced(rows))
        ]
        frames = sum(rows.frames[row] for rows in small for row in self.live[rows.name])
        with byte_bar("compacting", frames * self.frame, progress) as tick:
            self._copy(small, Copies(self.folder, self.info, self.report, tick))
        self.catalogue.refresh()
        if before != [rows.key for rows in self.catalogue.shards]:
            self.catalogue.keep_copy(always=True)

    def _replaced(self, rows: ShardRows) -> int:
        """How many videos of a shard lie in another one, as new or newer."""
        return len(rows.ids) - len(self.live[rows.name])

    def _touchable(self) -> list[ShardRows]:
        """All shards but those that are cut, and those with a copy of a video whose newest one is damaged."""
        catalogue = self.catalogue
        whole = [rows for rows in catalogue.shards if rows.name not in catalogue.faults]
        gone = [rows for rows in catalogue.shards if rows.name in catalogue.faults and not rows.file.exists()]
        copies = Counter(video_id for rows in whole for video_id in rows.ids)
        several = [video_id for video_id, count in copies.items() if count > 1]
        damaged: dict[str, str] = {}
        for rows, picks in by_shard(catalogue, several):
            for row, video in read_videos(rows, picks):
                if isinstance(video, str):
                    damaged[rows.ids[row]] = video
        self.report.damaged += counted(damaged.values())
        return [rows for rows in (*whole, *gone) if damaged.keys().isdisjoint(rows.ids)]

    def _copy(self, small: Iterable[ShardRows], copies: Copies) -> None:
        group: list[ShardRows] = []  # whose videos wait to be written
        for rows in small:
            found = [video for _, video in read_videos(rows, sorted(self.live[rows.name]))]
            videos = [video for video in found if isinstance(video, Video)]
            if len(videos) < len(found):
                self.report.damaged += counted(video for video in found if isinstance(video, str))
                continue
            for video in videos:
                copies.add(video)
            group.append(rows)
            if copies.bytes >= self.shard_bytes:
                self._replace(group, copies)
                group = []
        if len(group) > 1 or any(self._replaced(rows) for rows in group):
            self._replace(group, copies)

    def _replace(self, group: Sequence[ShardRows], copies: Copies) -> None:
        about = read_about(self.folder)
        if about is not None and about.schema < SCHEMA:  # an older StepCLIP would not see the new shard
            write_about(self.folder, self.info, copies.name)
        copies.commit()
        self._remove(group)

    def _remove(self, old: Sequence[ShardRows]) -> None:
        """Remove those of the shards whose videos all lie in others that stay, committed then or later."""
        if not old:
            return
        self.catalogue.refresh()
        going = {rows.key for rows in old}
        asked = {video_id for rows in old for video_id in rows.ids}
        stays: dict[str, int] = {}
        for rows in self.catalogue.shards:
            if rows.key not in going and rows.name not in self.catalogue.faults:
                for video_id, committed in zip(rows.ids, rows.commits, strict=True):
                    if video_id in asked:
                        stays[video_id] = max(committed, stays.get(video_id, 0))
        safe = [
            rows
            for rows in old
            if all(
                stays.get(video_id, -1) >= committed
                for video_id, committed in zip(rows.ids, rows.commits, strict=True)
            )
        ]
        for rows in safe:
            self.report.dropped += self._replaced(rows)
            self.report.freed += size_of(rows.file) + size_of(rows.file.with_suffix(".parquet"))
        remove_shards(safe)
        self.catalogue.refresh()

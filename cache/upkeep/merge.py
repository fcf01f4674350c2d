"""Several caches become one. `compact` (compact.py) is here too: both copy videos from shard to shard.

Only new shards are written, as every writer does, and a copy says when its video itself was committed. So a
kill at any moment costs nothing but time, the newest features of a video go on to be those that count, and
readers and writers at work are not disturbed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..catalogue import Catalogue
from ..errors import StepclipError
from ..files import TEMPORARY, locked
from ..layout import LOCK, UPKEEP, CacheInfo, Failure, cache_folder, read_about, read_failures, write_failures
from ..progress import byte_bar
from ..texts import KINDS, TextTable, read_texts
from ..writer import FeatureWriter
from .compact import compact
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
    sweep,
)
from .mergereport import MergeReport

__all__ = ["MergeReport", "compact", "merge"]

_HERE = -1  # among the caches that a video lies in: the one that is merged into
_SAME = 1e-3  # of the largest number: a text that is encoded in another batch differs by 1e-6


def merge(
    sources: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    shard_bytes: int = SHARD_BYTES,
    progress: bool = True,
) -> MergeReport:
    """Bring the videos, texts and failures of the caches `sources` into the cache `out`, made when missing.

    `out` may hold videos already, and may be one of the sources. Of a video that several caches hold with
    other content, the newest commit counts. Makes shards of about shard_bytes, which is also the memory that
    it takes. What is damaged is left out and named in the report. Raises StepclipError, before anything is
    written, when a source is no cache or was made in another way (key by key).
    """
    began = time.monotonic()
    folder = cache_folder(out)
    caches = _opened(sources, folder)
    info = _one_way(caches, folder)
    report = MergeReport("merge", str(folder), [str(cache.folder) for cache in caches])
    texts = _read_texts([folder, *(cache.folder for cache in caches)], info, report)
    with (
        locked(folder / UPKEEP, BUSY),
        FeatureWriter(folder, info.fingerprint, dim=info.dim, dtype=info.dtype, views=info.views) as writer,
    ):
        target = Catalogue(folder, info.fingerprint.digest)
        report.shards_before = len(target.shards)
        for catalogue in (target, *(cache.catalogue for cache in caches)):
            report.damaged += [
                words for words in (*catalogue.notes, *catalogue.lost) if TEMPORARY not in words
            ]
        todo = _chosen([cache.catalogue for cache in caches], target, report)
        frames = sum(_frames(caches[places[0]].catalogue, video_id) for video_id, places in todo.items())
        with byte_bar("merging", frames * frame_bytes(info), progress) as tick:
            copies = Copies(folder, info, report, tick)
            report.damaged += _copy(todo, [cache.catalogue for cache in caches], copies, shard_bytes)
        _add_texts(writer, texts, report)
        target.refresh()
        sweep(target)
        report.shards_after = len(target.shards)
        _add_failures(target, caches, report)
    report.seconds = time.monotonic() - began
    return report


# ---- what there is


def _opened(sources: Sequence[str | os.PathLike[str]], out: Path) -> list[Opened]:
    """The sources, each once, besides `out` itself."""
    if not sources:
        raise StepclipError("no caches to merge", "one cache folder or more")
    caches = {(cache := open_cache(source)).folder.resolve(): cache for source in sources}
    caches.pop(out.resolve(), None)
    return list(caches.values())


def _one_way(caches: Sequence[Opened], out: Path) -> CacheInfo:
    """What all caches have in common. Raises StepclipError when one was made in another way."""
    found = [(cache.folder, cache.info) for cache in caches]
    if (there := read_about(out)) is not None:
        found.insert(0, (out, there))
    (path, first), *others = found
    for other_path, other in others:
        if (mine := first.with_shape()) != (theirs := other.with_shape()):
            raise StepclipError(
                f"the caches {path} and {other_path} were made in two ways:\n"
                + mine.table(theirs, "first", "second"),
                "caches of one encoder, preprocessing, sampling and decoder, of one dimension and dtype",
                "stepclip extract, to make one of them in the way of the other",
            )
    return first


def _chosen(catalogues: Sequence[Catalogue], target: Catalogue, report: MergeReport) -> dict[str, list[int]]:
    """The videos to copy, and which catalogues have them, the newest first; _HERE is the target."""
    found: dict[str, list[tuple[int, int, int]]] = {}  # (time, checksum, place), newest first once sorted
    for place, catalogue in ((_HERE, target), *enumerate(catalogues)):
        for video_id, (rows, row) in catalogue.where.items():
            if rows.name not in catalogue.faults:
                found.setdefault(video_id, []).append((-rows.commits[row], rows.crc32[row], place))
    todo = {}
    for video_id, copies in sorted(found.items()):
        copies.sort()
        if len({crc32 for _, crc32, _ in copies}) > 1:
            report.conflicts.append(video_id)
        newest = copies[0][1]
        if not any(place == _HERE and crc32 == newest for _, crc32, place in copies):
            todo[video_id] = [place for _, _, place in copies]
        elif len(copies) > 1:
            report.present += 1
    return todo


def _frames(catalogue: Catalogue, video_id: str) -> int:
    rows, row = catalogue.where[video_id]
    return rows.frames[row]


# ---- videos


def _copy(
    todo: dict[str, list[int]], catalogues: Sequence[Catalogue], copies: Copies, shard_bytes: int
) -> list[str]:
    """Copy each video from the first of its places, from the next one where it is damaged there.

    Returns what is damaged, in words. Empties `todo`.
    """
    damaged = []
    while todo:
        for place, catalogue in enumerate(catalogues):
            failed = []
            for rows, picks in by_shard(catalogue, [name for name in todo if todo[name][0] == place]):
                for row, video in read_videos(rows, picks):
                    if isinstance(video, str):
                        failed.append((rows, row, video))
                        continue
                    del todo[video.video_id]
                    copies.add(video)
                    if copies.bytes >= shard_bytes:
                        copies.commit()
            if failed:
                catalogue.refresh()
            for rows, row, why in failed:
                video_id = rows.ids[row]
                there, _ = catalogue.where.get(video_id, (rows, row))
                if there.key != rows.key and there.name not in catalogue.faults:
                    continue  # a compaction moved it: it has another turn
                damaged.append(why)
                todo[video_id].pop(0)
                if not todo[video_id] or todo[video_id][0] == _HERE:
                    del todo[video_id]
    copies.commit()
    return counted(damaged)


# ---- what lies beside them


def _read_texts(folders: Sequence[Path], info: CacheInfo, report: MergeReport) -> list[dict[str, TextTable]]:
    """The texts of each cache. Raises StepclipError when they are of several dimensions."""
    tables = []
    for folder in folders:
        try:
            tables.append(read_texts(folder / "text.h5", info.fingerprint.digest))
        except StepclipError as error:
            report.damaged.append(error.found)
    dims = sorted({table.features.shape[1] for kinds in tables for table in kinds.values()})
    if len(dims) > 1:
        raise StepclipError(
            f"text features of {' and '.join(map(str, dims))} dimensions",
            "texts of one dimension in one cache",
        )
    return tables


def _add_texts(writer: FeatureWriter, tables: Sequence[dict[str, TextTable]], report: MergeReport) -> None:
    """Add the texts that are not there; of several features of one, the first in the order of the caches."""
    conflicts = set()
    for kind in KINDS:
        kept: dict[str, np.ndarray] = {}
        for table in (kinds[kind] for kinds in tables if kind in kinds):
            for string, row in table.index.items():
                one, other = kept.setdefault(string, table.features[row]), table.features[row]
                if np.abs(one - other).max() > _SAME * np.abs(one).max():
                    conflicts.add(string)
        if fresh := writer.missing_text(kept, kind):
            writer.add_text(fresh, np.stack([kept[string] for string in fresh]), kind)
            report.texts += len(fresh)
    report.text_conflicts = sorted(conflicts)


def _add_failures(target: Catalogue, caches: Sequence[Opened], report: MergeReport) -> None:
    """Note what failed everywhere, with the most attempts of all; what was done anywhere did not fail."""
    done = set(target.where).union(*(cache.catalogue.where for cache in caches))
    with locked(target.folder / LOCK):
        there = read_failures(target.folder)
        found: dict[str, Failure] = {}
        for failure in (*there, *(each for cache in caches for each in read_failures(cache.folder))):
            known = found.get(failure.video_id, failure)
            found[failure.video_id] = failure if failure.attempts > known.attempts else known
        left = [found[video_id] for video_id in sorted(found.keys() - done)]
        if left != there:
            write_failures(target.folder, left)
    report.failures = len(left)

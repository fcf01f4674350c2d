"""Reading the feature cache; `layout.py` says what lies in its folder.

A shard never changes once it has its rows, so a reader maps the file where HDF5 says that the dataset
lies, keeps no HDF5 handle, takes no lock, and is safe under threads, fork and spawn.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .catalogue import Catalogue
from .errors import StepclipError, nearest
from .files import TEMPORARY
from .fingerprint import Fingerprint
from .layout import CacheInfo, Failure, cache_folder, read_about, read_failures
from .shard import SCHEMA, Mapped, ShardRows, map_shard
from .source import Source
from .texts import TextTable, known_kind, read_texts

if TYPE_CHECKING:
    import torch

    from .mapped import MappedFeatures
    from .packed import PackedFeatures

__all__ = ["SCHEMA", "Failure", "FeatureStore", "FrameFeatures"]

_BIG = 1 << 30  # bytes beyond which loading shows a progress bar
_log = logging.getLogger("stepclip")


@dataclass(frozen=True, eq=False, slots=True)
class FrameFeatures:
    """One video: features (T, D) in the cache's dtype, times (T,) float64 in seconds, duration in seconds.

    `views` (V, T, D): the same frames in V augmented copies, in a cache that has them, else None. All arrays
    are read-only views of the mapped shard.
    """

    features: np.ndarray
    times: np.ndarray
    duration: float
    views: np.ndarray | None = None


class FeatureStore:
    """A cache, read. Open it with `FeatureStore.open(path)`; it shows what was committed at that moment."""

    def __init__(self, path: Path, about: CacheInfo, catalogue: Catalogue) -> None:
        self.path, self.fingerprint, self.dim, self.dtype = path, about.fingerprint, about.dim, about.dtype
        self.views = about.views  # augmented copies of every frame beside it
        self._catalogue = catalogue
        self.video_ids: tuple[str, ...] = tuple(sorted(catalogue.where))
        self._where = {video_id: catalogue.where[video_id] for video_id in self.video_ids}
        # all that is unreadable, half-written or lost, in words
        self.problems: tuple[str, ...] = (*catalogue.notes, *catalogue.lost)
        # videos whose only copy lies in a shard that is cut or gone
        self.damaged: frozenset[str] = frozenset(
            video_id for video_id, (rows, _) in self._where.items() if rows.name in catalogue.faults
        )
        self._maps: dict[tuple[str, int], Mapped] = {}  # by name and commit: a name may be taken again
        self._text: dict[str, TextTable] | None = None

    @classmethod
    def open(cls, path: str | os.PathLike[str], expect: Fingerprint | None = None) -> FeatureStore:
        """Open the cache folder `path` (or its parent, when that has a folder `features`).

        Raises StepclipError when there is no cache, when `expect` is not its fingerprint (with the difference
        key by key), or when it is of another schema. A damaged shard raises when one of its videos is asked
        for, not here.
        """
        folder = cache_folder(path)
        about = read_about(folder)
        if about is None:
            there = ", ".join(sorted(entry.name for entry in folder.iterdir())[:5]) if folder.is_dir() else ""
            raise StepclipError(
                f"no feature cache at {folder}" + (f" (it holds {there})" if there else ""),
                "a folder with a cache.json, as `stepclip extract` makes it",
                "stepclip extract, with the same --root and DATASET",
            )
        if expect is not None and expect != about.fingerprint:
            raise StepclipError(
                f"the cache {folder} was made in another way than is asked for now:\n"
                + about.fingerprint.table(expect, "cache", "asked"),
                "the encoder, preprocessing, sampling, decoder and dtype that made the cache",
                "stepclip extract under another DATASET name or --root, or ask for what the cache holds",
            )
        store = cls(folder, about, Catalogue(folder, about.fingerprint.digest))
        for problem in store.problems:
            if TEMPORARY not in problem:  # most likely a writer at work
                _log.warning("%s: %s", folder, problem)
        return store

    # ---- frames

    def __len__(self) -> int:
        return len(self.video_ids)

    def __contains__(self, video_id: object) -> bool:
        return video_id in self._where

    def __iter__(self) -> Iterator[str]:
        return iter(self.video_ids)

    def __getitem__(self, video_id: str) -> FrameFeatures:
        """One video, without a copy. Raises StepclipError when it is unknown or its shard is damaged."""
        mapped, first, rows, row = self._place(video_id)
        last = first + rows.frames[row]
        return FrameFeatures(
            mapped.features[first:last],
            mapped.times[first:last],
            rows.durations[row],
            None if mapped.views is None else mapped.views[:, first:last],
        )

    def length(self, video_id: str) -> int:
        """How many frames of the video are cached; reads no data."""
        rows, row = self._find(video_id)
        return rows.frames[row]

    def source(self, video_id: str) -> Source | None:
        """The file that the video was extracted from, as it was then; None where that was not kept."""
        rows, row = self._find(video_id)
        return rows.source(row)

    def load(
        self,
        device: str | torch.device = "cpu",
        video_ids: Sequence[str] | None = None,
        dtype: torch.dtype | None = None,
        progress: bool = True,
        views: bool = False,
    ) -> PackedFeatures:
        """All videos, or `video_ids` in that order, as one tensor on `device`; `dtype` converts features.

        With `views`, the augmented copies too. What does not fit in memory is `mapped` instead.
        """
        import torch

        from .packed import PackedFeatures

        ids = self._asked(video_ids)
        if views and not self.views:
            raise StepclipError(
                f"the cache {self.path} holds no augmented views", "a cache extracted with views"
            )
        while True:
            places = [self._find(video_id) for video_id in ids]
            offsets = np.zeros(len(ids) + 1, np.int64)
            np.cumsum([rows.frames[row] for rows, row in places], out=offsets[1:])
            count = int(offsets[-1])
            features = np.empty((count, self.dim), self.dtype)
            times = np.empty(count, np.float64)
            copies = np.empty((self.views, count, self.dim), self.dtype) if views else None
            shown = features.nbytes > _BIG and progress
            try:
                for rows, source, target in _tracked(_runs(places), shown, count):
                    mapped = self._map(rows)
                    features[target] = mapped.features[source]
                    times[target] = mapped.times[source]
                    if copies is not None and mapped.views is not None:
                        copies[:, target] = mapped.views[:, source]
                break
            except StepclipError:
                if not self._moved(ids, places):
                    raise
        packed = PackedFeatures(
            torch.from_numpy(features),
            torch.from_numpy(times),
            torch.from_numpy(offsets),
            ids,
            durations=torch.tensor([rows.durations[row] for rows, row in places], dtype=torch.float64),
            views=None if copies is None else torch.from_numpy(copies),
        )
        return packed if str(device) == "cpu" and dtype is None else packed.to(device, dtype)

    def mapped(
        self, device: str | torch.device = "cpu", video_ids: Sequence[str] | None = None
    ) -> MappedFeatures:
        """The same as `load`, for what does not fit in memory: rows are read when they are gathered."""
        from .mapped import MappedFeatures

        return MappedFeatures(self, self._asked(video_ids), device)

    def _asked(self, video_ids: Sequence[str] | None) -> tuple[str, ...]:
        ids = self.video_ids if video_ids is None else tuple(video_ids)
        if len(set(ids)) < len(ids):
            seen: set[str] = set()
            twice = next(each for each in ids if each in seen or seen.add(each))  # type: ignore[func-returns-value]
            raise StepclipError(f"the video '{twice}' is asked for twice", "each video once")
        return ids

    def _find(self, video_id: str) -> tuple[ShardRows, int]:
        try:
            return self._where[video_id]
        except (KeyError, TypeError):
            raise StepclipError(
                f"the cache {self.path} has no video '{video_id}'{nearest(str(video_id), self.video_ids, 3)}",
                f"one of its {len(self)} videos",
                "stepclip extract, which does what is missing; failed.jsonl says what could not be done",
            ) from None

    def _place(self, video_id: str) -> tuple[Mapped, int, ShardRows, int]:
        """(its shard's arrays, its first frame there, its shard, its row)."""
        while True:
            rows, row = self._find(video_id)
            try:
                return self._map(rows), rows.first[row], rows, row
            except StepclipError:
                if not self._moved((video_id,), ((rows, row),)):
                    raise

    def _map(self, rows: ShardRows) -> Mapped:
        mapped = self._maps.get(rows.key)
        if mapped is None:
            # a map holds a file descriptor; views already handed out stay valid
            while len(self._maps) >= _most_maps():
                self._maps.pop(next(iter(list(self._maps))), None)
            # two threads may both get here: both maps are good, the first one is kept
            mapped = self._maps.setdefault(rows.key, map_shard(rows))
        return mapped

    def _moved(self, video_ids: Sequence[str], places: Sequence[tuple[ShardRows, int]]) -> bool:
        """Look where the videos lie now, for a compaction or a repair may have moved them since.

        Whether one of them is not at the place any more where it was not found.
        """
        catalogue = Catalogue(self.path, self.fingerprint.digest)
        self._where.update(
            {video_id: place for video_id, place in catalogue.where.items() if video_id in self._where}
        )
        self._catalogue = catalogue
        there = {rows.key for rows in catalogue.shards}
        for key in list(self._maps):
            if key not in there:
                self._maps.pop(key, None)  # so that the disk has its room back
        return any(
            self._where[video_id][0].key != rows.key
            for video_id, (rows, _) in zip(video_ids, places, strict=True)
        )

    # ---- texts

    @property
    def text_dim(self) -> int:
        """The dimension of the text features; 0 when there are none."""
        return next((table.features.shape[1] for table in self._texts().values()), 0)

    def text(self, strings: Sequence[str], kind: str = "step") -> np.ndarray:
        """The features (n, D) float32 of n texts of one kind. Raises StepclipError on an unknown one."""
        table = self._texts().get(known_kind(kind))
        rows = [-1 if table is None else table.index.get(string, -1) for string in strings]
        if -1 in rows:
            missing = [string for string, row in zip(strings, rows, strict=True) if row < 0]
            raise StepclipError(
                f"the cache {self.path} lacks {len(set(missing))} {kind} texts, first: '{missing[0][:120]}'"
                + nearest(missing[0], () if table is None else table.index),
                f"a {kind} of the manifest that was extracted",
                "stepclip extract, which adds the missing texts",
            )
        if table is None:
            return np.empty((0, self.text_dim), np.float32)
        return table.features[rows]

    def has_text(self, string: str, kind: str = "step") -> bool:
        """Whether the features of this string are there."""
        table = self._texts().get(known_kind(kind))
        return table is not None and string in table.index

    def _texts(self) -> dict[str, TextTable]:
        if self._text is None:
            self._text = read_texts(self.path / "text.h5", self.fingerprint.digest)
        return self._text

    # ---- the rest

    def failures(self) -> list[Failure]:
        """The videos that could not be done, by id; one that was done later is not among them."""
        return [failure for failure in read_failures(self.path) if failure.video_id not in self._where]

    def close(self) -> None:
        """Let the maps go; the next access opens them again. Arrays already handed out stay valid."""
        self._maps.clear()
        self._text = None

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}, "_text": None}  # another process maps for itself

    def __repr__(self) -> str:
        return f"FeatureStore({str(self.path)!r}: {len(self)} videos, {self.dim}-d {self.dtype})"


def _runs(places: Sequence[tuple[ShardRows, int]]) -> Iterator[tuple[ShardRows, slice, slice]]:
    """Neighbours in one shard are copied in one go: (shard, its rows, the rows of the packed tensor)."""
    start, stop, done = 0, 0, 0
    shard: ShardRows | None = None
    for here, row in places:
        first, frames = here.first[row], here.frames[row]
        if here is not shard or first != stop:
            if shard is not None and stop > start:
                yield shard, slice(start, stop), slice(done - (stop - start), done)
            shard, start, stop = here, first, first
        stop += frames
        done += frames
    if shard is not None and stop > start:
        yield shard, slice(start, stop), slice(done - (stop - start), done)


def _most_maps() -> int:
    try:
        import resource

        return max(32, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
    except ImportError:
        return 256


def _tracked(
    runs: Iterable[tuple[ShardRows, slice, slice]], shown: bool, total: int
) -> Iterator[tuple[ShardRows, slice, slice]]:
    if not shown:
        yield from runs
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("reading the cache"),
        BarColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    began = time.monotonic()
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task("", total=total, rate="")
        for run in runs:
            yield run
            rate = run[2].stop / max(time.monotonic() - began, 1e-3)
            bar.update(task, completed=run[2].stop, rate=f"{rate:,.0f} frames/s")

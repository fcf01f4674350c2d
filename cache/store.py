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

from .errors import StepclipError, nearest
from .files import TEMPORARY
from .fingerprint import Fingerprint
from .layout import (
    SCHEMA,
    CacheInfo,
    Failure,
    ShardRows,
    TextTable,
    known_kind,
    map_shard,
    read_about,
    read_failures,
    read_texts,
    scan,
)

if TYPE_CHECKING:
    import torch

    from .packed import PackedFeatures

__all__ = ["SCHEMA", "Failure", "FeatureStore", "FrameFeatures"]

_BIG = 1 << 30  # bytes beyond which loading shows a progress bar
_log = logging.getLogger("stepclip")


@dataclass(frozen=True, eq=False, slots=True)
class FrameFeatures:
    """One video: features (T, D) in the cache's dtype, times (T,) float64 in seconds, duration in seconds.

    Both arrays are read-only views of the mapped shard.
    """

    features: np.ndarray
    times: np.ndarray
    duration: float


class FeatureStore:
    """A cache, read. Open it with `FeatureStore.open(path)`; it shows what was committed at that moment."""

    def __init__(self, path: Path, about: CacheInfo, shards: list[ShardRows], problems: list[str]) -> None:
        self.path, self.fingerprint, self.dim, self.dtype = path, about.fingerprint, about.dim, about.dtype
        # the newest intact copy of a video wins
        self._shards = sorted(shards, key=lambda rows: (not rows.fault(), rows.committed, rows.file.name))
        where = {
            video_id: (shard, row)
            for shard, rows in enumerate(self._shards)
            for row, video_id in enumerate(rows.ids)
        }
        self._where = dict(sorted(where.items()))
        lost = [
            fault
            for shard in sorted({s for s, _ in where.values()})
            if (fault := self._shards[shard].fault())
        ]
        # all that is unreadable, half-written or lost, in words
        self.problems: tuple[str, ...] = (*problems, *lost)
        self.video_ids: tuple[str, ...] = tuple(self._where)
        self._maps: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._text: dict[str, TextTable] | None = None

    @classmethod
    def open(cls, path: str | os.PathLike[str], expect: Fingerprint | None = None) -> FeatureStore:
        """Open the cache folder `path` (or its parent, when that has a folder `features`).

        Raises StepclipError when there is no cache, when `expect` is not its fingerprint (with the difference
        key by key), or when it is of another schema. A damaged shard raises when one of its videos is asked
        for, not here.
        """
        folder = Path(path)
        if not (folder / "cache.json").exists() and (folder / "features" / "cache.json").exists():
            folder = folder / "features"
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
        shards, problems = scan(folder, about.fingerprint.digest)
        store = cls(folder, about, shards, problems)
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
        shard, row = self._find(video_id)
        features, times = self._map(shard)
        rows = self._shards[shard]
        first = rows.first[row]
        last = first + rows.frames[row]
        return FrameFeatures(features[first:last], times[first:last], rows.durations[row])

    def length(self, video_id: str) -> int:
        """How many frames of the video are cached; reads no data."""
        shard, row = self._find(video_id)
        return self._shards[shard].frames[row]

    def load(
        self,
        device: str | torch.device = "cpu",
        video_ids: Sequence[str] | None = None,
        dtype: torch.dtype | None = None,
        progress: bool = True,
    ) -> PackedFeatures:
        """All videos, or `video_ids` in that order, as one tensor on `device`; `dtype` converts features."""
        import torch

        from .packed import PackedFeatures

        ids = self.video_ids if video_ids is None else tuple(video_ids)
        if len(set(ids)) < len(ids):
            twice = next(video_id for video_id in ids if ids.count(video_id) > 1)
            raise StepclipError(f"the video '{twice}' is asked for twice", "each video once")
        places = [self._find(video_id) for video_id in ids]
        offsets = np.zeros(len(ids) + 1, np.int64)
        np.cumsum([self._shards[shard].frames[row] for shard, row in places], out=offsets[1:])
        features = np.empty((int(offsets[-1]), self.dim), self.dtype)
        times = np.empty(int(offsets[-1]), np.float64)
        for shard, source, target in _tracked(
            self._runs(places), features.nbytes > _BIG and progress, len(features)
        ):
            mapped, stamps = self._map(shard)
            features[target] = mapped[source]
            times[target] = stamps[source]
        packed = PackedFeatures(
            torch.from_numpy(features),
            torch.from_numpy(times),
            torch.from_numpy(offsets),
            ids,
            durations=torch.tensor([self._shards[s].durations[r] for s, r in places], dtype=torch.float64),
        )
        return packed if str(device) == "cpu" and dtype is None else packed.to(device, dtype)

    def _runs(self, places: list[tuple[int, int]]) -> Iterator[tuple[int, slice, slice]]:
        """Neighbours in one shard are copied in one go: (shard, its rows, the rows of the packed tensor)."""
        shard, start, stop, done = -1, 0, 0, 0
        for here, row in places:
            first, frames = self._shards[here].first[row], self._shards[here].frames[row]
            if here != shard or first != stop:
                if stop > start:
                    yield shard, slice(start, stop), slice(done - (stop - start), done)
                shard, start, stop = here, first, first
            stop += frames
            done += frames
        if stop > start:
            yield shard, slice(start, stop), slice(done - (stop - start), done)

    def _find(self, video_id: str) -> tuple[int, int]:
        try:
            return self._where[video_id]
        except (KeyError, TypeError):
            raise StepclipError(
                f"the cache {self.path} has no video '{video_id}'{nearest(str(video_id), self.video_ids, 3)}",
                f"one of its {len(self)} videos",
                "stepclip extract, which does what is missing; failed.jsonl says what could not be done",
            ) from None

    def _map(self, shard: int) -> tuple[np.ndarray, np.ndarray]:
        mapped = self._maps.get(shard)
        if mapped is None:
            while (
                len(self._maps) >= _most_maps()
            ):  # a map holds a file descriptor; views already handed out stay valid
                self._maps.pop(next(iter(list(self._maps))), None)
            # two threads may both get here: both maps are good, the first one is kept
            mapped = self._maps.setdefault(shard, map_shard(self._shards[shard]))
        return mapped

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


def _most_maps() -> int:
    try:
        import resource

        return max(32, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
    except ImportError:
        return 256


def _tracked(
    runs: Iterable[tuple[int, slice, slice]], shown: bool, total: int
) -> Iterator[tuple[int, slice, slice]]:
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

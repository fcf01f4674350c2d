"""Many videos' features as one numbered set of rows that stays on the disk: for caches larger than memory."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NoReturn

import numpy as np
import torch

from .errors import StepclipError
from .shard import ShardRows
from .store import FeatureStore, _runs

_LONG = 32  # rows in a row, on average, from which copying run by run beats picking one by one


@dataclass(frozen=True, eq=False)
class _Layout:
    """Where rows lie: run r holds the packed rows from starts[r], at those plus shift[r] of its shard."""

    places: tuple[tuple[ShardRows, int], ...]
    shards: tuple[ShardRows, ...]
    runs: tuple[np.ndarray, np.ndarray, np.ndarray]  # starts (R+1,), the last one N; shard (R,); shift (R,)
    lists: tuple[list[int], list[int], list[int]]  # the same: much faster where runs are looked up one by one


class MappedFeatures:
    """`PackedFeatures` without the features in memory: `gather` reads the rows it is asked for, no others.

    times (N,) float64, seconds; offsets (V+1,) int64; durations (V,) float64, seconds, lie on `device`, where
    gathered features go. As many processes and threads as like may use one: each maps the shards for itself.
    """

    def __init__(
        self, store: FeatureStore, video_ids: Sequence[str], device: torch.device | str = "cpu"
    ) -> None:
        """Raises StepclipError on an unknown video; a damaged shard raises when a row of it is asked for."""
        self.video_ids, self.device = tuple(video_ids), torch.device(device)
        self.index = {video_id: place for place, video_id in enumerate(self.video_ids)}
        self.dim, self.dtype = store.dim, torch.from_numpy(np.empty(0, store.dtype)).dtype
        self._store = store
        self._layout = self._lay_out()
        frames = [rows.frames[row] for rows, row in self._layout.places]
        self._bounds = list(accumulate(frames, initial=0))
        self.offsets = torch.tensor(self._bounds, dtype=torch.int64, device=self.device)
        durations = [rows.durations[row] for rows, row in self._layout.places]
        self.durations = torch.tensor(durations, dtype=torch.float64, device=self.device)
        self._times: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.video_ids)

    @property
    def count(self) -> int:
        """N: frames of all videos."""
        return self._bounds[-1]

    @property
    def lengths(self) -> torch.Tensor:
        """(V,) int64: frames per video."""
        return self.offsets.diff()

    @property
    def times(self) -> torch.Tensor:
        """(N,) float64, read when first asked for."""
        if self._times is None:
            parts = [self._store[video_id].times for video_id in self.video_ids]
            self._same([len(part) for part in parts])
            self._times = torch.from_numpy(np.concatenate([np.empty(0), *parts])).to(self.device)
        return self._times

    def rows(self, i: int) -> slice:
        """The rows of video `i`."""
        return slice(self._bounds[i], self._bounds[i + 1])

    def gather(self, rows: torch.Tensor, view: int | None = None) -> torch.Tensor:
        """The features (*rows.shape, D) of rows (...) int64, or their augmented copies `view`, on `device`.

        Raises StepclipError when a row is none of 0..N-1, a shard is damaged, or a video was made anew.
        """
        if view is not None and not 0 <= view < self._store.views:
            raise StepclipError(
                f"view {view} of a cache with {self._store.views} augmented views",
                "a view that was extracted",
            )
        wanted = rows.detach().cpu().numpy().reshape(-1)
        taken = np.empty((wanted.size, self.dim), self._store.dtype)
        while wanted.size:
            layout = self._layout
            try:
                self._read(layout, wanted, view, taken)
                break
            except StepclipError:
                # compacted meanwhile: the same rows lie elsewhere
                if not self._store._moved(self.video_ids, layout.places):
                    raise
                again = self._lay_out()
                self._same([shard.frames[row] for shard, row in again.places])
                self._layout = again
        return torch.from_numpy(taken).to(self.device).view(*rows.shape, self.dim)

    def to(self, device: torch.device | str) -> MappedFeatures:
        """The same, with its answers on another device."""
        return MappedFeatures(self._store, self.video_ids, device)

    def _read(self, layout: _Layout, wanted: np.ndarray, view: int | None, out: np.ndarray) -> None:
        """Fill out (n, D) with the rows wanted (n,), n > 0."""
        jumps = np.flatnonzero(wanted[1:] - wanted[:-1] != 1) + 1
        if len(jumps) * _LONG > len(wanted):
            self._pick(layout, wanted, view, out)
            return
        arrays: dict[int, np.ndarray] = {}
        pieces = []
        bounds, shard, shift = layout.lists
        begins, firsts = [0, *jumps.tolist()], [int(wanted[0]), *wanted[jumps].tolist()]
        for row, begin, end in zip(firsts, begins, [*begins[1:], len(wanted)], strict=True):
            size = end - begin
            if row < 0 or row + size > self._bounds[-1]:
                self._refuse(row, row + size - 1)
            while size:
                run = bisect_right(bounds, row) - 1
                here = min(size, bounds[run + 1] - row)
                place, number = row + shift[run], shard[run]
                if number not in arrays:
                    arrays[number] = self._array(layout, number, view)
                pieces.append(arrays[number][place : place + here])
                row, size = row + here, size - here
        np.concatenate(pieces, out=out)

    def _pick(self, layout: _Layout, wanted: np.ndarray, view: int | None, out: np.ndarray) -> None:
        if wanted.min() < 0 or wanted.max() >= self.count:
            self._refuse(int(wanted.min()), int(wanted.max()))
        starts, shards, shift = layout.runs
        run = np.searchsorted(starts, wanted, side="right") - 1
        place, shard = wanted + shift[run], shards[run]
        cuts = np.flatnonzero(shard[1:] != shard[:-1]) + 1
        order = None
        if len(cuts) * _LONG > len(wanted):
            order = np.argsort(shard, kind="stable")
            place, shard = place[order], shard[order]
            cuts = np.flatnonzero(shard[1:] != shard[:-1]) + 1
        laid = out if order is None else np.empty_like(out)
        for first, last in pairwise([0, *cuts.tolist(), len(shard)]):
            array = self._array(layout, int(shard[first]), view)
            # all places were checked: "clip" only spares numpy a copy
            np.take(array, place[first:last], axis=0, out=laid[first:last], mode="clip")
        if order is not None:
            out[order] = laid

    def _refuse(self, first: int, last: int) -> NoReturn:
        raise StepclipError(f"rows {first} to {last} of {self.count}", f"rows from 0 to {self.count - 1}")

    def _array(self, layout: _Layout, number: int, view: int | None) -> np.ndarray:
        mapped = self._store._map(layout.shards[number])
        return mapped.features if view is None or mapped.views is None else mapped.views[view]

    def _same(self, frames: Sequence[int]) -> None:
        """Raise StepclipError when videos have other numbers of frames than they had at first."""
        for video_id, now, (first, last) in zip(self.video_ids, frames, pairwise(self._bounds), strict=True):
            if now != last - first:
                raise StepclipError(
                    f"the video '{video_id}' was made anew while it was read ({now} frames now)",
                    f"its {last - first} frames",
                    "the same again",
                )

    def _lay_out(self) -> _Layout:
        """Where the store finds the videos now."""
        places = tuple(self._store._find(video_id) for video_id in self.video_ids)
        runs = list(_runs(places))
        shards = {id(rows): rows for rows, _, _ in runs}
        numbers = {key: number for number, key in enumerate(shards)}
        table = (
            np.array([0, *(target.stop for _, _, target in runs)], np.int64),
            np.array([numbers[id(rows)] for rows, _, _ in runs], np.int64),
            np.array([source.start - target.start for _, source, target in runs], np.int64),
        )
        starts, shard, shift = table
        lists = starts.tolist(), shard.tolist(), shift.tolist()
        return _Layout(places, tuple(shards.values()), table, lists)

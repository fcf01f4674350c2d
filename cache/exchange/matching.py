"""Which features belong to which row of a user's manifest."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import StepclipError
from ..manifest import Manifest
from ..rows import VideoRow
from .arrays import ForeignFault
from .recordings import Entry


@dataclass(frozen=True)
class Job:
    """One video of the cache to be: its features, and its row where a manifest has one.

    cut: the features are of the whole file, the row of the part from its start to its end.
    """

    video_id: str
    entry: Entry
    row: VideoRow | None = None
    cut: bool = False


@dataclass
class Matched:
    """missing: videos of the manifest without features; without_row: features that no row names."""

    jobs: list[Job] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    without_row: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def match(entries: Sequence[Entry], manifest: Manifest | None) -> Matched:
    """Features and rows brought together: by video id, then by the path of the video without its suffix.

    Features without a row keep their own id. Raises StepclipError when nothing fits at all.
    """
    if manifest is None:
        return Matched([Job(entry.video_id, entry) for entry in entries])
    by_row: dict[str, Entry] = {}
    ids = {entry.video_id: entry for entry in entries}
    tails = _tails(manifest, max(entry.video_id.count("/") for entry in entries) + 1)
    lasts = Counter(_last(entry.video_id) for entry in entries)
    notes = []
    for row in manifest:
        if row.video_id in ids:
            by_row[row.video_id] = ids[row.video_id]
    # by more of the path first; in the end by the name alone, where only one entry has it
    for entry in sorted(entries, key=lambda each: -each.video_id.count("/")):
        for name in dict.fromkeys((entry.video_id, _last(entry.video_id))):
            if name != entry.video_id and lasts[name] > 1:
                continue
            rows = [row for row in tails.get(name, ()) if row.video_id not in by_row]
            if not rows and name in manifest and name not in by_row:
                rows = [manifest[name]]
            if len({row.path for row in rows}) > 1:
                notes.append(f"{entry.video_id} may be any of {', '.join(row.path for row in rows[:3])}")
            elif rows:
                by_row.update((row.video_id, entry) for row in rows)
                break
    used = {id(entry) for entry in by_row.values()}
    rest = [entry for entry in entries if id(entry) not in used]
    if not by_row:
        raise StepclipError(
            f"no video of the manifest {manifest.name} has features: its ids are such as "
            f"'{manifest.videos[0].video_id}', those of the features such as '{entries[0].video_id}'",
            "features named by the video_id, or as the video file without its suffix",
        )
    jobs = [
        Job(row.video_id, by_row[row.video_id], row, _is_cut(row, by_row[row.video_id]))
        for row in manifest
        if row.video_id in by_row
    ]
    if clash := [entry.video_id for entry in rest if entry.video_id in by_row]:
        notes.append(f"{len(clash)} features have the id of another video, and are left out: {clash[0]}")
        rest = [entry for entry in rest if entry.video_id not in by_row]
    return Matched(
        [*jobs, *(Job(entry.video_id, entry) for entry in rest)],
        [row.video_id for row in manifest if row.video_id not in by_row],
        [entry.video_id for entry in rest],
        notes,
    )


def cut(
    features: np.ndarray, times: np.ndarray, duration: float, row: VideoRow
) -> tuple[np.ndarray, np.ndarray, float]:
    """The part of a whole file's features (T, D), times (T,) and duration that a row asks for, from time 0.

    Raises ForeignFault when the features do not reach so far.
    """
    start, end = row.start or 0.0, duration if row.end is None else row.end
    step = float(np.median(np.diff(times))) if len(times) > 1 else duration
    keep = (times >= start) & (times < end)
    if end > duration + 2 * step or not keep.any():
        raise ForeignFault(
            "trim",
            f"the row asks for {start:g} to {end:g} s, and the features end at {duration:g} s",
            "features of the whole file, cut here",
            "if they are of this part alone, name them by a video_id that is not the name of the file",
        )
    return features[keep], times[keep] - start, min(end, duration) - start


def _is_cut(row: VideoRow, entry: Entry) -> bool:
    """Features that are called as the file are of all of it; those called by an id of their own are not."""
    trimmed = row.start is not None or row.end is not None
    own = _last(entry.video_id) != Path(row.path).stem
    return trimmed and not own


def _tails(manifest: Iterable[VideoRow], depth: int) -> dict[str, list[VideoRow]]:
    """Rows by the last parts of their path, without its suffix: vid, b/vid, a/b/vid."""
    found: dict[str, list[VideoRow]] = defaultdict(list)
    for row in manifest:
        parts = Path(os.path.splitext(row.path)[0]).parts
        for count in range(1, min(depth, len(parts)) + 1):
            found["/".join(parts[-count:])].append(row)
    return found


def _last(video_id: str) -> str:
    return video_id.rpartition("/")[2]

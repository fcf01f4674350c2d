"""What the adapters of releases share: where its annotations are, and which of its videos are there."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...cache.errors import StepclipError
from ...cache.manifest import Manifest, MatchRow, Pair, VideoRow
from .base import VIDEO_SUFFIXES, Loaded

PICTURES = (".jpg", ".jpeg", ".png")
Names = Callable[[str, str], Iterable[str]]  # (folder, name without suffix) -> the ids it may stand for


@dataclass(frozen=True)
class Origin:
    """Where the files of a data set come from and how they lie, as its errors tell it.

    marker: the file that shows a folder to be that of the annotations; folders: where in a given folder that
    one may be; source: what to get, from where; layout: of the videos.
    """

    dataset: str
    marker: str
    folders: tuple[str, ...]
    source: str
    layout: str

    @property
    def run(self) -> str:
        return f"make extract DATASET={self.dataset} VIDEOS=DIR ANNOTATIONS=DIR"

    def videos(self, videos: Path | None) -> Path:
        """The folder of videos. Raises StepclipError where none was given or it is not there."""
        if videos is None:
            run = f"make extract DATASET={self.dataset} VIDEOS=DIR"
            raise StepclipError("no VIDEOS given", f"a folder laid out as {self.layout}", run)
        if not videos.is_dir():
            raise StepclipError(f"no folder {videos}", f"videos laid out as {self.layout}")
        return videos

    def tried(self, videos: Path, annotations: Path | None) -> list[Path]:
        """The folders that may hold the annotations: what was given, else the videos' own and beside it."""
        if annotations is not None:
            places = [annotations.parent if annotations.is_file() else annotations]
        else:
            places = [
                base / name for name in ("", "annotations") for base in (videos, videos.resolve().parent)
            ]
        return [place / name for place in places for name in ("", *self.folders)]

    def annotations(self, videos: Path, annotations: Path | None) -> Path:
        """The folder that holds `marker`. Raises StepclipError where there is none."""
        tried = self.tried(videos, annotations)
        for folder in tried:
            if (folder / self.marker).is_file():
                return folder
        raise StepclipError(
            f"no {self.marker} in {', '.join(str(folder) for folder in tried)}", self.source, self.run
        )


@dataclass
class Found:
    """paths: the file of each id; pictures: ids that have a folder of pictures in its place; again: further
    files of ids that have one; closed: folders that cannot be listed.
    """

    paths: dict[str, str] = field(default_factory=dict)
    pictures: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)


def by_stem(folder: str, stem: str) -> tuple[str, ...]:
    """<id>.mp4, wherever it lies."""
    return (stem,)


def of_youtube(folder: str, stem: str) -> tuple[str, ...]:
    """<id>.mp4 and what yt-dlp and youtube-dl make of their own: 'title [<id>].mp4', 'title-<id>.mp4'."""
    names = [stem]
    if stem.endswith("]") and stem[-13:-12] == "[":
        names.append(stem[-12:-1])
    elif stem[-12:-11] == "-":
        names.append(stem[-11:])
    return tuple(names)


def find_videos(folder: Path, wanted: Collection[str], names: Names = by_stem) -> Found:
    """The video of each id of `wanted` below `folder`, in folders of any depth; the shallowest one counts.

    Links are followed, each folder is read once. What begins with a dot is no video (AppleDouble, caches).
    """
    found = Found()
    seen: set[tuple[int, int]] = set()
    queue = deque([os.fspath(folder)])
    while queue:
        where = queue.popleft()
        try:
            status = os.stat(where)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            entries = sorted(os.scandir(where), key=lambda entry: entry.name)
        except OSError:
            found.closed.append(where)
            continue
        parent = os.path.basename(os.path.abspath(where))
        for entry in entries:
            if entry.name.startswith("."):
                continue
            stem, suffix = os.path.splitext(entry.name)
            video = suffix.lower() in VIDEO_SUFFIXES
            ids = [name for name in names(parent, stem if video else entry.name) if name in wanted]
            if _is_folder(entry):
                if ids and _holds_pictures(entry.path):
                    found.pictures += ids
                else:
                    queue.append(entry.path)
            elif video:
                for video_id in ids:
                    if found.paths.setdefault(video_id, entry.path) != entry.path:
                        found.again.append(entry.path)
    found.pictures = [video_id for video_id in found.pictures if video_id not in found.paths]
    return found


def gather(
    origin: Origin,
    folder: Path,
    rows: Sequence[VideoRow],
    names: Names = by_stem,
    *,
    pairs: Sequence[Pair] = (),
    matching: Sequence[MatchRow] = (),
    notes: Sequence[str] = (),
    extra: Mapping[str, Any] | None = None,
) -> Loaded:
    """The rows (without paths yet) whose videos are below `folder`, with the pairs and lists among them.

    Missing videos are listed and told. Raises StepclipError where not one is there.
    """
    found = find_videos(folder, {row.video_id for row in rows}, names)
    if not found.paths:
        raise _no_videos(origin, folder, len(rows), found)
    placed = tuple(
        replace(row, path=os.path.abspath(found.paths[row.video_id]) if row.video_id in found.paths else "")
        for row in rows
    )
    manifest = Manifest(placed, tuple(pairs), tuple(matching), origin.dataset).select(found.paths)
    missing = [row.video_id for row in rows if row.video_id not in found.paths]
    told = [*notes]
    if missing:
        left = [
            f"{len(kept)} of {len(given)} {what}"
            for what, kept, given in (
                ("pairs", manifest.pairs, pairs),
                ("matching lists", manifest.matching, matching),
            )
            if given
        ]
        told.append(
            f"{len(missing)} of {len(rows)} videos are missing ({some(missing)})"
            + (f"; left: {', '.join(left)}" if left else "")
        )
    if found.again:
        told.append(
            f"{len(found.again)} further files of the same videos are not read ({some(found.again, 2)})"
        )
    if found.closed:
        told.append(f"{len(found.closed)} folders cannot be listed ({some(found.closed, 2)})")
    if found.pictures:
        told.append(
            f"{len(found.pictures)} are folders of pictures ({found.pictures[0]}, ...), which are not read: "
            "give the video files"
        )
    kept = {video_id: extra[video_id] for video_id in found.paths if video_id in extra} if extra else {}
    return Loaded(manifest, missing, told, kept)


def step_times(
    segments: Sequence[Any], start: float | None = None, end: float | None = None
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Starts and ends, in seconds from the first frame of the trim, of [start, end] pairs in seconds of the
    file. None unless each of them has a length inside the trim.
    """
    first, last = start or 0.0, math.inf if end is None else end
    starts, ends = [], []
    for segment in segments:
        span = [seconds(value) for value in segment] if isinstance(segment, list | tuple) else []
        if len(span) != 2 or span[0] is None or span[1] is None:
            return None
        begins, stops = max(span[0], first), min(span[1], last)
        if stops <= begins:
            return None
        starts.append(begins - first)
        ends.append(stops - first)
    return tuple(starts), tuple(ends)


def seconds(value: Any) -> float | None:
    """A finite number of JSON, or a text that is one; None for anything else."""
    try:
        number = float(value) if isinstance(value, int | float | str) else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) and not isinstance(value, bool) else None


def counted(title: str, found: Mapping[str, int], released: Mapping[str, int], full: bool, shown: str) -> str:
    """The note that compares what was read with what the full release holds."""
    if not full:
        return f"not the full {title} release: {shown}; its counts were not checked"
    wrong = [
        f"{key}: {found.get(key, 0)}, released {count}"
        for key, count in released.items()
        if found.get(key, 0) != count
    ]
    if wrong:
        return f"counts that differ from the release: {'; '.join(wrong)}"
    return f"all {len(released)} counts are those of the release: {shown}"


def some(names: Sequence[str], count: int = 5) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Without a look at the disk for what is no link; a link that leads in a circle is none."""
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _holds_pictures(folder: str) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(entry.name.lower().endswith(PICTURES) for entry in entries)
    except OSError:
        return False


def _no_videos(origin: Origin, folder: Path, count: int, found: Found) -> StepclipError:
    if found.pictures:
        return StepclipError(
            f"{folder} holds {len(found.pictures)} folders of pictures ({found.pictures[0]}/1.jpg, ...)",
            f"video files, {origin.layout}; pictures have no times",
            "give the mp4 files of the release, or make a video of each folder with ffmpeg",
        )
    if os.fspath(folder) in found.closed:
        return StepclipError(f"{folder} cannot be listed", f"a readable folder, {origin.layout}")
    there = some(sorted(os.listdir(folder))) or "nothing"
    closed = f"; {len(found.closed)} folders cannot be listed" if found.closed else ""
    return StepclipError(
        f"none of the {count} videos is in {folder}; it holds: {there}{closed}", origin.layout
    )

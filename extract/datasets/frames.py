"""Releases that label every frame: each run of one label is a step, in the times of the video's own frames.

The labels themselves go to `Loaded.extra[video_id]`:
`{"labels": [L ints], "fps": F, "classes": {"0": "until ball release", ...}}`. Label i is that of the time
from i / fps to (i + 1) / fps seconds after the first frame; below 0 nothing is labelled.
"""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ...cache.errors import StepclipError
from ...cache.manifest import Manifest, VideoRow
from ...cache.rows import SPLITS, procedure_of
from .base import VIDEO_SUFFIXES, Loaded
from .pickles import read_pickle

PICTURES = (".jpg", ".jpeg", ".png")
_LONGEST = 1e5  # seconds: a header that says more is damaged
_BAR_FROM = 200  # files whose headers take longer than a moment to read


@dataclass(frozen=True, eq=False)
class Clip:
    """One video of a release, before its file is looked for.

    labels: (L,) int64, one per frame; classes: what they are called; stems: the names its file may have,
    without suffix, the likeliest first; file: its path in the release; procedure: the name of its script if
    that is all classes in order; spans: (label, start, end) in seconds where the release says more than
    frame labels do, which then lie at `fps` per second. raw: the stem of the untrimmed video, of which this
    is `start` to `end`.
    """

    video_id: str
    split: str
    task: str
    labels: np.ndarray
    classes: Mapping[int, str]
    stems: tuple[str, ...]
    file: str = ""
    procedure: str = ""
    spans: tuple[tuple[int, float, float], ...] | None = None
    raw: str = ""
    start: float | None = None
    end: float | None = None


def phases(subject: str, events: Sequence[str]) -> tuple[str, ...]:
    """The K = len(events) + 1 phases between key events, as sentences."""
    between = [f"from {first} to {then}" for first, then in pairwise(events)]
    return tuple(f"{subject}: {part}" for part in (f"until {events[0]}", *between, f"after {events[-1]}"))


def runs(labels: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """(label, first, stop) of each run of equal labels that are not below 0."""
    edges = np.flatnonzero(np.diff(labels)) + 1
    for first, stop in zip((0, *edges), (*edges, len(labels)), strict=True):
        if first < stop and labels[first] >= 0:
            yield int(labels[first]), int(first), int(stop)


def as_labels(value: Any) -> np.ndarray:
    """Frame labels as (L,) int64. Raises ValueError, in words, for what are none."""
    found = np.asarray(value)
    if found.ndim == 2 and 1 in found.shape:
        found = found.reshape(-1)
    if found.ndim != 1 or not len(found):
        raise ValueError(f"frame labels of the shape {found.shape}")
    if found.dtype.kind not in "biuf" or (found.dtype.kind == "f" and (found != np.round(found)).any()):
        raise ValueError("frame labels that are no whole numbers")
    return np.array(found, np.int64)


def stretched(labels: np.ndarray, frames: int) -> np.ndarray:
    """Labels (L,) over another number of frames: (frames,), spread evenly, as CARL's conversion does."""
    return labels[np.arange(frames) * len(labels) // frames]


# ---- the files of a release


def find_release(
    videos: Path | None, annotations: Path | None, holds: Callable[[Path], bool], what: str, run: str
) -> tuple[Path, Path]:
    """The folder of videos and the folder whose annotations `holds` knows; one may hold both.

    Raises StepclipError where there is none; `what`: where the files come from.
    """
    if videos is not None and not videos.is_dir():
        raise StepclipError(f"no folder {videos}", f"the videos, as {what} holds them", run)
    if annotations is not None:
        place = annotations.parent if annotations.is_file() else annotations
        tried = [place, place / "annotations"]
    elif videos is not None:
        beside = videos.resolve().parent
        tried = [videos, beside, videos / "annotations", beside / "annotations"]
    else:
        raise StepclipError("neither VIDEOS nor ANNOTATIONS given", what, run)
    for folder in tried:
        if folder.is_dir() and holds(folder):
            return (videos or folder), folder
    raise StepclipError(f"no annotations in {', '.join(str(folder) for folder in tried)}", what, run)


def read_entries(path: Path, notes: list[str]) -> list[tuple[dict[str, Any], np.ndarray]]:
    """The videos of one of CARL's pickles, each with its frame labels (L,). Raises StepclipError."""
    value = read_pickle(path)
    if isinstance(value, tuple | list) and len(value) == 2 and isinstance(value[0], list):
        value = value[0]  # PennAction has the places of each action beside
    if not isinstance(value, list) or not value:
        raise StepclipError(f"{path} holds no list of videos", "a pickle as CARL distributes it")
    found, cut = [], []
    for place, entry in enumerate(value):
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or not entry["name"].strip():
            raise StepclipError(
                f"{path}: video {place} has no name", "a dict with name, video_file, frame_label, seq_len"
            )
        try:
            labels = as_labels(entry.get("frame_label"))
        except ValueError as error:
            raise StepclipError(
                f"{path}: '{entry['name']}' has {error}", "frame_label: one whole number per frame"
            ) from error
        if entry.get("seq_len", len(labels)) != len(labels):
            cut.append(entry["name"])
        found.append((entry, labels))
    if cut:
        notes.append(
            f"{path.name}: seq_len is not the number of frame labels of {some(cut)}; the labels count"
        )
    return found


def stems_of(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """The names that the file of a pickle's entry may have."""
    file = str(entry.get("video_file") or entry["name"])
    return tuple(dict.fromkeys((os.path.splitext(os.path.basename(file))[0], entry["name"])))


class Files:
    """The videos below a folder by their names, in folders of any depth; and folders of pictures."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pictures: dict[str, str] = {}
        self.twice: list[str] = []
        self._paths: dict[str, list[str]] = defaultdict(list)
        seen: set[str] = set()
        for where, folders, names in os.walk(folder, followlinks=True):
            real = os.path.realpath(where)
            folders[:] = [] if real in seen else sorted(name for name in folders if name[0] != ".")
            if real in seen:
                continue
            seen.add(real)
            for name in sorted(names):
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in PICTURES:
                    self.pictures.setdefault(os.path.basename(where), where)
                elif suffix.lower() in VIDEO_SUFFIXES and not name.startswith("._"):
                    self._paths[stem].append(os.path.join(where, name))

    def find(self, stems: Iterable[str], file: str = "") -> str | None:
        """The path of the video of one of these names; of several, the one that lies as `file` says."""
        for stem in stems:
            if paths := self._paths.get(stem):
                if len(paths) > 1:
                    self.twice.append(stem)
                    paths = [path for path in paths if file and path.endswith(os.sep + file)] or paths
                return os.path.abspath(paths[0])
        return None

    def holds(self) -> str:
        """The first few names that are there."""
        return some(sorted(self._paths)) or some(sorted(os.listdir(self.folder))) or "nothing"


# ---- from the release to the manifest


def assemble(
    name: str, clips: Sequence[Clip], files: Files, fps: float, layout: str, notes: list[str]
) -> Loaded:
    """The manifest of the clips whose files are there; the frame labels of each in `extra`.

    fps: frames per second of the release's own files, for those whose header cannot be read. Raises
    StepclipError where no video is found; `layout`: what was expected.
    """
    clips = _once(clips, notes)
    paths = {clip.video_id: files.find(clip.stems, clip.file) for clip in clips}
    whole = {clip.video_id: files.find([clip.raw]) for clip in clips if clip.raw and not paths[clip.video_id]}
    missing = [clip.video_id for clip in clips if not paths[clip.video_id] and not whole.get(clip.video_id)]
    pictures = [files.pictures[stem] for clip in clips for stem in clip.stems if stem in files.pictures]
    if len(missing) == len(clips):
        raise _no_videos(files, len(clips), pictures, layout)
    clock = _Clock(fps)
    rows, extra, bare, incomplete = [], {}, [], []
    there = [clip for clip in clips if clip.video_id not in set(missing)]
    for clip in _tracked(there):
        path = paths[clip.video_id]
        labels, rate = clip.labels, fps
        if clip.spans is None:
            assert path is not None  # only what has spans has an untrimmed video
            labels, rate = clock(clip.video_id, path, labels)
        spans = clip.spans or tuple((label, first / rate, stop / rate) for label, first, stop in runs(labels))
        if not spans:
            bare.append(clip.video_id)
            continue
        steps = tuple(clip.classes[label] for label, _, _ in spans)
        complete = steps == tuple(clip.classes[label] for label in sorted(clip.classes))
        if clip.procedure and not complete:
            incomplete.append(clip.video_id)
        rows.append(
            VideoRow(
                video_id=clip.video_id,
                path=path or whole[clip.video_id] or "",
                task=clip.task,
                procedure=clip.procedure if clip.procedure and complete else procedure_of(steps),
                split=clip.split,
                start=None if path else clip.start,
                end=None if path else clip.end,
                steps=steps,
                step_start=tuple(start for _, start, _ in spans),
                step_end=tuple(end for _, _, end in spans),
            )
        )
        named = sorted(clip.classes) if clip.procedure else sorted({label for label, _, _ in spans})
        extra[clip.video_id] = {
            "labels": labels.tolist(),
            "fps": rate,
            "classes": {str(label): clip.classes[label] for label in named},
        }
    notes += clock.notes()
    for found, what in (
        (missing, f"of {len(clips)} videos are missing"),
        (files.twice, "videos are there more than once; one of each was taken"),
        (bare, "videos have no labelled frame and were left out"),
        (incomplete, "videos lack a phase or go back to one: their procedure is a hash of their own steps"),
    ):
        if found:
            notes.append(f"{len(found)} {what} ({some(found)})")
    if lost := [folder for folder in pictures if os.path.basename(folder) not in _stems(rows)]:
        notes.append(f"{len(lost)} are folders of pictures, which are not read; {_make_video(lost[0])}")
    return Loaded(Manifest(tuple(rows), name=name), missing, notes, extra=extra)


def some(names: Sequence[str], count: int = 5) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def _stems(rows: Iterable[VideoRow]) -> set[str]:
    return {Path(row.path).stem for row in rows}


def _once(clips: Sequence[Clip], notes: list[str]) -> list[Clip]:
    """Each video once: what is tested must not be trained on."""
    kept: dict[str, Clip] = {}
    across: list[str] = []
    again: list[str] = []
    for clip in clips:
        other = kept.setdefault(clip.video_id, clip)
        if other is not clip:
            (again if other.split == clip.split else across).append(clip.video_id)
            if SPLITS.index(clip.split) > SPLITS.index(other.split):
                kept[clip.video_id] = clip
    if across:
        notes.append(f"{len(across)} videos are in two splits ({some(across)}): left out of train (or val)")
    if again:
        notes.append(f"{len(again)} videos are given twice ({some(again)}): the first counts")
    return list(kept.values())


class _Clock:
    """The frames per second of each file, from its header, and labels that fit its frames."""

    def __init__(self, fps: float) -> None:
        self.fps = fps
        self.rates: Counter[float] = Counter()
        self.unread: list[str] = []
        self.other: list[str] = []

    def __call__(self, video_id: str, path: str, labels: np.ndarray) -> tuple[np.ndarray, float]:
        from ..decoders.base import DecodeError
        from ..decoders.pyav import probe

        try:
            header = probe(path)
        except DecodeError as error:
            self.unread.append(f"{video_id}: {error.reason}")
            return labels, self.fps
        rate = header.fps or self.fps
        self.rates[round(rate, 3)] += 1
        known = header.duration is not None and 0 < header.duration < _LONGEST
        frames = round(header.duration * rate) if header.duration and known else len(labels)
        if abs(frames - len(labels)) > 1:  # a header's duration may be a frame off
            self.other.append(f"{video_id}: {frames} frames, {len(labels)} labels")
            labels = stretched(labels, frames)
        return labels, rate

    def notes(self) -> list[str]:
        found = []
        if self.unread:
            found.append(
                f"{len(self.unread)} files cannot be opened ({some(self.unread, 3)}); "
                f"their step times take {self.fps:g} frames/s"
            )
        if self.rates and set(self.rates) != {round(self.fps, 3)}:
            shown = ", ".join(f"{rate:g} ({count} videos)" for rate, count in self.rates.most_common(5))
            found.append(
                f"frames/s of the files: {shown}; the release has {self.fps:g}: times are the files' own"
            )
        if self.other:
            found.append(
                f"{len(self.other)} videos have another number of frames than labels "
                f"({some(self.other, 3)}); their labels were spread evenly over the video, "
                "as CARL's conversion does"
            )
        return found


def _no_videos(files: Files, count: int, pictures: list[str], layout: str) -> StepclipError:
    if pictures:
        return StepclipError(
            f"{files.folder} holds folders of pictures in place of {len(pictures)} videos",
            f"video files, {layout}; pictures have no times",
            _make_video(pictures[0]),
        )
    return StepclipError(
        f"none of the {count} videos is in {files.folder}; it holds: {files.holds()}", layout
    )


def _make_video(folder: str) -> str:
    """How to make a video of a folder of pictures; odd sizes get a row or column, which H.264 needs."""
    suffix = next((name for name in sorted(os.listdir(folder)) if name.lower().endswith(PICTURES)), ".jpg")
    return (
        f"ffmpeg -framerate 25 -pattern_type glob -i '{folder}/*{os.path.splitext(suffix)[1] or suffix}' "
        f"-vf 'pad=ceil(iw/2)*2:ceil(ih/2)*2' -pix_fmt yuv420p {os.path.basename(folder)}.mp4, for each"
    )


def _tracked(clips: Sequence[Clip]) -> Iterator[Clip]:
    if len(clips) < _BAR_FROM:
        yield from clips
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("reading the headers of the videos"),
        BarColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    began = time.monotonic()
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task("", total=len(clips), rate="")
        for done, clip in enumerate(clips, 1):
            yield clip
            rate = done / max(time.monotonic() - began, 1e-3)
            bar.update(task, completed=done, rate=f"{rate:,.0f} videos/s")

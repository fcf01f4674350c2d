"""FineGym: gymnastics routines (events) with element classes as steps, Gym99 or Gym288 (carl.md 5.3).

Videos and files, one of two layouts:
- CARL's folder `finegym` (github.com/minghchen/CARL_code, "Download pre-processed datasets"): event clips of
  25 frames/s, processed_videos/<event>.mp4, with gym99_train_v1.0.pkl and gym99_val.pkl (or gym288). Every
  frame is labelled; of a vault's stages only the last.
- FineGym's own files (sdolivia.github.io/FineGym): finegym_annotation_info_v1.0.json and the lists
  gym99_train_element_v1.0.txt, gym99_val_element.txt, with event clips as above or the whole YouTube videos,
  <youtube id>.mp4, of which an event is a part. An element is all its stages.
gym99_categories.txt (gym288_categories.txt) beside them names the classes. FineGym's videos vanish from
YouTube; what is not there is listed as missing.

Splits: `train`, `val`. No pairs. Checked: that labels are classes of the set, that every element has times in
its event, and of full lists the number of elements: 20,484 and 8,521 of Gym99, 22,671 and 9,646 of Gym288.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...cache.errors import StepclipError
from ...cache.files import read_json
from .base import Loaded
from .frames import Clip, Files, assemble, find_release, read_entries, runs, some, stems_of

FPS = 25.0
SPLITS = ("train", "val")
# what `event` in the annotations means; Gym99 and Gym288 have 1 to 4
EVENTS = {
    1: "vault",
    2: "floor exercise",
    3: "balance beam",
    4: "uneven bars",
    5: "vault (men)",
    6: "floor exercise (men)",
    7: "pommel horse (men)",
    8: "still rings (men)",
    9: "parallel bars (men)",
    10: "high bar (men)",
}
APPARATUS = {"VT": 1, "FX": 2, "BB": 3, "UB": 4}
# elements of (train, val) in the lists of version 1.0
ELEMENTS = {99: (20484, 8521), 288: (22671, 9646)}
WHERE = (
    "CARL's folder finegym (gym99_train_v1.0.pkl, gym99_val.pkl, processed_videos/), or FineGym's files "
    "(finegym_annotation_info_v1.0.json, gym99_train_element_v1.0.txt, gym99_val_element.txt)"
)
LAYOUT = (
    "VIDEOS/.../<event>.mp4 (such as 0LtLS9wROrk_E_000147_000152.mp4), in folders of any depth; with "
    "FineGym's own files, ANNOTATIONS=finegym_annotation_info_v1.0.json, whole videos too: <youtube id>.mp4"
)
_LONGEST = 1e5  # seconds of a video
_ELEMENT = re.compile(r"(?P<video>.+)_(?P<event>E_\d+_\d+)_(?P<action>A_\d+_\d+)")
_CATEGORY = re.compile(r"\s*clabel:\s*(\d+)\s*;.*?\((\w+)\)\s*(\S.*?)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class _Release:
    """The files of Gym99 or Gym288 in a folder: by split, pickles or lists of elements; then `times`."""

    classes: int
    folder: Path
    files: dict[str, Path]
    times: Path | None


def load_finegym(videos: Path | None, annotations: Path | None) -> Loaded:
    """FineGym's events with their elements as steps; the frame labels in `extra`. One may hold both.

    A video's task is its apparatus, its procedure a hash of its elements. Of Gym99 and Gym288 the first is
    taken, and pickles before lists, unless ANNOTATIONS names a file of the other. Missing videos are listed.
    Raises StepclipError where no annotations or not one video are found, and for files not as released.
    """
    run = "make extract DATASET=finegym VIDEOS=finegym/processed_videos ANNOTATIONS=finegym"
    videos, folder = find_release(videos, annotations, lambda folder: bool(_releases(folder)), WHERE, run)
    notes: list[str] = []
    release = _choose(_releases(folder), annotations, notes)
    names = _names(release, notes)
    read = _from_lists if release.times else _from_pickles
    clips = [clip for clip in read(release, names, notes) if _named(clip, names, notes)]
    if not clips:
        raise StepclipError(f"{folder} holds no labelled event; {'; '.join(notes[:3])}", WHERE)
    if (folder / "additional_v1.0.pkl").is_file():
        notes.append("additional_v1.0.pkl, events without labels, was left out")
    return assemble("finegym", clips, Files(videos), FPS, LAYOUT, notes)


def _releases(folder: Path) -> list[_Release]:
    found = []
    infos = sorted(folder.glob("finegym_annotation_info_v*.json"))
    for classes in ELEMENTS:
        for ending, times in ((".pkl", [None]), ("_element*.txt", infos)):
            files = {}
            for split in SPLITS:
                pattern = (
                    f"gym{classes}_{split}*.pkl" if ending == ".pkl" else f"gym{classes}_{split}{ending}"
                )
                if there := sorted(folder.glob(pattern)):
                    files[split] = there[0]  # v1.0 before v1.1: CARL's
            if files and times:
                found.append(_Release(classes, folder, files, times[0]))
    return found


def _choose(releases: list[_Release], given: Path | None, notes: list[str]) -> _Release:
    name = given.name if given is not None and given.is_file() else ""
    wanted = releases
    if match := re.match(r"gym(99|288)_", name):
        wanted = [each for each in wanted if each.classes == int(match[1])]
    if name:
        wanted = [each for each in wanted if (each.times is None) == name.endswith(".pkl")]
    if not wanted:
        raise StepclipError(f"{given} has not its other files beside it", WHERE)
    if others := [each for each in releases if each is not wanted[0]]:
        shown = some([next(iter(each.files.values())).name for each in others])
        notes.append(
            f"Gym{wanted[0].classes} is taken, from {', '.join(_shown(wanted[0]))}; also there: {shown}"
        )
    return wanted[0]


def _shown(release: _Release) -> list[str]:
    return [path.name for path in (*release.files.values(), release.times) if path]


def _names(release: _Release, notes: list[str]) -> dict[int, str]:
    """What the classes are called, with their apparatus: some of its elements share names with another's."""
    names = {number: f"gym{release.classes} element {number}" for number in range(release.classes)}
    file = f"gym{release.classes}_categories.txt"
    places = [release.folder / file, release.folder / "categories" / file, release.folder.parent / file]
    place = next((path for path in places if path.is_file()), None)
    if place is None:
        notes.append(f"no {file}: steps are called '{names[0]}', ...; it is on sdolivia.github.io/FineGym")
        return names
    lines = place.read_text("utf-8-sig", errors="replace").splitlines()
    found = {int(match[1]): match for match in map(_CATEGORY.fullmatch, lines) if match}
    if found.keys() != names.keys():
        raise StepclipError(
            f"{place} names {len(found)} classes",
            f"'Clabel: 0; set: 1; Glabel: 1; (VT) ...' for {len(names)}",
        )
    return {
        number: f"{EVENTS.get(APPARATUS.get(match[2], 0), match[2])}: {match[3]}"
        for number, match in found.items()
    }


def _named(clip: Clip, names: dict[int, str], notes: list[str]) -> bool:
    """Whether its labels are classes, or -1; else told."""
    worst = max(int(clip.labels.max()), *(label for label, *_ in clip.spans or ((-1,),)))
    if worst in names or worst < 0:
        return True
    notes.append(f"{clip.video_id} was left out: a label {worst}, of {len(names)} classes")
    return False


def _task(event: Any) -> str:
    return EVENTS.get(event, f"event {event}")


# ---- CARL's pickles


def _from_pickles(release: _Release, names: dict[int, str], notes: list[str]) -> list[Clip]:
    clips = []
    elements: Counter[str] = Counter()
    for split, path in release.files.items():
        for entry, labels in read_entries(path, notes):
            elements[split] += sum(1 for _ in runs(labels))
            task, file = _task(entry.get("event_label")), str(entry.get("video_file") or "")
            clips.append(Clip(entry["name"], split, task, labels, names, stems_of(entry), file))
    events = Counter(clip.split for clip in clips)
    notes.insert(
        0,
        f"Gym{release.classes}, from CARL's pickles: {events['train']} train and {events['val']} val events "
        f"with {elements['train']} and {elements['val']} runs of one class; no count of them is published",
    )
    if any(clip.task == EVENTS[1] for clip in clips):
        notes.append("of a vault's stages CARL labels only the last")
    return clips


# ---- FineGym's own files


def _from_lists(release: _Release, names: dict[int, str], notes: list[str]) -> list[Clip]:
    assert release.times is not None
    info = read_json(release.times)
    if not isinstance(info, dict):
        raise StepclipError(f"{release.times} holds no videos", "an object: YouTube id -> events")
    clips, absent = [], []
    counts: Counter[str] = Counter()
    for split, path in release.files.items():
        spans: dict[tuple[str, str], list[tuple[int, float, float]]] = {}
        for match, label in _lines(path, notes):
            counts[split] += 1
            event = info.get(match["video"], {}).get(match["event"])
            span = _span(event, match["action"])
            if span is None:
                absent.append(match[0])
            else:
                spans.setdefault((match["video"], match["event"]), []).append((label, *span))
        clips += [_clip(*key, split, info[key[0]][key[1]], found, names) for key, found in spans.items()]
    if absent:
        notes.append(f"{len(absent)} elements have no times in {release.times.name} ({some(absent, 3)})")
    notes.insert(0, _check_counts(release, counts))
    return clips


def _lines(path: Path, notes: list[str]) -> Iterator[tuple[re.Match[str], int]]:
    """`VIDEO_E_..._A_... label` per line."""
    try:
        text = path.read_text("utf-8-sig", errors="replace")
    except OSError as error:
        raise StepclipError(f"{path} cannot be read: {error.strerror}", WHERE) from error
    junk = []
    for line in text.splitlines():
        fields = line.split()
        match = _ELEMENT.fullmatch(fields[0]) if len(fields) == 2 and fields[1].isdecimal() else None
        if match:
            yield match, int(fields[1])
        elif fields:
            junk.append(line.strip()[:60])
    if junk:
        notes.append(
            f"{path.name}: passed over {len(junk)} lines that are no `element label` ({some(junk, 1)})"
        )


def _span(event: Any, action: str) -> tuple[float, float] | None:
    """From the first stage of an element to its last, in seconds of the event."""
    try:
        event_start, event_end = map(float, event["timestamps"][0])
        stages = event["segments"][action]["timestamps"]
        start, end = float(min(stage[0] for stage in stages)), float(max(stage[1] for stage in stages))
    except (TypeError, KeyError, IndexError, ValueError):
        return None
    return (start, end) if 0 <= start < end and 0 <= event_start < event_end < _LONGEST else None


def _clip(
    video: str,
    event: str,
    split: str,
    about: Any,
    spans: list[tuple[int, float, float]],
    names: dict[int, str],
) -> Clip:
    start, end = map(float, about["timestamps"][0])
    spans.sort(key=lambda span: span[1:])
    labels = np.full(math.ceil(_frames(end - start)), -1, np.int64)
    for label, first, last in spans:
        labels[int(_frames(first)) : int(_frames(last)) + 1] = label
    name = f"{video}_{event}"
    return Clip(
        name,
        split,
        _task(about.get("event")),
        labels,
        names,
        (name,),
        spans=tuple(spans),
        raw=video,
        start=start,
        end=end,
    )


def _frames(seconds: float) -> float:
    """How many frames that is, without the noise of the multiplication."""
    return round(seconds * FPS, 6)


def _check_counts(release: _Release, counts: Counter[str]) -> str:
    shown = f"{counts['train']} train and {counts['val']} val elements of Gym{release.classes}"
    published = ELEMENTS[release.classes]
    if (counts["train"], counts["val"]) == published:
        return f"the counts are those of version 1.0: {shown}"
    return f"{shown}; version 1.0 has {published[0]} and {published[1]}"

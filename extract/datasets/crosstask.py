"""CrossTask (Zhukov et al., CVPR 2019): how-to videos of 18 primary and 65 related tasks from YouTube.

Annotations: crosstask_release.zip of https://github.com/DmZhukov/CrossTask:
- tasks_primary.txt, tasks_related.txt: per task five lines (id, title, url, number of steps, the steps
  separated by commas) and a blank one;
- videos.csv (all), videos_val.csv (those held out): `task,video,url` per line, no header;
- annotations/<task>_<video>.csv: `step,start,end` per line, steps from 1, seconds; primary tasks only.
Videos: from YouTube, by the ids. A video's id is `<task>_<video>`, as the release names its annotations (a
video may belong to two tasks); task and procedure are the task's id.

The script of a video is its task's, in the order given there: what CrossTask's weak supervision and its
evaluation (each step once, in this order) are given. A video shows a part of it, often with repetitions or in
another order. Step times stand in the manifest where each step of the script was done exactly once, which is
rare; `extra[video]` has every annotated one: `{"title": ..., "segments": [[place, start, end], ...]}` in the
order of time, place being that in the row's script, from 0, seconds. Videos without annotation have no extra.

Splits: videos_val.csv is `val`. Of the other videos of a primary task 30 are `train` and all others `test`,
as in the papers; related tasks are `train`. The papers draw the 30 at random among the videos they have; here
a hash of the id chooses, so that the split is the same for everybody, whatever is missing. No pairs.

Checked: that every task has as many steps as it says, that every video is of a known task, that every line of
an annotation is a step of it. What is not is passed over and told. No counts: the released files were not
here.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...cache.errors import StepclipError
from ...cache.manifest import VideoRow
from .base import Loaded
from .release import Origin, gather, of_youtube, seconds, some

PRIMARY, RELATED = "tasks_primary.txt", "tasks_related.txt"
VIDEOS, HELD_OUT = "videos.csv", "videos_val.csv"
TRAIN_VIDEOS = 30  # of each primary task
ORIGIN = Origin(
    "crosstask",
    PRIMARY,
    ("crosstask_release", "CrossTask", "CrossTask/crosstask_release"),
    "crosstask_release.zip of https://github.com/DmZhukov/CrossTask, unpacked (tasks_primary.txt, "
    "videos.csv, videos_val.csv, annotations/)",
    "VIDEOS/.../<YouTube id>.mp4 or <task>_<YouTube id>.mp4, such as 23521/kq8jTZ-GsA8.mp4",
)


@dataclass(frozen=True)
class Task:
    """One how-to task: its title and ordered steps."""

    title: str
    steps: tuple[str, ...]
    primary: bool


def load_crosstask(videos: Path | None, annotations: Path | None) -> Loaded:
    """CrossTask: `videos` as in ORIGIN, in folders of any depth, also by the names that yt-dlp gives;
    `annotations` the folder of tasks_primary.txt (without it, `videos` and what lies beside it).

    The module says what rows and `extra` hold. Missing videos are listed and left out. Raises StepclipError
    where no annotations, or not one video, are found, and for files that are not as released.
    """
    videos = ORIGIN.videos(videos)
    folder = ORIGIN.annotations(videos, annotations)
    notes: list[str] = []
    tasks = _read_tasks(folder / PRIMARY, primary=True)
    if (folder / RELATED).is_file():
        tasks = _read_tasks(folder / RELATED, primary=False) | tasks
    else:
        notes.append(f"no {RELATED}: the related tasks have no steps")
    listed = _read_videos(folder / VIDEOS, notes)
    held_out = {name: task for name, task in _read_videos(folder / HELD_OUT, notes).items() if task in tasks}
    strangers = [name for name, task in listed.items() if task not in tasks]
    listed = {name: task for name, task in (listed | held_out).items() if task in tasks}
    if not listed:
        raise StepclipError(f"{folder / VIDEOS} names no video of a known task", ORIGIN.source)
    if strangers:
        notes.append(
            f"{VIDEOS}: passed over {len(strangers)} videos of tasks without steps ({some(strangers)})"
        )
    splits = _splits(listed, set(held_out), tasks)
    rows, extra = [], {}
    bad: list[str] = []
    for name, task in listed.items():
        steps = tasks[task].steps
        segments = _read_segments(folder / "annotations" / f"{name}.csv", len(steps), bad)
        starts = ends = None
        if segments and sorted(place for place, _, _ in segments) == list(range(len(steps))):
            by_place = sorted(segments)
            starts, ends = tuple(s for _, s, _ in by_place), tuple(e for _, _, e in by_place)
        if segments:
            extra[name] = {"title": tasks[task].title, "segments": [list(segment) for segment in segments]}
        rows.append(
            VideoRow(name, "", task, task, splits[name], steps=steps, step_start=starts, step_end=ends)
        )
    count = Counter(splits.values())
    primary = sum(tasks[task].primary for task in set(listed.values()))
    timed = sum(row.step_start is not None for row in rows)
    first = [
        f"{len(rows)} videos of {primary} primary and {len(set(listed.values())) - primary} related tasks: "
        f"{count['train']} train, {count['val']} val, {count['test']} test ({TRAIN_VIDEOS} of each primary "
        "task are train, chosen by a hash of their ids: the papers draw them at random)",
        f"{len(extra)} videos are annotated; {timed} of them do each step of their task once and have step "
        "times in the manifest, the segments of all stand in Loaded.extra",
    ]
    if bad:
        notes.append(
            f"annotations: passed over {len(bad)} lines that are no step of their task ({some(bad, 2)})"
        )
    return gather(ORIGIN, videos, rows, _Names(listed), notes=[*first, *notes], extra=extra)


class _Names:
    """The ids of a file: <video>, <task>_<video>, or yt-dlp's; in a folder of a task's id, of that one."""

    def __init__(self, listed: dict[str, str]) -> None:
        self.of_video: defaultdict[str, list[str]] = defaultdict(list)
        self.tasks = set(listed.values())
        for name, task in listed.items():
            self.of_video[name.removeprefix(f"{task}_")].append(name)

    def __call__(self, folder: str, stem: str) -> list[str]:
        ids = [name for video in of_youtube(folder, stem) for name in self.of_video.get(video, ())]
        if folder in self.tasks:
            ids = [name for name in ids if name.startswith(f"{folder}_")]
        return [stem, *ids]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8-sig", errors="replace").splitlines()
    except OSError as error:
        raise StepclipError(f"{path} cannot be read: {error.strerror}", ORIGIN.source) from error


def _read_tasks(path: Path, primary: bool) -> dict[str, Task]:
    """Tasks by their ids. Raises StepclipError where a block is not as released."""
    tasks = {}
    lines = [line.strip() for line in _lines(path)]
    place = 0
    while place < len(lines):
        if not lines[place]:
            place += 1
            continue
        block = lines[place : place + 5]
        steps = tuple(step.strip() for step in block[4].split(",")) if len(block) == 5 else ()
        if not steps or not all(steps) or block[3] != str(len(steps)):
            raise StepclipError(
                f"{path}, line {place + 1}: the task '{block[0]:.40}' is not as released: "
                f"{len(steps)} steps, {block[3] if len(block) > 3 else 'none'} announced",
                "five lines per task: id, title, url, number of steps, steps separated by commas",
            )
        tasks[block[0]] = Task(block[1], steps, primary)
        place += 5
    if not tasks:
        raise StepclipError(f"{path} names no task", ORIGIN.source)
    return tasks


def _read_videos(path: Path, notes: list[str]) -> dict[str, str]:
    """`<task>_<video>` -> task."""
    listed: dict[str, str] = {}
    junk, twice = [], 0
    for line in _lines(path):
        fields = [field.strip() for field in line.split(",")]
        if len(fields) < 2 or not fields[0] or not fields[1]:
            junk += [line] if line.strip() else []
            continue
        name = f"{fields[0]}_{fields[1]}"
        twice += name in listed
        listed[name] = fields[0]
    if junk:
        notes.append(
            f"{path.name}: passed over {len(junk)} lines that are no `task,video,url` ('{junk[0]:.60}')"
        )
    if twice:
        notes.append(f"{path.name}: {twice} videos given more than once, kept once")
    return listed


def _read_segments(path: Path, steps: int, bad: list[str]) -> list[tuple[int, float, float]]:
    """(place, start, end) by time; empty where there is no annotation."""
    if not path.is_file():
        return []
    return sorted(_segments(path, steps, bad), key=lambda segment: segment[1:])


def _segments(path: Path, steps: int, bad: list[str]) -> Iterator[tuple[int, float, float]]:
    for line in filter(str.strip, _lines(path)):
        fields = [value for field in line.split(",") if (value := seconds(field.strip())) is not None]
        if len(fields) == 3 == line.count(",") + 1 and fields[0] in range(1, steps + 1):
            step, start, end = fields
            if 0 <= start < end:
                yield int(step) - 1, start, end
                continue
        bad.append(f"{path.name}: {line:.40}")


def _splits(listed: dict[str, str], held_out: set[str], tasks: dict[str, Task]) -> dict[str, str]:
    splits = {name: "val" if name in held_out else "train" for name in listed}
    free = defaultdict(list)
    for name, task in listed.items():
        if tasks[task].primary and name not in held_out:
            free[task].append(name)
    for names in free.values():
        names.sort(key=lambda name: hashlib.sha256(name.encode()).digest())
        splits |= dict.fromkeys(names[TRAIN_VIDEOS:], "test")
    return splits

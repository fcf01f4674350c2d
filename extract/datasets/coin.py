"""COIN-SV (SVIP, Qian et al., CVPR 2022), and the whole of COIN (Tang et al., CVPR 2019) it was taken from.

Annotations of COIN-SV: Datasets/COIN-SV of the SVIP or WeakSVR repository. Annotations of COIN: COIN.json of
https://coin-dataset.github.io. Videos: from YouTube, by the ids; COIN's download_videos.py lays them out as
videos/<task>/<id>.mp4. A video's id is its YouTube id; the label A.B is its procedure, A its task (the
`recipe_type` of COIN).

Splits of COIN-SV: `train`, `val`, `test`; pairs: matched, or how the scripts differ. Of the whole of COIN:
its training subset is `train`, the other `test`; each distinct sequence of steps is a procedure; no pairs.
Checked: the form of every line, and of a full release twelve counts: 1,221, 442 and 451 videos of 37, 285 and
268 procedures, 21,741 training pairs, 200 + 200 and 500 + 500 pairs; of COIN.json 11,827 videos, 180 tasks.

Known faults of the release, handled here:
- label_bank.json has the scripts of val and test only: the 37 training procedures are taken from
  train_procedures.json, or from COIN.json, or else their videos are left out and told;
- the release speaks of videos cut to COIN's `start` and `end`, which it does not give: with COIN.json beside
  the annotations each row has its trim, and its step times as truth, in seconds from that start. VIDEOS are
  then the whole YouTube videos; whoever has cut ones keeps COIN.json elsewhere and gets rows without trim.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...cache.errors import StepclipError
from ...cache.files import read_json
from ...cache.manifest import VideoRow
from ...cache.rows import procedure_of
from .base import Loaded
from .release import Origin, counted, gather, of_youtube, seconds, some, step_times
from .sequences import (
    BANK,
    Release,
    check_counts,
    read_bank,
    read_lines,
    read_pairs,
    read_split,
    rows_of,
)

SPLITS = ("train", "val", "test")
PROCEDURES = "train_procedures.json"
COIN = "COIN.json"
SUBSETS = {"training": "train", "validation": "test", "testing": "test"}
_LABEL = re.compile(r"\d+\.\d+")
# what the full release holds (weaksvr.md 1.2)
RELEASED = {
    "train videos": 1221,
    "val videos": 442,
    "test videos": 451,
    "train procedures": 37,
    "val procedures": 285,
    "test procedures": 268,
    "train matched pairs": 21741,
    "train unmatched pairs": 0,
    "val matched pairs": 200,
    "val unmatched pairs": 200,
    "test matched pairs": 500,
    "test unmatched pairs": 500,
}
WHOLE = {"videos": 11827, "tasks": 180}
ORIGIN = Origin(
    "coin",
    BANK,
    ("COIN-SV", "Datasets/COIN-SV"),
    "the annotation files of COIN-SV (Datasets/COIN-SV of the SVIP or WeakSVR repository), or COIN.json of "
    "https://coin-dataset.github.io for the whole of COIN",
    "VIDEOS/.../<YouTube id>.mp4, such as 122/xZecGPPhbHE.mp4",
)


@dataclass(frozen=True)
class Entry:
    """One video of COIN.json: its trim (seconds), the steps that it shows in order, and their segments."""

    task: str
    subset: str
    start: float | None
    end: float | None
    steps: tuple[str, ...]
    segments: tuple[Any, ...]

    def trimmed(self, row: VideoRow) -> VideoRow:
        """The row with this trim, and with step times where these are the steps of its script."""
        times = step_times(self.segments, self.start, self.end) if self.steps == row.steps else None
        starts, ends = times or (None, None)
        return replace(row, start=self.start, end=self.end, step_start=starts, step_end=ends)


def load_coin(videos: Path | None, annotations: Path | None) -> Loaded:
    """COIN-SV where label_bank.json is found, with COIN.json beside it where that is; the whole of COIN where
    `annotations` is COIN.json itself or a folder that has only that.

    `videos` as in ORIGIN, in folders of any depth, also by the names that yt-dlp gives. Without `annotations`
    they are looked for in `videos` and beside it. In the whole of COIN the training subset is `train` and the
    other, which every published result is of, `test`; each distinct sequence of steps is a procedure.
    Missing videos are listed and left out, with their pairs. Raises StepclipError where no annotations, or
    not one video, are found.
    """
    videos = ORIGIN.videos(videos)
    if annotations is not None and annotations.is_file() and annotations.name != BANK:
        return _load_whole(videos, annotations)
    tried = ORIGIN.tried(videos, annotations)
    if not any((folder / BANK).is_file() for folder in tried):
        for folder in tried:
            if (folder / COIN).is_file():
                return _load_whole(videos, folder / COIN)
    folder = ORIGIN.annotations(videos, annotations)
    release = Release(read_bank(folder / BANK))
    beside = [place / COIN for place in (folder, folder.parent, folder.parent / "COIN")]
    entries = next((_read_coin(path, release.passed) for path in beside if path.is_file()), {})
    said = _complete(release, folder, entries)
    for split in SPLITS:
        path = folder / f"{split}_split.txt"
        read_split(
            path, split, release, line="video label", is_label=lambda label: bool(_LABEL.fullmatch(label))
        )
    for split in SPLITS:
        read_pairs(folder / f"{split}_pairs.txt", split, release)
    if release.textless:
        said.append(
            f"{release.textless.total()} videos of {len(release.textless)} procedures without a script "
            f"({some(list(release.textless))}) are left out, with {release.rows['textless pairs']} pairs; "
            f"{COIN} (https://coin-dataset.github.io) in {folder} would give what the release lacks"
        )
    rows = [
        entries[row.video_id].trimmed(row) if row.video_id in entries else row
        for row in rows_of(release, lambda label: label.split(".")[0])
    ]
    full = len(release.videos) + release.textless.total() > 2000
    counts = check_counts("COIN-SV", release, RELEASED, full)
    notes = [counts, *said, *_tell_trims(rows, entries), *release.passed]
    return gather(ORIGIN, videos, rows, of_youtube, pairs=release.pairs, notes=notes)


def _complete(release: Release, folder: Path, entries: dict[str, Entry]) -> list[str]:
    """Put the scripts that label_bank.json lacks into the bank; say where they are from."""
    said = []
    lacking: defaultdict[str, list[str]] = defaultdict(list)
    for split in SPLITS:
        for fields in read_lines(folder / f"{split}_split.txt"):
            if len(fields) == 2 and _LABEL.fullmatch(fields[1]) and fields[1] not in release.bank:
                lacking[fields[1]].append(fields[0])
    if lacking and (folder / PROCEDURES).is_file():
        given = read_bank(folder / PROCEDURES)
        taken = {label: given[label] for label in lacking if label in given}
        release.bank |= taken
        said.append(f"the scripts of {len(taken)} procedures, which {BANK} lacks, are from {PROCEDURES}")
    shown: dict[str, Counter[tuple[str, ...]]] = {
        label: Counter(entries[name].steps for name in names if name in entries)
        for label, names in lacking.items()
        if label not in release.bank
    }
    taken = {  # what most of its videos show
        label: steps
        for label, counts in shown.items()
        for steps, count in counts.most_common(1)
        if 2 * count > counts.total()
    }
    release.bank |= taken
    if taken:
        said.append(f"the scripts of {len(taken)} procedures, which {BANK} lacks, are from {COIN}")
    if unclear := [label for label, counts in shown.items() if counts and label not in taken]:
        said.append(
            f"{COIN} gives the videos of {len(unclear)} procedures different steps ({some(unclear)}): "
            "they have no script"
        )
    return said


def _load_whole(videos: Path, path: Path) -> Loaded:
    notes: list[str] = []
    entries = _read_coin(path, notes)
    rows = [
        entry.trimmed(
            VideoRow(
                video_id,
                "",
                entry.task,
                procedure_of(entry.steps),
                SUBSETS.get(entry.subset, ""),
                steps=entry.steps,
            )
        )
        for video_id, entry in entries.items()
    ]
    found = {"videos": len(rows), "tasks": len({row.task for row in rows})}
    shown = f"{found['videos']} videos of {found['tasks']} tasks"
    full = found["videos"] > 11000
    notes[:0] = [counted("COIN", found, WHOLE, full, shown), *_tell_trims(rows, entries)]
    return gather(ORIGIN, videos, rows, of_youtube, notes=notes)


def _read_coin(path: Path, notes: list[str]) -> dict[str, Entry]:
    """The videos of COIN.json by their ids. Raises StepclipError for a file that is not that."""
    content = read_json(path)
    database = content.get("database") if isinstance(content, dict) else None
    if not isinstance(database, dict) or not database:
        raise StepclipError(
            f"{path} has no 'database' of videos", "COIN.json of https://coin-dataset.github.io"
        )
    entries, wrong = {}, []
    for video_id, said in database.items():
        try:
            entries[video_id] = _entry(said)
        except (KeyError, TypeError, AttributeError):
            wrong.append(video_id)
    if not entries:
        raise StepclipError(
            f"{path}: no video has steps; '{wrong[0]}' is {database[wrong[0]]!r:.80}",
            "start, end, recipe_type, subset and annotation (segment, label) of each",
        )
    if wrong:
        notes.append(f"{path.name}: passed over {len(wrong)} videos without steps ({some(wrong)})")
    return entries


def _entry(said: Any) -> Entry:
    """Raises KeyError, TypeError or AttributeError for what has no steps."""
    steps = tuple(step["label"].strip() for step in said["annotation"])
    if not steps or not all(steps):
        raise KeyError("label")
    start, end = seconds(said.get("start")), seconds(said.get("end"))
    if start is None or end is None or not 0 <= start < end:
        start = end = None
    segments = tuple(step.get("segment") for step in said["annotation"])
    return Entry(str(said.get("recipe_type", "")), str(said.get("subset", "")), start, end, steps, segments)


def _tell_trims(rows: list[VideoRow], entries: dict[str, Entry]) -> list[str]:
    if not entries:
        return [
            f"no {COIN} beside the annotations: no step times, and videos are taken whole, while the release "
            "means the part from its start to its end (right for VIDEOS that are cut already)"
        ]
    trimmed = sum(row.start is not None for row in rows)
    timed = sum(row.step_start is not None for row in rows)
    notes = [
        f"{trimmed} of {len(rows)} videos are trimmed to the start and end of {COIN}, {timed} have step "
        "times: VIDEOS must be the whole YouTube videos"
    ]
    if other := [
        row.video_id for row in rows if row.video_id in entries and entries[row.video_id].steps != row.steps
    ]:
        notes.append(
            f"{len(other)} videos have other steps in {COIN} than in their script ({some(other)}): "
            "no step times"
        )
    return notes

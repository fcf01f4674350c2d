"""YouCook2 (Zhou et al., AAAI 2018): recipes from YouTube, each with its sentences and their times.

Annotations: youcookii_annotations_trainval.json of http://youcook2.eecs.umich.edu/download. Videos: from
YouTube, by the ids; its scripts lay them out as raw_videos/training/<recipe>/<id>.mp4. Each video is taken
whole; its steps are its own sentences, so that it is a procedure of its own (a hash of them); its recipe type
is the task.

Splits: training is `train`, validation is `test`. The annotations of the testing subset were never released,
so every published result is of the validation subset, which must not be selected on; `val` stays empty and is
for the user to take from `train`.

The retrieval of paragraphs (TempCLR, VideoCLIP, MIL-NCE) is over 436 of the 457 validation videos, 3,350
sentences: where their validation_youcook.csv (csv/ of github.com/antoine77340/MIL-NCE_HowTo100M) lies beside
the annotations, those are `test` and the other 21 `val`.

No pairs. Checked: of a full release 1,333 and 457 videos, 10,337 and 3,492 sentences, 89 recipes; of the
retrieval list 436 videos, 3,350 sentences, at most 16 of a video; that every segment ends after it begins.

Known of the release: 43 segments begin before the one before them has ended; five sentences have blanks at an
end (cut here); one video_url is of another video than its id says: the id counts.
"""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...cache.errors import StepclipError
from ...cache.files import read_json
from ...cache.manifest import VideoRow
from ...cache.rows import procedure_of
from .base import Loaded
from .release import Origin, counted, gather, of_youtube, some, step_times

FILE = "youcookii_annotations_trainval.json"
RETRIEVAL = "validation_youcook.csv"
SPLITS = {"training": "train", "validation": "test"}
RELEASED = {
    "training videos": 1333,
    "training sentences": 10337,
    "validation videos": 457,
    "validation sentences": 3492,
    "recipes": 89,
}
RETRIEVED = {"videos": 436, "sentences": 3350, "most sentences": 16}  # tempclr.md 5.1
ORIGIN = Origin(
    "youcook2",
    FILE,
    ("YouCook2", "YouCookII", "annotations"),
    f"{FILE} of http://youcook2.eecs.umich.edu/download",
    "VIDEOS/.../<YouTube id>.mp4, such as raw_videos/training/113/GLd3aX16zBg.mp4",
)


def load_youcook2(videos: Path | None, annotations: Path | None) -> Loaded:
    """YouCook2: `videos` as in ORIGIN, in folders of any depth, also by the names that yt-dlp gives;
    `annotations` the JSON file or its folder (without it, `videos` and what lies beside it).

    Step times are in seconds of the whole video. Missing videos are listed and left out. Raises StepclipError
    where no annotations, or not one video, are found, or the file is not as released.
    """
    videos = ORIGIN.videos(videos)
    if annotations is not None and annotations.is_file():
        path = annotations
    else:
        path = ORIGIN.annotations(videos, annotations) / FILE
    content = read_json(path)
    database = content.get("database") if isinstance(content, dict) else None
    if not isinstance(database, dict) or not database:
        raise StepclipError(f"{path} has no 'database' of videos", ORIGIN.source)
    notes: list[str] = []
    rows = _rows(path, database, notes)
    found: Counter[str] = Counter()
    for row in rows:
        subset = "training" if row.split == "train" else "validation"
        found.update({f"{subset} videos": 1, f"{subset} sentences": len(row.steps)})
    found["recipes"] = len({row.task for row in rows})
    shown = (
        f"{found['training videos']} training and {found['validation videos']} validation videos of "
        f"{found['training sentences']} and {found['validation sentences']} sentences"
    )
    first = [counted("YouCook2", found, RELEASED, len(rows) > 1700, shown)]
    if (path.parent / RETRIEVAL).is_file():
        rows, said = _retrieval(path.parent / RETRIEVAL, rows)
        first.append(said)
    return gather(ORIGIN, videos, rows, of_youtube, notes=[*first, *notes])


def _rows(path: Path, database: dict[str, Any], notes: list[str]) -> list[VideoRow]:
    rows, wrong, untimed, empty = [], [], [], 0
    for video_id, said in database.items():
        try:
            told = [(each["sentence"].strip(), each["segment"]) for each in said["annotations"]]
            split, task = SPLITS[said["subset"]], str(said["recipe_type"])
        except (KeyError, TypeError, AttributeError):
            wrong.append(video_id)
            continue
        empty += sum(not sentence for sentence, _ in told)
        told = [each for each in told if each[0]]
        if not told:
            wrong.append(video_id)
            continue
        steps = tuple(sentence for sentence, _ in told)
        times = step_times([segment for _, segment in told])
        if times is None:
            untimed.append(video_id)
        starts, ends = times or (None, None)
        rows.append(
            VideoRow(
                video_id,
                "",
                task,
                procedure_of(steps),
                split,
                steps=steps,
                step_start=starts,
                step_end=ends,
            )
        )
    if not rows:
        raise StepclipError(
            f"{path}: no video has sentences; '{wrong[0]}' is {database[wrong[0]]!r:.80}",
            "subset (training or validation), recipe_type and annotations (segment, sentence) of each",
        )
    for what, ids in (
        ("passed over {} videos without subset, recipe or sentences", wrong),
        ("{} videos have segments that are no times: no step times", untimed),
    ):
        if ids:
            notes.append(f"{path.name}: {what.format(len(ids))} ({some(ids)})")
    if empty:
        notes.append(f"{path.name}: passed over {empty} empty sentences")
    return rows


def _retrieval(path: Path, rows: list[VideoRow]) -> tuple[list[VideoRow], str]:
    """The videos of the retrieval set are `test`, the rest of the validation subset `val`."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            clips = Counter((line.get("video_id") or "").strip() for line in csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise StepclipError(f"{path} cannot be read: {error}", "the file of MIL-NCE, or none") from error
    listed = [row for row in rows if row.split == "test" and row.video_id in clips]
    if not listed:
        raise StepclipError(
            f"{path} names no validation video", "columns end, start, task, text, video_id, or no such file"
        )
    kept = {row.video_id for row in listed}
    rows = [
        replace(row, split="val") if row.split == "test" and row.video_id not in kept else row for row in rows
    ]
    found = {
        "videos": len(listed),
        "sentences": sum(len(row.steps) for row in listed),
        "most sentences": max(len(row.steps) for row in listed),
    }
    shown = f"{found['sentences']} sentences of {found['videos']} videos; the other validation videos are val"
    said = counted("retrieval", found, RETRIEVED, len(listed) > 400, shown)
    other = [row.video_id for row in listed if len(row.steps) != clips[row.video_id]]
    if other:
        said += f"; {len(other)} videos have other numbers of sentences there ({some(other)})"
    return rows, f"{path.name}: {said}"

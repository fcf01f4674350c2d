"""CSV (Chemical Sequence Verification, Qian et al., CVPR 2022): the released annotation files as they are.

Annotations: Datasets/CSV of the SVIP or WeakSVR repository: label_bank.json, train and test_split.txt
(`person.mp4 label` per line), train and test_pairs.txt, splits/text_matching.txt. Videos: from SVIP's
repository, laid out as VIDEOS/<label>/<person>.mp4. A video's id is `label/person`; the label A.B is its
procedure, A its task.

Splits: `train` (tasks 7 to 15), `test` (1 to 5). Pairs: matched, or how the scripts differ (order, deletion,
addition, other). Matching lists: a paragraph and five candidates.

Checked: the form of every line, that a video keeps the label of its split, and of a full release twelve
counts: 899 and 1,038 videos of 45 and 25 procedures, 8,531 training pairs, 500 + 500 test pairs, 775 lists.

Known faults of the release, handled here and told in the notes: three split lines name ghosts of macOS
(`._person.mp4`); 33 junk lines stand at the end of WeakSVR's train_pairs.txt; 25 matching lists are given
twice. There are 1,937 videos where the paper says 1,940. COIN-SV and Diving48-SV have adapters of their own.
"""

from __future__ import annotations

import os
from pathlib import Path

from ...cache.manifest import MatchRow
from .base import VIDEO_SUFFIXES, Loaded
from .release import Origin, gather
from .sequences import (
    BANK,
    Release,
    check_counts,
    difference,
    read_bank,
    read_lines,
    read_pairs,
    read_split,
    rows_of,
)

__all__ = ["difference", "load_csv"]

SPLITS = ("train", "test")
PROCEDURES = {f"{task}.{number}" for task in (*range(1, 6), *range(7, 16)) for number in range(1, 6)}
# what the full release holds (weaksvr.md 1.2)
RELEASED = {
    "train rows": 901,
    "test rows": 1039,
    "train videos": 899,
    "test videos": 1038,
    "train procedures": 45,
    "test procedures": 25,
    "train matched pairs": 8531,
    "train unmatched pairs": 0,
    "test matched pairs": 500,
    "test unmatched pairs": 500,
    "matching rows": 800,
    "matching lists": 775,
}
ORIGIN = Origin(
    "csv",
    BANK,
    ("CSV", "Datasets/CSV"),
    "the annotation files of the release (Datasets/CSV of the SVIP or WeakSVR repository)",
    "VIDEOS/<label>/<person>.mp4, such as 7.1/baiyinghao.mp4",
)


def load_csv(videos: Path | None, annotations: Path | None) -> Loaded:
    """The released CSV data set: `videos` laid out as in ORIGIN, `annotations` the folder of label_bank.json.

    Without `annotations` they are looked for in `videos` and beside it. Videos that are missing are listed
    and left out, with the pairs and lists that need them. `extra[video]["transfer"]` is "train" or "test" for
    the videos of the linear probe's lists. Raises StepclipError where no annotations, or not
    one video, are found.
    """
    videos = ORIGIN.videos(videos)
    folder = ORIGIN.annotations(videos, annotations)
    release = Release(read_bank(folder / BANK))
    for split in SPLITS:
        path = folder / f"{split}_split.txt"
        read_split(path, split, release, line="person.mp4 label", video_id=_video_id)
    for split in SPLITS:
        path = folder / f"{split}_pairs.txt"
        read_pairs(path, split, release, lambda name, label: name.startswith(f"{label}/"))
    _read_matching(folder / "splits" / "text_matching.txt", release)
    transfer = {
        video_id: {"transfer": name}
        for name in SPLITS
        for video_id in _read_transfer(folder / "splits" / f"transfer_{name}.txt", release)
    }
    rows = release.rows["train rows"] + release.rows["test rows"]
    full = release.bank.keys() == PROCEDURES and rows > 1700
    return gather(
        ORIGIN,
        videos,
        rows_of(release, lambda label: label.split(".")[0]),
        lambda parent, stem: (f"{parent}/{stem}",),
        pairs=release.pairs,
        matching=release.matching,
        notes=[check_counts("CSV", release, RELEASED, full), *release.passed],
        extra=transfer,
    )


def _video_id(name: str, label: str) -> str:
    stem, suffix = os.path.splitext(name)
    return f"{label}/{stem if suffix.lower() in VIDEO_SUFFIXES else name}"


def _read_matching(path: Path, release: Release) -> None:
    """`label cand1 ... cand5` per line; the answer is the candidate of that label. The file may be absent."""
    if not path.is_file():
        release.passed.append(f"no {path.name}: no text-to-video matching lists")
        return
    junk, strangers, shadows = [], [], 0
    lists: dict[tuple[str, ...], MatchRow | None] = {}
    for given in read_lines(path):
        # label/._person is what macOS leaves beside label/person: the list means that video
        fields = [given[0], *(name.replace("/._", "/") for name in given[1:])]
        label, candidates = fields[0], tuple(fields[1:])
        own = [place for place, name in enumerate(candidates) if name.rpartition("/")[0] == label]
        if label not in release.bank or len(own) != 1:
            junk.append(" ".join(fields))
            continue
        release.rows["matching rows"] += 1
        if tuple(fields) in lists:
            continue
        lists[tuple(fields)] = None
        shadows += fields != given
        if all(name in release.videos for name in candidates):
            split = release.videos[candidates[own[0]]][1]
            lists[tuple(fields)] = MatchRow(label, candidates, own[0], split)
        else:
            strangers.append(" ".join(fields))
    release.matching = [row for row in lists.values() if row is not None]
    release.rows["matching lists"] = len(lists)
    release.tell(path, junk, "lines that are no matching list")
    release.tell(path, strangers, "lists with a video that is in no split")
    if shadows:
        release.passed.append(f"{path.name}: {shadows} lists name a ghost of macOS (._*), read as its video")
    if repeated := release.rows["matching rows"] - len(lists):
        release.passed.append(f"{path.name}: {repeated} lists given more than once, kept once")


def _read_transfer(path: Path, release: Release) -> list[str]:
    """`frame_folder label` per line, the folder as on the authors' disk; the ids. The file may be absent."""
    if not path.is_file():
        return []
    found: list[str] = []
    junk: list[str] = []
    strangers: list[str] = []
    for fields in read_lines(path):
        video_id = f"{fields[1]}/{fields[0].rpartition('/')[2]}" if len(fields) == 2 else ""
        if video_id in release.videos:
            found.append(video_id)
        else:
            (strangers if len(fields) == 2 and fields[1] in release.bank else junk).append(" ".join(fields))
    release.tell(path, junk, "lines that are no `folder label`")
    release.tell(path, strangers, "videos that are in no split")
    return found

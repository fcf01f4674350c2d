"""CSV (Chemical Sequence Verification, Qian et al., CVPR 2022): the released annotation files as they are.

The files are those under Datasets/CSV of the SVIP and WeakSVR repositories, which differ from each other and
have faults of their own; what is passed over is told in the notes. A video's id is `label/person`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ...cache.errors import StepclipError
from ...cache.files import read_json
from ...cache.manifest import Manifest, MatchRow, Pair, VideoRow
from .base import VIDEO_SUFFIXES, Loaded

BANK = "label_bank.json"
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
LAYOUT = "VIDEOS/<label>/<person>.mp4, such as 7.1/baiyinghao.mp4"


@dataclass
class _Release:
    """The annotation files, read; `passed`: what was passed over, file by file."""

    bank: dict[str, tuple[str, ...]]
    videos: dict[str, tuple[str, str]] = field(default_factory=dict)  # id -> (label, split)
    pairs: list[Pair] = field(default_factory=list)
    matching: list[MatchRow] = field(default_factory=list)
    rows: Counter[str] = field(default_factory=Counter)
    passed: list[str] = field(default_factory=list)


def load_csv(videos: Path | None, annotations: Path | None) -> Loaded:
    """The released CSV data set: `videos` laid out as LAYOUT, `annotations` the folder of label_bank.json.

    Without `annotations` they are looked for in `videos` and beside it. Videos that are missing are listed
    and left out, with the pairs and lists that need them. Raises StepclipError where no annotations, or not
    one video, are found.
    """
    if videos is None:
        raise StepclipError(
            "no VIDEOS given", f"a folder laid out as {LAYOUT}", "make extract DATASET=csv VIDEOS=DIR"
        )
    if not videos.is_dir():
        raise StepclipError(f"no folder {videos}", f"videos laid out as {LAYOUT}")
    folder = find_annotations(videos, annotations)
    release = _Release(_read_bank(folder / BANK))
    for split in SPLITS:
        _read_split(folder / f"{split}_split.txt", split, release)
    for split in SPLITS:
        _read_pairs(folder / f"{split}_pairs.txt", split, release)
    _read_matching(folder / "splits" / "text_matching.txt", release)
    paths, frame_folders = _find_videos(videos, release)
    if not paths:
        raise _no_videos(videos, release, frame_folders)
    rows = tuple(
        VideoRow(
            video_id=video_id,
            path=os.path.abspath(paths.get(video_id, "")),
            task=label.split(".")[0],
            procedure=label,
            split=split,
            steps=release.bank[label],
        )
        for video_id, (label, split) in release.videos.items()
    )
    everything = Manifest(rows, tuple(release.pairs), tuple(release.matching), "csv")
    manifest = everything.select(paths)
    missing = [video_id for video_id in release.videos if video_id not in paths]
    notes = [*_check_counts(release), *release.passed]
    if missing:
        some = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        notes.append(
            f"{len(missing)} of {len(rows)} videos are missing ({some}); left: {len(manifest.pairs)} of "
            f"{len(release.pairs)} pairs, {len(manifest.matching)} of {len(release.matching)} matching lists"
        )
    if frame_folders:
        notes.append(
            f"{len(frame_folders)} are folders of pictures ({frame_folders[0]}, ...), which are not read: "
            "give the video files"
        )
    return Loaded(manifest, missing, notes)


def find_annotations(videos: Path, annotations: Path | None) -> Path:
    """The folder that holds label_bank.json. Raises StepclipError where there is none."""
    if annotations is not None:
        tried = [annotations, annotations / "CSV", annotations / "Datasets" / "CSV"]
    else:
        tried = [
            videos,
            videos.resolve().parent,
            videos / "annotations",
            videos.resolve().parent / "annotations",
        ]
    for folder in tried:
        if (folder / BANK).is_file():
            return folder
    raise StepclipError(
        f"no {BANK} in {', '.join(str(folder) for folder in tried)}",
        "the annotation files of the release (Datasets/CSV of the SVIP or WeakSVR repository)",
        "make extract DATASET=csv VIDEOS=DIR ANNOTATIONS=DIR",
    )


def difference(a: str, b: str, bank: dict[str, tuple[str, ...]]) -> str:
    """How the scripts of two procedures of one task differ: order, deletion, addition or other.

    order: the same steps in another order. Else, where one script holds all steps of the other: addition if
    it is the task's longest, deletion if the other is the task's shortest, other if both or neither.
    """
    first, second = Counter(bank[a]), Counter(bank[b])
    if first == second:
        return "order"
    small, large = sorted((first, second), key=Counter.total)
    task = [len(steps) for label, steps in bank.items() if label.split(".")[0] == a.split(".")[0]]
    longest, shortest = large.total() == max(task), small.total() == min(task)
    if a.split(".")[0] != b.split(".")[0] or small - large or longest == shortest:
        return "other"
    return "addition" if longest else "deletion"


def _read_bank(path: Path) -> dict[str, tuple[str, ...]]:
    bank = read_json(path)
    if not isinstance(bank, dict) or not bank:
        raise StepclipError(f"{path} holds no labels", "an object: label -> list of steps")
    for label, steps in bank.items():
        good = (
            isinstance(steps, list)
            and steps
            and all(isinstance(step, str) and step.strip() for step in steps)
        )
        if not good:
            raise StepclipError(
                f"{path}: the label '{label}' has the steps {steps!r:.80}", "a list of sentences"
            )
    return {label: tuple(step.strip() for step in steps) for label, steps in bank.items()}


def _lines(path: Path) -> Iterator[list[str]]:
    """The fields of each line that has some; a missing newline at the end, CRLF and a BOM do not matter."""
    try:
        text = path.read_text("utf-8-sig", errors="replace")
    except OSError as error:
        raise StepclipError(
            f"{path} cannot be read: {error.strerror}", "the annotation files of the release, as they are"
        ) from error
    for line in text.splitlines():
        if fields := line.split():
            yield fields


def _read_split(path: Path, split: str, release: _Release) -> None:
    """`person.MP4 label` per line."""
    ghosts, junk, twice = [], [], []
    for fields in _lines(path):
        if len(fields) != 2 or fields[1] not in release.bank:
            junk.append(" ".join(fields))
            continue
        release.rows[f"{split} rows"] += 1
        name, label = fields
        if name.startswith("._"):  # AppleDouble leftovers of macOS, no videos
            ghosts.append(f"{label}/{name}")
            continue
        video_id = f"{label}/{_person(name)}"
        if video_id in release.videos:
            twice.append(video_id)
            continue
        release.videos[video_id] = (label, split)
    _tell(release, path, ghosts, "ghosts of macOS (._*)")
    _tell(release, path, junk, "lines that are no `person.mp4 label`")
    _tell(release, path, twice, "videos given before")


def _read_pairs(path: Path, split: str, release: _Release) -> None:
    """`video1 label1 video2 label2` per line, a video being `label/person`."""
    junk, strangers = [], []
    for fields in _lines(path):
        good = len(fields) == 4 and all(
            label in release.bank and name.startswith(f"{label}/") for name, label in (fields[:2], fields[2:])
        )
        if not good:
            junk.append(" ".join(fields))
        elif fields[0] not in release.videos or fields[2] not in release.videos:
            strangers.append(f"{fields[0]} {fields[2]}")
        else:
            a, label_a, b, label_b = fields
            matched = label_a == label_b
            kind = "matched" if matched else difference(label_a, label_b, release.bank)
            release.pairs.append(Pair(a, b, matched, kind, split))
    _tell(release, path, junk, "lines that are no pair")
    _tell(release, path, strangers, "pairs of videos that are in no split")


def _read_matching(path: Path, release: _Release) -> None:
    """`label cand1 ... cand5` per line; the answer is the candidate of that label. The file may be absent."""
    if not path.is_file():
        release.passed.append(f"no {path.name}: no text-to-video matching lists")
        return
    junk, strangers = [], []
    lists: dict[tuple[str, ...], MatchRow | None] = {}
    for fields in _lines(path):
        label, candidates = fields[0], tuple(fields[1:])
        own = [place for place, name in enumerate(candidates) if name.rpartition("/")[0] == label]
        if label not in release.bank or len(own) != 1:
            junk.append(" ".join(fields))
            continue
        release.rows["matching rows"] += 1
        if tuple(fields) in lists:
            continue
        lists[tuple(fields)] = None
        if all(name in release.videos for name in candidates):
            split = release.videos[candidates[own[0]]][1]
            lists[tuple(fields)] = MatchRow(label, candidates, own[0], split)
        else:
            strangers.append(" ".join(fields))
    release.matching = [row for row in lists.values() if row is not None]
    release.rows["matching lists"] = len(lists)
    _tell(release, path, junk, "lines that are no matching list")
    _tell(release, path, strangers, "lists with a video that is in no split (or a ghost)")
    if repeated := release.rows["matching rows"] - len(lists):
        release.passed.append(f"{path.name}: {repeated} lists given more than once, kept once")


def _tell(release: _Release, path: Path, found: list[str], what: str) -> None:
    if found:
        example = f"{found[0]:.60}"
        release.passed.append(f"{path.name}: passed over {len(found)} {what} (such as '{example}')")


def _person(name: str) -> str:
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in VIDEO_SUFFIXES else name


def _find_videos(videos: Path, release: _Release) -> tuple[dict[str, str], list[str]]:
    """The file of each video, and the ids for which a folder of pictures is there in its place."""
    paths: dict[str, str] = {}
    pictures: list[str] = []
    for label in sorted({label for label, _ in release.videos.values()}):
        if not (videos / label).is_dir():
            continue
        for entry in sorted(os.scandir(videos / label), key=lambda entry: entry.name):
            video_id = f"{label}/{_person(entry.name)}"
            if entry.name.startswith("._") or video_id not in release.videos:
                continue
            if entry.is_dir():
                if any(name.lower().endswith((".jpg", ".jpeg", ".png")) for name in os.listdir(entry)):
                    pictures.append(video_id)
            elif os.path.splitext(entry.name)[1].lower() in VIDEO_SUFFIXES:
                paths.setdefault(video_id, entry.path)
    return paths, [video_id for video_id in pictures if video_id not in paths]


def _no_videos(videos: Path, release: _Release, pictures: list[str]) -> StepclipError:
    if pictures:
        return StepclipError(
            f"{videos} holds {len(pictures)} folders of pictures ({pictures[0]}/1.jpg, ...)",
            f"video files, {LAYOUT}; pictures have no times",
            "give the mp4 files of the release, or make a video of each folder with ffmpeg",
        )
    there = sorted(os.listdir(videos))[:5]
    return StepclipError(
        f"none of the {len(release.videos)} videos is in {videos}; it holds: {', '.join(there) or 'nothing'}",
        LAYOUT,
    )


def _check_counts(release: _Release) -> list[str]:
    """The counts of 1.2, compared when this is the full release; else what it is."""
    found = Counter(release.rows)
    found.update(f"{split} videos" for _, split in release.videos.values())
    for split in SPLITS:
        found[f"{split} procedures"] = len({label for label, of in release.videos.values() if of == split})
    for pair in release.pairs:
        found[f"{pair.split} {'matched' if pair.matched else 'unmatched'} pairs"] += 1
    shown = (
        f"{found['train videos']} train and {found['test videos']} test videos of "
        f"{found['train procedures']} and {found['test procedures']} procedures, "
        f"{found['train matched pairs']} train pairs, "
        f"{found['test matched pairs']} + {found['test unmatched pairs']} test pairs"
    )
    full = release.bank.keys() == PROCEDURES and found["train rows"] + found["test rows"] > 1700
    if not full:
        return [f"not the full CSV release: {shown}; its counts were not checked"]
    wrong = [
        f"{key}: {found[key]}, released {count}" for key, count in RELEASED.items() if found[key] != count
    ]
    if wrong:
        return [f"counts that differ from the release: {'; '.join(wrong)}"]
    return [f"all {len(RELEASED)} counts are those of the release: {shown}"]

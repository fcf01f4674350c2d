"""Pouring, the data set of TCC: hands that pour a drink, every frame labelled (carl.md 5.2).

Videos and files: the folder `pouring` that CARL distributes (github.com/minghchen/CARL_code, "Download
pre-processed datasets"): videos/NAME.mp4, train.pkl, val.pkl. They come from TCC's three tfrecord files
(storage.googleapis.com/tcc-pouring), which CARL's dataset_preparation/tfrecords_to_videos.py makes into them.
CARL's files have 25 frames/s in their header, TCC gives 30 as the rate of the recording. Times here are those
of the file that is read: frame / its header's rate.

Splits: `train`, `val`. No pairs. Checked: that labels are the five phases, and the counts, 70 and 14 videos;
the 32 of a test split in TCC's table are in none of its files.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from ...cache.errors import StepclipError
from ...cache.rows import SPLITS
from .base import Loaded
from .frames import Clip, Files, assemble, find_release, phases, read_entries, stems_of

FPS = 25.0
EVENTS = ("hand touches bottle", "liquid starts exiting", "pouring complete", "bottle back on table")
PHASES = phases("pouring", EVENTS)
COUNTS = {"train": 70, "val": 14}
TEST = 32  # in the split table of TCC, and in none of its three files
WHERE = (
    "the folder pouring of CARL (github.com/minghchen/CARL_code, 'Download pre-processed datasets'): "
    "train.pkl, val.pkl, videos/"
)
LAYOUT = "VIDEOS/.../NAME.mp4, with the names of train.pkl and val.pkl, in folders of any depth"
RUN = "make extract DATASET=pouring VIDEOS=pouring/videos ANNOTATIONS=pouring"


def load_pouring(videos: Path | None, annotations: Path | None) -> Loaded:
    """Pouring with phases as steps; the frame labels in `extra`. One of the two may hold both.

    Missing videos are listed, the numbers of videos compared with the published ones. Raises StepclipError
    where no annotations or not one video are found, and for files that are not as released.
    """
    given = annotations or videos
    if given is not None and given.is_dir() and not _pickles(given) and any(given.glob("*.tfrecord*")):
        raise StepclipError(
            f"{given} holds TCC's tfrecord files",
            WHERE,
            "CARL's dataset_preparation/tfrecords_to_videos.py makes pickles and videos of them: its last "
            "lines call main for PennAction alone, so call main('train', 'pouring_tfrecords'), too",
        )
    videos, folder = find_release(videos, annotations, lambda folder: bool(_pickles(folder)), WHERE, RUN)
    notes: list[str] = []
    clips = []
    for split, path in _pickles(folder).items():
        for entry, labels in read_entries(path, notes):
            if labels.min() < 0 or labels.max() >= len(PHASES):
                notes.append(
                    f"{entry['name']} was left out: labels {labels.min()} to {labels.max()}, "
                    f"of {len(PHASES)} phases"
                )
                continue
            file = str(entry.get("video_file") or "")
            clips.append(
                Clip(
                    entry["name"],
                    split,
                    "pouring",
                    labels,
                    dict(enumerate(PHASES)),
                    stems_of(entry),
                    file,
                    procedure="pouring",
                )
            )
    if not clips:
        raise StepclipError(f"{folder} holds no labelled video; {'; '.join(notes[:3])}", WHERE)
    notes[:0] = _check_counts(Counter(clip.split for clip in clips))
    return assemble("pouring", clips, Files(videos), FPS, LAYOUT, notes)


def _pickles(folder: Path) -> dict[str, Path]:
    return {split: folder / f"{split}.pkl" for split in SPLITS if (folder / f"{split}.pkl").is_file()}


def _check_counts(found: Counter[str]) -> list[str]:
    shown = ", ".join(f"{count} {split}" for split, count in found.items())
    if all(found[split] == count for split, count in COUNTS.items()):
        test = f"; {found['test']} test, of {TEST} in TCC's split table" if found["test"] else ""
        return [f"the counts are those of the release: {shown}{test}"]
    wanted = " and ".join(f"{count} {split}" for split, count in COUNTS.items())
    return [f"not the full Pouring release: {shown} videos, released {wanted}"]

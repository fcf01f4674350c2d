"""Diving48-SV (SVIP, Qian et al., CVPR 2022): the dives of Diving48 as procedures of four steps.

Annotations: Datasets/DIVING48-SV of the SVIP or WeakSVR repository (label_bank.json, SPLIT_split.txt,
SPLIT_pairs.txt for train, val and test). Videos: Diving48_rgb.tar.gz of
http://www.svcl.ucsd.edu/projects/resound/dataset.html, which holds rgb/<id>.mp4, one dive each. A video's id
is its name there, `<11 characters>_<5 digits>`; its label, 0 to 47, is the procedure; all are one task. The
steps are the four tokens of the release as they are (take-off, somersaults, twists, position: `PIKE`).

Splits: `train`, `val`, `test`. Pairs: matched and other. Checked: the form of every line, that a video keeps
the label of its split, and of a full release twelve counts: 6,035, 3,024 and 7,938 videos of 20, 8 and 19
procedures, 50,000 training pairs, 200 + 200 and 500 + 500 pairs of val and test.

Known of the release: labels are disjoint between the splits, competitions are not (82 of 84 are in more than
one); label 30 has no video; 61 training videos are in no pair. Nothing of it needs handling.
"""

from __future__ import annotations

from pathlib import Path

from ...cache.errors import StepclipError
from .base import Loaded
from .release import Origin, gather
from .sequences import BANK, Release, check_counts, read_bank, read_pairs, read_split, rows_of

SPLITS = ("train", "val", "test")
TASK = "diving48"
# what the full release holds (weaksvr.md 1.2)
RELEASED = {
    "train videos": 6035,
    "val videos": 3024,
    "test videos": 7938,
    "train procedures": 20,
    "val procedures": 8,
    "test procedures": 19,
    "train matched pairs": 50000,
    "train unmatched pairs": 0,
    "val matched pairs": 200,
    "val unmatched pairs": 200,
    "test matched pairs": 500,
    "test unmatched pairs": 500,
}
ORIGIN = Origin(
    "diving48",
    BANK,
    ("DIVING48-SV", "Diving48-SV", "Datasets/DIVING48-SV"),
    "the annotation files of Diving48-SV (Datasets/DIVING48-SV of the SVIP or WeakSVR repository)",
    "VIDEOS/.../<id>.mp4, such as rgb/-mmq0PT-u8k_00155.mp4, as Diving48 distributes them",
)


def load_diving48(videos: Path | None, annotations: Path | None) -> Loaded:
    """Diving48-SV: `videos` as in ORIGIN, in folders of any depth; `annotations` the folder of
    label_bank.json, or one above (without it they are looked for in `videos` and beside it).

    Videos that are missing are listed and left out, with their pairs. Raises StepclipError where no
    annotations, or not one video, are found, and for the annotations of another data set.
    """
    videos = ORIGIN.videos(videos)
    folder = ORIGIN.annotations(videos, annotations)
    release = Release(read_bank(folder / BANK))
    if other := [label for label in release.bank if not label.isdigit()]:
        raise StepclipError(
            f"{folder / BANK} is of another data set: it has the label '{other[0]}'",
            ORIGIN.source,
            ORIGIN.run,
        )
    for split in SPLITS:
        read_split(folder / f"{split}_split.txt", split, release, line="video label")
    for split in SPLITS:
        read_pairs(folder / f"{split}_pairs.txt", split, release)
    full = release.bank.keys() == {str(label) for label in range(48)} and len(release.videos) > 15000
    return gather(
        ORIGIN,
        videos,
        rows_of(release, lambda label: TASK),
        pairs=release.pairs,
        notes=[check_counts("Diving48-SV", release, RELEASED, full), *release.passed],
    )

"""GTEA: features of 28 kitchen videos with a label per frame, to be imported; there are no videos to extract.

Files, one of two: MS-TCN's release (zenodo.org/records/3625992), gtea/ with features/VIDEO.npy (2048, T),
groundTruth/VIDEO.txt (T names), mapping.txt and splits/{train,test}.split{1..4}.bundle; or an .npz of
splitK/VIDEO/{features,labels} and splitK/test_ids, whose features were trained on that split's other videos:
only its test_ids count as unseen. Both have 15 frames per second.

Splits: `train` and `test` of one of the four (`--split`). No pairs. Runs of one label are steps; background
is in none, or with `--no-background` a step like others, as where transcripts are aligned. The task is the
dish. Checked: that every label is a name of mapping.txt, that no video is in both splits, and by the
import that there are as many labels as features.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...cache.errors import StepclipError, nearest
from ...cache.manifest import Manifest, VideoRow
from ...cache.rows import procedure_of
from .base import Loaded
from .frames import runs

FPS = 15.0
SPLITS = (1, 2, 3, 4)
BACKGROUND = "background"
# the labels of the .npz in their order; MS-TCN's are named in the files themselves
LABELS = (
    BACKGROUND,
    "close",
    "fold",
    "open",
    "pour",
    "put",
    "scoop",
    "shake",
    "spread",
    "stir",
    "take",
)
WHERE = (
    "gtea/ of MS-TCN's release (zenodo.org/records/3625992): features/, groundTruth/, mapping.txt, splits/"
)


def load_gtea(videos: Path | None, annotations: Path | None) -> Loaded:
    """Always raises StepclipError: GTEA has features, which are imported, not extracted."""
    given = annotations or videos or Path("gtea")
    raise StepclipError(
        "gtea is a data set of frame features, without videos: there is nothing to extract",
        f"an import of its features: {WHERE}, or an .npz of splitK/VIDEO/features",
        f"stepclip cache import {given} --dataset gtea",
    )


def import_arguments(source: Path, split: int = 1, background: bool = False) -> tuple[Path, dict[str, Any]]:
    """What `import_features` is to be given for GTEA: its source, and the arguments by name.

    source: the .npz, or the folder of MS-TCN's release; split: which of its splits is train and test;
    background: whether it is a step. Raises StepclipError for another split, and for a folder that is not as
    released.
    """
    if split not in SPLITS:
        raise StepclipError(f"no split {split} of GTEA", f"one of {', '.join(map(str, SPLITS))}")
    if source.is_file():
        none = [] if background else BACKGROUND
        return source, {"fps": FPS, "prefix": f"split{split}", "label_names": LABELS, "background": none}
    folder = next((each for each in (source, source / "gtea") if (each / "groundTruth").is_dir()), None)
    if folder is None or not (folder / "features").is_dir():
        raise StepclipError(f"{source} is not as GTEA is released", WHERE)
    return folder / "features", {
        "fps": FPS,
        "transposed": True,
        "manifest": read_release(folder, split, background),
    }


def with_dishes(manifest: Manifest) -> Manifest:
    """The task of each video is its dish, the second part of its name (`S1_Cheese_C1`)."""
    return replace(manifest, videos=tuple(replace(row, task=_dish(row.video_id)) for row in manifest.videos))


def _dish(video: str) -> str:
    return video.split("_")[1] if video.count("_") > 1 else ""


def read_release(folder: Path, split: int = 1, background: bool = False) -> Manifest:
    """The videos of MS-TCN's release: runs of one label as steps, those of the background if so asked.

    Raises StepclipError for a file that is missing or not as released, and a video without a split.
    """
    names = {parts[1] for parts in map(str.split, _lines(folder / "mapping.txt")) if len(parts) == 2}
    splits: dict[str, str] = {}
    for kind in ("train", "test"):
        for line in _lines(folder / "splits" / f"{kind}.split{split}.bundle"):
            video = line.removesuffix(".txt")
            if splits.setdefault(video, kind) != kind:
                raise StepclipError(f"{video} is in train and test of split {split}", "one of them")
    rows = []
    for video, kind in splits.items():
        labels = _lines(folder / "groundTruth" / f"{video}.txt")
        if unknown := [label for label in labels if label not in names]:
            raise StepclipError(
                f"{folder}/groundTruth/{video}.txt has the label '{unknown[0]}'{nearest(unknown[0], names)}",
                f"the {len(names)} names of mapping.txt",
            )
        order = [BACKGROUND, *sorted(names - {BACKGROUND})]
        skipped = 0 if background else 1  # runs leave out what is below 0
        numbers = np.array([order.index(label) - skipped for label in labels])
        spans = [(order[label + skipped], first / FPS, stop / FPS) for label, first, stop in runs(numbers)]
        steps = tuple(name for name, _, _ in spans)
        path = folder / "features" / f"{video}.npy"
        rows.append(
            VideoRow(
                video,
                str(path.absolute()),
                task=_dish(video),
                procedure=procedure_of(steps),
                split=kind,
                steps=steps,
                step_start=tuple(start for _, start, _ in spans),
                step_end=tuple(end for _, _, end in spans),
            )
        )
    return Manifest(tuple(rows), name="gtea")


def _lines(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text("utf-8-sig", errors="replace").splitlines()]
    except OSError as error:
        raise StepclipError(f"{path} cannot be read: {error.strerror}", WHERE) from error
    if not (found := [line for line in lines if line]):
        raise StepclipError(f"{path} is empty", WHERE)
    return found

"""Penn Action with phases: 13 of its 15 actions, every frame labelled (carl.md 5.1).

Videos and files: the folder `penn_action` that CARL distributes (github.com/minghchen/CARL_code, "Download
pre-processed datasets"): videos/0001_baseball_pitch.mp4, ..., train.pkl and val.pkl. Or the per-frame labels
of TCC, LABELS/train/baseball_pitch/0001.npy, with videos made of Penn Action's pictures. CARL's files have 25
frames/s in their header; TCC gives 20 as the rate of the recording. Times here are those of the file that is
read: frame / its header's rate.

Splits: `train`, `val`. No pairs. Checked: that labels are phases of the action, and the videos of each action
and split against both published tables, CARL's and TCC's, which differ in three actions. Known of the
release: jump_rope and strum_guitar have no phases and are left out; frames and labels may differ by a few:
labels are spread over the frames that are there; where action_label and the name disagree the name counts.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from ...cache.errors import StepclipError
from .base import Loaded
from .frames import Clip, Files, as_labels, assemble, find_release, phases, read_entries, some, stems_of

FPS = 25.0
SPLITS = ("train", "val")
DROPPED = ("jump_rope", "strum_guitar")  # actions of Penn Action that TCC does not label
# the key events of each action, in CARL's order; a phase lies between two of them
EVENTS = {
    "baseball_pitch": ("knee fully up", "arm fully stretched out", "ball release"),
    "baseball_swing": ("bat swung back fully", "bat hits ball"),
    "bench_press": ("bar fully down",),
    "bowl": ("ball swung fully back", "ball release"),
    "clean_and_jerk": ("bar at hip", "fully squatting", "standing", "begin thrusting", "beginning balance"),
    "golf_swing": ("stick swung fully back", "stick hits ball"),
    "jumping_jacks": ("hands at shoulder (going up)", "hands above head", "hands at shoulder (going down)"),
    "pushup": ("head at floor",),
    "pullup": ("chin above bar",),
    "situp": ("abs fully crunched",),
    "squat": ("hips at knees (going down)", "hips at floor", "hips at knees (going up)"),
    "tennis_forehand": ("racket swung fully back", "racket touches ball"),
    "tennis_serve": ("ball released from hand", "racket swung fully back", "ball touches racket"),
}
PHASES = {action: phases(action.replace("_", " "), events) for action, events in EVENTS.items()}
# videos of (train, val): CARL's table, and what TCC's paper says otherwise
CARL = {
    "baseball_pitch": (103, 63),
    "baseball_swing": (113, 57),
    "bench_press": (69, 71),
    "bowl": (134, 85),
    "clean_and_jerk": (40, 42),
    "golf_swing": (87, 77),
    "jumping_jacks": (56, 56),
    "pushup": (102, 106),
    "pullup": (98, 101),
    "situp": (50, 50),
    "squat": (111, 115),
    "tennis_forehand": (79, 74),
    "tennis_serve": (98, 69),
}
TCC = {**CARL, "pushup": (102, 105), "squat": (114, 116), "tennis_serve": (115, 69)}
WHERE = (
    "the folder penn_action of CARL (github.com/minghchen/CARL_code, 'Download pre-processed datasets'): "
    "train.pkl, val.pkl, videos/; or TCC's labels: LABELS/train/<action>/0001.npy, LABELS/val/..."
)
LAYOUT = "VIDEOS/.../0001_baseball_pitch.mp4 or 0001.mp4, in folders of any depth"


def load_pennaction(videos: Path | None, annotations: Path | None) -> Loaded:
    """Penn Action with phases as steps; the frame labels in `extra`. One of the two may hold both.

    A video's task is its action; its procedure too, when it shows all phases in order. Missing videos are
    listed; the numbers of videos are compared with both published tables. Raises StepclipError where no
    annotations or not one video are found, and for files that are not as released.
    """
    run = "make extract DATASET=pennaction VIDEOS=penn_action/videos ANNOTATIONS=penn_action"
    videos, folder = find_release(videos, annotations, _holds, WHERE, run)
    notes: list[str] = []
    clips = _from_pickles(folder, notes) if _pickles(folder) else _from_arrays(folder, notes)
    notes[:0] = _check_counts(clips)
    return assemble("pennaction", clips, Files(videos), FPS, LAYOUT, notes)


def _pickles(folder: Path) -> dict[str, Path]:
    return {split: folder / f"{split}.pkl" for split in SPLITS if (folder / f"{split}.pkl").is_file()}


def _arrays(folder: Path) -> list[Path]:
    return [path for split in SPLITS for path in sorted(folder.glob(f"{split}/*/*.npy"))]


def _holds(folder: Path) -> bool:
    return bool(_pickles(folder) or _arrays(folder))


def _from_pickles(folder: Path, notes: list[str]) -> list[Clip]:
    clips: list[Clip] = []
    actions = list(EVENTS)
    strange, wrong = [], []
    for split, path in _pickles(folder).items():
        for entry, labels in read_entries(path, notes):
            name = entry["name"]
            action = name[5:]
            if action not in EVENTS:
                strange.append(name)
                continue
            if entry.get("action_label") not in (None, actions.index(action)):
                wrong.append(name)
            clips += _clip(name, split, action, labels, (*stems_of(entry), name[:4]), entry, notes)
    if strange:
        notes.append(
            f"{len(strange)} videos are of none of the 13 actions and were left out ({some(strange)})"
        )
    if wrong:
        notes.append(
            f"action_label is not that of the name of {len(wrong)} videos ({some(wrong)}): the name counts"
        )
    return _whole(clips, folder, _pickles(folder), notes)


def _from_arrays(folder: Path, notes: list[str]) -> list[Clip]:
    clips: list[Clip] = []
    strange: Counter[str] = Counter()
    for path in _arrays(folder):
        action, number = path.parent.name, path.stem[:4]
        if action not in EVENTS or not number.isdecimal():
            strange[action if action not in EVENTS else path.name] += 1
            continue
        try:
            labels = as_labels(np.load(path, allow_pickle=False))
        except (OSError, ValueError, EOFError) as error:
            raise StepclipError(f"{path} cannot be read: {error}", "TCC's labels, one per frame") from error
        name = f"{number}_{action}"
        clips += _clip(name, path.parent.parent.name, action, labels, (name, path.stem, number), {}, notes)
    for what, count in strange.items():
        why = " (TCC labels no phases of it)" if what in DROPPED else ""
        notes.append(f"{count} files of '{what}' were left out{why}")
    return _whole(clips, folder, {path.parent.parent.name: path for path in _arrays(folder)}, notes)


def _clip(
    name: str,
    split: str,
    action: str,
    labels: np.ndarray,
    stems: tuple[str, ...],
    entry: dict[str, object],
    notes: list[str],
) -> list[Clip]:
    names = PHASES[action]
    if labels.min() < 0 or labels.max() >= len(names):
        notes.append(
            f"{name} was left out: labels {labels.min()} to {labels.max()}, "
            f"of the {len(names)} phases of {action}"
        )
        return []
    file = str(entry.get("video_file") or "")
    return [Clip(name, split, action, labels, dict(enumerate(names)), stems, file, procedure=action)]


def _whole(clips: list[Clip], folder: Path, splits: dict[str, Path], notes: list[str]) -> list[Clip]:
    if not clips:
        raise StepclipError(f"{folder} holds no video of the 13 actions; {'; '.join(notes[:3])}", WHERE)
    if absent := [split for split in SPLITS if split not in splits]:
        notes.append(f"no labels of the split {absent[0]} in {folder}")
    return clips


def _check_counts(clips: list[Clip]) -> list[str]:
    """The videos of each action against both tables, when this is about all of the release."""
    found = Counter((clip.task, clip.split) for clip in clips)
    shown = (
        f"{sum(clip.split == 'train' for clip in clips)} train and {{}} val videos of {{}} actions".format(
            sum(clip.split == "val" for clip in clips), len({clip.task for clip in clips})
        )
    )
    counts = {action: (found[action, "train"], found[action, "val"]) for action in EVENTS}
    if len(clips) < 1900:
        return [f"not the full PennAction release: {shown}; its counts were not checked"]
    for table, whose in ((CARL, "CARL's split table"), (TCC, "TCC's paper")):
        if counts == table:
            return [f"all 26 counts are those of {whose}: {shown}"]
    told = [
        f"{action} {count[0]}/{count[1]} is "
        + ("TCC's" if count == TCC[action] else "CARL's" if count == CARL[action] else "neither's")
        + f" (CARL {CARL[action][0]}/{CARL[action][1]}, TCC {TCC[action][0]}/{TCC[action][1]})"
        for action, count in counts.items()
        if not count == CARL[action] == TCC[action]
    ]
    return [f"counts of neither table alone, {shown}: {'; '.join(told)}"]

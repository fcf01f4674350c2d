"""CaptainCook4D (Peddi et al., NeurIPS 2024): 24 recipes cooked in 384 recordings, 220 of them with errors.

Annotations: github.com/CaptainCook4D/annotations (annotation_json/ and data_splits/). Videos: GoPro, by
github.com/CaptainCook4D/downloader, which lays them out as gopro/resolution_360p/<recording>_360p.mp4 (and
resolution_4k/<recording>_4K.mp4; where both are there the 360p is read). A video's id is its recording id,
`<recipe>_<number>`; task and procedure are the recipe's id.

The script of a recording is that of its recipe, one for all its recordings, so that it says nothing of what
was done in this one: the sequence of steps that most of the recipe's error-free recordings follow, and of
equally common ones the first released. (The recipes are partial orders; all error-free recordings of one do
the same steps, in many valid orders.) Its sentences are the release's descriptions less their leading
verb, which most of them repeat: `Pour-Pour 1 egg` is "Pour 1 egg", `Add-1/2 tsp salt` "Add 1/2 tsp salt".
Step times stand in the manifest where every step of the script was done exactly as often as the script has it
(237 recordings; a step that the script has twice takes its times in their order). They need not ascend: the
recording may have followed another valid order. Everywhere else they are None, and `extra` has what was done.

`extra[recording]` is plain JSON:
- `recipe` (name), `person`, `environment`; `is_error`: the release's word for the whole recording;
- `steps`: what was done, by start time, each `{"place", "step_id", "start", "end", "description", "modified",
  "errors": [{"tag", "description"}]}`. place: its place in the row's script, from 0; None for a repetition
  that the script has not (an extra step); start, end: seconds; description: as released, what was asked;
  modified: what was done in its place, or None; tag: Preparation Error, Measurement Error, Order Error,
  Timing Error, Technique Error, Temperature Error, Missing Step (of a step left out in part), Other;
- `missing`: steps of the script that were not done, the same without start and end. Without errors where the
  step is optional (`Top with more parmesan if desired`).

Splits: data_splits/recordings_data_split_combined.json; ANNOTATIONS=.../data_splits/NAME.json takes that file
instead. NAME_normal files name only recordings without errors; those they do not name are left out.

No pairs. Checked: of a full release 384 recordings, 220 with errors, 24 recipes, 5,413 steps done and 287
not; that the splits name known recordings, each once.

Known faults of the release, handled here: recipes_data_split_*.json are empty (refused); steps left out have
times of -1; the steps of 72 recordings are not in the order of time; 4 steps have times and the tag Missing
Step (they stand in `steps`); 7 steps are described otherwise than their id is elsewhere: the id counts, but
in 1_36, where it would leave a step of the script unsaid and the description names that one. So every step of
the script stands in `steps` or in `missing`, in all 384; 15 that were done and one that was not are beyond.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...cache.errors import StepclipError
from ...cache.files import read_json
from ...cache.manifest import VideoRow
from .base import Loaded
from .release import Origin, counted, gather, seconds, some

STEPS = "annotation_json/complete_step_annotations.json"
ERRORS = "annotation_json/error_annotations.json"
SPLIT_FILE = "data_splits/recordings_data_split_combined.json"
RELEASED = {"recordings": 384, "with errors": 220, "recipes": 24, "steps done": 5413, "steps not done": 287}
ORIGIN = Origin(
    "captaincook4d",
    STEPS,
    ("CaptainCook4D", "annotations"),
    "a clone of github.com/CaptainCook4D/annotations: its folder, or one of its data_splits/*.json",
    "VIDEOS/.../<recording>_360p.mp4, such as gopro/resolution_360p/1_7_360p.mp4",
)
_NAME = re.compile(r"(\d+_\d+)(?:_\d+[pk](?:_\w+)?)?", re.IGNORECASE)


@dataclass(frozen=True)
class Recipe:
    """The script of a recipe: step ids in order, the sentence of each; the ids by their descriptions."""

    steps: tuple[int, ...]
    sentences: tuple[str, ...]
    described: dict[str, int]


def load_captaincook4d(videos: Path | None, annotations: Path | None) -> Loaded:
    """CaptainCook4D: `videos` as in ORIGIN, in folders of any depth; `annotations` the folder of the release,
    or the file of the split to take (without it, `videos` and what lies beside it).

    The module says what rows and `extra` hold. Missing videos are listed and left out. Raises StepclipError
    where no annotations, or not one video, are found, and for files that are not as released or do not fit.
    """
    videos = ORIGIN.videos(videos)
    split_file = annotations if annotations is not None and annotations.is_file() else None
    if split_file is not None and split_file.parent.name == "annotation_json":
        raise StepclipError(f"{split_file} is no split", ORIGIN.source, ORIGIN.run)
    if split_file is not None:
        annotations = split_file.resolve().parent.parent
    elif annotations is not None and annotations.name in ("annotation_json", "data_splits"):
        annotations = annotations.resolve().parent
    folder = ORIGIN.annotations(videos, annotations)
    recordings = _read(folder)
    recipes = {
        task: _recipe([each for each in recordings.values() if each["activity_id"] == task])
        for task in dict.fromkeys(each["activity_id"] for each in recordings.values())
    }
    split_file = split_file or folder / SPLIT_FILE
    splits, told = _read_splits(split_file, recordings)
    rows, extra = [], {}
    for name, split in splits.items():
        recording = recordings[name]
        recipe = recipes[recording["activity_id"]]
        done, missing, times = _placed(recording, recipe)
        starts, ends = times or (None, None)
        task = str(recording["activity_id"])
        rows.append(
            VideoRow(name, "", task, task, split, steps=recipe.sentences, step_start=starts, step_end=ends)
        )
        extra[name] = {
            "recipe": recording.get("activity_name"),
            "person": recording.get("person_id"),
            "environment": recording.get("environment"),
            "is_error": recording["is_error"],
            "steps": done,
            "missing": missing,
        }
    timed = sum(row.step_start is not None for row in rows)
    notes = [
        _counts(recordings),
        *told,
        f"{timed} of {len(rows)} recordings did each step of the script as often as it has it: these have "
        "step times; what was done in the others stands in Loaded.extra",
        *_tell_descriptions(recordings, folder / STEPS),
    ]
    return gather(ORIGIN, videos, rows, _names, notes=notes, extra=extra)


def sentence(description: str) -> str:
    """What a step says, without the leading verb of its description where the rest repeats it."""
    verb, dash, rest = (part.strip() for part in description.partition("-"))
    if not dash or not rest:
        return description.strip()
    repeated = re.search(rf"\b{re.escape(verb)}\b", rest, re.IGNORECASE)
    return rest if repeated else f"{verb} {rest}"


def _names(folder: str, stem: str) -> tuple[str, ...]:
    match = _NAME.fullmatch(stem)
    return (match[1],) if match else ()


def _read(folder: Path) -> dict[str, dict[str, Any]]:
    """The recordings, each step with its errors. Raises StepclipError where the two files do not fit."""
    recordings = read_json(folder / STEPS)
    errors = read_json(folder / ERRORS)
    try:
        told = {each["recording_id"]: each for each in errors}
        for name, recording in recordings.items():
            other = told[name]
            if [step["step_id"] for step in recording["steps"]] != [
                step["step_id"] for step in other["step_annotations"]
            ]:
                raise StepclipError(
                    f"{folder / ERRORS}: the recording {name} has other steps than in {Path(STEPS).name}",
                    "the two files of one release",
                )
            recording["is_error"] = bool(other["is_error"])
            for step, said in zip(recording["steps"], other["step_annotations"], strict=True):
                step["errors"] = [
                    {"tag": error["tag"], "description": error["description"]}
                    for error in said.get("errors", ())
                ]
                step["modified"] = said.get("modified_description")
                step["description"] = step["description"].strip()
                step["start"], step["end"] = seconds(step["start_time"]), seconds(step["end_time"])
    except (KeyError, TypeError, AttributeError) as error:
        raise StepclipError(
            f"{folder / STEPS} and {Path(ERRORS).name} do not fit, or are not as released ({error!r})",
            ORIGIN.source,
        ) from error
    if not recordings:
        raise StepclipError(f"{folder / STEPS} names no recording", ORIGIN.source)
    return recordings


def _read_splits(path: Path, recordings: dict[str, Any]) -> tuple[dict[str, str], list[str]]:
    """The split of each recording that the file names, in the order of train, val, test."""
    said = read_json(path)
    if not isinstance(said, dict) or not all(isinstance(names, list) for names in said.values()):
        raise StepclipError(f"{path} is no split", "an object: train, val, test -> recordings")
    named = [(name, split) for split in ("train", "val", "test") for name in said.get(split, ())]
    splits = {name: split for name, split in named if name in recordings}  # tested rather than trained on
    if not splits:
        others = sorted(entry.name for entry in path.parent.glob("*.json") if entry != path)
        raise StepclipError(
            f"{path} names no recording" + (" (the release left it empty)" if not named else ""),
            f"another one: {some(others, 8) or ORIGIN.source}",
            f"{ORIGIN.run.removesuffix('DIR')}{path.parent / Path(SPLIT_FILE).name}",
        )
    notes = []
    if strangers := [name for name, _ in named if name not in recordings]:
        notes.append(f"{path.name}: passed over {len(strangers)} unknown recordings ({some(strangers)})")
    if twice := [name for name, count in Counter(name for name, _ in named).items() if count > 1]:
        notes.append(f"{path.name}: {len(twice)} recordings are named more than once ({some(twice)})")
    count = Counter(splits.values())
    left = len(recordings) - len(splits)
    notes.insert(
        0,
        f"splits of {path.name}: {count['train']} train, {count['val']} val, {count['test']} test"
        + (f"; the {left} recordings that it does not name are left out" if left else ""),
    )
    return splits, notes


def _recipe(recordings: Sequence[dict[str, Any]]) -> Recipe:
    """The script that most error-free recordings follow (of all recordings, where each has an error)."""
    clean = [each for each in recordings if not each["is_error"]] or recordings
    orders = Counter(tuple(step["step_id"] for step in each["steps"]) for each in clean)
    steps = orders.most_common(1)[0][0]  # of equally common ones, the first met
    words = _descriptions(recordings)
    described = {description: step for step, description in words.items()}
    return Recipe(steps, tuple(sentence(words[step]) for step in steps), described)


def _descriptions(recordings: Sequence[dict[str, Any]]) -> dict[int, str]:
    """The commonest description of each step id."""
    said: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for recording in recordings:
        for step in recording["steps"]:
            said[step["step_id"]][step["description"]] += 1
    return {step: counts.most_common(1)[0][0] for step, counts in said.items()}


def _placed(
    recording: dict[str, Any], recipe: Recipe
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], tuple[tuple[float, ...], tuple[float, ...]] | None]:
    """What was done by start time, what was not, and the times of the script where just that was done."""
    happened = [step for step in recording["steps"] if _happened(step)]
    skipped = [step for step in recording["steps"] if not _happened(step)]
    free = defaultdict(list)
    for place, step_id in enumerate(recipe.steps):
        free[step_id].append(place)
    parts = []
    for step in (*sorted(happened, key=lambda step: step["start"]), *skipped):
        places = free[step["step_id"]]
        parts.append(
            {
                "place": places.pop(0) if places else None,
                "step_id": step["step_id"],
                **({"start": step["start"], "end": step["end"]} if _happened(step) else {}),
                "description": step["description"],
                "modified": step["modified"],
                "errors": step["errors"],
            }
        )
    for part in parts:  # an id too many whose description is that of a step without any
        if part["place"] is None:
            places = free[recipe.described.get(part["description"], 0)]
            part["place"] = places.pop(0) if places else None
    done, missing = parts[: len(happened)], parts[len(happened) :]
    if sorted(step["step_id"] for step in happened) != sorted(recipe.steps):
        return done, missing, None
    by_place = sorted(done, key=lambda step: step["place"])
    return done, missing, (tuple(s["start"] for s in by_place), tuple(s["end"] for s in by_place))


def _happened(step: dict[str, Any]) -> bool:
    start, end = step["start"], step["end"]
    return start is not None and end is not None and 0 <= start < end


def _counts(recordings: dict[str, Any]) -> str:
    steps = [step for each in recordings.values() for step in each["steps"]]
    found = {
        "recordings": len(recordings),
        "with errors": sum(each["is_error"] for each in recordings.values()),
        "recipes": len({each["activity_id"] for each in recordings.values()}),
        "steps done": sum(map(_happened, steps)),
    }
    found["steps not done"] = len(steps) - found["steps done"]
    shown = ", ".join(f"{count} {what}" for what, count in found.items())
    return counted("CaptainCook4D", found, RELEASED, len(recordings) > 350, shown)


def _tell_descriptions(recordings: dict[str, Any], path: Path) -> list[str]:
    words = _descriptions(list(recordings.values()))
    other = [
        name
        for name, recording in recordings.items()
        for step in recording["steps"]
        if step["description"] != words[step["step_id"]]
    ]
    if not other:
        return []
    return [
        f"{path.name}: {len(other)} steps are described otherwise than their id in other recordings "
        f"({some(list(dict.fromkeys(other)))}): the id counts"
    ]

"""Diving48-SV and COIN-SV as released, with the counts of weaksvr.md; the whole of COIN; what they share."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from stepclip.cache import Manifest
from stepclip.cache.errors import StepclipError
from stepclip.extract.datasets import Loaded, load_dataset
from stepclip.extract.datasets.release import Found, find_videos, of_youtube, step_times
from stepclip.extract.datasets.sequences import read_bank

FOLDERS = {"csv": "CSV", "diving48": "DIVING48-SV", "coin": "COIN-SV"}


def touch(folder: Path, names: Iterable[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def told(loaded: Loaded) -> str:
    return "\n".join(loaded.notes)


@pytest.fixture(scope="module")
def whole(real: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Loaded]:
    """Each set with all its videos found, without making 21,000 files."""

    def find(folder: Path, wanted: Iterable[str], names: Any) -> Found:
        return Found({name: f"{folder}/{name}.mp4" for name in wanted})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stepclip.extract.datasets.release.find_videos", find)
        videos = tmp_path_factory.mktemp("videos")
        return {
            name: load_dataset(name, videos, real / "annotations" / folder)
            for name, folder in FOLDERS.items()
        }


# ---- the released files: weaksvr.md 1.2


def edit_distance(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    """Insertions and deletions that make b of a (weaksvr.md 5.2: a substitution costs both)."""
    above = list(range(len(b) + 1))
    for i, step in enumerate(a, 1):
        row = [i]
        for j, other in enumerate(b, 1):
            row.append(above[j - 1] if step == other else 1 + min(above[j], row[-1]))
        above = row
    return above[-1]


def between(values: Iterable[float]) -> tuple[float, float, float]:
    values = list(values)
    return min(values), round(sum(values) / len(values), 2), max(values)


def scripts(manifest: Manifest) -> dict[str, tuple[str, ...]]:
    return {row.procedure: row.steps for row in manifest}


# split: procedures, videos, videos per label, steps per procedure, procedures with a repeated step,
# matched and unmatched pairs, videos in pairs
COUNTS: dict[str, dict[str, tuple[Any, ...]]] = {
    "csv": {
        "train": (45, 899, (19, 19.98, 20), (6, 10.31, 16), 14, 8531, 0, 899),  # 22 and 43 with the ghosts
        "test": (25, 1038, (38, 41.52, 42), (5, 8.12, 13), 12, 500, 500, 874),
    },
    "diving48": {
        "train": (20, 6035, (52, 301.75, 964), (4, 4, 4), 0, 50000, 0, 5974),
        "val": (8, 3024, None, (4, 4, 4), 0, 200, 200, 708),
        "test": (19, 7938, (50, 417.79, 1122), (4, 4, 4), 0, 500, 500, 1740),
    },
    "coin": {
        "train": (37, 1221, (21, 33, 56), (3, 3.41, 5), 1, 21741, 0, 1221),
        "val": (285, 442, (1, 1.55, 20), (3, 5.05, 12), 241, 200, 200, 303),
        "test": (268, 451, (1, 1.68, 14), (3, 5.21, 21), 227, 500, 500, 412),
    },
}


@pytest.mark.parametrize(
    ("name", "split"), [(name, split) for name, splits in COUNTS.items() for split in splits]
)
def test_the_counts_of_each_split(whole: dict[str, Loaded], name: str, split: str):
    manifest = whole[name].manifest.split(split)
    procedures, videos, per_label, steps, repeated, matched, unmatched, paired = COUNTS[name][split]
    assert len(scripts(manifest)) == procedures and len(manifest) == videos
    if per_label is not None:
        assert between(Counter(row.procedure for row in manifest).values()) == per_label
    assert between(len(script) for script in scripts(manifest).values()) == steps
    assert sum(len(set(script)) < len(script) for script in scripts(manifest).values()) == repeated
    assert Counter(pair.matched for pair in manifest.pairs) == Counter({True: matched, False: unmatched})
    assert len({video for pair in manifest.pairs for video in (pair.video_a, pair.video_b)}) == paired
    assert len({frozenset((pair.video_a, pair.video_b)) for pair in manifest.pairs}) == matched + unmatched
    assert all(pair.video_a != pair.video_b for pair in manifest.pairs)
    for pair in manifest.pairs:
        a, b = manifest[pair.video_a], manifest[pair.video_b]
        assert a.task == b.task and (a.procedure == b.procedure) == pair.matched
        assert (pair.kind == "matched") == pair.matched


@pytest.mark.parametrize(
    ("name", "tasks", "videos", "vocabulary"),
    [
        ("csv", 14, 1937, (74, 44, 105)),
        ("diving48", 1, 16997, (17, 11, 19, 23)),  # of 24: "Dive" is in label 30 alone, which has no video
        ("coin", 36, 2114, (120, 126, 124, 130)),
    ],
)
def test_tasks_videos_and_words(
    whole: dict[str, Loaded], name: str, tasks: int, videos: int, vocabulary: tuple[int, ...]
):
    loaded = whole[name]
    assert loaded.missing == [] and loaded.notes[0].startswith("all 12 counts are those of the release")
    manifest = loaded.manifest
    assert len({row.task for row in manifest}) == tasks and len(manifest) == videos and manifest.name == name
    splits = [manifest.split(split) for split in COUNTS[name]]
    assert tuple(len(part.steps()) for part in (*splits, manifest)) == vocabulary
    assert len(set(scripts(manifest).values())) == len(scripts(manifest))  # no script is given twice


@pytest.mark.parametrize(
    ("name", "split", "labels", "distances", "reordered"),
    [
        ("csv", "test", 50, (1, 5.17, 13), 94),
        ("diving48", "test", 118, (2, 4.40, 8), 0),
        ("coin", "test", 350, (1, 3.35, 18), 6),
        ("coin", "val", 165, None, 2),
    ],
)
def test_how_unmatched_pairs_differ(
    whole: dict[str, Loaded],
    name: str,
    split: str,
    labels: int,
    distances: tuple[float, ...] | None,
    reordered: int,
):
    manifest = whole[name].manifest.split(split)
    of = {row.video_id: row.procedure for row in manifest}
    unmatched = [pair for pair in manifest.pairs if not pair.matched]
    differing = [frozenset((of[pair.video_a], of[pair.video_b])) for pair in unmatched]
    assert len(set(differing)) == labels
    if distances:
        of_scripts = scripts(manifest)
        assert (
            between(edit_distance(*(of_scripts[label] for label in pair)) for pair in differing) == distances
        )
    assert sum(pair.kind == "order" for pair in unmatched) == reordered


@pytest.mark.parametrize(
    ("name", "labels", "steps", "words"),
    [("csv", 70, (5, 9.53, 16), 105), ("diving48", 48, (4, 4, 4), 24), ("coin", 553, (3, 5.13, 21), 130)],
)
def test_the_label_banks(real: Path, name: str, labels: int, steps: tuple[float, ...], words: int):
    bank = read_bank(real / "annotations" / FOLDERS[name] / "label_bank.json")
    assert len(bank) == len(set(bank.values())) == labels
    assert between(map(len, bank.values())) == steps
    assert len({step for script in bank.values() for step in script}) == words


def test_coin_and_diving_rows(whole: dict[str, Loaded]):
    row = whole["coin"].manifest["xZecGPPhbHE"]
    assert (row.task, row.procedure, row.split, row.start, row.step_start) == (
        "122",
        "122.0",
        "train",
        None,
        None,
    )
    assert "37 procedures, which label_bank.json lacks, are from train_procedures.json" in told(whole["coin"])
    dive = whole["diving48"].manifest["-mmq0PT-u8k_00155"]
    assert (dive.task, dive.procedure, dive.steps) == ("diving48", "0", ("Back", "15som", "05Twis", "FREE"))


# ---- COIN.json beside COIN-SV


def coin_json(real: Path) -> dict[str, Any]:
    """A COIN.json of the same form, made of the released scripts: step k from 20 + 5k to 24 + 5k seconds."""
    folder = real / "annotations" / "COIN-SV"
    bank = json.loads((folder / "label_bank.json").read_text())
    bank |= json.loads((folder / "train_procedures.json").read_text())
    database = {}
    for split, subset in (("train", "training"), ("val", "training"), ("test", "testing")):
        for line in (folder / f"{split}_split.txt").read_text().splitlines():
            name, label = line.split()
            steps = bank[label]
            database[name] = {
                "duration": 200.0,
                "class": "AnyTask",
                "video_url": f"https://www.youtube.com/embed/{name}",
                "start": 19.5,
                "end": 20.0 + 5 * len(steps),
                "subset": subset,
                "recipe_type": int(label.split(".")[0]),
                "annotation": [
                    {"id": str(k), "segment": [20.0 + 5 * k, 24.0 + 5 * k], "label": step}
                    for k, step in enumerate(steps)
                ],
            }
    return database


@pytest.fixture
def coin(real: Path, tmp_path: Path) -> Path:
    """A folder of COIN-SV's files without train_procedures.json, as they were released; videos beside."""
    (tmp_path / "annotations").mkdir()
    for path in (real / "annotations" / "COIN-SV").iterdir():
        if path.name != "train_procedures.json":
            (tmp_path / "annotations" / path.name).write_bytes(path.read_bytes())
    splits = [tmp_path / "annotations" / f"{split}_split.txt" for split in ("train", "val", "test")]
    lines = [line.split() for path in splits for line in path.read_text().splitlines()]
    touch(tmp_path / "videos", [f"{label.split('.')[0]}/{name}.mp4" for name, label in lines[::40]])
    return tmp_path


def test_coin_as_released_lacks_the_text_of_all_training_videos(coin: Path):
    loaded = load_dataset("coin", coin / "videos")
    assert {row.split for row in loaded.manifest} == {"val", "test"}
    assert not any(name.startswith("train") for name in (pair.split for pair in loaded.manifest.pairs))
    said = told(loaded)
    assert "1221 videos of 37 procedures without a script" in said and "with 21741 pairs" in said
    assert "train videos: 0, released 1221" in said and "no COIN.json" in said
    assert "lines that are no" not in said


def test_coin_json_gives_scripts_trims_and_step_times(coin: Path, real: Path):
    database = coin_json(real)
    changed = next(
        name for name in database if any(f"{name}.mp4" in path.name for path in coin.rglob("*.mp4"))
    )
    gone = [name for name in database if name != changed][-1]
    database[changed]["annotation"][0]["label"] = "do something else"
    database[gone] = {"duration": 3.0}
    (coin / "annotations" / "COIN.json").write_text(json.dumps({"database": database}))
    loaded = load_dataset("coin", coin / "videos", coin / "annotations")
    said = told(loaded)
    given = json.loads((real / "annotations" / "COIN-SV" / "train_procedures.json").read_text())
    train = loaded.manifest.split("train")
    assert len(train) > 20 and all(list(row.steps) == given[row.procedure] for row in train)
    row = next(row for row in train if row.video_id != changed)
    assert Path(row.path) == coin / "videos" / row.task / f"{row.video_id}.mp4"
    assert (row.start, row.end) == (19.5, 20.0 + 5 * len(row.steps))
    assert row.step_start == tuple(0.5 + 5 * k for k in range(len(row.steps)))
    assert row.step_end == tuple(4.5 + 5 * k for k in range(len(row.steps)))
    assert f"have other steps in COIN.json than in their script ({changed})" in said
    assert loaded.manifest[changed].start == 19.5 and loaded.manifest[changed].step_start is None
    assert f"passed over 1 videos without steps ({gone})" in said
    assert "2113 of 2114 videos are trimmed" in said and "2112 have step times" in said


def test_a_procedure_that_coin_shows_in_two_ways_has_no_script(coin: Path, real: Path):
    database = coin_json(real)
    line = (coin / "annotations" / "train_split.txt").read_text().splitlines()[0]
    label = line.split()[1]
    lines = (coin / "annotations" / "train_split.txt").read_text().splitlines()
    names = [line.split()[0] for line in lines if line.split()[1] == label]
    for name in names[: -(-len(names) // 2)]:
        database[name]["annotation"].reverse()
    (coin / "COIN.json").write_text(json.dumps({"database": database}))
    loaded = load_dataset("coin", coin / "videos", coin / "annotations")
    assert f"different steps ({label})" in told(loaded)
    assert "the scripts of 36 procedures" in told(loaded) and "of 1 procedures without a script" in told(
        loaded
    )
    assert all(row.procedure != label for row in loaded.manifest)


def test_the_whole_of_coin(real: Path, tmp_path: Path):
    database = dict(list(coin_json(real).items())[::30])
    names = list(database)
    database[names[0]]["start"], database[names[0]]["end"] = (
        30.0,
        20.0,
    )  # no trim: whole, in times of the file
    database[names[1]]["annotation"][0]["segment"] = [5.0, 6.0]  # before the trim: no times
    (tmp_path / "COIN.json").write_text(json.dumps({"database": database}))
    touch(tmp_path / "videos", [f"{name}.webm" for name in names[1:]] + [f"A title [{names[0]}].mkv"])
    for given in (tmp_path / "COIN.json", tmp_path, None):
        loaded = load_dataset("coin", tmp_path / "videos", given)
        assert len(loaded.manifest) == len(names) and "not the full COIN release" in loaded.notes[0]
    first, second, third = (loaded.manifest[name] for name in names[:3])
    assert first.start is None and first.step_start is not None and first.step_start[0] == 20.0
    assert second.start == 19.5 and second.step_start is None
    assert third.step_start is not None and third.step_start[0] == 0.5
    assert third.task == str(database[names[2]]["recipe_type"]) and third.split == "train"
    assert loaded.manifest[names[-1]].split == "test"


# ---- faults, layouts


def test_a_small_diving48_with_faults_and_any_layout(tmp_path: Path):
    notes = tmp_path / "Datasets" / "DIVING48-SV"
    notes.mkdir(parents=True)
    bank = {"0": ["Back", "15som"], "1": ["Back", "25som"], "2": ["15som", "Back"]}
    (notes / "label_bank.json").write_text(json.dumps(bank))
    (notes / "train_split.txt").write_text("a_1 0\na_2 0\n._a_1 0\na_1 0\n\nscratch\n")
    (notes / "val_split.txt").write_text("b_1 1\r\nb_2 1")
    (notes / "test_split.txt").write_text("c_1 1\nc_2 2\nc_3 0\n")
    (notes / "train_pairs.txt").write_text("a_1 0 a_2 0\na_1 1 a_2 1\n")
    (notes / "val_pairs.txt").write_text("b_1 1 b_2 1\nb_1 1 x_9 1\n")
    (notes / "test_pairs.txt").write_text("c_2 2 c_3 0\nc_1 1 c_3 0\n")
    videos = touch(
        tmp_path / "videos", ["rgb/a_1.mp4", "a_2.AVI", "1/b_1.mp4", "x/y/c_2.mp4", "c_3.mp4", "x/c_3.mkv"]
    )
    touch(videos, ["1/._b_2.mp4", ".trash/b_2.mp4", "frames/b_2/1.jpg", "b_2.txt", "rgb/stranger.mp4"])
    os.symlink(videos, videos / "x" / "loop")
    loaded = load_dataset("diving48", videos, tmp_path)
    assert sorted(row.video_id for row in loaded.manifest) == ["a_1", "a_2", "b_1", "c_2", "c_3"]
    assert loaded.missing == ["b_2", "c_1"] and Path(loaded.manifest["c_3"].path) == videos / "c_3.mp4"
    assert [(p.video_a, p.video_b, p.kind, p.split) for p in loaded.manifest.pairs] == [
        ("a_1", "a_2", "matched", "train"),
        ("c_2", "c_3", "order", "test"),
    ]
    for said in (
        "not the full Diving48-SV release",
        "1 ghosts of macOS",
        "1 lines that are no `video label`",
        "1 videos given before",
        "train_pairs.txt: passed over 1 lines that are no pair",
        "1 pairs of videos that are in no split",
        "2 of 7 videos are missing (b_2, c_1); left: 2 of 4 pairs",
        "1 are folders of pictures (b_2",
    ):
        assert said in told(loaded), told(loaded)
    assert any(note.startswith("1 further files of the same videos") for note in loaded.notes), told(loaded)


@pytest.mark.parametrize("name", ["diving48", "coin"])
def test_what_is_not_there_is_told(real: Path, tmp_path: Path, name: str):
    annotations = real / "annotations" / FOLDERS[name]
    for videos, given, says in (
        (None, annotations, "no VIDEOS given"),
        (tmp_path / "no", annotations, "no folder"),
        (tmp_path, annotations, "none of the"),
        (tmp_path, None, "no label_bank.json in"),
    ):
        with pytest.raises(StepclipError, match=says) as caught:
            load_dataset(name, videos, given)
        assert "VIDEOS" in str(caught.value)
    if name == "diving48":
        with pytest.raises(StepclipError, match="of another data set"):
            load_dataset(name, tmp_path, real / "annotations" / "COIN-SV")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not valid JSON"),
        ("{}", "no 'database'"),
        ('{"database": {"x": {"start": 1}}}', "no video has steps"),
    ],
)
def test_a_coin_json_that_is_not_right(tmp_path: Path, content: str, says: str):
    (tmp_path / "COIN.json").write_text(content)
    with pytest.raises(StepclipError, match=says):
        load_dataset("coin", tmp_path, tmp_path / "COIN.json")


def test_videos_by_the_names_that_downloaders_give(tmp_path: Path):
    ids = {"-mmq0PT-u8k", "xZecGPPhbHE", "65PS5mJKsQo", "sO7wbcbAwWE"}
    touch(
        tmp_path,
        [
            "How to [live] [-mmq0PT-u8k].webm",
            "a title-xZecGPPhbHE.mp4",
            "65PS5mJKsQo/65PS5mJKsQo.mp4",
            "sO7wbcbAwWE.f137.mp4",  # the picture alone of an unfinished download
            "sO7wbcbAwWE.mp4.part",
            "._a title-sO7wbcbAwWE.mp4",
        ],
    )
    found = find_videos(tmp_path, ids, of_youtube)
    assert sorted(found.paths) == ["-mmq0PT-u8k", "65PS5mJKsQo", "xZecGPPhbHE"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_cannot_be_listed_is_told(tmp_path: Path):
    touch(tmp_path, ["open/a.mp4", "closed/b.mp4"])
    (tmp_path / "closed").chmod(0)
    try:
        assert find_videos(tmp_path, {"a", "b"}).closed == [str(tmp_path / "closed")]
    finally:
        (tmp_path / "closed").chmod(0o755)


def test_step_times_are_those_of_the_trim():
    assert step_times([[10, 12.5], ["13", 20]], 9.5, 18) == ((0.5, 3.5), (3.0, 8.5))
    assert step_times([[1, 2]]) == ((1.0,), (2.0,))
    for wrong in ([[2, 1]], [[1, 1]], [[1]], [None], [[1, None]], [[1, float("nan")]], [[20, 30]]):
        assert step_times(wrong, 0, 15) is None

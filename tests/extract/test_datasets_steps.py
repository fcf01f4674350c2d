"""YouCook2 and CaptainCook4D as released, CrossTask as its release is laid out: videos with known steps."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from stepclip.cache.errors import StepclipError
from stepclip.extract.datasets import Loaded, load_dataset
from stepclip.extract.datasets.captaincook4d import sentence


def touch(folder: Path, names: Iterable[str]) -> Path:
    for parent in {(folder / name).parent for name in names}:
        parent.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def told(loaded: Loaded) -> str:
    return "\n".join(loaded.notes)


def database_of(real: Path) -> dict[str, Any]:
    path = real / "annotations" / "YouCook2" / "youcookii_annotations_trainval.json"
    return json.loads(path.read_text())["database"]


# ---- YouCook2


def test_youcook2_as_released(real: Path, tmp_path: Path):
    database = database_of(real)
    suffixes = (".mp4", ".mkv", ".webm")
    videos = touch(
        tmp_path / "raw_videos",
        [
            f"{said['subset']}/{said['recipe_type']}/{video_id}{suffixes[place % 3]}"
            for place, (video_id, said) in enumerate(database.items())
        ],
    )
    for given in (
        "annotations/YouCook2/youcookii_annotations_trainval.json",
        "annotations/YouCook2",
        "annotations",
    ):
        loaded = load_dataset("youcook2", videos, real / given)
        assert loaded.missing == [] and loaded.notes == [
            "all 5 counts are those of the release: "
            "1333 training and 457 validation videos of 10337 and 3492 sentences"
        ]
    manifest = loaded.manifest
    assert Counter(row.split for row in manifest) == {"train": 1333, "test": 457}
    assert len({row.task for row in manifest}) == 89
    assert max(len(row.steps) for row in manifest) == 16 and min(len(row.steps) for row in manifest) == 3
    for row in manifest:
        assert row.start is None and row.step_start is not None and row.step_end is not None
        assert all(start < end for start, end in zip(row.step_start, row.step_end, strict=True))
        assert all(step == step.strip() and step for step in row.steps)
    row = manifest["GLd3aX16zBg"]
    assert (row.task, row.split, row.steps[4]) == ("113", "train", "cut the sandwich in half diagonally")
    assert row.step_start == (90, 114, 132, 139, 173) and row.step_end == (102, 127, 138, 145, 174)


def test_youcook2_with_the_list_of_the_retrieval_set(real: Path, tmp_path: Path):
    """The counts of tempclr.md 7.6, over a list of the form of MIL-NCE's that leaves out 21 videos."""
    database = database_of(real)
    validation = [video_id for video_id, said in database.items() if said["subset"] == "validation"]
    sizes = {video_id: len(database[video_id]["annotations"]) for video_id in validation}
    gone = [video_id for video_id in validation if sizes[video_id] == 7][:16]  # 16 x 7 + 5 x 6 = 3492 - 3350
    gone += [video_id for video_id in validation if sizes[video_id] == 6][:5]
    folder = tmp_path / "annotations"
    folder.mkdir()
    (folder / "youcookii_annotations_trainval.json").write_text(json.dumps({"database": database}))
    with open(folder / "validation_youcook.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["end", "start", "task", "text", "video_id"])
        for video_id in validation:
            for each in database[video_id]["annotations"] if video_id not in gone else ():
                start, end = each["segment"]
                writer.writerow([end, start, database[video_id]["recipe_type"], each["sentence"], video_id])
    touch(tmp_path / "videos", [f"{video_id}.mp4" for video_id in validation])
    loaded = load_dataset("youcook2", tmp_path / "videos")
    test = loaded.manifest.split("test")
    sizes = {row.video_id: len(row.steps) for row in test}
    assert (len(test), sum(sizes.values()), max(sizes.values())) == (436, 3350, 16)
    assert round(sum(sizes.values()) / len(test), 2) == 7.68 and list(sizes.values()).count(16) == 1
    assert {row.video_id for row in loaded.manifest.split("val")} == set(gone)
    assert "all 3 counts are those of the release: 3350 sentences of 436 videos" in loaded.notes[1]
    assert len(loaded.missing) == 1333 and "1333 of 1790 videos are missing" in told(loaded)
    (folder / "validation_youcook.csv").write_text("id\nx\n")
    with pytest.raises(StepclipError, match="names no validation video"):
        load_dataset("youcook2", tmp_path / "videos")


def test_a_youcook2_file_with_faults(tmp_path: Path):
    good = {
        "subset": "training",
        "recipe_type": "113",
        "annotations": [{"segment": [1, 2], "sentence": " stir "}],
    }
    database = {
        "aaaaaaaaaaa": good,
        "bbbbbbbbbbb": good | {"subset": "testing"},
        "ccccccccccc": {"subset": "training"},
        "ddddddddddd": good | {"annotations": [{"segment": [2, 2], "sentence": "pour"}]},
        "eeeeeeeeeee": good
        | {
            "annotations": [*good["annotations"], {"segment": [3, 4], "sentence": " "}],
            "subset": "validation",
        },
    }
    path = tmp_path / "youcookii_annotations_trainval.json"
    path.write_text(json.dumps({"database": database}))
    touch(tmp_path, [f"a title [{video_id}].webm" for video_id in database])
    loaded = load_dataset("youcook2", tmp_path)
    assert [row.video_id[0] for row in loaded.manifest] == ["a", "d", "e"]
    assert loaded.manifest["aaaaaaaaaaa"].steps == ("stir",) == loaded.manifest["eeeeeeeeeee"].steps
    assert loaded.manifest["ddddddddddd"].step_start is None
    for said in (
        "not the full YouCook2 release",
        "passed over 2 videos without subset, recipe or sentences (bbbbbbbbbbb, ccccccccccc)",
        "1 videos have segments that are no times: no step times (ddddddddddd)",
        "passed over 1 empty sentences",
    ):
        assert said in told(loaded)
    for content, says in (("{}", "no 'database'"), ('{"database": {"x": 1}}', "no video has sentences")):
        path.write_text(content)
        with pytest.raises(StepclipError, match=says):
            load_dataset("youcook2", tmp_path)


# ---- CaptainCook4D


@pytest.fixture(scope="module")
def cooked(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All recordings, as the downloader lays them out; one also in 4K."""
    steps = real / "annotations" / "CaptainCook4D" / "annotation_json" / "step_annotations.json"
    names = [f"gopro/resolution_360p/{name}_360p.mp4" for name in json.loads(steps.read_text())]
    return touch(tmp_path_factory.mktemp("captaincook"), [*names, "gopro/resolution_4k/1_7_4K.mp4"])


def test_captaincook4d_as_released(real: Path, cooked: Path):
    loaded = load_dataset("captaincook4d", cooked, real / "annotations" / "CaptainCook4D")
    manifest, extra = loaded.manifest, loaded.extra
    assert loaded.notes[0] == (
        "all 5 counts are those of the release: "
        "384 recordings, 220 with errors, 24 recipes, 5413 steps done, 287 steps not done"
    )
    assert "213 train, 62 val, 109 test" in loaded.notes[1] and "237 of 384 recordings" in told(loaded)
    assert "1 further files" in told(loaded) and manifest["1_7"].path.endswith("1_7_360p.mp4")
    assert Counter(row.split for row in manifest) == {"train": 213, "val": 62, "test": 109}
    assert extra.keys() == {row.video_id for row in manifest} and json.loads(json.dumps(extra)) == extra
    scripts = {row.procedure: row.steps for row in manifest}
    assert len(scripts) == 24 and all(row.steps == scripts[row.procedure] for row in manifest)
    assert all(row.task == row.procedure == row.video_id.split("_")[0] for row in manifest)
    assert sum(len(said["steps"]) for said in extra.values()) == 5413
    assert sum(len(said["missing"]) for said in extra.values()) == 287
    assert sum(said["is_error"] for said in extra.values()) == 220
    tags = Counter(
        error["tag"]
        for said in extra.values()
        for step in said["steps"] + said["missing"]
        for error in step["errors"]
    )
    assert tags == {
        "Order Error": 795,
        "Technique Error": 502,
        "Preparation Error": 410,
        "Measurement Error": 331,
        "Missing Step": 285,
        "Timing Error": 177,
        "Temperature Error": 66,
        "Other": 8,
    }


def test_what_was_done_lies_on_the_script(real: Path, cooked: Path):
    loaded = load_dataset("captaincook4d", cooked, real / "annotations" / "CaptainCook4D")
    beyond = 0
    for row in loaded.manifest:
        said = loaded.extra[row.video_id]
        places = [step["place"] for step in said["steps"] + said["missing"]]
        beyond += places.count(None)
        assert sorted(place for place in places if place is not None) == list(range(len(row.steps)))
        starts = [step["start"] for step in said["steps"]]
        assert starts == sorted(starts) and all("start" not in step for step in said["missing"])
        if row.step_start is None or row.step_end is None:
            assert None in places or said["missing"]
            continue
        for step in said["steps"]:
            assert row.step_start[step["place"]] == step["start"] < step["end"] == row.step_end[step["place"]]
    assert beyond == 16
    clean = [row for row in loaded.manifest if not loaded.extra[row.video_id]["is_error"]]
    assert [row.video_id for row in clean if row.step_start is None] == ["18_19"]  # no more parmesan desired
    assert len(clean) == 164


def test_single_recordings_of_captaincook4d(real: Path, cooked: Path):
    loaded = load_dataset("captaincook4d", cooked, real / "annotations" / "CaptainCook4D")
    row, said = loaded.manifest["1_28"], loaded.extra["1_28"]
    assert (said["recipe"], said["person"], said["environment"]) == ("Microwave Egg Sandwich", 1, 1)
    assert row.steps[:4] == (
        "Coat a 6-oz. ramekin cup with cooking spray",
        "Pour 1 egg into the ramekin cup",
        "Microwave the ramekin cup uncovered on high for 30 seconds",
        "Cut the English muffin into two pieces with a knife",
    )
    assert said["steps"][0] == {
        "place": 3,
        "step_id": 12,
        "start": 4.121,
        "end": 40.381,
        "description": "Cut -Cut the English muffin into two pieces with a knife",
        "modified": "Cut -Cut the English muffin into two pieces with hand",
        "errors": [{"tag": "Preparation Error", "description": "Cut the muffin into two pieces with hand"}],
    }
    (missing,) = said["missing"]
    assert missing["place"] == 2 and missing["errors"][0]["tag"] == "Missing Step"
    # its id says "melt the cheese", which was done; its description, the step that was left out
    wrong = next(step for step in loaded.extra["1_36"]["missing"] if step["step_id"] == 10)
    assert loaded.manifest["1_36"].steps[wrong["place"]] == row.steps[2]
    # twice in the script, so that each time has its place
    plate = loaded.manifest["2_3"]
    twice = [place for place, step in enumerate(plate.steps) if step.startswith("Microwave the plate")]
    assert len(twice) == 2
    times = [step["start"] for step in loaded.extra["2_3"]["steps"] if step["place"] in twice]
    assert times == sorted(times) and len(times) == 2


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("environment_data_split_combined", (216, 115, 53)),
        ("environment_data_split_normal", (84, 48, 32)),
        ("person_data_split_combined", (204, 84, 96)),
        ("person_data_split_normal", (90, 35, 39)),
        ("recordings_data_split_normal", (90, 26, 48)),
    ],
)
def test_the_split_that_annotations_point_at(real: Path, cooked: Path, name: str, sizes: tuple[int, ...]):
    path = real / "annotations" / "CaptainCook4D" / "data_splits" / f"{name}.json"
    loaded = load_dataset("captaincook4d", cooked, path)
    count = Counter(row.split for row in loaded.manifest)
    assert (count["train"], count["val"], count["test"]) == sizes and loaded.missing == []
    assert loaded.extra.keys() == {row.video_id for row in loaded.manifest}
    if "normal" in name:
        assert not any(said["is_error"] for said in loaded.extra.values())
        assert "the 220 recordings that it does not name are left out" in told(loaded)


def test_the_split_files_that_are_empty_are_refused(real: Path, cooked: Path):
    for kind in ("combined", "normal"):
        path = real / "annotations" / "CaptainCook4D" / "data_splits" / f"recipes_data_split_{kind}.json"
        with pytest.raises(StepclipError, match="names no recording") as caught:
            load_dataset("captaincook4d", cooked, path)
        assert "left it empty" in str(caught.value) and "recordings_data_split_combined" in caught.value.run


def small_captaincook(folder: Path) -> list[dict[str, Any]]:
    """Recordings of one recipe: in another order, in order (two), with a step too many and one left out."""
    words = {1: "Take-Take a mug", 2: "Add-1 egg", 3: "Stir-Stir"}
    done = {
        "5_1": [(3, 9, 12), (1, 0, 4), (2, 4, 9)],
        "5_2": [(1, 1, 2), (2, 3, 4), (3, 5, 6)],
        "5_3": [(1, 1, 2), (3, 3, 4), (3, 5, 6), (2, -1.0, -1.0)],
        "5_4": [(1, 1, 2), (2, 3, 4), (3, 5, 6)],
    }
    steps = {
        name: {
            "recording_id": name,
            "activity_id": 5,
            "activity_name": "Coffee",
            "person_id": 1,
            "environment": 2,
            "steps": [
                {
                    "step_id": k,
                    "start_time": start,
                    "end_time": end,
                    "description": words[k],
                    "has_errors": end < 0,
                }
                for k, start, end in spans
            ],
        }
        for name, spans in done.items()
    }
    errors: list[dict[str, Any]] = [
        {
            "recording_id": name,
            "activity_id": 5,
            "is_error": name == "5_3",
            "step_annotations": [dict(step) for step in said["steps"]],
        }
        for name, said in steps.items()
    ]
    errors[2]["step_annotations"][3]["errors"] = [{"tag": "Missing Step", "description": "Skipped"}]
    for name, content in (
        ("annotation_json/complete_step_annotations.json", steps),
        ("annotation_json/error_annotations.json", errors),
        (
            "data_splits/recordings_data_split_combined.json",
            {"train": ["5_1", "5_2", "9_9"], "val": ["5_3"], "test": ["5_1"]},
        ),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return errors


def test_a_small_captaincook4d_with_faults(tmp_path: Path):
    errors = small_captaincook(tmp_path)
    touch(tmp_path / "videos", ["5_1.MP4", "hololens/5_3_360p_224.avi", "5_30_360p.mp4"])
    for given in (None, tmp_path, tmp_path / "annotation_json", tmp_path / "data_splits"):
        loaded = load_dataset("captaincook4d", tmp_path / "videos", given)
        assert [row.video_id for row in loaded.manifest] == ["5_1", "5_3"] and loaded.missing == ["5_2"]
    row, extra = loaded.manifest["5_1"], loaded.extra["5_3"]
    assert row.steps == ("Take a mug", "Add 1 egg", "Stir") and row.split == "test"
    assert (row.step_start, row.step_end) == ((0, 4, 9), (4, 9, 12))
    assert [step["place"] for step in extra["steps"]] == [0, 2, None]
    assert [(step["place"], step["errors"][0]["tag"]) for step in extra["missing"]] == [(1, "Missing Step")]
    assert loaded.manifest["5_3"].step_start is None and "5_2" not in loaded.extra
    for said in (
        "not the full CaptainCook4D release",
        "1 unknown recordings (9_9)",
        "1 recordings are named more than once (5_1)",
        "the 1 recordings that it does not name are left out",
        "1 of 3 videos are missing (5_2)",
    ):
        assert said in told(loaded), told(loaded)
    path = tmp_path / "annotation_json" / "error_annotations.json"
    for content, says in (
        (errors[1:], "do not fit"),
        ([errors[0] | {"step_annotations": []}, *errors[1:]], "5_1 has other steps"),
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(StepclipError, match=says):
            load_dataset("captaincook4d", tmp_path / "videos", tmp_path)
    path.unlink()
    with pytest.raises(StepclipError, match=r"error_annotations\.json cannot be read"):
        load_dataset("captaincook4d", tmp_path / "videos", tmp_path)


@pytest.mark.parametrize(
    ("description", "says"),
    [
        ("Coat -Coat a cup with cooking spray", "Coat a cup with cooking spray"),
        ("Add-1/2 tsp salt to the pan", "Add 1/2 tsp salt to the pan"),
        (
            "add-Measure 1/8 teaspoon of salt and add it to the mug",
            "Measure 1/8 teaspoon of salt and add it to the mug",
        ),
        ("Cut or tear-Cut or tear 1 slices of bread", "Cut or tear 1 slices of bread"),
        ("Add-an additive", "Add an additive"),
        ("Stir", "Stir"),
    ],
)
def test_sentences_without_the_verb_that_they_repeat(description: str, says: str):
    assert sentence(description) == says


# ---- CrossTask, in the form of its release: no file of it is beside the project

TASKS = """23521
Make Jello Shots
https://www.wikihow.com/Make-Jello-Shots
3
pour juice,add powder,stir mixture

16815
Grill Steak
https://www.wikihow.com/Grill-Steak
2
season steak,put steak on grill

"""
OTHER = "111\nMake Tea\nhttps://www.wikihow.com/Make-Tea\n2\nboil water,add tea\n"


@pytest.fixture
def crosstask(tmp_path: Path) -> Path:
    """crosstask_release/ of 36 + 1 primary and 32 related videos, and their files."""
    folder = tmp_path / "crosstask_release"
    (folder / "annotations").mkdir(parents=True)
    (folder / "tasks_primary.txt").write_text(TASKS)
    (folder / "tasks_related.txt").write_text(OTHER)
    jello = [f"jello-{k:05d}" for k in range(36)]
    tea = [f"tea__{k:06d}" for k in range(32)]
    lines = [f"23521,{name},https://www.youtube.com/watch?v={name}" for name in jello]
    lines += [f"111,{name},https://www.youtube.com/watch?v={name}" for name in tea]
    lines += [
        "16815,jello-00000,https://www.youtube.com/watch?v=jello-00000",  # one video, two tasks
        "111,tea__000001,https://www.youtube.com/watch?v=tea__000001",
        "222,unknown0001,https://www.youtube.com/watch?v=unknown0001",
        "scratch",
    ]
    (folder / "videos.csv").write_text("\n".join(lines) + "\n")
    (folder / "videos_val.csv").write_text(f"23521,{jello[1]},u\n23521,{jello[2]},u\n")
    for task, name, said in (
        ("23521", jello[0], "1,0.5,3.25\n3,10,12\n2,4,9\n"),  # each once
        ("23521", jello[1], "1,1,2\n3,5,6\n1,8,9\n"),
        ("23521", jello[2], "4,1,2\n0,1,2\n1.5,1,2\n1,2\n1,3,2\n1,a,2\n2,1,2,3\n\n2,1,2\n"),
        ("16815", jello[0], "2,5,9\n1,14,18"),
    ):
        (folder / "annotations" / f"{task}_{name}.csv").write_text(said)
    touch(
        tmp_path / "videos",
        [f"{name}.mp4" for name in (*jello[3:], *tea)]
        + [f"A title [{jello[0]}].webm", f"23521_{jello[1]}.mkv", f"23521/{jello[2]}.mp4"],
    )
    return tmp_path


def test_crosstask_in_the_form_of_its_release(crosstask: Path):
    for given in (None, crosstask, crosstask / "crosstask_release"):
        loaded = load_dataset("crosstask", crosstask / "videos", given)
        assert loaded.missing == [] and len(loaded.manifest) == 69
    manifest, extra = loaded.manifest, loaded.extra
    row = manifest["23521_jello-00000"]
    assert (row.task, row.procedure, row.steps) == (
        "23521",
        "23521",
        ("pour juice", "add powder", "stir mixture"),
    )
    assert (row.step_start, row.step_end) == ((0.5, 4, 10), (3.25, 9, 12))
    assert manifest["16815_jello-00000"].path == row.path  # the same file, another task
    assert manifest["16815_jello-00000"].step_start == (14, 5)
    assert extra == {
        "23521_jello-00000": {
            "title": "Make Jello Shots",
            "segments": [[0, 0.5, 3.25], [1, 4, 9], [2, 10, 12]],
        },
        "23521_jello-00001": {"title": "Make Jello Shots", "segments": [[0, 1, 2], [2, 5, 6], [0, 8, 9]]},
        "23521_jello-00002": {"title": "Make Jello Shots", "segments": [[1, 1, 2]]},
        "16815_jello-00000": {"title": "Grill Steak", "segments": [[1, 5, 9], [0, 14, 18]]},
    }
    assert manifest["23521_jello-00001"].step_start is None
    for said in (
        "69 videos of 2 primary and 1 related tasks: 63 train, 2 val, 4 test",
        "4 videos are annotated; 2 of them",
        "passed over 7 lines that are no step",
        "passed over 1 lines that are no `task,video,url` ('scratch')",
        "1 videos given more than once",
        "passed over 1 videos of tasks without steps (222_unknown0001)",
    ):
        assert said in told(loaded), told(loaded)


def test_the_split_of_crosstask_does_not_hang_on_what_is_there(crosstask: Path):
    before = {row.video_id: row.split for row in load_dataset("crosstask", crosstask / "videos").manifest}
    assert {before["23521_jello-00001"], before["23521_jello-00002"]} == {"val"}
    assert before["111_tea__000001"] == before["16815_jello-00000"] == "train"
    for path in sorted((crosstask / "videos").glob("jello-*"))[::2]:
        path.unlink()
    listed = crosstask / "crosstask_release" / "videos.csv"
    listed.write_text("\n".join(reversed(listed.read_text().splitlines())))
    after = load_dataset("crosstask", crosstask / "videos")
    assert len(after.missing) == 17
    assert all(row.split == before[row.video_id] for row in after.manifest)


def test_a_folder_of_a_task_holds_its_videos_alone(crosstask: Path):
    """A video of two tasks that lies in the folder of one."""
    (crosstask / "videos" / "A title [jello-00000].webm").unlink()
    touch(crosstask / "videos", ["16815/jello-00000.mp4"])
    loaded = load_dataset("crosstask", crosstask / "videos")
    assert loaded.missing == ["23521_jello-00000"] and "16815_jello-00000" in loaded.manifest


def test_crosstask_files_that_are_not_right(crosstask: Path):
    folder = crosstask / "crosstask_release"
    (folder / "tasks_related.txt").unlink()
    loaded = load_dataset("crosstask", crosstask / "videos")
    assert "no tasks_related.txt" in told(loaded) and "111_tea__000001" not in loaded.manifest
    for name, content, says in (
        (
            "tasks_primary.txt",
            TASKS.replace("3\npour", "4\npour"),
            "line 1: the task '23521' is not as released: 3 steps, 4",
        ),
        ("tasks_primary.txt", "23521\nMake Jello Shots\n", "is not as released"),
        ("tasks_primary.txt", "\n", "names no task"),
        ("videos.csv", "23521\n", "names no video"),
        ("videos.csv", None, "cannot be read"),
        ("tasks_primary.txt", None, r"no tasks_primary\.txt in"),
    ):
        kept = (folder / name).read_text()
        (folder / name).unlink()
        if content is not None:
            (folder / name).write_text(content)
        if name == "videos.csv" and content:
            (folder / "videos_val.csv").write_text("")
        with pytest.raises(StepclipError, match=says):
            load_dataset("crosstask", crosstask / "videos")
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_text(kept)


# ---- all


@pytest.mark.parametrize(
    ("name", "where", "from_where"),
    [
        ("youcook2", "YouCook2", "youcook2.eecs.umich.edu"),
        ("captaincook4d", "CaptainCook4D", "github.com/CaptainCook4D/annotations"),
        ("crosstask", None, "github.com/DmZhukov/CrossTask"),
    ],
)
def test_what_is_not_there_is_told(real: Path, tmp_path: Path, name: str, where: str | None, from_where: str):
    for videos, says in ((None, "no VIDEOS given"), (tmp_path / "no", "no folder")):
        with pytest.raises(StepclipError, match=says) as caught:
            load_dataset(name, videos, tmp_path)
        assert "VIDEOS/" in str(caught.value)
    with pytest.raises(StepclipError, match=r"no .* in ") as caught:
        load_dataset(name, tmp_path, tmp_path)
    assert from_where in str(caught.value) and f"DATASET={name}" in str(caught.value)
    if where:
        touch(tmp_path, ["stranger.mp4"])
        with pytest.raises(StepclipError, match=r"none of the .* it holds: stranger\.mp4"):
            load_dataset(name, tmp_path, real / "annotations" / where)

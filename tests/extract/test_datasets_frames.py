"""Data sets whose frames are labelled: small files written as they are released, with their faults."""

from __future__ import annotations

import io
import json
import os
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stepclip.cache.errors import StepclipError
from stepclip.cache.rows import procedure_of
from stepclip.extract.datasets import load_dataset
from stepclip.extract.datasets.finegym import ELEMENTS
from stepclip.extract.datasets.frames import runs, stretched
from stepclip.extract.datasets.gtea import import_arguments
from stepclip.extract.datasets.pennaction import CARL, EVENTS, PHASES, TCC
from stepclip.extract.datasets.pickles import read_pickle

torch = pytest.importorskip("torch")


# ---- pickles, which are programs


class Calls:
    """Pickled as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def written(path: Path, value: Any, protocol: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(value if isinstance(value, bytes) else pickle.dumps(value, protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_what_the_released_pickles_hold_is_read(tmp_path: Path, protocol: int):
    tensor = torch.arange(24).reshape(2, 3, 4)
    held = {
        "labels": torch.arange(5),
        "float": -1 * torch.ones(3),
        "window": tensor[1, :, 2],
        "turned": tensor[0].T,
        "bool": torch.tensor([True, False]),
        "none": torch.zeros(0),
        "numpy": np.arange(6, dtype=np.int32).reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big": np.arange(3, dtype=">i4"),
        "empty": np.zeros((0, 2), np.float32),
        "scalar": np.int64(-3),
        "plain": [None, True, 1.5, "x", (1, {"a": [2**70]}), b"\xff\x00"],
    }
    found = read_pickle(written(tmp_path / "x.pkl", held, protocol))
    assert found.keys() == held.keys() and found["plain"] == held["plain"] and found["scalar"] == -3
    for key in ("labels", "float", "window", "turned", "bool", "none", "numpy", "columns", "big", "empty"):
        wanted = np.asarray(held[key])
        assert isinstance(found[key], np.ndarray) and found[key].shape == wanted.shape, key
        assert found[key].dtype.kind == wanted.dtype.kind and (found[key] == wanted).all(), key


def evil_pickles(file: Path) -> dict[str, Any]:
    """Programs that would make `file`, by the name that is to be refused."""
    touch = f"touch {file}"
    inside = pickle.dumps(Calls(os.system, touch), 2)
    text = str(file)
    return {
        "posix.system": Calls(os.system, touch),
        "builtins.eval": Calls(eval, f"open({text!r}, 'w')"),
        "builtins.exec": [{"name": Calls(exec, f"open({text!r}, 'w')")}],
        "io.open": Calls(open, text, "w"),
        "builtins.getattr": Calls(getattr, "x", "join"),
        "numpy.load": Calls(np.load, text),
        "os.system": f"(S'{touch}'\nios\nsystem\n.".encode(),
        "posix.system in a tensor": Calls(torch.storage._load_from_bytes, inside),
        "torch.serialization.load": Calls(torch.load, text),
    }


@pytest.mark.parametrize("name", evil_pickles(Path("x")))
def test_a_pickle_that_would_run_a_program_is_refused_and_not_run(tmp_path: Path, name: str):
    file = tmp_path / "made"
    evil = written(tmp_path / "x.pkl", evil_pickles(file)[name])
    with pytest.raises(StepclipError, match=r"x\.pkl names ") as caught:
        read_pickle(evil)
    assert f"names {name}, which was refused" in caught.value.found and not file.exists()


def test_the_evil_pickles_are_evil(tmp_path: Path):
    file = tmp_path / "made"
    pickle.loads(pickle.dumps(evil_pickles(file)["posix.system"]))
    assert file.exists()


def storage_of(count: int) -> bytes:
    file = io.BytesIO()
    torch.save(torch.arange(count).storage(), file, _use_new_zipfile_serialization=False)
    return file.getvalue()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("shape", "stride", "offset"),
    [((3,), (1000,), 0), ((3,), (-1,), 2), ((2,), (1,), 2), ((4,), (0,), 0), ((1,), (1,), -1)],
)
def test_a_tensor_never_reaches_beyond_its_numbers(tmp_path: Path, shape: Any, stride: Any, offset: int):
    storage = Calls(torch.storage._load_from_bytes, storage_of(3))
    forged = Calls(torch._utils._rebuild_tensor_v2, storage, offset, shape, stride, False, {})
    with pytest.raises(StepclipError, match="cannot be read as a pickle"):
        read_pickle(written(tmp_path / "x.pkl", forged))


@pytest.mark.parametrize(
    ("program", "says"),
    [
        (b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00O8\x85R.", "not plain numbers"),  # objects: addresses
        (b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00V8\x85R.", "not plain numbers"),
        (b"\x80\x02cnumpy.core.numeric\n_frombuffer\nN}X\x05\x00\x00\x00_makeNs\x86b.", "changes a function"),
        (b"\x80\x02cnumpy\nndarray\n(I3\ntR.", "not callable"),
        (b"", "Ran out of input"),
        (b"hello", "cannot be read as a pickle"),
        (b"<!DOCTYPE html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"),
    ],
)
def test_forged_and_foreign_files(tmp_path: Path, program: bytes, says: str):
    with pytest.raises(StepclipError, match=says):
        read_pickle(written(tmp_path / "x.pkl", program))


def test_a_pickle_that_is_cut_anywhere_is_told(tmp_path: Path):
    whole = pickle.dumps([{"name": "a", "frame_label": torch.arange(4), "n": np.arange(3)}], 3)
    for end in range(0, len(whole), 3):
        with pytest.raises(StepclipError, match=r"x\.pkl"):
            read_pickle(written(tmp_path / "x.pkl", whole[:end]))


# ---- labels


def test_runs_and_spreading():
    assert list(runs(np.array([-1, 0, 0, 2, 2, 2, -1, 0]))) == [(0, 1, 3), (2, 3, 6), (0, 7, 8)]
    assert list(runs(np.array([3]))) == [(3, 0, 1)] and not list(runs(np.array([-1, -1])))
    assert stretched(np.array([0, 1, 2]), 6).tolist() == [0, 0, 1, 1, 2, 2]
    assert stretched(np.array([0, 0, 1, 1, 2, 2]), 3).tolist() == [0, 1, 2]


# ---- Penn Action


def test_the_phases_are_those_of_the_table():
    """carl.md 5.1."""
    table = {
        "baseball_pitch": 4, "baseball_swing": 3, "bench_press": 2, "bowl": 3, "clean_and_jerk": 6,
        "golf_swing": 3, "jumping_jacks": 4, "pushup": 2, "pullup": 2, "situp": 2, "squat": 4,
        "tennis_forehand": 3, "tennis_serve": 4,
    }  # fmt: skip
    assert {action: len(phases) for action, phases in PHASES.items()} == table
    assert list(EVENTS) == list(table) == list(CARL)  # the order is that of action_label
    assert [sum(counts) for counts in zip(*CARL.values(), strict=True)] == [1140, 966]
    assert [sum(counts) for counts in zip(*TCC.values(), strict=True)] == [1160, 966]
    assert PHASES["bowl"] == (
        "bowl: until ball swung fully back",
        "bowl: from ball swung fully back to ball release",
        "bowl: after ball release",
    )
    assert len({phase for phases in PHASES.values() for phase in phases}) == 42


def penn(action: str, number: int, labels: list[int] | None = None, **more: Any) -> dict[str, Any]:
    """An entry of CARL's pickles: frame_label is a tensor."""
    labels = sorted([*range(len(PHASES[action]))] * 2) if labels is None else labels
    name = f"{number:04d}_{action}"
    return {
        "id": number,
        "name": name,
        "video_file": f"videos/{name}.mp4",
        "frame_label": torch.tensor(labels),
        "seq_len": len(labels),
        "action_label": list(EVENTS).index(action),
        **more,
    }


def penn_release(folder: Path, train: list[dict[str, Any]], val: list[dict[str, Any]]) -> Path:
    (folder / "videos").mkdir(parents=True)
    for split, entries in (("train", train), ("val", val)):
        places: list[list[int]] = [[] for _ in EVENTS]
        for place, entry in enumerate(entries):
            places[entry["action_label"]].append(place)
            (folder / str(entry["video_file"])).touch()
        written(folder / f"{split}.pkl", (entries, places))
    return folder


def test_penn_action_as_carl_distributes_it(tmp_path: Path):
    folder = penn_release(
        tmp_path / "penn_action",
        [penn("bowl", 7, [0] * 10 + [1] * 5 + [2] * 10), penn("squat", 9, [0, 0, 1, 3])],
        [penn("bench_press", 3), penn("bowl", 8)],
    )
    (folder / "videos" / "0008_bowl.mp4").unlink()
    for given in ((folder, None), (None, folder), (folder / "videos", folder / "val.pkl")):
        loaded = load_dataset("pennaction", *given)
        assert [row.video_id for row in loaded.manifest] == ["0007_bowl", "0009_squat", "0003_bench_press"]
    row = loaded.manifest["0007_bowl"]
    assert (row.task, row.procedure, row.split) == ("bowl", "bowl", "train") and row.steps == PHASES["bowl"]
    assert row.step_start == (0.0, 0.4, 0.6) and row.step_end == (0.4, 0.6, 1.0)
    assert loaded.extra["0007_bowl"] == {
        "labels": [0] * 10 + [1] * 5 + [2] * 10,
        "fps": 25.0,
        "classes": dict(zip("012", PHASES["bowl"], strict=True)),
    }
    assert json.loads(json.dumps(loaded.extra)) == loaded.extra and set(loaded.extra) == {
        row.video_id for row in loaded.manifest
    }
    squat = loaded.manifest["0009_squat"]  # without its phase 2
    assert squat.procedure == procedure_of(squat.steps) and len(loaded.extra["0009_squat"]["classes"]) == 4
    assert loaded.missing == ["0008_bowl"]
    notes = "\n".join(loaded.notes)
    for said in (
        "not the full PennAction release: 2 train and 2 val videos of 3 actions",
        "1 of 4 videos are missing (0008_bowl)",
        "1 videos lack a phase or go back to one: their procedure is a hash of their own steps (0009_squat)",
        "3 files cannot be opened",
    ):
        assert said in notes, notes


def test_times_are_those_of_the_file_not_of_the_release(tmp_path: Path, tools: SimpleNamespace):
    folder = penn_release(
        tmp_path / "p", [penn("bowl", 1, [0, 0, 0, 1, 1, 2]), penn("bowl", 2, [0, 1, 2])], [penn("situp", 3)]
    )
    for name, count in (("0001_bowl", 6), ("0002_bowl", 6)):
        tools.video(folder / "videos" / f"{name}.mp4", [k / 12 for k in range(count)])  # 12 frames/s
    loaded = load_dataset("pennaction", folder)
    assert loaded.manifest["0001_bowl"].step_start == (0.0, 3 / 12, 5 / 12)
    assert loaded.manifest["0001_bowl"].step_end == (3 / 12, 5 / 12, 6 / 12)
    assert loaded.manifest["0002_bowl"].step_start == (0.0, 2 / 12, 4 / 12)  # 3 labels over 6 frames
    assert loaded.extra["0002_bowl"]["labels"] == [0, 0, 1, 1, 2, 2]
    assert loaded.extra["0002_bowl"]["fps"] == 12 and loaded.extra["0003_situp"]["fps"] == 25
    notes = "\n".join(loaded.notes)
    assert "12 (2 videos); the release has 25" in notes
    assert "1 videos have another number of frames than labels (0002_bowl: 6 frames, 3 labels)" in notes
    assert "1 files cannot be opened (0003_situp: empty-file); their step times take 25 frames/s" in notes


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (CARL, "all 26 counts are those of CARL's split table: 1140 train and 966 val videos of 13 actions"),
        (TCC, "all 26 counts are those of TCC's paper: 1160 train and 966 val"),
        (
            {**CARL, "squat": TCC["squat"], "bowl": (133, 85)},
            "bowl 133/85 is neither's (CARL 134/85, TCC 134/85); pushup 102/106 is CARL's (CARL 102/106, TCC "
            "102/105); squat 114/116 is TCC's",
        ),
    ],
)
def test_which_of_the_published_counts_a_full_release_meets(tmp_path: Path, table: dict[str, Any], says: str):
    splits: dict[str, list[dict[str, Any]]] = {"train": [], "val": []}
    number = 0
    for action, counts in table.items():
        for split, count in zip(splits, counts, strict=True):
            for _ in range(count):
                number += 1
                splits[split].append(penn(action, number) | {"frame_label": np.arange(len(PHASES[action]))})
    for split, entries in splits.items():
        written(tmp_path / f"{split}.pkl", (entries, []), 4)
    (tmp_path / "0001_baseball_pitch.mp4").touch()
    loaded = load_dataset("pennaction", tmp_path)
    assert says in loaded.notes[0] and len(loaded.missing) == number - 1


def test_the_labels_of_tcc_and_videos_of_ones_own(tmp_path: Path):
    labels, videos = tmp_path / "labels", tmp_path / "videos"
    for name, values in (
        ("train/bowl/0001.npy", [0, 1, 1, 2]),
        ("val/bowl/0002.npy", [[0], [1], [2]]),
        ("val/jump_rope/0003.npy", [0, 1]),
        ("val/bowl/0004.npy", [0, 1, 3]),
    ):
        (labels / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(labels / name, np.array(values))
    for name in ("a/b/0001.MKV", "0002_bowl.avi", "._0001.mp4"):
        (videos / name).parent.mkdir(parents=True, exist_ok=True)
        (videos / name).touch()
    loaded = load_dataset("pennaction", videos, labels)
    assert [(row.video_id, row.split, Path(row.path).name) for row in loaded.manifest] == [
        ("0001_bowl", "train", "0001.MKV"),
        ("0002_bowl", "val", "0002_bowl.avi"),
    ]
    notes = "\n".join(loaded.notes)
    assert "1 files of 'jump_rope' were left out (TCC labels no phases of it)" in notes
    assert "0004_bowl was left out: labels 0 to 3, of the 3 phases of bowl" in notes
    np.save(labels / "train/bowl/0005.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(StepclipError, match=r"0005\.npy cannot be read"):
        load_dataset("pennaction", videos, labels)


def test_folders_of_pictures_say_how_to_make_a_video(tmp_path: Path):
    for split, number in (("train", 1), ("val", 2)):
        written(tmp_path / f"{split}.pkl", ([penn("bowl", number)], []))
    for number in (1, 2):
        (tmp_path / "frames" / f"000{number}").mkdir(parents=True)
        (tmp_path / "frames" / f"000{number}" / "000001.jpg").touch()
    with pytest.raises(StepclipError, match="pictures in place of 2 videos") as caught:
        load_dataset("pennaction", tmp_path)
    assert f"-i '{tmp_path}/frames/0001/*.jpg'" in caught.value.run
    (tmp_path / "0001.mp4").touch()
    loaded = load_dataset("pennaction", tmp_path)
    assert loaded.missing == ["0002_bowl"] and "1 are folders of pictures" in "\n".join(loaded.notes)


def test_what_is_trained_on_is_not_tested_on(tmp_path: Path):
    folder = penn_release(
        tmp_path / "p", [penn("bowl", 1), penn("bowl", 1), penn("bowl", 2)], [penn("bowl", 2)]
    )
    loaded = load_dataset("pennaction", folder)
    assert [(row.video_id, row.split) for row in loaded.manifest] == [
        ("0001_bowl", "train"),
        ("0002_bowl", "val"),
    ]
    notes = "\n".join(loaded.notes)
    assert (
        "1 videos are in two splits (0002_bowl)" in notes and "1 videos are given twice (0001_bowl)" in notes
    )


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (([{"name": "0001_bowl"}], []), "'0001_bowl' has frame labels of the shape"),
        (([{"frame_label": [0]}], []), "video 0 has no name"),
        (([penn("bowl", 1, frame_label=[0.5, 1])], []), "no whole numbers"),
        (([], []), "no list of videos"),
        ({"a": 1}, "no list of videos"),
        (([penn("bowl", 1, [5])], []), "labels 5 to 5, of the 3 phases"),
        (Calls(os.system, "true"), "posix.system, which was refused"),
    ],
)
def test_pickles_that_are_not_as_released(tmp_path: Path, value: Any, says: str):
    written(tmp_path / "train.pkl", value)
    with pytest.raises(StepclipError, match=says):
        load_dataset("pennaction", tmp_path)


@pytest.mark.parametrize("name", ["pennaction", "pouring", "finegym"])
def test_nothing_found_says_where_it_comes_from(tmp_path: Path, name: str):
    for given in (
        (None, None),
        (tmp_path, None),
        (tmp_path, tmp_path),
        (tmp_path / "no", None),
    ):
        with pytest.raises(StepclipError) as caught:
            load_dataset(name, *given)
        assert "CARL" in caught.value.expected and f"make extract DATASET={name}" in caught.value.run


# ---- Pouring


def pour(name: str, labels: list[int]) -> dict[str, Any]:
    file = f"videos/{name}.mp4"
    return {
        "id": 0,
        "video_file": file,
        "frame_label": torch.tensor(labels),
        "seq_len": len(labels),
        "name": name,
    }


def test_pouring_as_carl_distributes_it(tmp_path: Path):
    videos = tmp_path / "videos"
    videos.mkdir()
    for split, count in (("train", 70), ("val", 14)):
        entries = [pour(f"{split}_{k}", [0, 0, 1, 2, 3, 4]) for k in range(count)]
        for entry in entries:
            (tmp_path / entry["video_file"]).touch()
        written(tmp_path / f"{split}.pkl", entries)
    loaded = load_dataset("pouring", videos)
    row = loaded.manifest["val_3"]
    assert (row.task, row.procedure, row.split) == ("pouring", "pouring", "val") and len(row.steps) == 5
    assert row.steps[1] == "pouring: from hand touches bottle to liquid starts exiting"
    assert row.step_start == (0.0, 0.08, 0.12, 0.16, 0.2) and loaded.notes[0] == (
        "the counts are those of the release: 70 train, 14 val"
    )
    written(tmp_path / "val.pkl", [pour("val_0", [0, 0, 1, 2, 3, 4]), pour("val_1", [0, 5])])
    notes = load_dataset("pouring", videos).notes
    assert notes[0] == "not the full Pouring release: 70 train, 1 val videos, released 70 train and 14 val"
    assert "val_1 was left out: labels 0 to 5, of 5 phases" in notes


def test_pouring_as_tcc_releases_it_is_told_how_to_convert(tmp_path: Path):
    (tmp_path / "pouring_train-0-of-2.tfrecord").touch()
    with pytest.raises(StepclipError, match="tfrecord") as caught:
        load_dataset("pouring", tmp_path)
    assert "tfrecords_to_videos.py" in caught.value.run


# ---- FineGym

EVENT = "0LtLS9wROrk_E_000147_000152"
BEAM = "0LtLS-_E_rOk_E_002407_002435"  # an id that looks like an event's


def categories(folder: Path, count: int = 99) -> None:
    sets = ["VT"] * 6 + ["FX"] * 30 + ["BB"] * 30 + ["UB"] * (count - 66)
    lines = [f"Clabel: {k}; set: 1; Glabel: {k}; ({event}) move {k}, tucked" for k, event in enumerate(sets)]
    (folder / f"gym{count}_categories.txt").write_text("\n".join(lines))


def gym(name: str, labels: list[int], event: int) -> dict[str, Any]:
    return {
        "id": 0,
        "name": name,
        "video_file": f"processed_videos/{name}.mp4",
        "seq_len": len(labels),
        "frame_label": torch.tensor(labels).float(),  # as CARL writes it: -1 * torch.ones(n)
        "event_label": event,
    }


@pytest.fixture
def finegym(tmp_path: Path) -> Path:
    written(tmp_path / "gym99_train_v1.0.pkl", [gym(EVENT, [-1] * 5 + [3] * 10 + [-1] * 10, 1)])
    beam = [40] * 5 + [41] * 5 + [-1] * 5 + [40] * 10
    written(tmp_path / "gym99_val.pkl", [gym(BEAM, beam, 3), gym("a_E_1_2", [-1, -1], 2)])
    categories(tmp_path)
    (tmp_path / "processed_videos").mkdir()
    for name in (EVENT, BEAM, "a_E_1_2"):
        (tmp_path / "processed_videos" / f"{name}.mp4").touch()
    return tmp_path


def test_finegym_from_the_pickles_of_carl(finegym: Path):
    loaded = load_dataset("finegym", finegym / "processed_videos")
    vault, beam = loaded.manifest[EVENT], loaded.manifest[BEAM]
    assert (vault.task, vault.split, vault.steps) == ("vault", "train", ("vault: move 3, tucked",))
    assert (vault.step_start, vault.step_end) == ((0.2,), (0.6,)) and vault.start is None
    assert beam.task == "balance beam" and beam.steps == tuple(
        f"balance beam: move {k}, tucked" for k in (40, 41, 40)
    )
    assert beam.step_start == (0.0, 0.2, 0.6) and beam.procedure == procedure_of(beam.steps)
    assert loaded.extra[BEAM]["classes"] == {str(k): f"balance beam: move {k}, tucked" for k in (40, 41)}
    assert loaded.extra[EVENT]["labels"][4:6] == [-1, 3]
    notes = "\n".join(loaded.notes)
    for said in (
        "Gym99, from CARL's pickles: 1 train and 2 val events with 1 and 3 runs",
        "1 videos have no labelled frame and were left out (a_E_1_2)",
        "of a vault's stages CARL labels only the last",
    ):
        assert said in notes, notes
    (finegym / "gym99_categories.txt").unlink()
    loaded = load_dataset("finegym", finegym)
    assert loaded.manifest[EVENT].steps == ("gym99 element 3",)
    assert any("no gym99_categories.txt" in note for note in loaded.notes)


def test_gym99_or_gym288(finegym: Path):
    written(finegym / "gym288_train_v1.0.pkl", [gym(EVENT, [287] * 5, 1)])
    loaded = load_dataset("finegym", finegym)
    assert len(loaded.manifest) == 2 and "also there: gym288_train_v1.0.pkl" in "\n".join(loaded.notes)
    loaded = load_dataset("finegym", finegym, finegym / "gym288_train_v1.0.pkl")
    assert loaded.manifest[EVENT].steps == ("gym288 element 287",) and len(loaded.manifest) == 1
    written(finegym / "gym99_train_v1.0.pkl", [gym(EVENT, [99], 1)])
    loaded = load_dataset("finegym", finegym)
    assert f"{EVENT} was left out: a label 99, of 99 classes" in loaded.notes
    (finegym / "gym99_categories.txt").write_text("Clabel: 0; set: 1; Glabel: 1; (VT) x\n")
    with pytest.raises(StepclipError, match="names 1 classes"):
        load_dataset("finegym", finegym)


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    """FineGym's own files, with whole YouTube videos."""
    video, beam = EVENT.split("_E_")[0], BEAM.rsplit("_E_", 1)[0]
    stages = [[0.5, 1.0], [1.0, 1.4], [1.4, 3.0]]
    info = {
        video: {
            "E_000147_000152": {
                "event": 1,
                "timestamps": [[147.2, 152.2]],
                "segments": {"A_0000_0003": {"stages": 3, "timestamps": stages}},
            },
            "E_000200_000210": {"event": 2, "timestamps": [[200.0, 210.0]], "segments": None},
        },
        beam: {
            "E_002407_002435": {
                "event": 3,
                "timestamps": [[2407.32, 2435.28]],
                "segments": {
                    "A_0009_0010": {"stages": 1, "timestamps": [[9.0, 10.2]]},
                    "A_0003_0005": {"stages": 1, "timestamps": [[3.4, 5.0]]},
                    "A_0020_0020": {"stages": 1, "timestamps": [[20.4, 20.1]]},
                },
            }
        },
    }
    (tmp_path / "finegym_annotation_info_v1.0.json").write_text(json.dumps(info))
    (tmp_path / "gym99_train_element_v1.0.txt").write_text(f"{EVENT}_A_0000_0003 2\n\nthis is no line\n")
    (tmp_path / "gym99_val_element.txt").write_text(
        f"{BEAM}_A_0009_0010 50\r\n{BEAM}_A_0003_0005 51\n{BEAM}_A_0020_0020 51\n"
        f"{video}_E_000200_000210_A_0_1 7"
    )
    categories(tmp_path)
    (tmp_path / "raw").mkdir()
    for name in (video, beam):
        (tmp_path / "raw" / f"{name}.webm").touch()
    return tmp_path


def test_finegym_from_its_own_files_and_whole_videos(lists: Path):
    loaded = load_dataset("finegym", lists / "raw", lists)
    vault, beam = loaded.manifest[EVENT], loaded.manifest[BEAM]
    assert (vault.start, vault.end, Path(vault.path).suffix) == (147.2, 152.2, ".webm")
    assert (vault.step_start, vault.step_end) == (
        (0.5,),
        (3.0,),
    )  # all its stages, from the event's first frame
    assert beam.steps == (
        "balance beam: move 51, tucked",
        "balance beam: move 50, tucked",
    )  # in order of time
    assert beam.step_start == (3.4, 9.0) and beam.split == "val"
    labels = loaded.extra[BEAM]["labels"]
    assert len(labels) == 699 and loaded.extra[BEAM]["fps"] == 25  # of 27.96 s
    assert labels[84] == -1 and set(labels[85:126]) == {51} and labels[126] == -1
    notes = "\n".join(loaded.notes)
    for said in (
        "1 train and 4 val elements of Gym99; version 1.0 has 20484 and 8521",
        "passed over 1 lines that are no `element label` (this is no line)",
        "2 elements have no times in finegym_annotation_info_v1.0.json",
    ):
        assert said in notes, notes
    assert ELEMENTS[288] == (22671, 9646)


def test_clips_of_events_come_before_whole_videos(lists: Path):
    (lists / "clips").mkdir()
    (lists / "clips" / f"{EVENT}.mp4").touch()
    loaded = load_dataset("finegym", lists)
    assert loaded.manifest[EVENT].start is None and loaded.manifest[EVENT].path.endswith(f"clips/{EVENT}.mp4")
    assert loaded.manifest[EVENT].step_start == (0.5,) and loaded.manifest[BEAM].start == 2407.32
    assert load_dataset("finegym", lists / "clips", lists).missing == [BEAM]


def test_finegym_prefers_pickles_unless_a_list_is_named(finegym: Path, lists: Path):
    assert finegym == lists
    assert load_dataset("finegym", lists).manifest[EVENT].step_start == (0.2,)
    loaded = load_dataset("finegym", lists, lists / "finegym_annotation_info_v1.0.json")
    assert loaded.manifest[EVENT].step_start == (0.5,)


# ---- GTEA


def test_gtea_has_features_and_says_what_to_run(tmp_path: Path):
    with pytest.raises(StepclipError, match="features, without videos") as caught:
        load_dataset("gtea", annotations=tmp_path / "gtea.npz")
    assert caught.value.run == f"stepclip cache import {tmp_path / 'gtea.npz'} --dataset gtea"


@pytest.fixture
def gtea(tmp_path: Path) -> Path:
    """MS-TCN's release, of two videos."""
    folder = tmp_path / "gtea"
    for name in ("features", "groundTruth", "splits"):
        (folder / name).mkdir(parents=True)
    (folder / "mapping.txt").write_text("0 take\n1 open\n2 background\n")
    for video, kind in (("S1_Cheese_C1", "test"), ("S2_Tea_C1", "train")):
        np.save(folder / "features" / f"{video}.npy", np.ones((2048, 30), np.float32))
        labels = ["background"] * 3 + ["take"] * 12 + ["open"] * 9 + ["background"] * 6
        (folder / "groundTruth" / f"{video}.txt").write_text("\n".join(labels) + "\n")
        for number in range(1, 5):
            (folder / "splits" / f"{kind}.split{number}.bundle").write_text(f"{video}.txt\n")
    return folder


def test_what_the_import_of_gtea_needs(gtea: Path):
    source, arguments = import_arguments(gtea.parent, split=2)
    assert source == gtea / "features" and arguments["fps"] == 15 and arguments["transposed"]
    row = arguments["manifest"]["S1_Cheese_C1"]
    assert (row.task, row.split, row.steps) == ("Cheese", "test", ("take", "open"))
    assert row.step_start == (0.2, 1.0) and row.step_end == (1.0, 1.6)
    assert arguments["manifest"]["S2_Tea_C1"].split == "train"
    whole = import_arguments(gtea, split=2, background=True)[1]["manifest"]["S1_Cheese_C1"]
    assert whole.steps == ("background", "take", "open", "background")
    assert whole.step_start == (0.0, 0.2, 1.0, 1.6) and whole.step_end == (0.2, 1.0, 1.6, 2.0)
    (gtea / "groundTruth" / "S2_Tea_C1.txt").write_text("opne\n")
    with pytest.raises(StepclipError, match="did you mean 'open'"):
        import_arguments(gtea)
    (gtea / "splits" / "test.split1.bundle").unlink()
    with pytest.raises(StepclipError, match=r"test\.split1\.bundle cannot be read"):
        import_arguments(gtea)
    for source, split in ((gtea, 5), (gtea / "features", 1)):
        with pytest.raises(StepclipError):
            import_arguments(source, split)


def test_the_labels_of_the_real_gtea(real: Path):
    source, arguments = import_arguments(real / "features" / "gtea.npz", split=2)
    assert arguments["prefix"] == "split2" and len(arguments["label_names"]) == 11
    with np.load(source) as file:
        labels = {int(label) for name in file if name.endswith("/labels") for label in np.unique(file[name])}
    assert labels == set(range(11))

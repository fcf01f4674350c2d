"""The CSV release as it is, and in small made copies with each of its faults; own manifests; the bench."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from stepclip.cache import Manifest, VideoRow
from stepclip.cache.errors import StepclipError
from stepclip.extract.datasets import load_dataset
from stepclip.extract.datasets.csv import difference

BANK = {
    "7.1": ["take up", "pour", "stir"],
    "7.2": ["pour", "take up", "stir"],
    "7.3": ["stir", "take up", "pour"],
    "7.4": ["take up", "stir"],
    "7.5": ["take up", "pour", "stir", "cover"],
    "1.1": ["heat", "cover"],
    "1.2": ["cover", "heat"],
}


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """annotations/ and videos/ of a small release with the faults of the real one."""
    notes = tmp_path / "annotations"
    (notes / "splits").mkdir(parents=True)
    (notes / "label_bank.json").write_text(json.dumps(BANK))
    train = [("ann", label) for label in BANK if label[0] == "7"] + [("bob", "7.1"), ("bob", "7.4")]
    (notes / "train_split.txt").write_bytes(
        "\r\n".join([*(f"{who}.mp4 {label}" for who, label in train), "._bob.mp4 7.2", ""]).encode()
    )
    (notes / "test_split.txt").write_text("cat.MP4 1.1\ndan.MP4 1.1\ncat.MP4 1.2")  # no newline at the end
    (notes / "train_pairs.txt").write_text(
        "7.1/ann 7.1 7.1/bob 7.1\n7.4/ann 7.4 7.4/bob 7.4\n\n\npython train.py --x 1\n7.1 is ok\n \n"
    )
    (notes / "test_pairs.txt").write_text(
        "1.1/cat 1.1 1.1/dan 1.1\n1.1/dan 1.1 1.2/cat 1.2\n1.1/eve 1.1 1.2/cat 1.2"
    )
    (notes / "splits" / "text_matching.txt").write_bytes(
        b"1.1 1.1/cat 1.2/cat\r\n1.2 1.1/dan 1.2/cat\r\n1.1 1.1/cat 1.2/cat\r\n1.2 1.1/._cat 1.2/cat\r\n"
        b"1.1 1.1/cat 1.2/._eve"
    )
    (notes / "splits" / "transfer_train.txt").write_text("/their/disk/frames/1.1/cat 1.1\n/x/1.2/cat 1.2\n")
    (notes / "splits" / "transfer_test.txt").write_text("/x/1.1/dan 1.1\n/x/1.1/eve 1.1\nnothing\n")
    for label in BANK:
        (tmp_path / "videos" / label).mkdir(parents=True)
    for who, label in train[:-1]:
        (tmp_path / "videos" / label / f"{who}.mp4").write_bytes(b"video")
    for name in (
        "1.1/cat.MP4",
        "1.1/dan.mkv",
        "1.2/cat.mp4",
        "7.1/stranger.mp4",
        "7.4/._bob.mp4",
        "7.1/readme.txt",
    ):
        (tmp_path / "videos" / name).write_bytes(b"video")
    return tmp_path


def test_a_release_with_all_its_faults(release: Path):
    loaded = load_dataset("csv", release / "videos", release / "annotations")
    manifest, notes = loaded.manifest, "\n".join(loaded.notes)
    assert loaded.missing == ["7.4/bob"]
    assert len(manifest) == 9 and manifest.name == "csv"
    row = manifest["1.1/dan"]
    assert Path(row.path) == release / "videos" / "1.1" / "dan.mkv"
    assert (row.task, row.procedure, row.split, row.steps) == ("1", "1.1", "test", ("heat", "cover"))
    assert [(pair.video_a, pair.video_b, pair.matched, pair.kind, pair.split) for pair in manifest.pairs] == [
        ("7.1/ann", "7.1/bob", True, "matched", "train"),
        ("1.1/cat", "1.1/dan", True, "matched", "test"),
        ("1.1/dan", "1.2/cat", False, "order", "test"),
    ]
    assert [(each.procedure, each.candidates, each.answer) for each in manifest.matching] == [
        ("1.1", ("1.1/cat", "1.2/cat"), 0),
        ("1.2", ("1.1/dan", "1.2/cat"), 1),
        ("1.2", ("1.1/cat", "1.2/cat"), 1),
    ]
    for said in (
        "1 ghosts",
        "2 lines that are no pair",
        "1 pairs of videos that are in no split",
        "1 lists given more than once",
        "1 lists with a video that is in no split (such as '1.1 1.1/cat 1.2/eve')",
        "2 lists name a ghost of macOS (._*), read as its video",
        "transfer_test.txt: passed over 1 lines that are no `folder label` (such as 'nothing')",
        "transfer_test.txt: passed over 1 videos that are in no split (such as '/x/1.1/eve 1.1')",
        "1 of 10 videos are missing (7.4/bob)",
        "not the full CSV release",
    ):
        assert said in notes, notes
    lists = {"1.1/cat": "train", "1.2/cat": "train", "1.1/dan": "test"}
    assert loaded.extra == {video_id: {"transfer": name} for video_id, name in lists.items()}


def test_annotations_are_found_beside_the_videos(release: Path):
    assert len(load_dataset("csv", release / "videos").manifest) == 9
    (release / "annotations").rename(release / "elsewhere")
    with pytest.raises(StepclipError, match=r"no label_bank\.json") as caught:
        load_dataset("csv", release / "videos")
    assert "ANNOTATIONS" in caught.value.run
    (release / "elsewhere" / "label_bank.json").rename(release / "label_bank.json")
    for name in ("train", "test"):
        for kind in ("split", "pairs"):
            (release / "elsewhere" / f"{name}_{kind}.txt").rename(release / f"{name}_{kind}.txt")
    assert len(load_dataset("csv", release / "videos").manifest) == 9


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("label_bank.json", "{", "label_bank.json"),
        ("label_bank.json", "[]", "holds no labels"),
        ("label_bank.json", '{"7.1": []}', "label '7.1'"),
        ("label_bank.json", '{"7.1": "take up"}', "label '7.1'"),
        ("test_split.txt", None, r"test_split\.txt cannot be read"),
        ("train_pairs.txt", None, r"train_pairs\.txt cannot be read"),
    ],
)
def test_annotation_files_that_are_not_right(release: Path, file: str, content: str | None, says: str):
    path = release / "annotations" / file
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(StepclipError, match=says):
        load_dataset("csv", release / "videos", release / "annotations")


def test_folders_of_pictures_are_told(release: Path, tmp_path: Path):
    frames = tmp_path / "frames"
    for name in ("7.1/ann", "1.1/cat"):
        (frames / name).mkdir(parents=True)
        (frames / name / "1.jpg").write_bytes(b"jpg")
    with pytest.raises(StepclipError, match="2 folders of pictures"):
        load_dataset("csv", frames, release / "annotations")
    (frames / "7.1" / "bob.mp4").write_bytes(b"video")
    loaded = load_dataset("csv", frames, release / "annotations")
    assert len(loaded.manifest) == 1 and "7.1/ann" in loaded.missing
    assert any("2 are folders of pictures" in note for note in loaded.notes)


def test_no_video_at_all(release: Path, tmp_path: Path):
    (tmp_path / "other").mkdir()
    for folder, says in (
        (tmp_path / "other", "none of the 10 videos"),
        (tmp_path / "no", "no folder"),
        (None, "no VIDEOS"),
    ):
        with pytest.raises(StepclipError, match=says):
            load_dataset("csv", folder, release / "annotations")


@pytest.mark.parametrize(
    ("a", "b", "kind"),
    [
        ("7.1", "7.2", "order"),
        ("7.1", "7.4", "deletion"),
        ("7.4", "7.3", "deletion"),
        ("7.5", "7.2", "addition"),
        ("7.4", "7.5", "other"),
        ("7.1", "1.1", "other"),
    ],
)
def test_kinds_of_difference(a: str, b: str, kind: str):
    bank = {label: tuple(steps) for label, steps in BANK.items()}
    assert difference(a, b, bank) == difference(b, a, bank) == kind


# ---- the real annotation files


def test_the_full_release_has_the_counts_of_the_paper(real: Path, tmp_path: Path):
    """weaksvr.md 1.2; all videos present as empty files."""
    annotations = real / "annotations" / "CSV"
    everyone = []
    for split in ("train", "test"):
        for line in (annotations / f"{split}_split.txt").read_text().split("\n"):
            if line and not line.startswith("._"):
                name, label = line.split()
                everyone.append(tmp_path / label / name)
    for path in everyone:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    loaded = load_dataset("csv", tmp_path, annotations)
    manifest = loaded.manifest
    assert Counter(row.split for row in manifest) == {"train": 899, "test": 1038}
    assert len({row.procedure for row in manifest.split("train")}) == 45
    assert len({row.procedure for row in manifest.split("test")}) == 25
    assert Counter((pair.split, pair.matched) for pair in manifest.pairs) == {
        ("train", True): 8531,
        ("test", True): 500,
        ("test", False): 500,
    }
    kinds = Counter(pair.kind for pair in manifest.pairs if not pair.matched)
    assert kinds["order"] == 94 and set(kinds) == {"order", "deletion", "addition", "other"}
    assert len(manifest.steps()) == 105
    assert len(manifest.matching) == 775  # two name a ghost and mean its video
    assert all(row.candidates[row.answer].startswith(f"{row.procedure}/") for row in manifest.matching)
    assert all(row.answer == int(row.procedure.split(".")[1]) - 1 for row in manifest.matching)
    assert Counter(each["transfer"] for each in loaded.extra.values()) == {"train": 689, "test": 185}
    assert loaded.missing == [] and loaded.notes[0].startswith("all 12 counts are those of the release")


def test_a_release_with_the_junk_lines_of_the_other_repository(real: Path, tmp_path: Path):
    for source in (real / "annotations" / "CSV").rglob("*"):
        if source.is_file():
            target = tmp_path / source.relative_to(real / "annotations" / "CSV")
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(source.read_bytes())
    with open(tmp_path / "train_pairs.txt", "a") as file:
        file.write("\n" * 20 + "pair note 7.1\n" * 13)
    (tmp_path / "7.1").mkdir()
    (tmp_path / "7.1" / "baiyinghao.mp4").touch()
    notes = load_dataset("csv", tmp_path).notes
    assert notes[0].startswith("all 12 counts") and any(
        "passed over 13 lines that are no pair" in note for note in notes
    )
    lines = (tmp_path / "test_pairs.txt").read_text().split("\n")
    (tmp_path / "test_pairs.txt").write_text("\n".join(lines[:-7]))
    assert "test unmatched pairs: " in load_dataset("csv", tmp_path).notes[0]


# ---- own videos, the bench


def test_own_manifest_and_bench(tmp_path: Path):
    (tmp_path / "a.mp4").touch()
    (tmp_path / "own.csv").write_text("video,steps\na.mp4,take up|pour\nb.mp4,pour\n")
    loaded = load_dataset("manifest", annotations=tmp_path / "own.csv")
    assert len(loaded.manifest) == 2 and loaded.missing == ["b"]  # it stays, to be listed as failed
    Manifest((VideoRow("x", str(tmp_path / "a.mp4"), steps=("stir",)),)).write(
        tmp_path / "bench" / "manifest"
    )
    for source in (tmp_path / "bench", tmp_path / "bench" / "manifest"):
        assert [row.video_id for row in load_dataset("benchlab", source).manifest] == ["x"]


def test_names_and_nothing():
    with pytest.raises(StepclipError, match="did you mean 'benchlab'"):
        load_dataset("benchlap")
    for name in ("manifest", "benchlab"):
        with pytest.raises(StepclipError):
            load_dataset(name)
    with pytest.raises(StepclipError, match="stepclip benchlab"):
        load_dataset("benchlab", "/no/such/place")


def test_every_data_set_says_what_it_is():
    from stepclip.extract.datasets import ABOUT, DATASETS, describe

    assert ABOUT.keys() == DATASETS.keys() and all(what and where for what, where in ABOUT.values())
    for name in DATASETS:
        text = describe(name)
        assert name in ("manifest", "benchlab") or ("Checked:" in text and "airs" in text), name
        assert name in ("manifest", "benchlab", "gtea") or "\nLayout: VIDEOS/" in text, name
    assert "._" in describe("csv") and "label_bank.json has the scripts of val and test only" in describe(
        "coin"
    )
    with pytest.raises(StepclipError, match="did you mean 'coin'"):
        describe("coim")

"""Bad input: what was found, what was expected, what to run; exit code 2; no traceback; nothing lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import SCRIPTS, SMALL, Outcome, make_clip, write_csv

Cli = Callable[..., Outcome]


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder and its content."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def refused(done: Outcome, *words: str) -> None:
    assert done.code == 2, done.out + done.err
    assert "Traceback" not in done.err + done.out
    assert done.err.startswith("stepclip: ")
    for word in words:
        assert word in done.err, f"{word!r} is not in:\n{done.err}"


@pytest.fixture
def extract(cli: Cli, tiny_clip: Path, tmp_path: Path) -> Callable[..., Outcome]:
    """`extract(file, ...)` into tmp_path/root."""

    def call(file: Path, *words: object) -> Outcome:
        given = ("--manifest", file, "--encoder", tiny_clip, "--workers", "1", "--device", "cpu", "--quiet")
        return cli("extract", *given, "--root", tmp_path / "root", *words)

    return call


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ("empty",)),
        ("video,steps\n", ("empty",)),
        ("video,step\na.mp4,stir\n", ("no column 'steps'", "'step'", "expected: the columns video, steps")),
        ("file,steps\na.mp4,stir\n", ("no column 'video'",)),
        ("video,steps\na.mp4,stir\na.mp4,pour\n", ("more than once", "lines 2, 3")),
        ("video,steps,video_id\na.mp4,stir,x\nb.mp4,stir,x\n", ("'x'", "more than once")),
        ("video,steps\na.mp4,stir\nb.mp4,\n", ("line 3", "no steps")),
        ("video,steps\na.mp4,|\n", ("line 2", "no steps")),
        ("video,steps,start,end\na.mp4,stir,5,2\n", ("line 2", "end")),
        ("video,steps,split\na.mp4,stir,tain\n", ("line 2", "did you mean 'train'")),
    ],
)
def test_a_manifest_that_is_wrong(extract: Cli, tmp_path: Path, content: str, words: tuple[str, ...]) -> None:
    file = tmp_path / "bad.csv"
    file.write_text(content)
    refused(extract(file), "bad.csv", *words)
    assert not (tmp_path / "root").exists(), "nothing is written for a manifest that cannot be read"


def test_a_manifest_that_is_not_there(extract: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("video,steps\n")
    refused(extract(tmp_path / "mein.csv"), "mein.csv", "did you mean 'mine.csv'")


@pytest.fixture
def mixed(tmp_path: Path, mine: Path, make_mp4: Callable[..., Path], make_audio: Callable[..., Path]) -> Path:
    """A CSV with one good video among bad ones."""
    videos = tmp_path / "videos"
    shutil.copytree(mine / "videos", videos)
    make_audio(videos / "sound.mp4")
    whole = make_mp4(videos / "cut.mp4", seconds=6, size=(128, 96)).read_bytes()
    (videos / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (videos / "empty.mp4").write_bytes(b"")
    (videos / "words.mp4").write_text("this is no video")
    names = ["anna", "sound", "cut", "empty", "words", "gone"]
    return write_csv(tmp_path / "mixed.csv", {name: ["take up the flask", "stir"] for name in names})


def test_files_that_cannot_be_read_are_listed_and_the_rest_goes_on(
    extract: Cli, cli: Cli, mixed: Path, tmp_path: Path
) -> None:
    done = extract(mixed)
    assert done.code == 0, done.out + done.err
    assert "no-video-stream" in done.out and "missing-file" in done.out and "empty-file" in done.out
    from stepclip.cache.store import FeatureStore

    with FeatureStore.open(tmp_path / "root" / "data" / "mixed" / "features") as store:
        assert store.video_ids == ("anna",)
        reasons = {failure.video_id: failure.reason for failure in store.failures()}
    assert set(reasons) == {"sound", "cut", "empty", "words", "gone"}
    assert reasons["sound"] == "no-video-stream" and reasons["gone"] == "missing-file"
    assert reasons["cut"] in ("truncated", "damaged", "unreadable")
    assert (tmp_path / "root" / "data" / "mixed" / "missing.txt").read_text() == "gone\n"
    status = cli("cache", "status", "--root", tmp_path / "root")
    assert status.code == 1 and "failed: no-video-stream" in status.out


def test_a_mended_file_is_taken_the_next_time(extract: Cli, mixed: Path, tmp_path: Path) -> None:
    assert extract(mixed).code == 0
    shutil.copy(tmp_path / "videos" / "ben.mp4", tmp_path / "videos" / "gone.mp4")
    done = extract(mixed)
    assert done.code == 0
    from stepclip.cache.store import FeatureStore

    with FeatureStore.open(tmp_path / "root" / "data" / "mixed" / "features") as store:
        assert set(store.video_ids) == {"anna", "gone"}


def test_not_one_video_can_be_read(extract: Cli, make_audio: Callable[..., Path], tmp_path: Path) -> None:
    make_audio(tmp_path / "videos" / "sound.mp4")
    file = write_csv(tmp_path / "none.csv", {"sound": ["stir"], "gone": ["stir"]})
    done = extract(file)
    refused(done, "not one of 2 videos")
    assert "no-video-stream" in done.out and "missing-file" in done.out


def test_a_cache_made_by_another_encoder(root: Path, cli: Cli, tmp_path: Path, mine: Path) -> None:
    other = make_clip(tmp_path / "other", seed=1)
    before = tree(root)
    done = cli("extract", "--root", root, "--dataset", "mine", "--encoder", other, "--quiet")
    refused(done, "encoder.weights", "--name")
    assert tree(root) == before
    done = cli("extract", "--root", root, "--dataset", "mine", "--fps", "2", "--quiet")
    refused(done, "sampling.fps")
    assert tree(root) == before
    words = ("--manifest", mine / "mine.csv", "--name", "mine-2", "--encoder", other, "--workers", "1")
    assert cli("extract", "--root", root, "--quiet", *words).code == 0
    done = cli("eval", "--root", root, "--dataset", "mine-2", "--run", "mine-weaksvr-corrected", "--quiet")
    refused(done, "encoder.weights")


def test_an_encoder_that_is_not_there(cli: Cli, mine: Path, tmp_path: Path, tiny_clip: Path) -> None:
    words = ("--manifest", mine / "mine.csv", "--root", tmp_path / "root", "--quiet")
    refused(cli("extract", *words, "--encoder", "ViT-B/61"), "ViT-B/61")
    refused(cli("extract", *words, "--encoder", "ViT-B/16"), "openai/clip-vit-base-patch16")
    words = (*words, "--encoder", tiny_clip)
    refused(cli("extract", *words, "--decoder", "pyva"), "did you mean 'pyav'")
    refused(cli("extract", *words, "--device", "tpu"), "tpu")
    refused(cli("extract", *words, "--paragraphs", "chunk"), "did you mean 'chunks'")
    refused(cli("extract", *words, "--precision", "fp16"), "fp16")
    assert not (tmp_path / "root").exists()


def test_an_id_that_means_another_video(
    root: Path, cli: Cli, tmp_path: Path, make_mp4: Callable[..., Path]
) -> None:
    make_mp4(tmp_path / "videos" / "other.mp4")
    file = tmp_path / "mine.csv"
    file.write_text("video,steps,video_id\nvideos/other.mp4,stir,anna\n")
    before = tree(root)
    refused(cli("extract", "--root", root, "--manifest", file, "--quiet"), "'anna'", "other.mp4", "--name")
    assert tree(root) == before


def test_more_rows_are_extracted_into_the_same_dataset(
    root: Path, cli: Cli, mine: Path, tmp_path: Path
) -> None:
    shutil.copytree(mine / "videos", tmp_path / "videos")
    shutil.copy(tmp_path / "videos" / "anna.mp4", tmp_path / "videos" / "eve.mp4")
    file = write_csv(tmp_path / "mine.csv", {**SCRIPTS, "eve": ["stir"]})
    assert cli("extract", "--root", root, "--manifest", file, "--quiet").code == 0
    from stepclip.cache.manifest import Manifest
    from stepclip.cache.store import FeatureStore

    assert len(Manifest.read(root / "data" / "mine" / "manifest")) == len(SCRIPTS) + 1
    with FeatureStore.open(root / "data" / "mine" / "features") as store:
        assert set(store.video_ids) == {*SCRIPTS, "eve"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--recipe", "weaksvr-corected"), ("did you mean 'weaksvr-corrected'",)),
        (("--recipe", "nowhere.yaml"), ("nowhere.yaml",)),
        (("--set", "train.epoch=3"), ("'train.epoch'", "did you mean 'epochs'")),
        (("--set", "lr=1"), ("optim.lr",)),
        (("--set", "train.epochs=many"), ("train.epochs",)),
        (("--set", "train.epochs"), ("key=value",)),
        (("--dataset", "mien"), ("did you mean 'mine'",)),
        (("--run", "../out"), ("../out",)),
    ],
)
def test_a_training_that_is_asked_for_wrongly(
    root: Path, cli: Cli, words: tuple[str, ...], said: tuple[str, ...]
) -> None:
    before = tree(root)
    refused(cli("train", "--root", root, "--quiet", *words), *said)
    assert tree(root) == before


def test_a_recipe_file_with_an_unknown_key(root: Path, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\noptim:\n  learning: 1.0e-4\n")
    done = cli("train", "--root", root, "--quiet", "--recipe", tmp_path / "mine.yaml")
    refused(done, "optim.learning", "mine.yaml", "expected: one of kind, lr")


def test_nothing_to_work_on(cli: Cli, tmp_path: Path) -> None:
    refused(cli("extract", "--root", tmp_path), "no dataset", "stepclip extract")
    refused(cli("extract", "--root", tmp_path, "--dataset", "benchlba"), "did you mean 'benchlab'")
    refused(cli("extract", "--root", tmp_path, "--dataset", "benchlab"), "stepclip benchlab")
    refused(cli("train", "--root", tmp_path), "no dataset", "run: stepclip extract")
    refused(cli("eval", "--root", tmp_path), "no run", "run: stepclip train")
    refused(cli("search", "stir", "--root", tmp_path), "no run")
    refused(cli("search", " ", "--root", tmp_path), "empty")
    assert list(tmp_path.iterdir()) == []


def test_wrong_words_are_usage_errors(cli: Cli) -> None:
    for words in (
        ("extrct",),
        ("extract", "--nope"),
        ("search",),
        ("train", "--seed", "x"),
        ("extract", "--frames", "0"),
    ):
        done = cli(*words)
        assert done.code == 2 and "Traceback" not in done.err


def test_a_split_without_videos(root: Path, cli: Cli) -> None:
    refused(cli("eval", "--root", root, "--quiet", "--split", "test"), "test")
    refused(cli("eval", "--root", root, "--quiet", "--split", "tets"), "tets")


def test_a_damaged_checkpoint(root: Path, cli: Cli) -> None:
    (weights, *_) = (root / "runs").rglob("model.safetensors")
    for path in (root / "runs").rglob("model.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    refused(cli("eval", "--root", root, "--quiet"), weights.name)


def test_a_root_that_cannot_be_written(cli: Cli, mine: Path, tiny_clip: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    words = ("--manifest", mine / "mine.csv", "--encoder", tiny_clip, "--quiet")
    refused(cli("extract", *words, "--root", tmp_path / "file"), str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "in the way"


def test_resume_of_another_recipe(root: Path, cli: Cli) -> None:
    small = [word for knob in SMALL for word in ("--set", knob)]
    words = ("train", "--root", root, "--quiet", "--device", "cpu", "--resume", *small)
    before = tree(root / "runs")
    refused(cli(*words, "--set", "optim.lr=0.5"), "optim.lr")
    assert tree(root / "runs") == before
    assert cli(*words, "--seed", "3").code == 0

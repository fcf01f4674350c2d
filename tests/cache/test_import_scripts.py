"""Imported features get their steps, from labels or a manifest, and text features; an export is restored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from stepclip.cache import (
    Failure,
    FeatureStore,
    FeatureWriter,
    Fingerprint,
    Manifest,
    Source,
    StepclipError,
    VideoRow,
)
from stepclip.cache.exchange.exporting import export

from .foreignfiles import (
    DIM,
    PARAGRAPHS,
    STEPS,
    Arrays,
    Malice,
    bring,
    check,
    frames,
    manifest_file,
    vectors,
)

# ---- labels


def test_label_files_beside_and_names_with_numbers_as_ms_tcn_has_them(tmp_path: Path) -> None:
    source, truth = tmp_path / "features", tmp_path / "groundTruth"
    source.mkdir()
    truth.mkdir()
    np.save(source / "a.npy", frames("a", 5).T)
    np.save(source / "b.npy", frames("b", 4).T)
    (truth / "a.txt").write_text("background\ntake\ntake\nopen\nbackground\n")
    (tmp_path / "mapping.txt").write_text("0 take\n1 open\n2 background\n")
    report = bring(
        source, tmp_path / "cache", transposed=True, labels=truth, label_names=tmp_path / "mapping.txt"
    )
    row = report.manifest["a"]
    assert row.steps == ("take", "open") and row.step_start == (0.5, 1.5) and row.step_end == (1.5, 2.0)
    assert report.manifest["b"].steps == ()
    check(tmp_path / "cache", "a", frames("a", 5))
    (tmp_path / "none").mkdir()
    with pytest.raises(StepclipError, match="labels of none"):
        bring(source, tmp_path / "other", transposed=True, labels=tmp_path / "none")


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, ("label 1", "label 2")),
        ({"background": 1}, ("label 0", "label 2")),
        ({"background": (0, 2)}, ("label 1",)),
        ({"label_names": ["idle", "take", "put"]}, ("take", "put")),
        ({"label_names": ["take", "put", "Background"]}, ("take", "put")),
        ({"label_names": ["idle", "take", "put"], "background": "put"}, ("idle", "take")),
        ({"label_names": ["idle", "take", "put"], "background": "1"}, ("idle", "put")),
    ],
)
def test_the_background_is_left_out(tmp_path: Path, options: dict[str, Any], steps: tuple[str, ...]) -> None:
    np.savez(tmp_path / "a.npz", features=frames("a", 6), labels=np.array([-1, 0, 1, 1, 2, -100]))
    assert bring(tmp_path, tmp_path / "cache", **options).manifest["a"].steps == steps


def test_faults_of_label_names_are_told(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", features=frames("a", 3), labels=np.array([0, 1, 2]))
    np.savez(tmp_path / "b.npz", features=frames("b", 3), labels=np.array([0, 1, 1]))
    report = bring(tmp_path, tmp_path / "cache", label_names=["none", "take"])
    assert report.reasons() == {"bad-labels": 1} and report.manifest["b"].steps == ("take",)
    for options, words in (
        ({"label_names": ["x", "x"]}, "two labels"),
        ({"label_names": ["take", "put"], "background": "tak"}, "did you mean 'take'"),
        ({"label_names": tmp_path / "none.txt"}, "cannot be read"),
    ):
        with pytest.raises(StepclipError, match=words):
            bring(tmp_path, tmp_path / "cache", **options)


# ---- a manifest of the user's own


def test_rows_and_features_are_matched_and_the_rest_is_named(tmp_path: Path) -> None:
    source = tmp_path / "mine"
    (source / "cam").mkdir(parents=True)
    for name in ("by-id", "file", "cam/x", "cam/extra"):
        np.save(source / f"{name}.npy", frames(name.rpartition("/")[2]))
    rows = [
        {"video": "videos/zzz.mp4", "video_id": "by-id", "steps": ["a", "b"], "split": "test"},
        {"video": "videos/file.mp4", "video_id": "row-2", "steps": ["a"]},
        {"video": "videos/x.avi", "video_id": "row-3", "steps": ["c"]},
        {"video": "videos/lost.mp4", "video_id": "row-4", "steps": ["d"]},
    ]
    report = bring(source, tmp_path / "cache", manifest=manifest_file(tmp_path / "mine.jsonl", rows))
    assert report.missing == ["row-4"] and report.without_row == ["cam/extra"]
    assert (report.inputs, report.done) == (4, 4)
    assert report.manifest.videos == Manifest.read(tmp_path / "mine.jsonl").videos
    for video_id, name in (("by-id", "by-id"), ("row-2", "file"), ("row-3", "x"), ("cam/extra", "extra")):
        check(tmp_path / "cache", video_id, frames(name))
    assert "row-4" in str(report) and "cam/extra" in str(report)


def test_a_manifest_of_other_videos_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "mine"
    source.mkdir()
    np.save(source / "a.npy", frames("a"))
    path = manifest_file(tmp_path / "mine.jsonl", [{"video": "b.mp4", "steps": ["x"]}])
    with pytest.raises(StepclipError, match="such as 'b', those of the features such as 'a'"):
        bring(source, tmp_path / "cache", manifest=path)


def test_trimmed_rows_take_their_part_of_a_whole_file(tmp_path: Path) -> None:
    source = tmp_path / "mine"
    source.mkdir()
    np.save(source / "long.npy", frames("long", 20))  # 10 s
    np.save(source / "clip.npy", frames("clip", 4))  # the clip alone, under an id of its own
    rows = [
        {"video": "long.mp4", "video_id": "one", "start": 2.0, "end": 4.5, "steps": ["a"]},
        {"video": "long.mp4", "video_id": "two", "start": 8.0, "steps": ["b"]},
        {"video": "long.mp4", "video_id": "far", "start": 9.0, "end": 30.0, "steps": ["b"]},
        {"video": "other.mp4", "video_id": "clip", "start": 5.0, "end": 7.0, "steps": ["b"]},
    ]
    path = manifest_file(tmp_path / "mine.jsonl", rows)
    report = bring(source, tmp_path / "cache", manifest=path)
    assert [(each.video_id, each.reason) for each in report.failures] == [("far", "trim")]
    check(tmp_path / "cache", "one", frames("long", 20)[4:9])
    check(tmp_path / "cache", "two", frames("long", 20)[16:])
    check(tmp_path / "cache", "clip", frames("clip", 4))
    assert bring(source, tmp_path / "cache", manifest=path).skipped == 3
    rows[0]["end"] = 4.0
    again = bring(source, tmp_path / "cache", manifest=manifest_file(path, rows))
    assert list(again.stale) == ["one"]  # it is of another part now
    check(tmp_path / "cache", "one", frames("long", 20)[4:8])


# ---- texts


def texts_h5(path: Path) -> Path:
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        for kind, strings in (("step", STEPS), ("paragraph", PARAGRAPHS)):
            file[f"{kind}/strings"] = strings
            file[f"{kind}/features"] = vectors(strings)
    return path.with_suffix(".h5")


def texts_npz(path: Path) -> Path:
    every = list(dict.fromkeys([*STEPS, *PARAGRAPHS]))
    np.savez(path.with_suffix(".npz"), strings=np.array(every), features=vectors(every))
    return path.with_suffix(".npz")


def texts_pt(path: Path) -> Path:
    tables = {"step": STEPS, "paragraph": PARAGRAPHS}
    torch.save(
        {kind: {s: torch.from_numpy(vectors([s])[0]) for s in strings} for kind, strings in tables.items()},
        path.with_suffix(".pt"),
    )
    return path.with_suffix(".pt")


def texts_safetensors(path: Path) -> Path:
    every = dict.fromkeys([*STEPS, *PARAGRAPHS])
    save_file({s: torch.from_numpy(vectors([s])) for s in every}, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def scripted(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "mine").mkdir()
    np.save(tmp_path / "mine" / "a.npy", frames("a"))
    np.save(tmp_path / "mine" / "b.npy", frames("b"))
    rows = [{"video": "a.mp4", "steps": STEPS}, {"video": "b.mp4", "steps": ["stir well"]}]
    return {"manifest": manifest_file(tmp_path / "mine.jsonl", rows)}


@pytest.mark.parametrize("write", [texts_h5, texts_npz, texts_pt, texts_safetensors])
def test_text_features_of_another_dimension_come_along(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    report = bring(
        tmp_path / "mine", tmp_path / "cache", **scripted(tmp_path), texts=write(tmp_path / "words.x")
    )
    assert report.texts == 4 and report.missing_texts == [] and "stepclip train" in report.next
    with FeatureStore.open(tmp_path / "cache") as store:
        np.testing.assert_array_equal(store.text(STEPS, "step"), vectors(STEPS))
        np.testing.assert_array_equal(store.text(PARAGRAPHS, "paragraph"), vectors(PARAGRAPHS))
        assert store.text_dim == 4 and store.dim == DIM
        assert store.fingerprint.fields["text.encoder"] == "words"


def test_paragraphs_that_no_file_has_are_the_means_of_their_steps(tmp_path: Path) -> None:
    np.savez(tmp_path / "words.npz", strings=np.array(STEPS), features=vectors(STEPS))
    options = scripted(tmp_path)
    report = bring(tmp_path / "mine", tmp_path / "cache", **options, texts=tmp_path / "words.npz")
    assert report.missing_texts == [] and "means" in " ".join(report.notes)
    with FeatureStore.open(tmp_path / "cache") as store:
        np.testing.assert_allclose(
            store.text(PARAGRAPHS[:1], "paragraph")[0], vectors(STEPS).mean(0), rtol=1e-6
        )
        np.testing.assert_array_equal(store.text(PARAGRAPHS[1:], "paragraph"), vectors(["stir well"]))


def test_texts_are_encoded_once_by_what_the_caller_gives(tmp_path: Path) -> None:
    asked: list[str] = []

    def encode(strings: list[str]) -> np.ndarray:
        asked.extend(strings)
        return vectors(strings, 5)

    options = {**scripted(tmp_path), "encode_texts": encode, "text_encoder": "mine"}
    assert bring(tmp_path / "mine", tmp_path / "cache", **options).texts == 4
    assert sorted(asked) == sorted([*STEPS, *PARAGRAPHS])
    assert bring(tmp_path / "mine", tmp_path / "cache", **options).texts == 0 and len(asked) == 4
    with FeatureStore.open(tmp_path / "cache") as store:
        np.testing.assert_array_equal(store.text(PARAGRAPHS, "paragraph"), vectors(PARAGRAPHS, 5))


def test_texts_that_are_lacking_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "words.npz", strings=np.array(["pour"]), features=vectors(["pour"]))
    options = scripted(tmp_path)
    report = bring(tmp_path / "mine", tmp_path / "cache", **options, texts=tmp_path / "words.npz")
    assert report.missing_texts == ["stir well", *PARAGRAPHS] and "text features" in report.next


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"strings": np.array(["a", "b"]), "features": np.ones((3, 2))}, "for 2 texts"),
        ({"strings": np.array(["a", "a"]), "features": np.ones((2, 2))}, "twice"),
        ({"strings": np.array(["a"]), "features": np.full((1, 2), np.nan)}, "'a' are not finite"),
        ({"a": np.ones(3), "b": np.ones(4)}, "different lengths"),
        ({"a": np.ones(3, int)}, "type int64"),
        (
            {"strings": np.array([Malice(Path("/tmp/never"))], dtype=object), "features": np.ones((1, 2))},
            "pickle",
        ),
    ],
)
def test_faults_of_a_file_of_texts_are_told_before_anything_is_made(
    tmp_path: Path, arrays: Arrays, words: str
) -> None:
    np.savez(tmp_path / "words.npz", **arrays)
    options = scripted(tmp_path)
    with pytest.raises(StepclipError, match=words):
        bring(tmp_path / "mine", tmp_path / "cache", **options, texts=tmp_path / "words.npz")
    assert not (tmp_path / "cache").exists() and not Path("/tmp/never").exists()


# ---- what StepCLIP exported itself


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A cache with views, sources, texts and a failure."""
    fingerprint = Fingerprint({"encoder.name": "test", "dtype": "float16"})
    (tmp_path / "a.mp4").write_bytes(b"a video")
    with FeatureWriter(tmp_path / "kept", fingerprint, dim=DIM, views=2) as writer:
        for name in ("a", "dir/b"):
            values = frames(name, 5)
            source = Source.of(tmp_path / "a.mp4", 1.0, 3.5) if name == "a" else None
            writer.add(
                name,
                values,
                np.array([0, 0.1, 0.7, 1, 2]),
                2.3,
                views=np.stack([values, values * 2]),
                source=source,
            )
        writer.add_text(STEPS, vectors(STEPS), "step")
        writer.add_text(PARAGRAPHS, vectors(PARAGRAPHS), "paragraph")
        writer.fail(Failure("c", "c.mp4", "truncated", "it ends early", 2))
    return tmp_path / "kept"


def same(one: Path, two: Path) -> None:
    with FeatureStore.open(one) as a, FeatureStore.open(two) as b:
        assert a.fingerprint == b.fingerprint and (a.dim, a.dtype, a.views) == (b.dim, b.dtype, b.views)
        assert a.video_ids == b.video_ids and a.failures() == b.failures()
        for name in a:
            np.testing.assert_array_equal(a[name].features, b[name].features)
            np.testing.assert_array_equal(a[name].times, b[name].times)
            np.testing.assert_array_equal(a[name].views, b[name].views)
            assert a[name].duration == b[name].duration and a.source(name) == b.source(name)
        np.testing.assert_array_equal(a.text(STEPS, "step"), b.text(STEPS, "step"))
        np.testing.assert_array_equal(a.text(PARAGRAPHS, "paragraph"), b.text(PARAGRAPHS, "paragraph"))


@pytest.mark.parametrize("form", ["npy", "safetensors", "parquet", "webdataset"])
def test_an_export_is_restored_exactly(tmp_path: Path, kept: Path, form: str) -> None:
    rows = Manifest(
        (
            VideoRow(
                "a", str(tmp_path / "a.mp4"), steps=tuple(STEPS), step_start=(0.0, 1.0), step_end=(1.0, 2.0)
            ),
        )
    )
    export(kept, tmp_path / "out", form, manifest=rows, progress=False)
    report = bring(tmp_path / "out", tmp_path / "cache", fps=None)
    assert (report.inputs, report.done, report.texts) == (2, 2, 4)
    same(kept, tmp_path / "cache")
    assert report.manifest["a"].steps == tuple(STEPS) and report.manifest["a"].step_end == (1.0, 2.0)
    assert report.manifest["dir/b"].steps == ()
    again = bring(tmp_path / "out", tmp_path / "cache", fps=None)
    assert (again.skipped, again.texts) == (2, 0)
    same(kept, tmp_path / "cache")
    with pytest.raises(StepclipError, match="fps is given"):
        bring(tmp_path / "out", tmp_path / "cache")


def test_a_damaged_file_of_an_export_costs_its_video_alone(tmp_path: Path, kept: Path) -> None:
    export(kept, tmp_path / "out", "npy", progress=False)
    file = next((tmp_path / "out" / "features").rglob("a.npy"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    report = bring(tmp_path / "out", tmp_path / "cache", fps=None)
    assert (report.done, report.failed) == (1, 1) and report.failures[0].video_id == "a"
    with FeatureStore.open(tmp_path / "cache") as store:
        np.testing.assert_array_equal(store["dir/b"].features, frames("dir/b", 5).astype(np.float16))
        assert {each.video_id for each in store.failures()} == {"a", "c"}
    # the next run, from a whole export, is all that it takes
    export(kept, tmp_path / "whole", "npy", progress=False)
    assert bring(tmp_path / "whole", tmp_path / "cache", fps=None).done == 1
    same(kept, tmp_path / "cache")


# ---- what is there in the world

GTEA = Path(__file__).parents[2] / ".." / "shared" / "data" / "features" / "gtea.npz"
ACTIONS = ["background", "close", "fold", "open", "pour", "put", "scoop", "shake", "spread", "stir", "take"]


@pytest.mark.parametrize("split", ["split1", "split2"])
def test_gtea_is_imported_with_its_labels_as_steps(tmp_path: Path, split: str) -> None:
    if not GTEA.exists():
        pytest.skip("shared data are not here")
    report = bring(GTEA, tmp_path / "cache", fps=15, prefix=split, label_names=ACTIONS)
    assert (report.inputs, report.done) == (28, 28) and len(report.manifest) == 28
    with np.load(GTEA, allow_pickle=False) as truth, FeatureStore.open(tmp_path / "cache") as store:
        assert store.dim == 128
        test = set(truth[f"{split}/test_ids"].tolist())
        assert {row.video_id for row in report.manifest if row.split == "test"} == test and len(test) == 7
        for row in report.manifest:
            labels = truth[f"{split}/{row.video_id}/labels"]
            np.testing.assert_array_equal(
                store[row.video_id].features, truth[f"{split}/{row.video_id}/features"]
            )
            np.testing.assert_array_equal(store[row.video_id].times, np.arange(len(labels)) / 15)
            assert row.step_start is not None and row.step_end is not None
            painted = np.zeros(len(labels), int)  # the steps painted back are the labels
            for step, start, end in zip(row.steps, row.step_start, row.step_end, strict=True):
                painted[round(start * 15) : round(end * 15)] = ACTIONS.index(step)
            np.testing.assert_array_equal(painted, labels)
    assert Manifest.read(report.manifest.write(tmp_path / "manifest")).videos == report.manifest.videos

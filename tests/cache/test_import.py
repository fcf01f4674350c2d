"""Users' own features become a cache: every format, every fault, nothing executed, content for content."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
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
from stepclip.cache.exporting import export
from stepclip.cache.importing import ImportReport, import_features

DIM = 6
Arrays = dict[str, np.ndarray]


def frames(name: str, count: int = 0, dim: int = DIM, dtype: str = "float32") -> np.ndarray:
    """The features of a video, which depend on its name alone."""
    random = np.random.default_rng(list(name.encode()))
    return random.normal(size=(count or int(random.integers(3, 9)), dim)).astype(dtype)


def bring(source: Path, out: Path, **options: Any) -> ImportReport:
    report = import_features(source, out, **{"fps": 2.0, "progress": False, **options})
    assert report.inputs == report.done + report.failed + report.skipped
    return report


def check(out: Path, name: str, expected: np.ndarray | None = None, fps: float = 2.0) -> None:
    """The cache holds exactly these features in its dtype, at these times."""
    with FeatureStore.open(out) as store:
        expected = frames(name.rpartition("/")[2]) if expected is None else expected
        found = store[name]
        np.testing.assert_array_equal(found.features, expected.astype(store.dtype))
        np.testing.assert_array_equal(found.times, np.arange(len(expected)) / fps)
        assert found.duration == pytest.approx(len(expected) / fps)


# ---- what is written, one video a file


def write_npy(path: Path, arrays: Arrays) -> None:
    np.save(path.with_suffix(".npy"), arrays["features"])


def write_npz(path: Path, arrays: Arrays) -> None:
    np.savez_compressed(path.with_suffix(".npz"), **arrays)


def write_npz_unnamed(path: Path, arrays: Arrays) -> None:
    np.savez(path.with_suffix(".npz"), arrays["features"])


def write_pt(path: Path, arrays: Arrays) -> None:
    torch.save(torch.from_numpy(arrays["features"]), path.with_suffix(".pt"))


def write_pth(path: Path, arrays: Arrays) -> None:
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items() if array.dtype.kind != "U"}
    words = {name: array.tolist() for name, array in arrays.items() if array.dtype.kind == "U"}
    torch.save({**tensors, **words}, path.with_suffix(".pth"))


def write_old_pt(path: Path, arrays: Arrays) -> None:
    torch.save(
        torch.from_numpy(arrays["features"]), path.with_suffix(".pt"), _use_new_zipfile_serialization=False
    )


def write_safetensors(path: Path, arrays: Arrays) -> None:
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items() if array.dtype.kind != "U"}
    words = {name: json.dumps(array.tolist()) for name, array in arrays.items() if array.dtype.kind == "U"}
    save_file(tensors, path.with_suffix(".safetensors"), metadata=words)


def write_h5(path: Path, arrays: Arrays) -> None:
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array.tolist() if array.dtype.kind == "U" else array)


MAPPINGS: list[Callable[[Path, Arrays], None]] = [write_npz, write_pth, write_safetensors, write_h5]
WRITERS = [*MAPPINGS, write_npy, write_npz_unnamed, write_pt, write_old_pt]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("write", WRITERS)
def test_a_folder_of_any_format_is_imported_content_for_content(
    tmp_path: Path, write: Callable[[Path, Arrays], None], dtype: str
) -> None:
    source = tmp_path / "mine"
    (source / "people" / "anna").mkdir(parents=True)
    for name in ("a", "b.c", "people/anna/d"):
        write(source / f"{name}.x", {"features": frames(name.rpartition("/")[2], dtype=dtype)})
    (source / "readme.txt").write_text("hello")
    (source / "._a.npy").write_bytes(b"what other systems leave behind")
    report = bring(source, tmp_path / "cache")
    assert (report.inputs, report.done) == (3, 3) and report.ignored == {".txt": 1}
    with FeatureStore.open(tmp_path / "cache") as store:
        assert store.video_ids == ("a", "b.c", "people/anna/d") and store.dtype == "float16"
        assert report.frames == sum(store.length(name) for name in store)
        where = store.source("people/anna/d")
        assert where is not None and Path(where.path).parent == source / "people" / "anna"
        assert store.fingerprint.fields["encoder.name"] == "mine"
    for name in ("a", "b.c", "people/anna/d"):
        check(tmp_path / "cache", name, frames(name.rpartition("/")[2], dtype=dtype))
    assert [row.video_id for row in report.manifest] == ["a", "b.c", "people/anna/d"]
    assert Manifest.read(report.manifest.write(tmp_path / "manifest")) == report.manifest


def test_bfloat16_and_float32_keep_their_values_in_a_float32_cache(tmp_path: Path) -> None:
    source = tmp_path / "mine"
    source.mkdir()
    tensor = torch.from_numpy(frames("a")).to(torch.bfloat16)
    torch.save(tensor, source / "a.pt")
    save_file({"features": tensor}, source / "b.safetensors")
    np.save(source / "c.npy", frames("c") * 1e6)
    assert bring(source, tmp_path / "cache", dtype="float32").done == 3
    for name, expected in (
        ("a", tensor.float().numpy()),
        ("b", tensor.float().numpy()),
        ("c", frames("c") * 1e6),
    ):
        check(tmp_path / "cache", name, np.asarray(expected))


@pytest.mark.parametrize("write", MAPPINGS)
@pytest.mark.parametrize(
    ("key", "unit"), [("times", 1), ("timestamps", 1), ("timestamps_ms", 1000), ("pts", 1), ("Times", 1)]
)
def test_times_and_labels_come_from_the_file(
    tmp_path: Path, write: Callable[[Path, Arrays], None], key: str, unit: float
) -> None:
    source = tmp_path / "mine"
    source.mkdir()
    times = np.array([0.0, 0.5, 1.5, 2.0, 4.0])
    labels = np.array(["background", "pour", "pour", "stir", "pour"])
    write(source / "a.x", {"features": frames("a", 5), key: times * unit, "labels": labels})
    report = bring(source, tmp_path / "cache", fps=None)
    with FeatureStore.open(tmp_path / "cache") as store:
        np.testing.assert_allclose(store["a"].times, times, rtol=0, atol=1e-12)
        np.testing.assert_array_equal(store["a"].features, frames("a", 5).astype(np.float16))
        assert store["a"].duration == pytest.approx(4.75)  # one median step beyond the last frame
        assert store.fingerprint.fields["sampling.fps"] == "from the file"
    row = report.manifest["a"]
    assert row.steps == ("pour", "stir", "pour")
    assert row.step_start == pytest.approx((0.5, 2.0, 4.0)) and row.step_end == pytest.approx(
        (2.0, 4.0, 4.75)
    )
    assert row.procedure.startswith("p") and "background" in " ".join(report.notes)


@pytest.mark.parametrize("write", MAPPINGS)
def test_the_rate_and_the_duration_come_from_the_file(
    tmp_path: Path, write: Callable[[Path, Arrays], None]
) -> None:
    source = tmp_path / "mine"
    source.mkdir()
    write(source / "a.x", {"features": frames("a", 4), "fps": np.array(8.0), "duration": np.array([0.6])})
    bring(source, tmp_path / "cache", fps=None)
    with FeatureStore.open(tmp_path / "cache") as store:
        np.testing.assert_array_equal(store["a"].times, np.arange(4) / 8)
        assert store["a"].duration == pytest.approx(0.6)


@pytest.mark.parametrize("write", MAPPINGS)
def test_arrays_of_other_names_are_asked_for_and_then_taken(
    tmp_path: Path, write: Callable[[Path, Arrays], None]
) -> None:
    source = tmp_path / "mine"
    source.mkdir()
    arrays = {"feat": frames("a", 4), "softmax": frames("b", 4, 3), "when": np.arange(4) + 0.25}
    arrays["what"] = np.array([0, 2, 2, 0])
    write(source / "a.x", arrays)
    with pytest.raises(StepclipError) as error:
        bring(source, tmp_path / "cache")
    said = str(error.value)
    assert "feat (4, 6)" in said and "softmax (4, 3)" in said and "--features-key" in said
    assert not (tmp_path / "cache").exists()
    report = bring(
        source, tmp_path / "cache", fps=None, features_key="feat", times_key="when", labels_key="what"
    )
    with FeatureStore.open(tmp_path / "cache") as store:
        np.testing.assert_array_equal(store["a"].features, frames("a", 4).astype(np.float16))
        np.testing.assert_array_equal(store["a"].times, np.arange(4) + 0.25)
    assert report.manifest["a"].steps == ("label 2",)
    with pytest.raises(StepclipError, match="no array 'fate'"):
        bring(source, tmp_path / "other", features_key="fate")


def test_without_times_and_a_rate_the_rate_is_asked_for(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", frames("a"))
    with pytest.raises(StepclipError, match="--fps N"):
        bring(tmp_path, tmp_path / "cache", fps=None)
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(StepclipError, match="a number over 0"):
            bring(tmp_path, tmp_path / "cache", fps=wrong)


# ---- shapes


def test_transposed_arrays_are_noticed_and_turned(tmp_path: Path) -> None:
    source = tmp_path / "mine"
    source.mkdir()
    for name in "abc":
        np.save(source / f"{name}.npy", np.asfortranarray(frames(name, len(name) + ord(name) % 7 + 2)).T)
    with pytest.raises(StepclipError, match="--transposed"):
        bring(source, tmp_path / "cache")
    assert bring(source, tmp_path / "cache", transposed=True).done == 3
    for name in "abc":
        check(tmp_path / "cache", name, frames(name, len(name) + ord(name) % 7 + 2))


def test_transposed_is_refused_for_arrays_that_are_not(tmp_path: Path) -> None:
    source = tmp_path / "mine"
    source.mkdir()
    for name, count in (("a", 4), ("b", 5), ("c", 7)):
        np.save(source / f"{name}.npy", frames(name, count))
    with pytest.raises(StepclipError, match="without --transposed"):
        bring(source, tmp_path / "cache", transposed=True)


def test_videos_of_one_length_are_not_taken_for_transposed(tmp_path: Path) -> None:
    for name in "abc":
        np.save(tmp_path / f"{name}.npy", frames(name, 4))
    assert bring(tmp_path, tmp_path / "cache").done == 3


def test_leading_ones_are_left_out(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", frames("a")[None])
    np.save(tmp_path / "b.npy", frames("b")[None, None])
    assert bring(tmp_path, tmp_path / "cache").done == 2
    check(tmp_path / "cache", "a")
    check(tmp_path / "cache", "b")


# ---- faults


class Malice:
    """A pickle of it makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def spoiled(values: np.ndarray, row: int, value: float) -> np.ndarray:
    values[row] = value
    return values


def cut(path: Path, share: float = 0.5) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


FAULTS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "nan": ("not-finite", lambda p: np.save(p / "bad.npy", spoiled(frames("x"), 1, np.nan))),
    "infinity": ("not-finite", lambda p: np.save(p / "bad.npy", spoiled(frames("x"), 1, np.inf))),
    "zero row": ("zero-rows", lambda p: np.save(p / "bad.npy", spoiled(frames("x"), 1, 0))),
    "another D": ("wrong-dimension", lambda p: np.save(p / "bad.npy", frames("x", dim=7))),
    "integers": ("not-floats", lambda p: np.save(p / "bad.npy", np.ones((4, DIM), int))),
    "vector": ("bad-shape", lambda p: np.save(p / "bad.npy", np.ones(DIM))),
    "three axes": ("bad-shape", lambda p: np.save(p / "bad.npy", np.ones((4, 2, DIM)))),
    "no frames": ("bad-shape", lambda p: np.save(p / "bad.npy", np.ones((0, DIM)))),
    "too large": ("beyond-float16", lambda p: np.save(p / "bad.npy", spoiled(frames("x"), 1, 7e4))),
    "too small": ("zero-rows", lambda p: np.save(p / "bad.npy", spoiled(frames("x"), 1, 1e-9))),
    "empty file": ("unreadable", lambda p: (p / "bad.npy").touch()),
    "garbage npy": ("unreadable", lambda p: (p / "bad.npy").write_bytes(b"garbage" * 99)),
    "cut npy": ("unreadable", lambda p: (np.save(p / "bad.npy", frames("x", 99)), cut(p / "bad.npy"))),
    "cut npz": ("unreadable", lambda p: (write_npz(p / "bad.x", {"f": frames("x")}), cut(p / "bad.npz"))),
    "cut pt": ("unreadable", lambda p: (write_pt(p / "bad.x", {"features": frames("x")}), cut(p / "bad.pt"))),
    "cut old pt": (
        "unreadable",
        lambda p: (write_old_pt(p / "bad.x", {"features": frames("x", 99)}), cut(p / "bad.pt", 0.9)),
    ),
    "cut safetensors": (
        "unreadable",
        lambda p: (write_safetensors(p / "bad.x", {"f": frames("x", 99)}), cut(p / "bad.safetensors")),
    ),
    "cut h5": ("unreadable", lambda p: (write_h5(p / "bad.x", {"f": frames("x", 99)}), cut(p / "bad.h5"))),
    "garbage pt": ("unreadable", lambda p: (p / "bad.pt").write_bytes(b"garbage" * 99)),
    "garbage npz": ("unreadable", lambda p: (p / "bad.npz").write_bytes(b"garbage" * 99)),
    "garbage safetensors": ("unreadable", lambda p: (p / "bad.safetensors").write_bytes(b"garbage" * 99)),
    "garbage h5": ("unreadable", lambda p: (p / "bad.h5").write_bytes(b"garbage" * 99)),
    "an npz called npy": (
        "unreadable",
        lambda p: (write_npz(p / "bad.x", {"f": frames("x")}), (p / "bad.npz").rename(p / "bad.npy")),
    ),
    "no array that fits": (
        "no-features",
        lambda p: np.savez(p / "bad.npz", one=frames("x", 3), two=frames("y", 3)),
    ),
    "objects beside the only floats": (
        "no-features",
        lambda p: np.savez(p / "bad.npz", feat=np.array([None], dtype=object), softmax=frames("y", 3)),
    ),
    "falling times": (
        "bad-times",
        lambda p: np.savez(p / "bad.npz", features=frames("x", 3), times=np.array([0.0, 2.0, 1.0])),
    ),
    "equal times": (
        "bad-times",
        lambda p: np.savez(p / "bad.npz", features=frames("x", 3), times=np.array([0.0, 1.0, 1.0])),
    ),
    "milliseconds for seconds": (
        "bad-times",
        lambda p: np.savez(
            p / "bad.npz", features=frames("x", 3), times=np.array([0, 500, 1000]), duration=1.5
        ),
    ),
    "too few times": (
        "bad-times",
        lambda p: np.savez(p / "bad.npz", features=frames("x", 3), times=np.array([0.0, 2.0])),
    ),
    "ticks": (
        "bad-times",
        lambda p: np.savez(p / "bad.npz", features=frames("x", 3), pts=np.array([0, 512, 1024])),
    ),
    "too few labels": (
        "bad-labels",
        lambda p: np.savez(p / "bad.npz", features=frames("x", 3), labels=np.array([1, 2])),
    ),
    "a list saved by numpy": (
        "pickle",
        lambda p: np.save(p / "bad.npy", np.array([frames("x"), None], dtype=object), allow_pickle=True),
    ),
    "a dict saved by numpy": (
        "pickle",
        lambda p: np.save(p / "bad.npy", {"features": frames("x")}, allow_pickle=True),  # type: ignore[arg-type]
    ),
    "numpy in a pt": ("pickle", lambda p: torch.save({"features": frames("x")}, p / "bad.pt")),
    "a pickle called npy": ("pickle", lambda p: (p / "bad.npy").write_bytes(pickle.dumps(frames("x")))),
    "a pickle called pt": ("pickle", lambda p: (p / "bad.pt").write_bytes(pickle.dumps([1.0]))),
    "malice in npy": (
        "pickle",
        lambda p: np.save(p / "bad.npy", np.array(Malice(p / "evil"), dtype=object), allow_pickle=True),
    ),
    "malice in npz": (
        "pickle",
        lambda p: np.savez(p / "bad.npz", features=np.array([Malice(p / "evil")], dtype=object)),
    ),
    "malice in pt": ("pickle", lambda p: torch.save({"features": Malice(p / "evil")}, p / "bad.pt")),
    "malice in old pt": (
        "pickle",
        lambda p: torch.save([Malice(p / "evil")], p / "bad.pth", _use_new_zipfile_serialization=False),
    ),
    "malice called pt": ("pickle", lambda p: (p / "bad.pt").write_bytes(pickle.dumps(Malice(p / "evil")))),
    "malice called npy": ("pickle", lambda p: (p / "bad.npy").write_bytes(pickle.dumps(Malice(p / "evil")))),
    "malice called npz": (
        "unreadable",
        lambda p: (p / "bad.npz").write_bytes(pickle.dumps(Malice(p / "evil"))),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_one_file_costs_that_video_alone_and_runs_nothing(tmp_path: Path, fault: str) -> None:
    reason, spoil = FAULTS[fault]
    source = tmp_path / "mine"
    source.mkdir()
    for name in "abc":
        np.save(source / f"{name}.npy", frames(name))
    spoil(source)
    report = bring(source, tmp_path / "cache")
    assert (report.inputs, report.done, report.failed) == (4, 3, 1)
    assert [(each.video_id, each.reason) for each in report.failures] == [("bad", reason)]
    assert not (source / "evil").exists()
    if reason == "pickle":
        detail = report.failures[0].detail
        assert "can run any program" in detail and "only if you trust" in detail
    with FeatureStore.open(tmp_path / "cache") as store:
        assert [(each.video_id, each.reason) for each in store.failures()] == [("bad", reason)]
        assert store.video_ids == ("a", "b", "c")
    for name in "abc":
        check(tmp_path / "cache", name)
    for file in source.glob("bad.*"):  # once it is put right, the next run takes it and forgets the fault
        file.unlink()
    np.save(source / "bad.npy", frames("bad"))
    report = bring(source, tmp_path / "cache")
    assert (report.done, report.skipped) == (1, 3)
    check(tmp_path / "cache", "bad")
    with FeatureStore.open(tmp_path / "cache") as store:
        assert store.failures() == []


def test_the_malicious_pickle_of_these_tests_works(tmp_path: Path) -> None:
    np.save(tmp_path / "bad.npy", np.array(Malice(tmp_path / "evil"), dtype=object), allow_pickle=True)
    np.load(tmp_path / "bad.npy", allow_pickle=True)
    assert (tmp_path / "evil").exists()


def test_what_the_message_says_of_a_pickle_converts_it(tmp_path: Path) -> None:
    source = tmp_path / "mine"
    source.mkdir()
    np.save(source / "a.npy", {"features": frames("a"), "fps": 4.0}, allow_pickle=True)  # type: ignore[arg-type]
    with pytest.raises(StepclipError) as error:
        bring(source, tmp_path / "cache")
    command = error.value.run.split("python -c ")[1].strip('"').replace("plain.npz", str(source / "a.npz"))
    exec(compile(command, "the command", "exec"), {})
    (source / "a.npy").unlink()
    bring(source, tmp_path / "cache", fps=None)
    check(tmp_path / "cache", "a", fps=4.0)


def test_a_flipped_byte_in_an_npz_is_noticed(tmp_path: Path) -> None:
    source = tmp_path / "mine"
    source.mkdir()
    np.save(source / "good.npy", frames("good"))
    np.savez(source / "bad.npz", features=frames("bad", 50))
    with zipfile.ZipFile(source / "bad.npz") as file:
        middle = file.infolist()[0].header_offset + 600
    data = bytearray((source / "bad.npz").read_bytes())
    data[middle] ^= 1
    (source / "bad.npz").write_bytes(data)
    assert bring(source, tmp_path / "cache").reasons() == {"unreadable": 1}


def test_zero_rows_are_dropped_on_request_and_their_times_with_them(tmp_path: Path) -> None:
    source = tmp_path / "mine"
    source.mkdir()
    np.save(source / "a.npy", spoiled(frames("a", 5), 2, 0))
    np.save(source / "b.npy", np.zeros((4, DIM), np.float32))
    report = bring(source, tmp_path / "cache", zero_rows="drop")
    assert report.done == 1 and report.reasons() == {"zero-rows": 1} and "1 all-zero rows" in str(report)
    with FeatureStore.open(tmp_path / "cache") as store:
        np.testing.assert_array_equal(store["a"].times, [0.0, 0.5, 1.5, 2.0])
        np.testing.assert_array_equal(store["a"].features, np.delete(frames("a", 5), 2, 0).astype(np.float16))
        assert store["a"].duration == 2.5
    with pytest.raises(StepclipError, match="did you mean 'drop'"):
        bring(source, tmp_path / "cache", zero_rows="drp")


def test_nothing_to_import_is_told_with_what_was_found(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "pickles").mkdir()
    (tmp_path / "pickles" / "a.pkl").write_bytes(pickle.dumps(Malice(tmp_path / "evil")))
    for place, words in (
        ("empty", "found: nothing"),
        ("pickles", "never loads one"),
        ("emty", "did you mean 'empty'"),
    ):
        with pytest.raises(StepclipError, match=words):
            bring(tmp_path / place, tmp_path / "cache")
    np.save(tmp_path / "empty" / "a.npy", np.ones(3))
    with pytest.raises(StepclipError, match=r"none of the 1 videos.*\(3,\)"):
        bring(tmp_path / "empty", tmp_path / "cache")
    assert not (tmp_path / "evil").exists() and not (tmp_path / "cache").exists()


# ---- names


def test_one_id_twice_is_an_error_and_a_pattern_chooses(tmp_path: Path) -> None:
    source = tmp_path / "mine"
    source.mkdir()
    np.save(source / "a.npy", frames("other"))
    write_pt(source / "a.x", {"features": frames("a")})
    with pytest.raises(StepclipError, match=r"'a' is a\.npy and a\.pt"):
        bring(source, tmp_path / "cache")
    report = bring(source, tmp_path / "cache", pattern="*.pt")
    assert report.done == 1 and report.ignored == {".npy": 1}
    check(tmp_path / "cache", "a")


def test_what_video_features_writes_is_one_video_with_its_times(tmp_path: Path) -> None:
    source = tmp_path / "i3d"
    source.mkdir()
    for name in ("v_1", "v_1_b"):
        for kind in ("rgb", "flow"):
            np.save(source / f"{name}_{kind}.npy", frames(name + kind, 3))
        np.save(source / f"{name}_fps.npy", np.array(25.0))
        np.save(source / f"{name}_timestamps_ms.npy", np.array([2560.0, 5120.0, 7680.0]))
    with pytest.raises(StepclipError) as error:
        bring(source, tmp_path / "cache", fps=None)
    assert "v_1_flow.npy and v_1_rgb.npy" in str(error.value) and "--pattern '*_flow.npy'" in str(error.value)
    for kind in ("rgb", "flow"):
        report = bring(source, tmp_path / kind, fps=None, pattern=f"*_{kind}.npy")
        with FeatureStore.open(tmp_path / kind) as store:
            assert store.video_ids == ("v_1", "v_1_b") and report.inputs == 2
            for name in store:
                np.testing.assert_array_equal(store[name].features, frames(name + kind, 3).astype(np.float16))
                np.testing.assert_allclose(store[name].times, [2.56, 5.12, 7.68])
    for file in source.glob("*_flow.npy"):
        file.unlink()
    assert [row.video_id for row in bring(source, tmp_path / "alone", fps=None).manifest] == ["v_1", "v_1_b"]


def test_a_video_whose_name_ends_like_a_companion_is_a_video(tmp_path: Path) -> None:
    np.save(tmp_path / "good_times.npy", frames("good_times"))
    np.save(tmp_path / "good.npy", frames("good"))
    assert bring(tmp_path, tmp_path / "cache").done == 2
    check(tmp_path / "cache", "good_times")


# ---- one file of many videos


def many() -> Arrays:
    return {name: frames(name) for name in ("v1", "v2", "deep/v3")}


def write_many(path: Path, arrays: Arrays) -> Path:
    kind = path.suffix
    if kind == ".h5":
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file[name] = array.astype("S") if array.dtype.kind == "U" else array
    elif kind == ".npz":
        np.savez(path, **arrays)
    elif kind == ".pt":
        torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, path)
    else:
        save_file({name: torch.from_numpy(array) for name, array in arrays.items()}, path)
    return path


@pytest.mark.parametrize("kind", [".h5", ".npz", ".pt", ".safetensors"])
def test_one_file_holds_an_array_per_video(tmp_path: Path, kind: str) -> None:
    report = bring(write_many(tmp_path / f"all{kind}", many()), tmp_path / "cache")
    assert report.done == 3
    for name, values in many().items():
        check(tmp_path / "cache", name, values)
    with FeatureStore.open(tmp_path / "cache") as store:
        assert store.fingerprint.fields["encoder.name"] == "all"
        where = store.source("v1")
        assert where is not None and where.path == str(tmp_path / f"all{kind}")


@pytest.mark.parametrize("kind", [".h5", ".npz", ".pt", ".safetensors"])
def test_one_file_holds_a_group_per_video(tmp_path: Path, kind: str) -> None:
    arrays = {}
    for name, values in many().items():
        arrays |= {
            f"{name}/features": values,
            f"{name}/times": np.arange(len(values)) / 2,
            f"{name}/labels": np.arange(len(values)) // 2,
        }
    report = bring(
        write_many(tmp_path / f"all{kind}", arrays), tmp_path / "cache", fps=None, label_names=list("xABCD")
    )
    with FeatureStore.open(tmp_path / "cache") as store:
        for name, values in many().items():
            np.testing.assert_array_equal(store[name].features, values.astype(np.float16))
            np.testing.assert_array_equal(store[name].times, np.arange(len(values)) / 2)
            # no name is "background", so it is the label 0
            assert report.manifest[name].steps == tuple("ABCD"[: (len(values) - 1) // 2])
    assert report.done == 3


def test_hdf5_says_the_rate_in_attributes(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "all.h5", "w") as file:
        file["a"], file["b"] = frames("a"), frames("b")
        file.attrs["fps"] = 4.0
        file["b"].attrs["fps"] = 8.0
    assert bring(tmp_path / "all.h5", tmp_path / "cache", fps=None).done == 2
    check(tmp_path / "cache", "a", fps=4.0)
    check(tmp_path / "cache", "b", fps=8.0)


@pytest.mark.parametrize("kind", [".h5", ".npz"])
def test_a_prefix_and_test_ids_choose_a_split(tmp_path: Path, kind: str) -> None:
    arrays = {}
    for split, test in (("split1", ["v1"]), ("split2", ["v2", "ghost"])):
        arrays |= {f"{split}/{name}/features": frames(split + name) for name in ("v1", "v2", "v3")}
        arrays[f"{split}/test_ids"] = np.array(test)
    path = write_many(tmp_path / f"all{kind}", arrays)
    with pytest.raises(StepclipError, match=r"--prefix split1"):
        bring(path, tmp_path / "cache")
    with pytest.raises(StepclipError, match="nothing under 'split3'"):
        bring(path, tmp_path / "cache", prefix="split3")
    first = bring(path, tmp_path / "one", prefix="split1")
    second = bring(path, tmp_path / "two", prefix="split2")
    assert {row.video_id: row.split for row in first.manifest} == {"v1": "test", "v2": "train", "v3": "train"}
    assert {row.video_id: row.split for row in second.manifest} == {
        "v1": "train",
        "v2": "test",
        "v3": "train",
    }
    assert "ghost" in " ".join(second.notes)
    check(tmp_path / "one", "v2", frames("split1v2"))
    check(tmp_path / "two", "v2", frames("split2v2"))
    with pytest.raises(StepclipError, match=r"import\.prefix"):  # never both in one cache
        bring(path, tmp_path / "one", prefix="split2")


def test_a_list_of_test_ids_of_another_name_is_taken_when_named(tmp_path: Path) -> None:
    path = write_many(tmp_path / "all.npz", {**many(), "held_out": np.array(["v2"])})
    assert {row.split for row in bring(path, tmp_path / "plain").manifest} == {""}
    report = bring(path, tmp_path / "cache", test_ids_key="held_out")
    assert report.manifest["v2"].split == "test" and report.manifest["v1"].split == "train"
    with pytest.raises(StepclipError, match="did you mean 'held_out'"):
        bring(path, tmp_path / "cache", test_ids_key="held_ou")


@pytest.mark.parametrize("kind", [".h5", ".npz", ".safetensors"])
def test_a_group_per_video_with_unknown_names_is_asked_about(tmp_path: Path, kind: str) -> None:
    arrays = {}
    for name in ("v1", "v2"):
        arrays |= {f"{name}/feat": frames(name, 4), f"{name}/softmax": frames("s", 4, 3)}
    path = write_many(tmp_path / f"all{kind}", arrays)
    with pytest.raises(StepclipError) as error:
        bring(path, tmp_path / "cache")
    assert "v1/feat (4, 6)" in str(error.value) and "--features-key feat" in str(error.value)
    assert bring(path, tmp_path / "cache", features_key="feat").done == 2
    check(tmp_path / "cache", "v1", frames("v1", 4))


def test_one_bad_video_in_a_file_of_many_costs_itself_alone(tmp_path: Path) -> None:
    path = write_many(tmp_path / "all.npz", {**many(), "bad": spoiled(frames("bad"), 0, np.nan)})
    report = bring(path, tmp_path / "cache")
    assert report.done == 3 and [each.video_id for each in report.failures] == ["bad"]
    np.savez(tmp_path / "evil.npz", **many(), evil=np.array([[Malice(tmp_path / "made")]], dtype=object))
    report = bring(tmp_path / "evil.npz", tmp_path / "other")
    assert (report.done, report.reasons()) == (3, {"pickle": 1})
    assert not (tmp_path / "made").exists()


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


def manifest_file(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


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

STEPS, PARAGRAPHS = ["pour", "stir well"], ["pour, stir well", "stir well"]


def vectors(strings: list[str], dim: int = 4) -> np.ndarray:
    return np.concatenate([frames(string, 1, dim) for string in strings])


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


# ---- again


def test_importing_again_adds_what_is_missing_and_what_changed(tmp_path: Path) -> None:
    source = tmp_path / "mine"
    source.mkdir()
    for name in ("a", "b"):
        np.savez(source / f"{name}.npz", features=frames(name, 4), labels=np.array([0, 1, 1, 0]))
    first = bring(source, tmp_path / "cache")
    before = sorted((tmp_path / "cache" / "shards").iterdir())
    again = bring(source, tmp_path / "cache")
    assert (again.done, again.skipped) == (0, 2) and again.manifest == first.manifest
    assert sorted((tmp_path / "cache" / "shards").iterdir()) == before
    np.savez(source / "a.npz", features=frames("new", 7))
    np.savez(source / "c.npz", features=frames("c"))
    third = bring(source, tmp_path / "cache")
    assert (third.done, third.skipped) == (2, 1) and list(third.stale) == ["a"]
    check(tmp_path / "cache", "a", frames("new", 7))
    check(tmp_path / "cache", "b", frames("b", 4))
    check(tmp_path / "cache", "c")


def test_a_second_folder_joins_the_cache_and_keeps_the_rows_that_are_known(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / f"{name}.npy", frames(name))
    first = bring(tmp_path / "a", tmp_path / "cache", name="s3d")
    second = bring(tmp_path / "b", tmp_path / "cache", name="s3d", known=first.manifest)
    assert [row.video_id for row in second.manifest] == ["a", "b"]
    check(tmp_path / "cache", "a")
    check(tmp_path / "cache", "b")


@pytest.mark.parametrize(
    "other", [{"name": "s3d"}, {"fps": 4.0}, {"dtype": "float32"}, {"zero_rows": "drop"}]
)
def test_features_of_another_kind_are_refused_with_the_difference(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    source = tmp_path / "mine"
    source.mkdir()
    np.save(source / "a.npy", frames("a"))
    bring(source, tmp_path / "cache")
    with pytest.raises(StepclipError, match="made in another way"):
        bring(source, tmp_path / "cache", **other)
    np.save(source / "a.npy", frames("a", dim=9))
    with pytest.raises(StepclipError, match=r"cache\.dim"):
        bring(source, tmp_path / "cache")
    with pytest.raises(StepclipError, match="a feature cache of StepCLIP already"):
        bring(tmp_path / "cache", tmp_path / "other")
    check(tmp_path / "cache", "a")


def test_the_report_prints_as_a_table_and_saves_as_json(tmp_path: Path) -> None:
    source = tmp_path / "mine"
    source.mkdir()
    np.save(source / "a.npy", frames("a"))
    np.save(source / "[b].npy", np.ones(3))
    report = bring(source, tmp_path / "data" / "features")
    said = str(report)
    assert "inputs" in said and "bad-shape" in said and "[b]" in said and "--manifest" in said
    kept = json.loads(report.save(tmp_path / "report.json").read_text())
    assert (
        kept["inputs"] == 2
        and kept["reasons"] == {"bad-shape": 1}
        and kept["fingerprint"] == report.fingerprint
    )


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

"""Users' own features become a cache: every format, content for content."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from stepclip.cache import (
    FeatureStore,
    Manifest,
    StepclipError,
)

from .foreignfiles import (
    MAPPINGS,
    WRITERS,
    Arrays,
    Malice,
    bring,
    check,
    frames,
    spoiled,
    write_many,
    write_pt,
)


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


def test_a_rate_that_is_given_goes_before_the_files_rate_and_after_its_times(tmp_path: Path) -> None:
    source = tmp_path / "mine"
    source.mkdir()
    np.savez(source / "a.npz", features=frames("a", 3), fps=8.0)
    np.savez(source / "b.npz", features=frames("b", 3), times=np.array([0.0, 1.0, 5.0]))
    report = bring(source, tmp_path / "cache", fps=2.0)
    assert "1 videos say another rate" in str(report) and "1 videos have times of their own" in str(report)
    with FeatureStore.open(tmp_path / "cache") as store:
        np.testing.assert_array_equal(store["a"].times, [0.0, 0.5, 1.0])
        np.testing.assert_array_equal(store["b"].times, [0.0, 1.0, 5.0])


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

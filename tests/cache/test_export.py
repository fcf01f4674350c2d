"""Exports: what goes out comes back, opens in other tools, and is whole or not there at all."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from stepclip.cache.errors import StepclipError
from stepclip.cache.exchange import forms, parquetform
from stepclip.cache.exchange.exported import Exported, about_checksum, read_export
from stepclip.cache.exchange.exporting import export
from stepclip.cache.exchange.filenames import FileNames
from stepclip.cache.files import locked
from stepclip.cache.fingerprint import Fingerprint
from stepclip.cache.layout import Failure
from stepclip.cache.manifest import Manifest, Pair, VideoRow
from stepclip.cache.shard import Video
from stepclip.cache.source import Source
from stepclip.cache.store import FeatureStore
from stepclip.cache.writer import FeatureWriter

FORMATS = ("npy", "safetensors", "parquet", "webdataset")
DIM = 8
AWKWARD = (
    *("a", "A", "a/b", "a/B", "A/b", "a.npy", "a.npy/b", "a.NPY/b", "a.b.c", ".hidden", ".", "..", "../up"),
    *(
        "../../etc/passwd",
        "/root",
        "a//b",
        "a/",
        "/",
        "//",
        "./x",
        "x/./y",
        "x/../y",
        "with space",
        " ",
        "end. ",
    ),
    *(
        "é",
        "e\u0301",
        "ß",
        "ss",
        "日本/語",
        "🎬",
        "%41",
        "a%2Fb",
        "a~2",
        "~",
        "q?*|<>:\"'\\",
        "new\nline",
        "\t",
    ),
    *("con", "CON.x", "-rf", "$(x)", "{1..3}", "__key__", "__a__/b", "features.npy", "x" * 300, "x" * 301),
    *("/".join(["deep"] * 400), "é" * 150, "stepclip.json", "\u202egnp", "a,b", "[a]", "#", "a#b?c=d&e::f"),
)


@pytest.fixture
def rich(tmp_path: Path) -> Path:
    """A cache with views, sources, texts of another dimension, a failure, and ids that are hard to write."""
    make(tmp_path / "rich", AWKWARD, views=2)
    return tmp_path / "rich"


def make(
    path: Path, ids: Any, views: int = 0, frames: int = 0, dtype: str = "float16", scale: float = 1
) -> None:
    fields = {"encoder.name": "test", "sampling.fps": 4, "dtype": dtype}
    with FeatureWriter(
        path, Fingerprint(fields), dim=DIM, dtype=dtype, views=views, shard_videos=9
    ) as writer:
        for number, video_id in enumerate(ids):
            random = np.random.default_rng(number)
            count = frames or int(random.integers(1, 12))
            source = Source(f"/v/{number}.mp4", 10, 20, 30, None, 4.5) if number % 3 else None
            times = np.cumsum(random.uniform(0.1, 0.4, count))
            features = random.normal(size=(count, DIM)) * scale
            others = random.normal(size=(views, count, DIM)) if views else None
            writer.add(video_id, features, times, times[-1] + 0.1, views=others, source=source)
        writer.add_text(
            ["stir", 'wait,\n"then" pour é'], np.random.default_rng(1).normal(size=(2, 5)), "step"
        )
        writer.add_text(["stir, wait"], np.random.default_rng(2).normal(size=(1, 5)), "paragraph")
        writer.fail(Failure("lost", "/v/lost.mp4", "truncated", "cut after 3 s", 2))


def restore(folder: Path, out: Path) -> list[Failure]:
    """Put an export back into a cache, as the importer does; what could not be read."""
    exported, damaged = read_export(folder), []
    about = exported.about
    with FeatureWriter(out, about.fingerprint, dim=about.dim, dtype=about.dtype, views=about.views) as writer:
        for video in exported.videos():
            if isinstance(video, Failure):
                damaged.append(video)
                continue
            writer.add(
                video.video_id,
                video.features,
                video.times,
                video.duration,
                views=video.views,
                source=video.source,
            )
        for kind, table in exported.texts.items():
            writer.add_text(list(table.index), table.features, kind)
        for failure in exported.failures:
            writer.fail(failure)
    return damaged


def same(a: FeatureStore, b: FeatureStore) -> None:
    """Content for content."""
    assert a.video_ids == b.video_ids and (a.dim, a.dtype, a.views) == (b.dim, b.dtype, b.views)
    assert a.fingerprint == b.fingerprint and a.failures() == b.failures()
    for video_id in a.video_ids:
        same_video(a, b[video_id], video_id)
        assert a.source(video_id) == b.source(video_id)
    tables, others = a._texts(), b._texts()
    assert tables.keys() == others.keys() and tables
    for kind, table in tables.items():
        assert table.index == others[kind].index
        np.testing.assert_array_equal(table.features, others[kind].features)


def same_video(store: FeatureStore, found: Any, video_id: str) -> None:
    wanted = store[video_id]
    for key in ("features", "times", "views"):
        mine, theirs = getattr(wanted, key), getattr(found, key)
        assert (mine is None) == (theirs is None)
        if mine is not None:
            assert mine.dtype == theirs.dtype
            np.testing.assert_array_equal(mine, theirs)
    assert wanted.duration == found.duration


def videos(exported: Exported) -> dict[str, Video | Failure]:
    found = list(exported.videos())
    assert [each.video_id for each in found] == list(exported.video_ids)  # one each, whatever happened
    return {each.video_id: each for each in found}


def quiet(*arguments: Any, **options: Any) -> Any:
    return export(*arguments, progress=False, **options)


# ---- there and back


@pytest.mark.parametrize("format", FORMATS)
def test_an_export_restores_the_cache_content_for_content(rich: Path, tmp_path: Path, format: str) -> None:
    report = quiet(rich, tmp_path / "out", format)
    assert restore(tmp_path / "out", tmp_path / "again") == []
    same(FeatureStore.open(rich), FeatureStore.open(tmp_path / "again"))
    assert (report.inputs, report.done, report.failed, report.texts) == (len(AWKWARD), len(AWKWARD), 0, 3)
    assert report.frames == read_export(tmp_path / "out").frames > 0
    assert report.fingerprint == FeatureStore.open(rich).fingerprint.digest
    there = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert report.files == len(there) and report.bytes == sum(path.stat().st_size for path in there)
    assert {path.relative_to(tmp_path / "out").as_posix() for path in there} == read_export(
        tmp_path / "out"
    ).files


@pytest.mark.parametrize("format", FORMATS)
def test_large_caches_go_into_many_files(
    tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for form in (forms.Form, forms.Safetensors):
        monkeypatch.setattr(form, "part", 20_000)
    monkeypatch.setattr(parquetform, "_ROW_GROUP", 7000)
    make(
        tmp_path / "cache", [f"v{number}" for number in range(30)], frames=150
    )  # 2,400 bytes each, and times
    quiet(tmp_path / "cache", tmp_path / "out", format)
    data = [
        path
        for path in (tmp_path / "out").glob("*-0*.*")
        if path.suffix in (".safetensors", ".tar", ".parquet")
    ]
    assert len(data) >= 5 or format == "npy"
    assert all(path.stat().st_size < 40_000 for path in data)
    assert restore(tmp_path / "out", tmp_path / "again") == []
    same(FeatureStore.open(tmp_path / "cache"), FeatureStore.open(tmp_path / "again"))


MEASURED = """
import re, sys
from pathlib import Path
from stepclip.cache import FeatureStore
from stepclip.cache.exchange import exporting, forms, parquetform
from stepclip.cache.exchange.exported import read_export
def used():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
cache, out, format = sys.argv[1:]
forms.Form.part = forms.Safetensors.part = 1 << 20
parquetform._ROW_GROUP = 1 << 18
store = FeatureStore.open(cache)
exporting.export(store, out, format, video_ids=store.video_ids[:5], progress=False)
assert sum(1 for _ in read_export(out).videos()) == 5  # all is imported
before, most = used(), []
form = exporting.FORMS[format]
add = form.add
def measured(self, *arguments):
    add(self, *arguments)
    most.append(used())
form.add = measured
exporting.export(store, out, format, overwrite=True, progress=False)
most += [used() for _ in read_export(out).videos()]
print(len(most), max(most) - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for the memory of a process")
@pytest.mark.parametrize("format", FORMATS)
def test_memory_holds_a_part_never_the_cache(tmp_path: Path, format: str) -> None:
    make(tmp_path / "cache", [f"v{number}" for number in range(100)], frames=20_000)  # 48 MB with their times
    command = [sys.executable, "-c", MEASURED, str(tmp_path / "cache"), str(tmp_path / "out"), format]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    count, megabytes = done.stdout.split()
    assert int(count) == 200 and float(megabytes) < 16


def test_a_choice_of_videos_keeps_its_order(rich: Path, tmp_path: Path) -> None:
    report = quiet(rich, tmp_path / "out", "webdataset", video_ids=["é", "..", "a"])
    exported = read_export(tmp_path / "out")
    assert exported.video_ids == ("é", "..", "a") and report.done == len(exported) == 3
    assert exported.failures == [] and set(exported.texts) == {"step", "paragraph"}
    for ids, words in ((["ba"], "has no video 'ba'"), (["a", "a"], "twice"), ([], "no videos")):
        with pytest.raises(StepclipError, match=words):
            quiet(rich, tmp_path / "other", video_ids=ids)
    assert not (tmp_path / "other").exists()


def test_a_cache_without_texts_views_or_failures_exports_as_well(
    cache: Path, tools: Any, tmp_path: Path
) -> None:
    for format in FORMATS:
        quiet(FeatureStore.open(cache), tmp_path / format, format)
        exported = read_export(tmp_path / format)
        assert exported.texts == {} and exported.failures == [] and exported.problems == ()
        restore(tmp_path / format, tmp_path / f"{format}-again")
        tools.check(FeatureStore.open(tmp_path / f"{format}-again"), tools.names)


@pytest.mark.parametrize("format", FORMATS)
def test_features_change_their_dtype_only_when_asked_and_say_so(tmp_path: Path, format: str) -> None:
    make(tmp_path / "half", ["a", "b"], views=1)
    quiet(tmp_path / "half", tmp_path / "wide", format, dtype="float32")
    half, wide = FeatureStore.open(tmp_path / "half"), read_export(tmp_path / "wide")
    assert wide.about.dtype == "float32"
    assert wide.about.fingerprint.fields == half.fingerprint.fields | {
        "dtype": "float32",
        "dtype.from": "float16",
    }
    restore(tmp_path / "wide", tmp_path / "again")
    again = FeatureStore.open(tmp_path / "again")
    assert again["a"].features.dtype == np.float32
    np.testing.assert_array_equal(again["a"].features, half["a"].features.astype(np.float32))
    np.testing.assert_array_equal(again["a"].views, half["a"].views.astype(np.float32))
    # back again, it is what extraction in float16 would have made; but its account remembers
    report = quiet(again, tmp_path / "back", format, dtype="float16")
    assert report.dtype == "float16"
    np.testing.assert_array_equal(videos(read_export(tmp_path / "back"))["b"].features, half["b"].features)  # type: ignore[union-attr]


@pytest.mark.parametrize(("scale", "dtype"), [(1e6, "float32"), (1e-12, "float32")])
def test_numbers_that_do_not_fit_are_refused_and_nothing_is_left(
    tmp_path: Path, scale: float, dtype: str
) -> None:
    make(tmp_path / "cache", ["a"], dtype=dtype, scale=scale)
    for format in FORMATS:
        with pytest.raises(StepclipError, match="'a' do not fit float16"):
            quiet(tmp_path / "cache", tmp_path / "out", format, dtype="float16")
    assert os.listdir(tmp_path) == ["cache"]


# ---- other tools


def test_numpy_opens_every_file_with_no_option(rich: Path, tmp_path: Path) -> None:
    quiet(rich, tmp_path / "out", "npy")
    store = FeatureStore.open(rich)
    for entry in json.loads((tmp_path / "out" / "stepclip.json").read_text())["videos"]:
        found = {part: np.load(tmp_path / "out" / entry[part][0]) for part in ("features", "times", "views")}
        for part, array in found.items():
            np.testing.assert_array_equal(array, getattr(store[entry["id"]], part))
    assert np.load(tmp_path / "out" / "features" / "日本" / "語.npy").dtype == np.float16
    strings = json.loads((tmp_path / "out" / "texts.json").read_text())
    np.testing.assert_array_equal(
        np.load(tmp_path / "out" / "texts" / "step.npy"), store.text(strings["step"], "step")
    )


def test_safetensors_opens_it(rich: Path, tmp_path: Path) -> None:
    import safetensors.numpy
    import safetensors.torch

    quiet(rich, tmp_path / "out", "safetensors")
    store = FeatureStore.open(rich)
    path = tmp_path / "out" / "features-00000.safetensors"
    tensors, others = safetensors.numpy.load_file(path), safetensors.torch.load_file(path)
    assert len(tensors) == 3 * len(AWKWARD)
    for video_id in AWKWARD:
        for part in ("features", "times", "views"):
            np.testing.assert_array_equal(tensors[f"{video_id}/{part}"], getattr(store[video_id], part))
            np.testing.assert_array_equal(
                others[f"{video_id}/{part}"].numpy(), getattr(store[video_id], part)
            )
    texts = safetensors.numpy.load_file(tmp_path / "out" / "texts.safetensors")
    strings = json.loads((tmp_path / "out" / "texts.json").read_text())
    np.testing.assert_array_equal(texts["step"], store.text(strings["step"], "step"))
    assert path.stat().st_mode & 0o777 == (tmp_path / "out" / "stepclip.json").stat().st_mode & 0o777


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_pandas_opens_the_tables(rich: Path, tmp_path: Path, dtype: str) -> None:
    quiet(rich, tmp_path / "out", "parquet", dtype=dtype)
    store = FeatureStore.open(rich)
    frames = pandas.read_parquet(tmp_path / "out" / "frames-00000.parquet")
    assert list(frames.columns) == ["video_id", "frame", "time", "features", "view_0", "view_1"]
    for video_id, rows in frames.groupby("video_id"):
        assert list(rows["frame"]) == list(range(len(rows)))
        np.testing.assert_array_equal(rows["time"], store[str(video_id)].times)
        features = np.stack(rows["features"].to_list())
        assert features.dtype == dtype
        np.testing.assert_array_equal(features, store[str(video_id)].features)
        np.testing.assert_array_equal(np.stack(rows["view_1"].to_list()), store[str(video_id)].views[1])
    assert set(frames["video_id"]) == set(AWKWARD)
    texts = pandas.read_parquet(tmp_path / "out" / "texts.parquet")
    assert sorted(texts["kind"]) == ["paragraph", "step", "step"]
    for kind, rows in texts.groupby("kind"):
        np.testing.assert_array_equal(
            np.stack(rows["features"].to_list()), store.text(list(rows["text"]), str(kind))
        )
    table = pandas.read_parquet(tmp_path / "out" / "videos.parquet").set_index("video_id")
    assert list(table.columns) == ["frames", "duration"]
    assert (
        table.loc["..", "frames"] == store.length("..")
        and table.loc["..", "duration"] == store[".."].duration
    )


def test_webdataset_opens_the_shards(rich: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import webdataset

    monkeypatch.setattr(forms.Form, "part", 60_000)
    quiet(rich, tmp_path / "out", "webdataset")
    shards = sorted(str(path) for path in (tmp_path / "out").glob("shard-*.tar"))
    assert len(shards) > 1
    store = FeatureStore.open(rich)
    found = {}
    for sample in webdataset.WebDataset(shards, shardshuffle=False).decode():
        assert "." not in sample["__key__"]
        said = sample["json"]
        found[said["video_id"]] = sample
        assert said["duration"] == store[said["video_id"]].duration
        for part in ("features", "times", "views"):
            np.testing.assert_array_equal(sample[f"{part}.npy"], getattr(store[said["video_id"]], part))
    assert found.keys() == set(AWKWARD)
    keys = {
        entry["id"]: entry["key"]
        for entry in json.loads((tmp_path / "out/stepclip.json").read_text())["videos"]
    }
    assert keys == {video_id: sample["__key__"] for video_id, sample in found.items()}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("place", ["out", "a folder, [it's] {1..3}"])
def test_the_two_lines_of_the_report_open_it(rich: Path, tmp_path: Path, format: str, place: str) -> None:
    report = quiet(rich, tmp_path / place, format)
    scope: dict[str, Any] = {}
    assert len(report.read_back) == 2
    exec("\n".join(report.read_back), scope)
    first = FeatureStore.open(rich)[sorted(AWKWARD)[0]]
    features = {
        "npy": lambda: scope["features"],
        "safetensors": lambda: scope["tensors"][f"{sorted(AWKWARD)[0]}/features"],
        "parquet": lambda: np.stack(scope["frames"]["features"][: len(first.times)].to_list()),
        "webdataset": lambda: scope["sample"]["features.npy"],
    }[format]()
    np.testing.assert_array_equal(features, first.features)
    assert all(line in str(report) for line in report.read_back)


def test_the_report_prints_and_saves(rich: Path, tmp_path: Path) -> None:
    report = quiet(rich, tmp_path / "out", "parquet")
    assert "parquet" in str(report) and str(len(AWKWARD)) in str(report)
    saved = json.loads(report.save(tmp_path / "report.json").read_text())
    assert saved["done"] == len(AWKWARD) and saved["read_back"] == list(report.read_back)


# ---- the manifest


def manifest(ids: Any) -> Manifest:
    rows = [
        VideoRow(
            name,
            f"/v/{number}.mp4",
            "t",
            f"p{number % 2}",
            "train",
            0.5,
            9.0,
            ("stir", "wait"),
            (0.0, 1.0),
            (1.0, 2.0),
        )
        if number % 2
        else VideoRow(name, f"/v/{number}.mp4", procedure="q", steps=("pour é", 'say "no"'))
        for number, name in enumerate(ids)
    ]
    return Manifest(tuple(rows))


@pytest.mark.parametrize("format", FORMATS)
def test_a_manifest_goes_along(cache: Path, tools: Any, tmp_path: Path, format: str) -> None:
    pairs = [
        Pair("video-00", "video-02", True),
        Pair("video-00", "not in the cache", False, "order", "train"),
    ]
    mine = Manifest(manifest([*tools.names, "not in the cache"]).videos, pairs, name="mine")  # type: ignore[arg-type]
    mine.write(tmp_path / "manifest")
    quiet(cache, tmp_path / "out", format, manifest=tmp_path / "manifest")
    assert Manifest.read(tmp_path / "out" / "manifest") == mine.select(tools.names)
    quiet(cache, tmp_path / "out", format, manifest=mine, overwrite=True)
    assert len(Manifest.read(tmp_path / "out" / "manifest").pairs) == 1
    if format == "parquet":
        table = pandas.read_parquet(tmp_path / "out" / "videos.parquet")
        assert list(table["steps"][1]) == ["stir", "wait"] and table["video"][0] == "/v/0.mp4"
        assert table["duration"][0] == tools.video(tools.names[0]).duration


def test_a_sample_holds_its_script(cache: Path, tools: Any, tmp_path: Path) -> None:
    import webdataset

    report = quiet(cache, tmp_path / "out", "webdataset", manifest=manifest(tools.names[:9]))
    shard = str(tmp_path / "out" / "shard-00000.tar")
    said = [sample["json"] for sample in webdataset.WebDataset(shard, shardshuffle=False).decode()]
    assert said[1]["steps"] == ["stir", "wait"] and said[1]["task"] == "t" and said[1]["video"] == "/v/1.mp4"
    assert set(said[9]) == {"video_id", "duration"}
    assert any("1 of 10 videos have no row" in note and tools.names[9] in note for note in report.notes)
    with pytest.raises(StepclipError, match="none of the 10 videos"):
        quiet(cache, tmp_path / "other", manifest=manifest(["video-x"]))


# ---- ids and file names

letters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
nasty = st.lists(
    st.sampled_from([*"aAbB./\\~%_ ée:*2", "\u0301", ".npy", ".NPY", "..", "con", "%2F", "~2", "__", "/"]),
    min_size=1,
    max_size=9,
).map("".join)
some_ids = st.lists(st.one_of(nasty, st.text(letters, min_size=1, max_size=400)), unique=True, max_size=30)


@given(some_ids, st.booleans())
@example(["a/b", "A/b", "a/B"], False)  # one name in two cases
@example(["b", "b.npy/c"], False)  # a file and a folder of one name
@example(["b.NPY/c", "b"], False)
@example(["\u00e9", "e\u0301"], True)  # one letter in two ways
@example(["__key__", "__a__/b"], True)
def test_every_id_has_a_file_of_its_own_inside_the_folder(ids: list[str], samples: bool) -> None:
    import unicodedata

    names = FileNames(samples)
    paths = [f"features/{names(video_id)}.npy" for video_id in ids]
    plain = [unicodedata.normalize("NFD", path).casefold() for path in paths]  # as a careless disk has them
    assert len(set(plain)) == len(ids)
    folders = {str(parent) for path in plain for parent in PurePosixPath(path).parents}
    assert not folders & set(plain)  # none is a file and a folder
    for path in paths:
        parts = path.split("/")
        assert parts[0] == "features" and len(path.encode()) < 800
        for part in parts:
            assert part and not part.startswith(".") and part[-1] not in ". " and len(part.encode()) <= 240
            assert not any(letter in '\\:*?"<>|' or ord(letter) < 32 for letter in part)
            assert not samples or "." not in part.removesuffix(".npy")
        assert not samples or not parts[1].startswith("__")


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(some_ids.filter(bool), st.sampled_from(FORMATS))
def test_any_ids_go_out_and_come_back(tmp_path: Path, ids: list[str], format: str) -> None:
    for name in ("cache", "out"):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
    make(tmp_path / "cache", ids)
    quiet(tmp_path / "cache", tmp_path / "out", format)
    store = FeatureStore.open(tmp_path / "cache")
    for video_id, video in videos(read_export(tmp_path / "out")).items():
        same_video(store, video, video_id)
    assert sorted(os.listdir(tmp_path)) == ["cache", "out"]


def test_names_that_need_no_change_have_none() -> None:
    for video_id in ("video-01", "P01/cam 2/stir.tea", "Ünïcode_(1)", "a..b"):
        assert FileNames()(video_id) == video_id


def test_a_forged_account_leads_nobody_out_of_the_folder(cache: Path, tmp_path: Path) -> None:
    quiet(cache, tmp_path / "out", "npy")
    for name in ("../secret.npy", str(tmp_path / "secret.npy"), "features/../../secret.npy"):
        said = json.loads((tmp_path / "out" / "stepclip.json").read_text())
        shutil.copy(tmp_path / "out" / said["videos"][0]["features"][0], tmp_path / "secret.npy")
        said["videos"][0]["features"][0] = name
        del said["crc32"]
        (tmp_path / "out" / "stepclip.json").write_text(json.dumps({**said, "crc32": about_checksum(said)}))
        first, *others = read_export(tmp_path / "out").videos()
        assert isinstance(first, Failure) and "outside" in first.detail
        assert all(isinstance(other, Video) for other in others)
        (tmp_path / "secret.npy").unlink()
        quiet(cache, tmp_path / "again", "npy", overwrite=True)
        shutil.rmtree(tmp_path / "out")
        os.rename(tmp_path / "again", tmp_path / "out")


# ---- what is damaged


def data_files(folder: Path, store: FeatureStore) -> list[Path]:
    return sorted({folder / file for entry in read_export(folder).entries for file in entry.files})


@pytest.mark.parametrize("format", FORMATS)
def test_a_flipped_byte_costs_its_own_video_or_nothing(rich: Path, tmp_path: Path, format: str) -> None:
    """Or, in the middle of Parquet's own account of its pages, those that lie with it."""
    quiet(rich, tmp_path / "out", format)
    store = FeatureStore.open(rich)
    random = np.random.default_rng(0)
    files = data_files(tmp_path / "out", store)
    costs = []
    for _ in range(40):
        path = files[random.integers(len(files))]
        whole = path.read_bytes()
        at = int(random.integers(len(whole)))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << int(random.integers(8)))]) + whole[at + 1 :])
        lost = 0
        for video_id, video in videos(read_export(tmp_path / "out")).items():
            if isinstance(video, Failure):
                lost += 1
                assert video.reason in ("changed-file", "damaged-file") and path.name in video.detail
            else:
                same_video(store, video, video_id)
        costs.append(lost)
        path.write_bytes(whole)
    assert max(costs) <= 1 or format == "parquet"
    assert sum(costs) > 3 and costs.count(1) > 3


@pytest.mark.parametrize("format", FORMATS)
def test_a_flipped_number_of_a_video_is_always_noticed(cache: Path, tmp_path: Path, format: str) -> None:
    quiet(cache, tmp_path / "out", format)
    store = FeatureStore.open(cache)
    third = store.video_ids[3]
    hit = 0
    for part in ("features", "times"):
        array = getattr(store[third], part)
        mark = array[len(array) // 2].tobytes()  # the first and last times stand in Parquet's statistics too
        for path in data_files(tmp_path / "out", store):
            whole = path.read_bytes()
            for at in (whole.find(mark), whole.find(mark) + len(mark) - 1):
                if mark not in whole:
                    continue
                path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
                failed = [
                    each for each in read_export(tmp_path / "out").videos() if isinstance(each, Failure)
                ]
                assert [(each.video_id, each.reason) for each in failed] == [(third, "changed-file")]
                path.write_bytes(whole)
                hit += 1
    assert hit == 4


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.99])
def test_a_cut_file_costs_what_is_missing(cache: Path, tmp_path: Path, format: str, share: float) -> None:
    quiet(cache, tmp_path / "out", format)
    store = FeatureStore.open(cache)
    path = data_files(tmp_path / "out", store)[0]
    size = path.stat().st_size
    os.truncate(path, int(size * share))
    found = videos(read_export(tmp_path / "out"))
    failed = [each for each in found.values() if isinstance(each, Failure)]
    assert all(each.reason == ("damaged-file" if format == "parquet" else "cut-file") for each in failed)
    assert all(str(path) == each.path for each in failed)
    for video_id, video in found.items():
        if not isinstance(video, Failure):
            same_video(store, video, video_id)
    if format == "npy":
        assert len(failed) == 1
    elif format == "webdataset" and share:
        assert 0 < len(failed) < 10 or share == 0.99  # a tar ends with 10 kB of zeros
    elif format == "safetensors" and share:
        assert 0 < len(failed) < 10 or share < 0.5  # times lie first
    elif share == 0 or format == "parquet":
        assert len(failed) == 10  # Parquet has its account at the end


@pytest.mark.parametrize("format", FORMATS)
def test_a_missing_file_is_named(cache: Path, tmp_path: Path, format: str) -> None:
    quiet(cache, tmp_path / "out", format)
    path = data_files(tmp_path / "out", FeatureStore.open(cache))[0]
    path.unlink()
    found = videos(read_export(tmp_path / "out"))
    failed = [each for each in found.values() if isinstance(each, Failure)]
    assert {each.reason for each in failed} == {"missing-file"} and {each.path for each in failed} == {
        str(path)
    }
    assert len(failed) == (1 if format == "npy" else 10)


@pytest.mark.parametrize("format", FORMATS)
def test_damaged_texts_are_named_and_cost_no_video(rich: Path, tmp_path: Path, format: str) -> None:
    quiet(rich, tmp_path / "out", format)
    store = FeatureStore.open(rich)
    texts = [
        path for path in (tmp_path / "out").rglob("*") if "text" in str(path.relative_to(tmp_path / "out"))
    ]
    texts = [path for path in texts if path.is_file() and "features" not in path.parts]
    assert texts
    for path in texts:
        whole = path.read_bytes()
        for content in (whole[: len(whole) // 2], None, b""):
            if content is None:
                path.unlink()
            else:
                path.write_bytes(content)
            exported = read_export(tmp_path / "out")
            assert exported.problems and all(path.name in problem for problem in exported.problems)
            assert len(exported.texts) + len(exported.problems) == 2
            assert sum(isinstance(each, Video) for each in exported.videos()) == len(store)
        for at in range(0, len(whole), 7):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
            for kind, table in read_export(tmp_path / "out").texts.items():
                np.testing.assert_array_equal(store.text(list(table.index), kind), table.features)
        path.write_bytes(whole)


def test_a_changed_account_is_refused_whatever_was_changed(cache: Path, tmp_path: Path) -> None:
    quiet(cache, tmp_path / "out", "npy")
    path = tmp_path / "out" / "stepclip.json"
    whole = path.read_bytes()
    said = json.loads(whole)
    for at in range(0, len(whole), 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            read_export(tmp_path / "out")
        except StepclipError as error:
            assert "stepclip.json" in error.found
        else:
            assert json.loads(path.read_bytes()) == said  # white space
    for length in range(0, len(whole) - 1, 50):
        path.write_bytes(whole[:length])
        with pytest.raises(StepclipError, match=r"stepclip\.json"):
            read_export(tmp_path / "out")
    path.write_text(json.dumps(said, indent=4))  # another editor's layout changes nothing
    assert len(read_export(tmp_path / "out")) == 10


def test_no_export_and_a_newer_one_are_told_apart(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(StepclipError, match="is no exported cache"):
        read_export(cache)
    quiet(cache, tmp_path / "out", "npy")
    path = tmp_path / "out" / "stepclip.json"
    said = json.loads(path.read_text())
    path.write_text(json.dumps(said | {"version": 99}))
    with pytest.raises(StepclipError, match="version 99") as caught:
        read_export(tmp_path / "out")
    assert "update StepCLIP" in caught.value.run
    for other in ("[]", "{}", '{"kind": "something else"}'):
        path.write_text(other)
        with pytest.raises(StepclipError, match="not of an exported cache"):
            read_export(tmp_path / "out")


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_damaged_in_the_cache_is_left_out_and_named(
    cache: Path, tools: Any, tmp_path: Path, format: str
) -> None:
    store = FeatureStore.open(cache)
    lost = store.video_ids[1]
    shard = cache / "shards" / "a-00000.h5"
    whole = bytearray(shard.read_bytes())
    whole[whole.find(store[lost].features.tobytes())] ^= 1
    store.close()
    shard.write_bytes(whole)
    (cache / "shards" / "a-00002.h5").unlink()
    report = quiet(cache, tmp_path / "out", format)
    missing = {lost, *tools.names[8:]}
    assert {each.video_id for each in report.failures} == missing
    assert (report.inputs, report.done, report.failed) == (10, 7, 3)
    assert lost in str(report)
    exported = read_export(tmp_path / "out")
    assert set(exported.video_ids) == set(tools.names) - missing
    assert {each.video_id for each in exported.failures} == missing
    assert {each.reason for each in exported.failures} == {"damaged-in-cache"}
    restore(tmp_path / "out", tmp_path / "again")
    tools.check(FeatureStore.open(tmp_path / "again"), exported.video_ids)


def test_damaged_texts_of_the_cache_are_noted_and_a_cache_without_a_whole_video_is_refused(
    rich: Path, tmp_path: Path
) -> None:
    os.truncate(rich / "text.h5", 100)
    report = quiet(rich, tmp_path / "out")
    assert report.texts == 0 and any("text.h5" in note for note in report.notes)
    for shard in (rich / "shards").glob("*.h5"):
        shard.unlink()
    with pytest.raises(StepclipError, match="none of the"):
        quiet(rich, tmp_path / "other")
    assert not (tmp_path / "other").exists()


# ---- whole or not there


def test_only_an_earlier_export_is_ever_replaced(cache: Path, rich: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    quiet(cache, out, "npy")  # an empty folder is as good as none
    with pytest.raises(StepclipError, match="holds an export of 10 videos") as caught:
        quiet(rich, out, "parquet")
    assert "overwrite" in caught.value.run
    assert len(read_export(out)) == 10
    quiet(rich, out, "parquet", overwrite=True)
    assert len(read_export(out)) == len(AWKWARD) and not (out / "features").exists()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(StepclipError, match=r"such as notes\.txt"):
        quiet(cache, out, "npy", overwrite=True)
    assert (out / "notes.txt").read_text() == "mine" and len(read_export(out)) == len(AWKWARD)
    for other in (cache, tmp_path, cache / "cache.json"):
        for overwrite in (False, True):
            with pytest.raises(StepclipError, match=r"no export|is a file"):
                quiet(rich, other, "npy", overwrite=overwrite)
    assert len(FeatureStore.open(cache)) == 10
    assert sorted(os.listdir(tmp_path)) == ["features", "out", "rich"]


def test_an_export_that_cannot_be_read_is_not_replaced(cache: Path, tmp_path: Path) -> None:
    quiet(cache, tmp_path / "out", "npy")
    os.truncate(tmp_path / "out" / "stepclip.json", 100)
    before = sorted((tmp_path / "out").rglob("*"))
    with pytest.raises(StepclipError, match="not empty, and no export"):
        quiet(cache, tmp_path / "out", "npy", overwrite=True)
    assert sorted((tmp_path / "out").rglob("*")) == before


def test_what_somebody_else_put_there_meanwhile_stays(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forms.Form, "flush", lambda _: (tmp_path / "out" / "theirs").mkdir(parents=True))
    with pytest.raises(StepclipError, match="not empty"):
        quiet(cache, tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["features", "out"] and os.listdir(tmp_path / "out") == ["theirs"]


def test_a_link_to_a_folder_stays_a_link(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "disk" / "out").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "out")
    quiet(cache, tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and len(read_export(tmp_path / "disk" / "out")) == 10


def test_unknown_words_get_the_nearest(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(StepclipError, match="did you mean 'webdataset'"):
        quiet(cache, tmp_path / "out", "webdatset")
    with pytest.raises(StepclipError, match="did you mean 'float32'"):
        quiet(cache, tmp_path / "out", dtype="float3")
    assert os.listdir(tmp_path) == ["features"]


@pytest.mark.parametrize("format", FORMATS)
def test_a_full_disk_leaves_what_was_there(cache: Path, tmp_path: Path, format: str) -> None:
    quiet(cache, tmp_path / "out", "npy")
    make(tmp_path / "big", ["a", "b"], frames=9000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        with pytest.raises(StepclipError, match="cannot be written") as caught:
            quiet(tmp_path / "big", tmp_path / "out", format, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "unchanged" in caught.value.run
    assert len(read_export(tmp_path / "out")) == 10
    assert sorted(os.listdir(tmp_path)) == ["big", "features", "out"]


KILLED = """
import os, signal, sys
from stepclip.cache.exchange import exporting, forms, folders, parquetform
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
cache, out, format, moment = sys.argv[1:]
form = exporting.FORMS[format]
if moment == "video":
    add = form.add
    def third(self, video, row, entry):
        self.seen = getattr(self, "seen", 0) + 1
        die() if self.seen == 4 else add(self, video, row, entry)
    form.add = third
elif moment == "account":
    exporting._write_about = die
elif moment == "rename":
    folders._put = die
else:
    folders.shutil.rmtree = die
exporting.export(cache, out, format, overwrite=True, progress=False)
"""


def killed(cache: Path, out: Path, format: str, moment: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(cache), str(out), format, moment], capture_output=True, text=True
    )
    assert done.returncode == -9, done.stderr


@pytest.mark.parametrize(
    ("format", "moment"),
    [
        *((format, "video") for format in FORMATS),
        ("parquet", "account"),
        ("npy", "rename"),
        ("webdataset", "end"),
    ],
)
def test_a_killed_export_leaves_nothing_that_passes_for_one(
    cache: Path, tmp_path: Path, format: str, moment: str
) -> None:
    if moment != "end":
        killed(cache, tmp_path / "out", format, moment)
        assert not (tmp_path / "out").exists()
    make(tmp_path / "small", ["a"])
    quiet(tmp_path / "small", tmp_path / "out", format)
    killed(cache, tmp_path / "out", format, moment)  # nor does it cost the earlier one
    assert len(read_export(tmp_path / "out")) == (10 if moment == "end" else 1)
    quiet(cache, tmp_path / "out", format, overwrite=True)
    assert restore(tmp_path / "out", tmp_path / "again") == []


def test_what_killed_exports_left_is_swept_and_what_is_being_written_is_not(
    cache: Path, tmp_path: Path
) -> None:
    killed(cache, tmp_path / "out", "npy", "video")
    killed(cache, tmp_path / "other", "npy", "video")
    dead, other = sorted(tmp_path.glob(".o*.tmp"), key=lambda path: "other" in path.name)
    alive = dead.with_name(dead.name.replace(".tmp", "")[:-8] + "0123abcd.tmp")
    fresh = dead.with_name(dead.name.replace(".tmp", "")[:-8] + "0123abce.tmp")
    shutil.copytree(dead, alive)
    shutil.copytree(dead, fresh)
    for folder in (dead, other, alive):
        os.utime(folder / ".writing", (0, 0))
    os.utime(fresh / ".writing")
    with locked(alive / ".writing"):
        os.utime(alive / ".writing", (0, 0))
        quiet(cache, tmp_path / "out")
    assert not dead.exists() and alive.exists() and fresh.exists() and other.exists()

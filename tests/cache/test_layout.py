"""What a shard holds besides frames and times, older layouts, and the copy of the row files."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from stepclip.cache import FeatureStore, FeatureWriter, StepclipError
from stepclip.cache.shard import ROWS_TYPES, read_rows, write_rows
from stepclip.cache.source import Source


def test_views_are_kept_beside_the_frames(tmp_path: Path, tools: Any) -> None:
    path = tmp_path / "features"
    views = {name: np.stack([tools.video(name).features + n for n in (1, 2)]) for name in tools.names}
    with FeatureWriter(path, tools.fingerprint, dim=tools.dim, views=2, shard_videos=4) as writer:
        for name in tools.names:
            truth = tools.video(name)
            writer.add(name, truth.features, truth.times, truth.duration, views=views[name])
        with pytest.raises(StepclipError, match="views of shape None"):
            writer.add("more", np.ones((1, tools.dim)), np.zeros(1), 1)
        with pytest.raises(StepclipError, match=r"row 1 is all zero"):
            copies = np.ones((2, 3, tools.dim))
            copies[1, 1] = 0
            writer.add("more", np.ones((3, tools.dim)), np.arange(3), 3, views=copies)
    store = FeatureStore.open(path)
    tools.check(store, tools.names)
    for name in tools.names:
        np.testing.assert_array_equal(store[name].views, views[name])
    assert store.load().views is None
    packed = store.load(video_ids=tools.names[::-1], views=True)
    for place, name in enumerate(tools.names[::-1]):
        rows = torch.arange(*packed.rows(place).indices(len(packed.features))[:2])
        for view in (0, 1):
            np.testing.assert_array_equal(packed.gather(rows, view).numpy(), views[name][view])
    with h5py.File(path / "shards" / (store._catalogue.shards[0].name + ".h5")) as file:
        assert file["views"].shape[0] == 2 and file["views"].chunks is None
    with pytest.raises(StepclipError, match=r"cache\.views +cache: 2 +asked: 0"):
        FeatureWriter(path, tools.fingerprint, dim=tools.dim)


def test_a_cache_without_views_has_none(cache: Path, tools: Any) -> None:
    store = FeatureStore.open(cache)
    assert store.views == 0 and store[tools.names[0]].views is None
    with pytest.raises(StepclipError, match="no augmented views"):
        store.load(views=True)
    with (
        FeatureWriter(cache, tools.fingerprint, dim=tools.dim) as writer,
        pytest.raises(StepclipError, match="no views in this cache"),
    ):
        writer.add("more", np.ones((1, tools.dim)), np.zeros(1), 1, views=np.ones((1, 1, tools.dim)))


def test_a_file_that_changed_since_is_noticed_and_a_copy_is_not(tmp_path: Path, tools: Any) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(bytes(range(256)) * 1000)
    source = Source.of(path, 1.0, None)
    assert source is not None
    with FeatureWriter(tmp_path / "features", tools.fingerprint, dim=tools.dim) as writer:
        writer.add("a", np.ones((1, tools.dim)), np.zeros(1), 1, source=source)
        writer.add("b", np.ones((1, tools.dim)), np.zeros(1), 1)
    store = FeatureStore.open(tmp_path / "features")
    assert store.source("a") == source and store.source("b") is None
    assert source.changed(path, 1.0, None) == ""
    copy = shutil.copy(path, tmp_path / "b.mp4")
    assert source.changed(copy, 1.0, None) == ""
    assert source.changed(tmp_path / "gone.mp4", 1.0, None) == ""
    assert "extracted 1 to end s" in source.changed(path, None, None)
    with path.open("r+b") as file:
        file.seek(-5, 2)
        file.write(b"x")
    os.utime(path, ns=(0, 0))
    assert "written anew" in source.changed(path, 1.0, None)
    path.write_bytes(b"short")
    assert "5 bytes, 256000 when" in source.changed(path, 1.0, None)


def test_a_video_is_replaced_when_asked_whatever_the_clock_says(
    cache: Path, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stepclip.cache.writer.time.time_ns", lambda: 5)  # a machine whose clock is wrong
    with FeatureWriter(cache, tools.fingerprint, dim=tools.dim) as writer:
        with pytest.raises(StepclipError, match="in the cache already"):
            writer.add("video-00", np.ones((2, tools.dim)), np.arange(2), 2)
        writer.add("video-00", np.ones((2, tools.dim)), np.arange(2), 2, replace=True)
    store = FeatureStore.open(cache)
    assert store.video_ids == tools.names and store["video-00"].features.tolist() == [[1] * tools.dim] * 2
    tools.check(store, tools.names[1:])


def test_a_cache_of_an_older_schema_is_read_and_written_on(tmp_path: Path, tools: Any) -> None:
    """tests/cache/kept/schema1 was written by StepCLIP's first layout."""
    path = tmp_path / "features"
    shutil.copytree(Path(__file__).parent / "kept" / "schema1", path)
    store = FeatureStore.open(path, expect=tools.fingerprint)
    assert store.video_ids == tools.names and store.problems == () and store.views == 0
    tools.check(store, tools.names)
    assert store.source(tools.names[0]) is None
    assert store.text(["stir"]).tolist() == [[7, 8, 9, 10, 11, 12]]
    assert [failure.attempts for failure in store.failures()] == [2]
    tools.write(path, ["later"])
    store = FeatureStore.open(path)
    tools.check(store, [*tools.names, "later"])
    assert json.loads((path / "cache.json").read_text())["schema"] == 2


def test_a_row_file_of_a_newer_schema_is_named(cache: Path, tools: Any) -> None:
    rows = read_rows(cache / "shards" / "a-00001.parquet")
    about = {
        "schema": 3, "bytes": rows.bytes, "digest": rows.digest, "dim": rows.dim, "dtype": rows.dtype,
        "views": 0, "features_at": 0, "times_at": 0, "views_at": -1, "committed": rows.committed,
    }  # fmt: skip
    columns = (rows.ids, rows.first, rows.frames, rows.durations, rows.crc32, rows.sources)
    write_rows(cache / "shards" / "a-00001.parquet", about, dict(zip(ROWS_TYPES, columns, strict=True)))
    assert "has schema 3" in FeatureStore.open(cache).problems[0]


# ---- many shards


def test_the_copy_of_the_row_files_is_used_and_never_wrong(tmp_path: Path, tools: Any) -> None:
    path = tmp_path / "features"
    names = tuple(f"v{number:03d}" for number in range(80))
    tools.write(path, names, shard_videos=1, name="a")
    assert (path / "rows.parquet").exists()
    with pytest.MonkeyPatch.context() as patch:

        def fail(_: Path) -> None:
            raise AssertionError("a row file was read although the copy has it")

        patch.setattr("stepclip.cache.catalogue.read_rows", fail)
        store = FeatureStore.open(path)
    assert store.video_ids == names
    tools.check(store, names)
    # a row file that is gone, one that is another, one that is new
    (path / "shards" / "a-00003.parquet").unlink()
    (path / "shards" / "a-00004.parquet").write_bytes(b"something else")
    tools.write(path, ["later"])
    store = FeatureStore.open(path)
    assert set(store) == {*names, "later"} - {"v003", "v004"}
    tools.check(store, store)
    whole = (path / "rows.parquet").read_bytes()
    for content in (b"", whole[:-100], whole[:50] + bytes([whole[50] ^ 1]) + whole[51:]):
        (path / "rows.parquet").write_bytes(content)
        store = FeatureStore.open(path)
        assert set(store) == {*names, "later"} - {"v003", "v004"}
        tools.check(store, store)

"""A full shard is written while the next one is collected: nothing is lost, mixed up or kept quiet."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stepclip.cache.errors import StepclipError
from stepclip.cache.store import FeatureStore
from stepclip.cache.writer import FeatureWriter

SYNC = "stepclip.cache.files.os.fsync"


def give(writer: FeatureWriter, tools: Any, name: str, **options: Any) -> None:
    truth = tools.video(name)
    writer.add(name, truth.features, truth.times, truth.duration, **options)


def test_videos_are_taken_while_a_shard_is_written(
    tmp_path: Path, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"v{number}" for number in range(5)]
    real, free, busy = os.fsync, threading.Event(), threading.Event()

    def slow(handle: int) -> None:
        busy.set()
        assert free.wait(60)
        real(handle)

    with FeatureWriter(tmp_path, tools.fingerprint, dim=tools.dim, shard_videos=2) as writer:
        monkeypatch.setattr(SYNC, slow)
        for name in names[:3]:
            give(writer, tools, name)
        assert busy.wait(60) and len(FeatureStore.open(tmp_path)) == 0
        for there in (names[0], names[2]):  # one in flight, one that waits
            with pytest.raises(StepclipError, match="already"):
                give(writer, tools, there)
        free.set()
        for name in names[3:]:
            give(writer, tools, name)
        writer.commit()
        assert FeatureStore.open(tmp_path).video_ids == tuple(names)
    tools.check(FeatureStore.open(tmp_path), names)
    assert [len(rows.ids) for rows in FeatureStore.open(tmp_path)._catalogue.shards] == [2, 2, 1]


@pytest.mark.parametrize("door", ["add", "commit", "close", "done"])
def test_a_shard_that_could_not_be_written_is_said_at_the_next_door_and_written_later(
    tmp_path: Path, tools: Any, monkeypatch: pytest.MonkeyPatch, door: str
) -> None:
    names = [f"v{number}" for number in range(12)]

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    writer = FeatureWriter(tmp_path, tools.fingerprint, dim=tools.dim, shard_videos=3)
    given = iter(names)
    with monkeypatch.context() as patch:
        patch.setattr(SYNC, full)
        for _ in range(3):
            give(writer, tools, next(given))
        with pytest.raises(StepclipError, match="No space left"):
            while door == "add":
                give(writer, tools, name := next(given))
            getattr(writer, door)()
    if door == "add" and name not in writer._waiting:
        give(writer, tools, name)
    for name in given:  # there is room again
        give(writer, tools, name)
    writer.close()
    store = FeatureStore.open(tmp_path)
    assert store.video_ids == tuple(sorted(names)) and store.problems == ()
    tools.check(store, names)


def test_the_memory_of_a_shard_is_not_used_again_before_it_is_written(tmp_path: Path, tools: Any) -> None:
    names = [f"v{number:03d}" for number in range(60)]
    with FeatureWriter(tmp_path, tools.fingerprint, dim=tools.dim, shard_videos=3) as writer:
        for number, name in enumerate(names):
            give(writer, tools, name)
            if number % 7 == 0:
                with pytest.raises(StepclipError, match="all zero"):
                    writer.add("bad", np.zeros((20, tools.dim)), np.arange(20), 20)
    tools.check(FeatureStore.open(tmp_path), names)


def test_a_newer_copy_of_a_video_in_flight_counts(tmp_path: Path, tools: Any) -> None:
    with FeatureWriter(tmp_path, tools.fingerprint, dim=tools.dim, shard_videos=1) as writer:
        for value in (1, 2, 3):
            writer.add("a", np.full((2, tools.dim), float(value)), np.arange(2), 2, replace=True)
    assert FeatureStore.open(tmp_path)["a"].features.max() == 3


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("bad", [np.nan, -np.inf, np.inf, 1e39, 0.0, -0.0])
def test_no_row_that_is_none_passes_in_any_precision(
    tmp_path: Path, dtype: str, bad: float, tools: Any
) -> None:
    rows = np.full((9, 3), -1e-7)
    rows[4] = bad
    with FeatureWriter(tmp_path, tools.fingerprint, dim=3, dtype=dtype) as writer:
        with pytest.raises(StepclipError, match=r"row 4 is (not finite|all zero)"):
            writer.add("a", rows, np.arange(9), 9)
        rows[4] = [bad if bad == 0 else 1, 0, -1e-7]
        writer.add("a", rows, np.arange(9), 9)
    np.testing.assert_array_equal(FeatureStore.open(tmp_path)["a"].features, rows.astype(dtype))

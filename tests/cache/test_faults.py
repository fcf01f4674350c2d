"""What happens to a cache in a rough world: killed writers, full disks, cut files, flipped bytes."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stepclip.cache import FeatureStore, FeatureWriter, StepclipError
from stepclip.cache.upkeep.repair import repair
from stepclip.cache.upkeep.verify import verify


def redo(path: Path, tools: Any, names: tuple[str, ...]) -> set[str]:
    """What extraction does: everything that is not done yet. Returns what was."""
    with FeatureWriter(path, tools.fingerprint, dim=tools.dim) as writer:
        done = writer.done()
    tools.write(path, [name for name in names if name not in done])
    return done


def shard_of(path: Path, name: str = "a-00001") -> Path:
    return path / "shards" / f"{name}.h5"


IN_SHARD, ELSEWHERE = [f"video-0{n}" for n in range(4, 8)], ["video-00", "video-01", "video-08", "video-09"]


def test_a_writer_killed_at_any_moment_loses_its_shard_at_most(tmp_path: Path, tools: Any) -> None:
    names = tuple(f"v{number:03d}" for number in range(24))
    redo(tmp_path / "imports", tools, names)
    began = time.monotonic()
    redo(tmp_path / "undisturbed", tools, names)
    whole = time.monotonic() - began
    moments = random.Random(0)
    between = 0
    for attempt in range(20):
        path = tmp_path / str(attempt % 4)  # each cache is killed five times, at moments of a whole run
        child = os.fork()
        if child == 0:
            try:
                redo(path, tools, names)
            finally:
                os._exit(0)
        time.sleep(moments.uniform(0.0, whole))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if (path / "cache.json").exists():
            store = FeatureStore.open(path)
            tools.check(store, store.video_ids)
            between += 0 < len(store) < len(names)
    assert between > 0  # some were hit in the middle of their work
    undisturbed = FeatureStore.open(tmp_path / "undisturbed")
    for folder in range(4):
        path = tmp_path / str(folder)
        redo(path, tools, names)
        store = FeatureStore.open(path)
        assert store.video_ids == names
        tools.check(store, names)
        assert sum(len(rows.ids) for rows in store._catalogue.shards) == len(names)  # none twice
        for left in (path / "shards").iterdir():
            os.utime(left, (0, 0))
        report = verify(path, progress=False)  # what the killed ones left is named, and costs nothing
        assert {fault.kind for fault in report.faults} <= {"no-rows", "abandoned"} and report.lost == []
        repair(path, progress=False)
        assert verify(path, progress=False).ok
        store = FeatureStore.open(path)
        assert store.video_ids == undisturbed.video_ids and store.problems == ()
        for name in names:
            mine, theirs = store[name], undisturbed[name]
            np.testing.assert_array_equal(mine.features, theirs.features)
            np.testing.assert_array_equal(mine.times, theirs.times)
            assert mine.duration == theirs.duration


@pytest.mark.parametrize("step", ["fsync", "link", "replace"])
def test_a_write_that_stops_between_two_steps_commits_nothing_and_is_made_good(
    cache: Path, tools: Any, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    writer = FeatureWriter(cache, tools.fingerprint, dim=12, name="late")
    writer.add("late", np.ones((1, 12)), np.zeros(1), 1)
    with monkeypatch.context() as patch:
        patch.setattr(f"stepclip.cache.files.os.{step}", fail)
        if step == "link":  # not fatal: a file system without hard links
            writer.commit()
        else:
            with pytest.raises(StepclipError, match="No space left on device"):
                writer.commit()
            assert "late" not in FeatureStore.open(cache)
            assert not list((cache / "shards").glob("late*")) and not list((cache / "shards").glob(".*"))
    writer.close()  # there is room again: what waited is not lost
    store = FeatureStore.open(cache)
    tools.check(store, tools.names)
    assert len(store["late"].times) == 1 and store.problems == ()


def test_a_full_disk_costs_no_video_that_was_there(cache: Path, tools: Any) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = FeatureWriter(cache, tools.fingerprint, dim=12)
    writer.add("big", np.ones((2000, 12)), np.arange(2000), 2000)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        with pytest.raises(StepclipError, match="cannot be written") as caught:
            writer.commit()
        with pytest.raises(StepclipError, match="cannot be written"):
            writer.add_text(["text"], np.ones((1, 10_000)), "step")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "--root" in caught.value.run
    assert FeatureStore.open(cache).video_ids == tools.names
    tools.check(FeatureStore.open(cache), tools.names)
    writer.close()
    assert len(FeatureStore.open(cache)["big"].times) == 2000


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9, 0.999])
def test_a_cut_shard_is_named_costs_no_other_and_is_done_again(cache: Path, tools: Any, share: float) -> None:
    shard = shard_of(cache)
    os.truncate(shard, int(shard.stat().st_size * share))
    store = FeatureStore.open(cache)
    assert len(store.problems) == 1 and "a-00001" in store.problems[0]
    for attempt in (lambda: store["video-05"], store.load):
        with pytest.raises(StepclipError, match="a-00001") as caught:
            attempt()
        assert "stepclip extract" in caught.value.run
    tools.check(store, ELSEWHERE)
    assert redo(cache, tools, tools.names) == set(tools.names) - set(IN_SHARD)
    tools.check(FeatureStore.open(cache), tools.names)
    assert FeatureStore.open(cache).problems == ()  # all its videos have an intact copy


def test_a_deleted_shard_is_named_costs_no_other_and_is_done_again(cache: Path, tools: Any) -> None:
    shard_of(cache).unlink()
    store = FeatureStore.open(cache)
    with pytest.raises(StepclipError, match=r"a-00001.* is missing"):
        store.load()
    tools.check(store, ELSEWHERE)
    assert redo(cache, tools, tools.names) == set(tools.names) - set(IN_SHARD)
    tools.check(FeatureStore.open(cache), tools.names)


def test_a_shard_in_anothers_place_is_noticed(cache: Path, tools: Any) -> None:
    a, b = shard_of(cache, "a-00000"), shard_of(cache, "a-00001")
    data = bytearray(a.read_bytes())
    data += bytes(max(0, b.stat().st_size - len(data)))
    b.write_bytes(data[: b.stat().st_size])
    store = FeatureStore.open(cache)
    tools.check(store, ["video-00"])
    with pytest.raises(StepclipError, match="a-00001"):
        store["video-05"]


def test_data_without_rows_counts_as_missing_and_is_named(
    cache: Path, tools: Any, caplog: pytest.LogCaptureFixture
) -> None:
    shard_of(cache).with_suffix(".parquet").unlink()
    store = FeatureStore.open(cache)
    assert set(store) == set(tools.names) - set(IN_SHARD)
    assert "a-00001.h5 has no row file" in store.problems[0] and "a-00001" in caplog.text
    redo(cache, tools, tools.names)
    tools.check(FeatureStore.open(cache), tools.names)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + bytes(500) + b"PAR1", None])
def test_a_damaged_row_file_counts_as_missing_and_is_named(
    cache: Path, tools: Any, caplog: pytest.LogCaptureFixture, content: bytes | None
) -> None:
    rows = shard_of(cache).with_suffix(".parquet")
    rows.write_bytes(rows.read_bytes()[:-100] if content is None else content)
    store = FeatureStore.open(cache)
    assert set(store) == set(tools.names) - set(IN_SHARD)
    assert "a-00001.parquet is damaged" in store.problems[0] and "a-00001.parquet" in caplog.text
    redo(cache, tools, tools.names)
    tools.check(FeatureStore.open(cache), tools.names)


def test_what_a_killed_writer_left_aside_is_named_and_harmless(cache: Path, tools: Any) -> None:
    (cache / "shards" / ".a-00003.h5.123.abcd.tmp").write_bytes(b"half")
    store = FeatureStore.open(cache)
    assert len(store.problems) == 1 and "never finished" in store.problems[0]
    tools.check(store, tools.names)


def test_a_flipped_byte_in_a_row_file_never_gives_wrong_features(cache: Path, tools: Any) -> None:
    rows = shard_of(cache).with_suffix(".parquet")
    whole = rows.read_bytes()
    noticed = 0
    for place in range(0, len(whole), 19):
        rows.write_bytes(whole[:place] + bytes([whole[place] ^ 0x11]) + whole[place + 1 :])
        store = FeatureStore.open(cache)
        noticed += bool(store.problems)
        tools.check(store, ELSEWHERE)
        for name in IN_SHARD:
            try:
                tools.check(store, [name])
            except StepclipError:
                noticed += 1
    assert noticed > 10


def test_a_flipped_byte_around_the_data_never_gives_the_wrong_rows(cache: Path, tools: Any) -> None:
    """The numbers are the checksum's business; a change of HDF5's own bytes must be noticed or not matter."""
    import h5py

    shard = shard_of(cache)
    whole = shard.read_bytes()
    with h5py.File(shard) as file:
        data = [(d.id.get_offset(), d.id.get_offset() + d.nbytes) for d in (file["features"], file["times"])]
    for place in range(0, len(whole), 53):
        if any(first <= place < last for first, last in data):
            continue
        shard.write_bytes(whole[:place] + bytes([whole[place] ^ 0x11]) + whole[place + 1 :])
        store = FeatureStore.open(cache)
        try:
            tools.check(store, IN_SHARD)
        except StepclipError as error:
            assert "a-00001" in error.found


def test_the_checksums_cover_features_and_times(cache: Path) -> None:
    import zlib

    import h5py
    import pandas as pd

    store = FeatureStore.open(cache)
    for rows in sorted((cache / "shards").glob("*.parquet")):
        table = pd.read_parquet(rows)
        with h5py.File(rows.with_suffix(".h5")) as file:
            assert file["crc32"][:].tolist() == table.crc32.tolist()
        for video_id, crc32 in zip(table.video_id, table.crc32, strict=True):
            found = store[video_id]
            assert crc32 == zlib.crc32(found.times.tobytes(), zlib.crc32(found.features.tobytes()))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe"])
def test_a_damaged_account_says_what_to_do_and_that_saves_the_cache(
    cache: Path, tools: Any, content: bytes
) -> None:
    (cache / "cache.json").write_bytes(content)
    with pytest.raises(StepclipError, match=r"cache\.json") as caught:
        FeatureStore.open(cache)
    assert "cache repair" in caught.value.run
    (cache / "cache.json").unlink()
    assert redo(cache, tools, tools.names) == set(tools.names)
    tools.check(FeatureStore.open(cache), tools.names)


def test_damaged_texts_are_named_put_aside_and_encoded_again(
    cache: Path, tools: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with FeatureWriter(cache, tools.fingerprint, dim=12) as writer:
        writer.add_text(["a", "b"], np.ones((2, 64)), "step")
    whole = (cache / "text.h5").read_bytes()
    value = whole.index(np.ones(64, np.float32).tobytes())
    for damaged in (b"", whole[: len(whole) // 2], whole[: value + 2] + b"\x01" + whole[value + 3 :]):
        (cache / "text.h5").write_bytes(damaged)
        store = FeatureStore.open(cache)
        tools.check(store, tools.names)  # the frames do not suffer
        with pytest.raises(StepclipError, match=r"text\.h5 is damaged"):
            store.text(["a"], "step")
        with FeatureWriter(cache, tools.fingerprint, dim=12) as writer:
            assert writer.missing_text(["a"], "step") == ["a"]
            writer.add_text(["a"], np.full((1, 64), 3), "step")
        assert "encoded again" in caplog.text
        assert FeatureStore.open(cache).text(["a"], "step").max() == 3
        assert (cache / "text.damaged.h5").read_bytes() == damaged


def test_texts_of_another_fingerprint_are_refused(cache: Path, tools: Any) -> None:
    from stepclip.cache import Fingerprint

    with FeatureWriter(cache.parent / "other", Fingerprint({"encoder.name": "other"}), dim=12) as writer:
        writer.add_text(["a"], np.ones((1, 4)), "step")
    shutil.copy(cache.parent / "other" / "text.h5", cache / "text.h5")
    with pytest.raises(StepclipError, match="another encoder"):
        FeatureStore.open(cache).text(["a"], "step")


def test_a_shard_copied_from_another_cache_is_not_mixed_in(cache: Path, tools: Any) -> None:
    from stepclip.cache import Fingerprint

    with FeatureWriter(
        cache.parent / "other", Fingerprint({"encoder.name": "other"}), dim=12, name="alien"
    ) as writer:
        writer.add("alien", np.ones((1, 12)), np.zeros(1), 1)
        writer.add("video-00", np.ones((1, 12)), np.zeros(1), 1)
    for path in (cache.parent / "other" / "shards").iterdir():
        shutil.copy(path, cache / "shards")
    store = FeatureStore.open(cache)
    assert store.video_ids == tools.names and "alien" in store.problems[0]
    tools.check(store, tools.names)

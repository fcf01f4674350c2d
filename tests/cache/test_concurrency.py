"""Many writers and readers of one cache at once, while it is compacted, and with some of them killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stepclip.cache import FeatureStore, FeatureWriter, Fingerprint, catalogue
from stepclip.cache.files import write_json
from stepclip.cache.upkeep.merge import compact, merge

FINGERPRINT, DIM = Fingerprint({"encoder.name": "crowd"}), 6
FULL = 1500  # bytes of a full shard: about ten of the videos


def elsewhere(submit: Callable[..., Any], call: Callable[..., Any], *given: Any, **options: Any) -> Any:
    """Have a process call a function of this file, which it cannot import: the future of the result."""
    source = f"__import__('runpy').run_path({__file__!r})[{call.__name__!r}](*given)"
    return submit(eval, source, {"given": given}, **options)


def truth(name: str, version: int) -> tuple[np.ndarray, np.ndarray]:
    """The features and times of a version of a video; its duration is the version."""
    noise = np.random.default_rng([version, *name.encode()])
    frames = int(noise.integers(1, 16))
    return noise.normal(size=(frames, DIM)).astype(np.float16), np.cumsum(noise.uniform(0.1, 1, frames))


def write(path: Path, versions: dict[str, int], **options: Any) -> None:
    with FeatureWriter(path, FINGERPRINT, dim=DIM, **options) as writer:
        for name, version in versions.items():
            writer.add(name, *truth(name, version), version, replace=True)


def right(name: str, features: np.ndarray, times: np.ndarray, duration: float) -> int:
    """The version of what was read. Fails where that is no video as it was written."""
    expected = truth(name, int(duration))
    np.testing.assert_array_equal(features, expected[0])
    np.testing.assert_array_equal(times, expected[1])
    return int(duration)


def read_some(store: FeatureStore, names: list[str], at_once: bool) -> dict[str, int]:
    """The versions of videos, read one by one or at once."""
    if not at_once:
        found = [(name, store[name]) for name in names]
        return {name: right(name, one.features, one.times, one.duration) for name, one in found}
    packed = store.load(video_ids=names)
    assert packed.durations is not None
    return {
        name: right(
            name,
            packed.features[packed.rows(place)].numpy(),
            packed.times[packed.rows(place)].numpy(),
            float(packed.durations[place]),
        )
        for place, name in enumerate(names)
    }


def check(path: Path, versions: dict[str, int]) -> None:
    """The cache holds these and nothing else."""
    for at_once in (False, True):
        store = FeatureStore.open(path)
        assert read_some(store, list(store), at_once) == versions
    assert store.problems == ()


def copies(path: Path) -> int:
    return sum(len(rows.ids) for rows in FeatureStore.open(path)._catalogue.shards)


# ---- readers that were there before


def versions_of(store: FeatureStore, at_once: bool = False) -> dict[str, int]:
    return read_some(store, list(store), at_once)


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize(
    "pool",
    [
        None,
        "threads",
        "fork",
        pytest.param("spawn", marks=pytest.mark.slow),
    ],
)
def test_a_reader_that_opened_before_a_compaction_goes_on(
    tmp_path: Path, pool: str | None, at_once: bool
) -> None:
    versions = {f"v{number:02d}": 1 for number in range(20)}
    write(tmp_path, versions, shard_videos=2)
    stores = [FeatureStore.open(tmp_path) for _ in range(3)]
    stores[0]["v03"], stores[1]["v19"]  # some shards are mapped, most are not
    assert compact(tmp_path, shard_bytes=FULL, progress=False).videos == 20
    if pool is None:
        assert all(versions_of(store, at_once) == versions for store in stores)
    elif pool == "threads":
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(lambda k: versions_of(stores[k % 3], at_once), range(24)))
        assert found == [versions] * 24
    else:
        with ProcessPoolExecutor(2, multiprocessing.get_context(pool)) as processes:
            found = [elsewhere(processes.submit, versions_of, store, at_once).result() for store in stores]
        assert found == [versions] * 3
    write(tmp_path, {"v03": 2}, shard_videos=2)
    compact(tmp_path, shard_bytes=1 << 20, progress=False)  # everything moves once more
    found = versions_of(stores[2], at_once)
    assert found in ({**versions, "v03": 2}, versions)  # what is mapped is still there


def test_a_shard_that_takes_the_name_of_a_removed_one_is_not_taken_for_it(tmp_path: Path) -> None:
    def same_size(names: str) -> None:
        with FeatureWriter(tmp_path, FINGERPRINT, dim=DIM, name="a", shard_videos=2) as writer:
            for name in names:
                writer.add(name, np.full((3, DIM), float(ord(name))), np.arange(3), 3, replace=True)

    def whose(store: FeatureStore) -> dict[str, str]:
        return {name: chr(int(store[name].features[0, 0])) for name in store}

    same_size("bcde")
    before, mapped, half = (FeatureStore.open(tmp_path) for _ in range(3))
    mapped["b"], mapped["d"], half["b"]
    compact(tmp_path, progress=False)
    same_size("dfgh")
    assert sorted(each.name for each in (tmp_path / "shards").glob("a-*.h5")) == ["a-00000.h5", "a-00001.h5"]
    assert whose(before) == {name: name for name in "bcde"}
    assert whose(mapped) == whose(half) == {name: name for name in "bcde"}
    mapped.close()
    assert whose(mapped) == {name: name for name in "bcde"}
    assert whose(FeatureStore.open(tmp_path)) == {name: name for name in "bcdefgh"}


def test_a_look_at_the_folder_that_a_compaction_overtakes_misses_no_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worst that the system may give: the new shard not yet, the old ones not any more."""
    versions = {f"v{number}": 1 for number in range(6)}
    write(tmp_path, versions, shard_videos=2)
    real, looks = catalogue._look, []

    def overtaken(folder: Path) -> Any:
        looks.append(real(folder))
        if len(looks) == 2:
            with monkeypatch.context() as patch:
                patch.setattr(catalogue, "_look", real)
                compact(tmp_path, progress=False)
            return {}
        return looks[-1]

    monkeypatch.setattr(catalogue, "_look", overtaken)
    assert set(FeatureStore.open(tmp_path)) == set(versions) and len(looks) > 2


def test_a_row_file_that_goes_before_it_is_read_costs_no_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = {f"v{number}": 1 for number in range(6)}
    write(tmp_path, versions, shard_videos=2)
    real, read = catalogue.read_rows, []

    def overtaken(path: Path) -> Any:
        read.append(path)
        if len(read) == 2:
            with monkeypatch.context() as patch:
                patch.setattr(catalogue, "read_rows", real)
                compact(tmp_path, progress=False)
        return real(path)

    monkeypatch.setattr(catalogue, "read_rows", overtaken)
    store = FeatureStore.open(tmp_path)
    assert set(store) == set(versions) and store.problems == ()


# ---- a crowd


def look_around(path: Path, seed: int) -> int:
    """Open and read until the end is announced. How many videos were read, each right and none too old."""
    chance, reads, stores = random.Random(seed), 0, []
    while True:
        last = (path.parent / "end").exists()
        floor = json.loads((path.parent / "floor.json").read_text())  # what was there before it is opened
        store = FeatureStore.open(path)
        assert floor.keys() <= set(store)
        stores = [*stores[-3:], (store, dict(floor))]  # the older ones live through compactions
        for store, least in stores:
            names = chance.sample(list(store), min(len(store), 5))
            found = read_some(store, names, at_once=chance.random() < 0.4)
            assert all(version >= least.get(name, 1) for name, version in found.items()), (found, least)
            least.update(found)
            reads += len(found)
        if last:
            return reads


def compact_until_the_end(path: Path) -> int:
    """How many compactions had something to do."""
    done = 0
    while True:
        last = (path.parent / "end").exists()
        done += compact(path, shard_bytes=FULL, progress=False).videos > 0
        if last:
            return done


def append(path: Path, rounds: int) -> dict[str, int]:
    """Write new videos, and replace some of the old ones, round after round."""
    chance = random.Random(0)
    versions: dict[str, int] = {}
    for turn in range(rounds):
        fresh = {f"v{turn:02d}{letter}": 1 for letter in "ab"}
        again = {name: versions[name] + 1 for name in chance.sample(sorted(versions), min(2, turn))}
        write(path, {**fresh, **again}, shard_videos=2)
        versions |= {**fresh, **again}
        write_json(path.parent / "floor.json", versions)
    return versions


@pytest.mark.parametrize(
    ("method", "rounds"),
    [
        ("fork", 10),
        pytest.param("fork", 60, marks=pytest.mark.slow),
        pytest.param("spawn", 60, marks=pytest.mark.slow),
    ],
)
def test_readers_are_right_while_a_writer_appends_and_a_compaction_runs(
    tmp_path: Path, method: str, rounds: int
) -> None:
    path = tmp_path / "features"
    write(path, {"first": 1})
    write_json(tmp_path / "floor.json", {"first": 1})
    with (
        ProcessPoolExecutor(3, multiprocessing.get_context(method)) as processes,
        ThreadPoolExecutor(1) as threads,
    ):
        readers = [elsewhere(processes.submit, look_around, path, seed) for seed in (1, 2)]
        compactor = elsewhere(processes.submit, compact_until_the_end, path)
        readers.append(threads.submit(look_around, path, 3))
        try:
            versions = {"first": 1, **append(path, rounds)}
        finally:
            (tmp_path / "end").touch()
        assert all(reader.result() > 0 for reader in readers) and compactor.result() > 0
    compact(path, shard_bytes=FULL, progress=False)
    check(path, versions)
    assert copies(path) == len(versions)


def test_writers_and_a_merge_into_the_same_cache(tmp_path: Path) -> None:
    mine = {f"m{number:02d}": 1 for number in range(12)}
    other = {f"o{number:02d}": 1 for number in range(12)}
    write(tmp_path / "other", other, shard_videos=2)
    write(tmp_path / "mine", {"m00": 1})
    with ThreadPoolExecutor(3) as threads:
        writers = [threads.submit(write, tmp_path / "mine", {name: 1}) for name in list(mine)[1:]]
        report = threads.submit(
            merge, [tmp_path / "other"], tmp_path / "mine", shard_bytes=FULL, progress=False
        )
        assert report.result().videos == 12
        for writer in writers:
            writer.result()
    check(tmp_path / "mine", {**mine, **other})


# ---- killed


@pytest.mark.slow
def test_a_compaction_killed_at_20_random_moments_loses_nothing(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    versions = {f"v{number:02d}": 1 for number in range(40)}
    write(whole, versions, shard_videos=2)
    write(whole, dict.fromkeys(list(versions)[::5], 2), shard_videos=1)
    versions |= dict.fromkeys(list(versions)[::5], 2)
    began = time.monotonic()
    compact(Path(shutil.copytree(whole, tmp_path / "undisturbed")), shard_bytes=FULL, progress=False)
    usual = time.monotonic() - began
    moments = random.Random(1)
    stopped = 0
    for attempt in range(20):
        path = tmp_path / str(attempt % 5)  # each cache is killed four times
        if not path.exists():
            shutil.copytree(whole, path)
        child = os.fork()
        if child == 0:
            try:
                compact(path, shard_bytes=FULL, progress=False)
            finally:
                os._exit(0)
        time.sleep(moments.uniform(0.0, usual))
        os.kill(child, signal.SIGKILL)
        stopped += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        store = FeatureStore.open(path)
        assert read_some(store, list(store), at_once=False) == versions
    assert stopped > 5
    for folder in range(5):
        path = tmp_path / str(folder)
        compact(path, shard_bytes=FULL, progress=False)
        check(path, versions)
        assert copies(path) == len(versions)
        names = {each.name for each in (path / "shards").iterdir()}
        assert {name.removesuffix(".h5") for name in names if name.endswith(".h5")} == {
            name.removesuffix(".parquet") for name in names if not name.endswith(".h5")
        }


# ---- dask


@pytest.fixture
def cluster() -> Iterator[Any]:
    import dask
    from distributed import Client, LocalCluster

    with ExitStack() as stack:
        stack.enter_context(dask.config.set({"distributed.worker.daemon": False}))
        started = stack.enter_context(
            LocalCluster(
                n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, memory_limit=0
            )
        )
        yield stack.enter_context(Client(started))


def fill(path: Path, names: list[str], dies: bool) -> None:
    """A dask task: write what of its videos is not there, each task with a writer of its own."""
    with FeatureWriter(path, FINGERPRINT, dim=DIM, shard_videos=2) as writer:
        todo = [name for name in names if name not in writer.done()]
        for place, name in enumerate(todo):
            writer.add(name, *truth(name, 1), 1)
            writer.add_text([name], np.full((1, 3), len(name)), "step")
            if dies and place == 3:
                writer.commit()
            if dies and place == 4 and not (path.parent / "died").exists():
                (path.parent / "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)  # four videos are committed, one waits


@pytest.mark.slow
def test_dask_workers_write_at_once_and_one_is_killed(tmp_path: Path, cluster: Any) -> None:
    versions = {f"v{number:02d}": 1 for number in range(48)}
    names, path = list(versions), tmp_path / "features"
    tasks = [
        elsewhere(cluster.submit, fill, path, names[part::6], part == 2, pure=False) for part in range(6)
    ]
    cluster.gather(tasks)
    assert (tmp_path / "died").exists()
    assert len({each.name.split("-")[1] for each in (path / "shards").iterdir()}) > 1  # by several processes
    check(path, versions)
    assert copies(path) == len(versions)  # none twice, though a task was run again
    write(tmp_path / "alone", versions)
    one, other = (FeatureStore.open(each).load() for each in (path, tmp_path / "alone"))
    assert one.video_ids == other.video_ids and bool((one.features == other.features).all())
    assert FeatureStore.open(path).text(names, "step").tolist() == [[3.0] * 3] * 48
    compact(path, progress=False)
    check(path, versions)

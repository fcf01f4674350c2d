"""Merging caches and compacting one: what is in them afterwards, and that nothing can be lost on the way."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stepclip.cache import Failure, FeatureStore, FeatureWriter, Fingerprint, Source, StepclipError
from stepclip.cache.catalogue import read_copy
from stepclip.cache.upkeep.merge import compact, merge

Content = dict[str, int]  # by video: its version
SMALL = 2500  # bytes: a shard of a handful of the test's videos is full


def put(path: Path, tools: Any, videos: Iterable[tuple[str, int]], **options: Any) -> None:
    """Commit versions of videos, each of which differs in its features, its length and its duration."""
    with FeatureWriter(path, tools.fingerprint, dim=tools.dim, **options) as writer:
        for name, version in videos:
            truth = tools.video(f"{name} {version}")
            writer.add(name, truth.features, truth.times, truth.duration, replace=True)


def content(path: Path, tools: Any) -> Content:
    """The version of each video, every number of it compared."""
    found = {}
    with FeatureStore.open(path) as store:
        assert store.problems == ()
        for name in store:
            one, version = store[name], -1
            for version in range(20):
                if np.array_equal(one.features, tools.video(f"{name} {version}").features):
                    break
            truth = tools.video(f"{name} {version}")
            np.testing.assert_array_equal(one.features, truth.features)
            np.testing.assert_array_equal(one.times, truth.times)
            assert one.duration == truth.duration
            found[name] = version
    return found


def copies(path: Path) -> int:
    """How many videos the shards hold, replaced ones too."""
    return sum(len(rows.ids) for rows in FeatureStore.open(path)._catalogue.shards)


def payload(rows: Any) -> int:
    """Bytes of a shard's features and times."""
    return rows.count * (rows.dim * 2 + 8)


def shards(path: Path) -> dict[str, tuple[int, int]]:
    """All files of the shards, and which they are: a file that was written anew is another one."""
    return {each.name: (each.stat().st_ino, each.stat().st_mtime_ns) for each in (path / "shards").iterdir()}


def flip(path: Path, name: str) -> None:
    """Change one bit of a video's newest features."""
    store = FeatureStore.open(path)
    rows, row = store._where[name]
    whole = bytearray(rows.file.read_bytes())
    whole[rows.places[0] + rows.first[row] * rows.dim * 2] ^= 1
    rows.file.write_bytes(whole)


videos = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 2), min_size=1, max_size=5)
writes = st.lists(st.tuples(st.integers(0, 2), videos, st.integers(1, 3)), min_size=1, max_size=6)
simple = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


# ---- merge


@simple
@given(writes=writes, order=st.permutations([0, 1, 2]), into=st.sampled_from([None, 0, 1]))
def test_a_merged_cache_holds_the_newest_of_every_video(
    tmp_path_factory: pytest.TempPathFactory,
    tools: Any,
    writes: list[tuple[int, Content, int]],
    order: list[int],
    into: int | None,
) -> None:
    root = tmp_path_factory.mktemp("merge")
    parts: list[Content] = [{}, {}, {}]
    expected: Content = {}
    for cache, batch, size in writes:
        put(root / str(cache), tools, batch.items(), shard_videos=size)
        parts[cache] |= batch
        expected |= batch
    sources = [root / str(cache) for cache in order if parts[cache]]
    out = root / ("out" if into is None else str(into))
    if into is not None and not parts[into]:
        out = sources[0]
    report = merge(sources, out, shard_bytes=SMALL, progress=False)
    assert content(out, tools) == expected
    several = {name for name in expected if len({part[name] for part in parts if name in part}) > 1}
    assert set(report.conflicts) == several and report.ok
    before = shards(out)
    again = merge(sources, out, progress=False)
    assert again.videos == 0 and shards(out) == before and content(out, tools) == expected
    for cache, part in enumerate(parts):
        if part and root / str(cache) != out:
            assert content(root / str(cache), tools) == part  # the sources stay as they are


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"fingerprint": Fingerprint({"encoder.name": "other", "sampling.fps": 4.0})}, "encoder.name"),
        ({"dim": 13}, r"cache\.dim +first: 12 +second: 13"),
        ({"dtype": "float32"}, r"cache\.dtype +first: float16 +second: float32"),
        ({"views": 1}, r"cache\.views +first: 0 +second: 1"),
    ],
)
def test_caches_made_in_two_ways_are_refused_key_by_key_before_anything_is_written(
    cache: Path, tmp_path: Path, tools: Any, changed: dict[str, Any], said: str
) -> None:
    how = {"fingerprint": tools.fingerprint, "dim": tools.dim, **changed}
    with FeatureWriter(tmp_path / "other", **how) as writer:
        views = np.ones((1, 1, how["dim"])) if how.get("views") else None
        writer.add("new", np.ones((1, how["dim"])), np.zeros(1), 1, views=views)
    for sources, out in (([cache, tmp_path / "other"], tmp_path / "out"), ([tmp_path / "other"], cache)):
        with pytest.raises(StepclipError, match=said) as caught:
            merge(sources, out, progress=False)
        assert "stepclip extract" in caught.value.run
    assert not (tmp_path / "out").exists() and FeatureStore.open(cache).video_ids == tools.names
    with pytest.raises(StepclipError, match="no feature cache at"):
        merge([cache, tmp_path / "nothing"], tmp_path / "out")
    with pytest.raises(StepclipError, match="no caches to merge"):
        merge([], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_views_durations_and_sources_travel_along(tmp_path: Path, tools: Any) -> None:
    random = np.random.default_rng(0)
    source = Source("a.mp4", 100, 5, 7, 1.0, None)
    views = random.normal(size=(2, 3, 12)).astype(np.float16)
    for folder in ("one", "two"):
        with FeatureWriter(tmp_path / folder, tools.fingerprint, dim=12, views=2) as writer:
            features = random.normal(size=(3, 12))
            writer.add(f"{folder} a", features, np.arange(3), 9.5, views=views, source=source)
            writer.add(f"{folder} b", features, np.arange(3), 3.5, views=views * 2)
    merge([tmp_path / "one", tmp_path / "two"], tmp_path / "out", progress=False)
    compact(tmp_path / "two", progress=False)
    for folder in ("out", "two"):
        store = FeatureStore.open(tmp_path / folder)
        assert store.source("two a") == source and store.source("two b") is None
        assert store["two a"].duration == 9.5 and store.views == 2
        np.testing.assert_array_equal(store["two a"].views, views)
        np.testing.assert_array_equal(store["two b"].views, views * 2)
        np.testing.assert_array_equal(store.load(views=True).views[:, -3:].numpy(), views * 2)


def test_texts_are_united_and_one_with_other_features_is_named(tmp_path: Path, tools: Any) -> None:
    def texts(folder: str, strings: str, features: Any, kind: str = "step") -> None:
        with FeatureWriter(tmp_path / folder, tools.fingerprint, dim=12) as writer:
            writer.add_text(list(strings), np.array(features, float), kind)

    texts("out", "a", [[1, 0]])
    texts("one", "ab", [[2, 0], [3, 3]])
    texts("two", "abc", [[1, 0], [3, 3 + 1e-6], [5, 5]])
    texts("two", "a", [[7, 7]], "paragraph")
    report = merge([tmp_path / "one", tmp_path / "two"], tmp_path / "out", progress=False)
    assert (report.texts, report.text_conflicts) == (3, ["a"])
    assert "1 texts with other features" in str(report)
    store = FeatureStore.open(tmp_path / "out")
    assert store.text(["a", "b", "c"], "step").tolist() == [[1, 0], [3, 3], [5, 5]]
    assert store.text(["a"], "paragraph").tolist() == [[7, 7]]
    assert merge([tmp_path / "one"], tmp_path / "out", progress=False).texts == 0
    texts("wide", "d", [[1, 2, 3]])
    with pytest.raises(StepclipError, match="2 and 3 dimensions"):
        merge([tmp_path / "wide", tmp_path / "one"], tmp_path / "new", progress=False)
    assert not (tmp_path / "new").exists()


def test_failures_are_united_and_a_success_anywhere_removes_them(tmp_path: Path, tools: Any) -> None:
    for folder, done, failures in (
        ("one", "a", [Failure("b", "b.mp4", "timeout", "60 s", 2), Failure("c", "c.mp4", "truncated")]),
        ("two", "b", [Failure("a", "a.mp4", "timeout"), Failure("c", "c.mp4", "no-video-stream", "", 4)]),
    ):
        with FeatureWriter(tmp_path / folder, tools.fingerprint, dim=12) as writer:
            writer.add(done, np.ones((1, 12)), np.zeros(1), 1)
            for failure in failures:
                writer.fail(failure)
    report = merge([tmp_path / "one", tmp_path / "two"], tmp_path / "out", progress=False)
    store = FeatureStore.open(tmp_path / "out")
    assert store.failures() == [Failure("c", "c.mp4", "no-video-stream", "", 4)] and report.failures == 1
    merge([tmp_path / "two"], tmp_path / "one", progress=False)
    assert (tmp_path / "one" / "failed.jsonl").read_text().count("\n") == 1


def test_a_damaged_video_is_left_out_and_named_and_costs_no_other(
    cache: Path, tmp_path: Path, tools: Any
) -> None:
    flip(cache, "video-05")
    report = merge([cache], tmp_path / "out", progress=False)
    store = FeatureStore.open(tmp_path / "out")
    assert set(store) == set(tools.names) - {"video-05"}
    tools.check(store, store.video_ids)
    assert not report.ok and len(report.damaged) == 1 and "'video-05'" in report.damaged[0]
    assert "stepclip cache repair" in str(report) and "video-05" in str(report)


def test_where_a_video_is_damaged_another_caches_copy_is_taken(
    cache: Path, tmp_path: Path, tools: Any
) -> None:
    shutil.copytree(cache, tmp_path / "copy")
    flip(cache, "video-05")
    (cache / "shards" / "a-00000.h5").unlink()
    os.truncate(tmp_path / "copy" / "shards" / "a-00002.h5", 100)
    for order in ([cache, tmp_path / "copy"], [tmp_path / "copy", cache]):
        out = tmp_path / f"out of {order[0].name}"
        report = merge(order, out, progress=False)
        assert FeatureStore.open(out).video_ids == tools.names
        tools.check(FeatureStore.open(out), tools.names)
        said = " ".join(report.damaged)
        assert "a-00000" in said and "a-00002" in said


def test_a_row_file_that_is_damaged_is_named(cache: Path, tmp_path: Path, tools: Any) -> None:
    (cache / "shards" / "a-00001.parquet").write_bytes(b"PAR1")
    report = merge([cache], tmp_path / "out", progress=False)
    assert len(FeatureStore.open(tmp_path / "out")) == 6 and "a-00001.parquet" in report.damaged[0]


def test_a_source_that_is_compacted_meanwhile_is_read_to_its_end(
    cache: Path, tmp_path: Path, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stepclip.cache.upkeep import copying

    real, turns = copying.map_shard, iter(range(9))

    def late(rows: Any) -> Any:
        if next(turns) == 1:
            with monkeypatch.context() as patch:
                patch.setattr("stepclip.cache.upkeep.copying.map_shard", real)
                compact(cache, progress=False)
        return real(rows)

    monkeypatch.setattr("stepclip.cache.upkeep.copying.map_shard", late)
    report = merge([cache], tmp_path / "out", progress=False)
    assert report.ok and report.videos == 10
    tools.check(FeatureStore.open(tmp_path / "out"), tools.names)
    assert copies(tmp_path / "out") == 10


def test_a_merge_tells_what_it_did(cache: Path, tmp_path: Path, tools: Any) -> None:
    report = merge([cache, cache], tmp_path / "out", progress=True)
    assert (report.videos, report.shards_before, report.shards_after) == (10, 0, 1)
    assert report.frames == sum(len(tools.video(name).times) for name in tools.names)
    saved = json.loads(report.save(tmp_path / "report.json").read_text())
    assert saved["videos"] == 10 and saved["sources"] == [str(cache)] and saved["ok"]
    assert "Merged" in str(report) and "MB/s" in str(report)
    assert merge([cache], tmp_path / "out", progress=False).present == 10


# ---- compact


@simple
@given(writes=writes, shard_bytes=st.sampled_from([1, 1000, SMALL, 1 << 20]))
def test_compacting_changes_no_video_and_a_second_time_nothing(
    tmp_path_factory: pytest.TempPathFactory,
    tools: Any,
    writes: list[tuple[int, Content, int]],
    shard_bytes: int,
) -> None:
    path = tmp_path_factory.mktemp("compact")
    expected: Content = {}
    for _, batch, size in writes:
        put(path, tools, batch.items(), shard_videos=size)
        expected |= batch
    held, before = copies(path), len(shards(path))
    report = compact(path, shard_bytes=shard_bytes, progress=False)
    assert content(path, tools) == expected and report.ok
    assert copies(path) == len(expected) and report.dropped == held - len(expected)
    small = [rows for rows in FeatureStore.open(path)._catalogue.shards if payload(rows) < shard_bytes]
    assert len(small) <= 1 and len(shards(path)) <= before
    after = shards(path)
    again = compact(path, shard_bytes=shard_bytes, progress=False)
    assert shards(path) == after and (again.videos, again.freed, again.dropped) == (0, 0, 0)
    put(path, tools, [("z", 1)])
    compact(path, progress=False)
    assert content(path, tools) == {**expected, "z": 1} and copies(path) == len(expected) + 1


def test_full_shards_without_replaced_videos_are_left_alone(tmp_path: Path, tools: Any) -> None:
    put(tmp_path, tools, [(name, 0) for name in "abcdefgh"], shard_videos=1)
    compact(tmp_path, shard_bytes=SMALL, progress=False)
    full = {
        rows.file.name for rows in FeatureStore.open(tmp_path)._catalogue.shards if payload(rows) >= SMALL
    }
    before = shards(tmp_path)
    assert full
    put(tmp_path, tools, [(name, 0) for name in "ij"], shard_videos=1)
    report = compact(tmp_path, shard_bytes=SMALL, progress=False)
    after = shards(tmp_path)
    assert all(after[name] == before[name] for name in full) and 2 <= report.videos < 10
    assert content(tmp_path, tools) == dict.fromkeys("abcdefghij", 0)


def test_compacting_makes_the_copy_of_the_row_files_anew_and_tells_what_it_did(
    tmp_path: Path, tools: Any
) -> None:
    path = tmp_path / "features"
    put(path, tools, [(f"v{number:02d}", 0) for number in range(70)], shard_videos=1)
    put(path, tools, [("v00", 1)])
    assert len(read_copy(path)) >= 64
    used = sum(each.stat().st_size for each in (path / "shards").iterdir())
    report = compact(path)
    left = sum(each.stat().st_size for each in (path / "shards").iterdir())
    assert set(read_copy(path)) == {name for name in shards(path) if name.endswith(".parquet")}
    assert (report.videos, report.shards_before, report.shards_after, report.dropped) == (70, 71, 1, 1)
    assert report.freed == used - left > 0
    assert "Compacted" in str(report) and "MB freed" in str(report)


def test_compacting_forgets_no_failure(cache: Path, tools: Any) -> None:
    failure = Failure("video-05", "video-05.mp4", "truncated")
    with FeatureWriter(cache, tools.fingerprint, dim=12) as writer:
        writer.fail(failure)  # its file changed for the worse since it was done
    before = (cache / "failed.jsonl").read_text()
    compact(cache, progress=False)
    assert (cache / "failed.jsonl").read_text() == before


def test_a_cache_of_the_first_schema_is_compacted_and_merged(tmp_path: Path) -> None:
    kept = Path(__file__).parent / "kept" / "schema1"
    shutil.copytree(kept, tmp_path / "old")
    before = FeatureStore.open(kept)
    assert compact(tmp_path / "old", progress=False).ok
    merge([kept], tmp_path / "new", progress=False)
    for path in (tmp_path / "old", tmp_path / "new"):
        store = FeatureStore.open(path, before.fingerprint)
        assert store.video_ids == before.video_ids and store.problems == ()
        for name in store:
            np.testing.assert_array_equal(store[name].features, before[name].features)
        assert json.loads((path / "cache.json").read_text())["schema"] == 2


@pytest.mark.parametrize("first", ["writer", "compaction"])
def test_what_a_writer_replaces_during_a_compaction_counts_whatever_its_clock_says(
    tmp_path: Path, tools: Any, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    from stepclip.cache.upkeep import copying

    put(tmp_path, tools, [("a", 0), ("b", 0)])
    slow = FeatureWriter(tmp_path, tools.fingerprint, dim=tools.dim)
    put(tmp_path, tools, [("c", 0)])
    truth = tools.video("a 1")
    slow.add("a", truth.features, truth.times, truth.duration, replace=True)
    real = copying.commit_shard

    def replace() -> None:
        with monkeypatch.context() as patch:
            patch.setattr("time.time_ns", lambda: 0)  # it commits as just after what it saw, before c
            slow.close()

    def commit(*given: Any) -> Any:
        monkeypatch.setattr("stepclip.cache.upkeep.copying.commit_shard", real)
        if first == "writer":
            replace()
        made = real(*given)
        if first == "compaction":
            replace()
        return made

    monkeypatch.setattr("stepclip.cache.upkeep.copying.commit_shard", commit)
    compact(tmp_path, progress=False)
    assert content(tmp_path, tools) == {"a": 1, "b": 0, "c": 0} and copies(tmp_path) == 4
    assert compact(tmp_path, progress=False).dropped == 1
    assert content(tmp_path, tools) == {"a": 1, "b": 0, "c": 0} and copies(tmp_path) == 3


def test_a_writer_at_work_is_not_disturbed(tmp_path: Path, tools: Any) -> None:
    put(tmp_path, tools, [("a", 0), ("b", 0)], shard_videos=1)
    with FeatureWriter(tmp_path, tools.fingerprint, dim=tools.dim) as writer:
        for number, name in enumerate(("c", "d")):
            truth = tools.video(f"{name} 0")
            writer.add(name, truth.features, truth.times, truth.duration)
            compact(tmp_path, progress=False)
            assert copies(tmp_path) == 2 + number
            writer.commit()
        assert writer.done() == set("abcd")
    assert content(tmp_path, tools) == dict.fromkeys("abcd", 0)


def test_damaged_shards_are_not_touched_and_named(cache: Path, tools: Any) -> None:
    tools.write(cache, ["new-1", "new-2", "new-3"], shard_videos=1)
    flip(cache, "video-05")
    os.truncate(cache / "shards" / "a-00002.h5", 1000)
    before = shards(cache)
    report = compact(cache, progress=False)
    after = shards(cache)
    kept = [name for name in before if name.startswith(("a-00001", "a-00002"))]
    assert len(kept) == 4 and all(after.get(name) == before[name] for name in kept)
    assert len(after) == 6  # the healthy ones became one
    assert not report.ok and len(report.damaged) == 2
    assert any("video-05" in words for words in report.damaged)
    assert any("a-00002" in words for words in report.damaged) and "stepclip cache repair" in str(report)
    tools.check(FeatureStore.open(cache), [*tools.names[:5], *tools.names[6:8], "new-1", "new-2", "new-3"])
    assert shards(cache) == after and compact(cache, progress=False).videos == 0
    assert shards(cache) == after


def test_an_older_copy_stays_while_the_newest_is_damaged(tmp_path: Path, tools: Any) -> None:
    put(tmp_path, tools, [("a", 0), ("b", 0)])
    put(tmp_path, tools, [("c", 0)])
    put(tmp_path, tools, [("a", 1), ("d", 0)])
    flip(tmp_path, "a")
    before = shards(tmp_path)
    report = compact(tmp_path, progress=False)
    assert "'a'" in report.damaged[0] and shards(tmp_path) == before
    damaged = FeatureStore.open(tmp_path)._where["a"][0].file
    damaged.unlink()  # as a repair would move it away
    damaged.with_suffix(".parquet").unlink()
    assert content(tmp_path, tools) == {"a": 0, "b": 0, "c": 0}


def test_rows_of_a_video_whose_newest_data_is_gone_are_kept_and_those_of_a_copy_are_not(
    tmp_path: Path, tools: Any
) -> None:
    put(tmp_path, tools, [("a", 0), ("b", 0)], name="first")
    put(tmp_path, tools, [("a", 1)], name="lost")
    put(tmp_path, tools, [("b", 1)], name="killed")
    put(tmp_path, tools, [("b", 2)], name="last")
    for name in ("lost", "killed"):
        (tmp_path / "shards" / f"{name}-00000.h5").unlink()
    report = compact(tmp_path, progress=False)
    assert len(report.damaged) == 1 and "lost-00000" in report.damaged[0]
    left = shards(tmp_path)
    assert "lost-00000.parquet" in left and "killed-00000.parquet" not in left and len(left) == 3
    assert content(tmp_path, tools) == {"a": 0, "b": 2}


def test_one_upkeep_at_a_time(cache: Path, tmp_path: Path) -> None:
    from stepclip.cache.files import locked
    from stepclip.cache.layout import UPKEEP

    before = shards(cache)
    with locked(cache / UPKEEP):
        for attempt in (lambda: compact(cache), lambda: merge([cache], cache)):
            with pytest.raises(StepclipError, match="another repair, merge or compaction is at work"):
                attempt()
    assert shards(cache) == before
    assert compact(cache, progress=False).videos == 10


def test_there_must_be_a_cache_to_compact(tmp_path: Path) -> None:
    with pytest.raises(StepclipError, match="no feature cache at"):
        compact(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


# ---- stopped on the way

STEPS = ("fsync", "link", "replace", "unlink")


def stop_at(step: int, work: Callable[[], object]) -> int:
    """Do the work in a child that is killed at its step-th change of the disk; its exit status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    left = [step]

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os._exit(9)
            return real(*given, **options)

        return call

    try:
        for name in STEPS:
            setattr(os, name, counted(getattr(os, name)))
        work()
    except BaseException:
        os._exit(1)
    os._exit(0)


def stopped(path: Path, work: Callable[[Path], object], every: int) -> Iterable[Path]:
    """The cache as it is after a kill at each step, or at every few; the last time it comes to its end."""
    for step in range(1, 200, every):
        copy = path.with_name(f"killed at {step}")
        shutil.copytree(path, copy)
        status = stop_at(step, lambda at=copy: work(at))  # type: ignore[misc]
        assert status in (0, 9)
        yield copy
        if status == 0:
            assert step > 20
            return
        shutil.rmtree(copy)
    raise AssertionError("it never came to its end")


steps = pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.slow)])


def names_of(path: Path) -> Sequence[str]:
    return sorted(each.name.split("-")[0] for each in (path / "shards").iterdir())


@steps
def test_a_compaction_that_is_killed_at_any_step_loses_nothing_and_is_finished_by_the_next(
    tmp_path: Path, tools: Any, every: int
) -> None:
    path = tmp_path / "features"
    for name, version in (("a", 0), ("b", 0), ("c", 0), ("a", 1), ("d", 0), ("b", 2)):
        put(path, tools, [(name, version)])
    expected = {"a": 1, "b": 2, "c": 0, "d": 0}
    for killed in stopped(path, lambda at: compact(at, shard_bytes=SMALL, progress=False), every):
        store = FeatureStore.open(killed)
        assert set(store) == set(expected)
        for name, version in expected.items():
            np.testing.assert_array_equal(store[name].features, tools.video(f"{name} {version}").features)
        compact(killed, shard_bytes=SMALL, progress=False)
        assert content(killed, tools) == expected and copies(killed) == 4
        assert all(name == "merged" for name in names_of(killed))  # nothing is left of the old, or half-made


@steps
def test_a_merge_that_is_killed_at_any_step_is_finished_by_the_next(
    tmp_path: Path, tools: Any, every: int
) -> None:
    put(tmp_path / "one", tools, [(name, 0) for name in "abcd"], shard_videos=2)
    put(tmp_path / "two", tools, [(name, 1) for name in "cdef"], shard_videos=2)
    with FeatureWriter(tmp_path / "two", tools.fingerprint, dim=tools.dim) as writer:
        writer.add_text(["x"], np.ones((1, 3)), "step")
        writer.fail(Failure("z", "z.mp4", "timeout"))
    (tmp_path / "out").mkdir()
    expected = {**dict.fromkeys("ab", 0), **dict.fromkeys("cdef", 1)}

    def work(at: Path) -> None:
        merge([tmp_path / "one", tmp_path / "two"], at, shard_bytes=SMALL, progress=False)

    for killed in stopped(tmp_path / "out", work, every):
        work(killed)
        assert content(killed, tools) == expected and copies(killed) == 6
        store = FeatureStore.open(killed)
        assert store.has_text("x", "step") and [each.video_id for each in store.failures()] == ["z"]
        assert all(not name.startswith(".") for name in names_of(killed))


def test_a_full_disk_stops_a_compaction_and_costs_nothing(
    cache: Path, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    before = shards(cache)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("stepclip.cache.files.os.fsync", full)
        with pytest.raises(StepclipError, match="No space left on device"):
            compact(cache, progress=False)
    assert shards(cache) == before
    tools.check(FeatureStore.open(cache), tools.names)
    assert compact(cache, progress=False).shards_after == 1

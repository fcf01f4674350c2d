"""Writing a cache and reading it back."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import threading
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stepclip.cache import FeatureStore, FeatureWriter, Fingerprint, StepclipError
from stepclip.cache.store import Failure

OTHER = Fingerprint({"encoder.name": "other", "sampling.fps": 4.0, "decoder.name": "pyav"})


def test_every_video_is_read_as_it_was_written(cache: Path, tools: Any) -> None:
    with FeatureStore.open(cache, tools.fingerprint) as store:
        assert store.video_ids == tuple(store) == tools.names and len(store) == 10
        assert (store.dim, store.text_dim, store.dtype) == (tools.dim, 0, "float16")
        assert store.problems == () and store.failures() == []
        tools.check(store, tools.names)
        assert "video-03" in store and "video-3" not in store
        assert all(store.length(name) == len(store[name].times) for name in store)
    tools.check(store, tools.names[:1])  # closed, it opens again when asked


def test_reading_copies_nothing_and_nobody_can_write_into_the_cache(cache: Path) -> None:
    store = FeatureStore.open(cache)
    one = store["video-03"]
    assert np.shares_memory(one.features, store["video-03"].features)
    with pytest.raises(ValueError):
        one.features[0, 0] = 1
    with pytest.raises(ValueError):
        one.times[0] = 1
    kept = one.features.copy()
    store.close()
    np.testing.assert_array_equal(one.features, kept)  # what was handed out stays valid


def test_a_shard_is_an_ordinary_hdf5_file_with_one_contiguous_dataset(cache: Path, tools: Any) -> None:
    names: list[str] = []
    for shard in ("a-00000", "a-00001", "a-00002"):
        with h5py.File(cache / "shards" / f"{shard}.h5") as file:
            features, offsets = file["features"], file["offsets"][:]
            assert features.chunks is None and features.compression is None and features.dtype == np.float16
            ids = file["ids"].asstr()[:]
            for row, name in enumerate(ids):
                truth = tools.video(name)
                np.testing.assert_array_equal(features[offsets[row] : offsets[row + 1]], truth.features)
                np.testing.assert_array_equal(file["times"][offsets[row] : offsets[row + 1]], truth.times)
                assert file["durations"][row] == truth.duration
            assert Fingerprint(json.loads(file.attrs["fingerprint"])) == tools.fingerprint
            assert file.attrs["digest"] == tools.fingerprint.digest
            assert file.attrs["schema"] == 2 and "stepclip" in file.attrs["writer"]
            names += list(ids)
    assert tuple(names) == tools.names


def test_the_row_files_list_the_videos(cache: Path, tools: Any) -> None:
    import pandas as pd

    rows = pd.concat(pd.read_parquet(path) for path in sorted((cache / "shards").glob("*.parquet")))
    assert tuple(rows.video_id) == tools.names
    assert list(rows.frames) == [len(tools.video(name).times) for name in tools.names]


def test_load_packs_all_videos(cache: Path, tools: Any) -> None:
    store = FeatureStore.open(cache)
    packed = store.load()
    assert packed.video_ids == tools.names and len(packed) == 10
    assert packed.features.dtype == torch.float16 and packed.times.dtype == torch.float64
    assert (
        packed.offsets.dtype == torch.int64
        and packed.offsets[0] == 0
        and packed.offsets[-1] == len(packed.features)
    )
    for name in tools.names:
        rows, truth = packed.rows(packed.index[name]), tools.video(name)
        np.testing.assert_array_equal(packed.features[rows].numpy(), truth.features)
        np.testing.assert_array_equal(packed.times[rows].numpy(), truth.times)
        assert packed.durations is not None and packed.durations[packed.index[name]] == truth.duration
        assert packed.lengths[packed.index[name]] == len(truth.times)


@settings(max_examples=30, deadline=None)
@given(picks=st.lists(st.integers(0, 9), unique=True))
def test_load_takes_any_videos_in_the_order_asked(shared: FeatureStore, tools: Any, picks: list[int]) -> None:
    ids = [tools.names[pick] for pick in picks]
    packed = shared.load(video_ids=ids, dtype=torch.float32)
    assert packed.video_ids == tuple(ids) and packed.features.dtype == torch.float32
    expected = [tools.video(name).features for name in ids]
    np.testing.assert_array_equal(
        packed.features.numpy(), np.concatenate([np.empty((0, tools.dim)), *expected])
    )
    assert packed.offsets.tolist() == np.cumsum([0, *map(len, expected)]).tolist()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, tools: Any) -> FeatureStore:
    path = tmp_path_factory.mktemp("shared")
    tools.write(path, tools.names)
    return FeatureStore.open(path)


def test_packed_features_move_and_keep_their_rows(shared: FeatureStore) -> None:
    packed = shared.load()
    moved = packed.to("cpu", torch.bfloat16)
    assert moved.features.dtype == torch.bfloat16 and moved.times.dtype == torch.float64
    assert moved.video_ids == packed.video_ids and moved.rows(3) == packed.rows(3)


def test_an_unknown_video_is_named_with_its_neighbours(shared: FeatureStore) -> None:
    with pytest.raises(StepclipError, match=r"no video 'video-3' \(did you mean 'video-"):
        shared["video-3"]
    with pytest.raises(StepclipError, match="no video 'x'"):
        shared.load(video_ids=["video-01", "x"])
    with pytest.raises(StepclipError, match="'video-01' is asked for twice"):
        shared.load(video_ids=["video-01", "video-02", "video-01"])


def test_a_big_load_shows_its_progress(shared: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepclip.cache.store._BIG", 1)
    assert torch.equal(shared.load(progress=True).features, shared.load(progress=False).features)


# ---- another fingerprint, schema, shape


def test_another_fingerprint_is_refused_key_by_key(cache: Path, tools: Any) -> None:
    for attempt in (
        lambda: FeatureStore.open(cache, OTHER),
        lambda: FeatureWriter(cache, OTHER, dim=tools.dim),
    ):
        with pytest.raises(StepclipError) as caught:
            attempt()
        text = str(caught.value)
        assert "encoder.name" in text and "cache: test" in text and "asked: other" in text
        assert "sampling.fps" not in text and "decoder.name" not in text
        assert "--root" in text and "DATASET" in text
    tools.check(FeatureStore.open(cache, tools.fingerprint), tools.names)


def test_another_dimension_or_dtype_is_refused(cache: Path, tools: Any) -> None:
    with pytest.raises(StepclipError, match=r"cache\.dim +cache: 12 +asked: 13"):
        FeatureWriter(cache, tools.fingerprint, dim=13)
    with pytest.raises(StepclipError, match=r"cache\.dtype +cache: float16 +asked: float32"):
        FeatureWriter(cache, tools.fingerprint, dim=tools.dim, dtype="float32")
    with pytest.raises(StepclipError, match="dtype int8"):
        FeatureWriter(cache, tools.fingerprint, dim=tools.dim, dtype="int8")


def test_shards_of_another_origin_are_not_taken_over_when_the_account_is_lost(
    cache: Path, tools: Any
) -> None:
    (cache / "cache.json").unlink()
    with pytest.raises(StepclipError, match="shards of another origin"):
        FeatureWriter(cache, OTHER, dim=tools.dim)
    assert not (cache / "cache.json").exists()
    with FeatureWriter(
        cache, tools.fingerprint, dim=tools.dim
    ) as writer:  # the rightful owner makes it again
        assert writer.done() == set(tools.names)
    tools.check(FeatureStore.open(cache), tools.names)


def test_no_cache_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_text("")
    for path in (tmp_path, tmp_path / "none", tmp_path / "holiday.jpg"):
        with pytest.raises(StepclipError, match="no feature cache at") as caught:
            FeatureStore.open(path)
        assert "stepclip extract" in caught.value.run


def test_the_folder_above_will_do(cache: Path) -> None:
    assert len(FeatureStore.open(cache.parent)) == 10


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda kept: {**kept, "schema": 99}, "schema 99"),
        (lambda kept: {**kept, "schema": 0}, "schema 0"),
        (lambda kept: {**kept, "digest": "0" * 16}, "was changed"),
        (lambda kept: {**kept, "fingerprint": {**kept["fingerprint"], "sampling.fps": 8}}, "was changed"),
        (lambda kept: {key: kept[key] for key in kept if key != "dim"}, "was changed"),
        (lambda kept: [kept], "not the account"),
    ],
)
def test_an_account_of_another_schema_or_edited_is_refused(
    cache: Path, tools: Any, change: Any, said: str
) -> None:
    kept = json.loads((cache / "cache.json").read_text())
    (cache / "cache.json").write_text(json.dumps(change(kept)))
    for attempt in (
        lambda: FeatureStore.open(cache),
        lambda: FeatureWriter(cache, tools.fingerprint, dim=tools.dim),
    ):
        with pytest.raises(StepclipError, match=said) as caught:
            attempt()
        assert caught.value.run


# ---- what a writer takes


BAD: list[tuple[str, Any, Any, float, str]] = [
    ("a", np.ones((3, 11), "f4"), [0, 1, 2], 3, r"shape \(3, 11\)"),
    ("a", np.ones(12, "f4"), [0], 3, "shape"),
    ("a", np.ones((0, 12), "f4"), [], 3, r"shape \(0, 12\)"),
    ("a", np.ones((3, 12), "i4"), [0, 1, 2], 3, "int32"),
    ("a", np.full((3, 12), np.nan, "f4"), [0, 1, 2], 3, "row 0 is not finite"),
    ("a", np.diag([1.0] * 11 + [7e4]) + 1, range(12), 12, "row 11 is not finite as float16"),
    ("a", np.eye(13, 12), range(13), 13, "row 12 is all zero"),
    ("a", np.full((2, 12), 1e-9), [0, 1], 3, "row 0 is all zero"),
    ("a", np.ones((3, 12)), [0, 1], 3, "times of shape"),
    ("a", np.ones((3, 12)), [0, 1, np.nan], 3, "times"),
    ("a", np.ones((3, 12)), [0, 1, 1], 3, r"times 1, 1 \(frame 2\)"),
    ("a", np.ones((3, 12)), [0, 2, 1], 3, "increasing"),
    ("a", np.ones((3, 12)), [0, 1, 2], -1, "duration"),
    ("a", np.ones((3, 12)), [0, 1, 2], float("nan"), "duration"),
    ("", np.ones((3, 12)), [0, 1, 2], 3, "name"),
    ("a\0b", np.ones((3, 12)), [0, 1, 2], 3, "name"),
    ("good", np.ones((3, 12)), [0, 1, 2], 3, "already"),
    ("video-00", np.ones((3, 12)), [0, 1, 2], 3, "already"),
]


@pytest.mark.parametrize(("video_id", "features", "times", "duration", "said"), BAD)
def test_what_is_no_video_is_refused_and_costs_nothing(
    cache: Path, tools: Any, video_id: str, features: Any, times: Any, duration: float, said: str
) -> None:
    with FeatureWriter(cache, tools.fingerprint, dim=12) as writer:
        writer.add("good", np.ones((3, 12)), np.arange(3), 3)
        with pytest.raises(StepclipError, match=said):
            writer.add(video_id, features, np.array(times), duration)
    store = FeatureStore.open(cache)
    assert set(store) == {*tools.names, "good"}
    assert store["good"].features.tolist() == [[1.0] * 12] * 3


def test_the_writer_keeps_what_it_was_given_not_what_becomes_of_it(tmp_path: Path, tools: Any) -> None:
    features, times = np.ones((2, 12), np.float16), np.array([0.0, 1.0])
    with FeatureWriter(tmp_path, tools.fingerprint, dim=12) as writer:
        writer.add("a", features, times, 2)
        features[:], times[:] = 9, 9
    store = FeatureStore.open(tmp_path)
    assert store["a"].features.max() == 1 and store["a"].times.tolist() == [0, 1]


def test_float32_is_kept_on_request(tmp_path: Path, tools: Any) -> None:
    values = np.full((2, 3), 1 / 3, np.float32)
    with FeatureWriter(tmp_path, tools.fingerprint, dim=3, dtype="float32") as writer:
        writer.add("a", values, np.array([0.0, 1.0]), 2)
    store = FeatureStore.open(tmp_path)
    np.testing.assert_array_equal(store["a"].features, values)
    assert store["a"].features.dtype == np.float32 and store.load().features.dtype == torch.float32


def test_a_shard_is_committed_when_it_is_full(
    tmp_path: Path, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = FeatureWriter(tmp_path, tools.fingerprint, dim=12, shard_videos=2)
    for count, expected in enumerate([0, 2, 2, 4], 1):
        writer.add(f"v{count}", np.ones((1, 12)), np.zeros(1), 1)
        assert len(writer.done()) == len(FeatureStore.open(tmp_path)) == expected
    monkeypatch.setattr("stepclip.cache.writer.SHARD_BYTES", 1000)
    writer.add("long", np.ones((100, 12)), np.arange(100), 100)
    assert "long" in writer.done() and "long" in FeatureStore.open(tmp_path)
    writer.close()
    writer.close()
    for late in (lambda: writer.add("x", np.ones((1, 12)), np.zeros(1), 1), writer.commit):
        with pytest.raises(StepclipError, match="closed"):
            late()


def test_an_error_in_the_block_keeps_the_videos_that_were_good(tmp_path: Path, tools: Any) -> None:
    with pytest.raises(ZeroDivisionError), FeatureWriter(tmp_path, tools.fingerprint, dim=12) as writer:
        writer.add("a", np.ones((1, 12)), np.zeros(1), 1)
        raise ZeroDivisionError
    assert FeatureStore.open(tmp_path).video_ids == ("a",)


def test_a_resumed_run_ends_in_the_same_cache(tmp_path: Path, tools: Any) -> None:
    tools.write(tmp_path / "one", tools.names, name="w")
    tools.write(tmp_path / "two", tools.names[:5], name="w")
    with FeatureWriter(tmp_path / "two", tools.fingerprint, dim=tools.dim) as writer:
        done = writer.done()
    assert done == set(tools.names[:5])
    tools.write(tmp_path / "two", [name for name in tools.names if name not in done], name="w")
    one, two = FeatureStore.open(tmp_path / "one").load(), FeatureStore.open(tmp_path / "two").load()
    assert one.video_ids == two.video_ids
    assert torch.equal(one.features, two.features) and torch.equal(one.times, two.times)


# ---- texts and failures


def test_texts_are_kept_once_and_those_there_keep_their_features(cache: Path, tools: Any) -> None:
    random = np.random.default_rng(0)
    first, second, scripts = (random.normal(size=(n, 5)).astype(np.float32) for n in (3, 2, 1))
    with FeatureWriter(cache, tools.fingerprint, dim=tools.dim) as writer:
        assert writer.missing_text(["pour", "heat", "pour"], "step") == ["pour", "heat"]
        writer.add_text(["pour", "heat", "stir ü 火"], first, "step")
        writer.add_text(["heat", "cool"], second, "step")
        writer.add_text(["pour"], scripts, "paragraph")
        assert writer.missing_text(["cool", "new", "pour"], "step") == ["new"]
    store = FeatureStore.open(cache)
    assert store.text_dim == 5 and store.dim == 12
    found = store.text(["cool", "heat", "pour", "heat", "stir ü 火"], "step")
    np.testing.assert_array_equal(found, np.stack([second[1], first[1], first[0], first[1], first[2]]))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(store.text(["pour"], "paragraph"), scripts)
    assert store.text([], "step").shape == (0, 5)
    assert store.has_text("pour", "paragraph") and not store.has_text("heat", "paragraph")


def test_a_text_given_twice_in_one_call_takes_its_first_features(tmp_path: Path, tools: Any) -> None:
    with FeatureWriter(tmp_path, tools.fingerprint, dim=12) as writer:
        writer.add_text(["a", "b", "a"], np.arange(6.0).reshape(3, 2), "step")
    assert FeatureStore.open(tmp_path).text(["a", "b"], "step").tolist() == [[0, 1], [2, 3]]


def test_texts_that_are_none_are_refused(cache: Path, tools: Any) -> None:
    with FeatureWriter(cache, tools.fingerprint, dim=tools.dim) as writer:
        writer.add_text(["a"], np.ones((1, 5)), "step")
        for strings, features, kind, said in (
            (["b"], np.ones((2, 5)), "step", "shape"),
            (["b"], np.ones(5), "step", "shape"),
            (["b"], np.full((1, 5), np.inf), "step", "finite"),
            (["b"], np.ones((1, 6)), "paragraph", "6 dimensions"),
            (["b\0"], np.ones((1, 5)), "step", "kept"),
            (["b"], np.ones((1, 5)), "steps", "no kind of text"),
        ):
            with pytest.raises(StepclipError, match=said):
                writer.add_text(strings, features, kind)
    store = FeatureStore.open(cache)
    assert store.has_text("a", "step")
    with pytest.raises(StepclipError, match=r"lacks 2 step texts, first: 'aa' \(did you mean 'a'"):
        store.text(["a", "aa", "bb", "aa"], "step")
    with pytest.raises(StepclipError, match=r"'steps' is no kind of text \(did you mean 'step'"):
        store.text(["a"], "steps")


def test_the_newest_failure_of_a_video_counts_and_a_success_removes_it(cache: Path, tools: Any) -> None:
    with FeatureWriter(cache, tools.fingerprint, dim=tools.dim) as writer:
        writer.fail(Failure("x", "x.mp4", "truncated", "at 3 s", 1))
        writer.fail(Failure("y", "y.mp4", "no-video-stream"))
        writer.fail(Failure("x", "x.mp4", "timeout", "60 s", 2))
        failures = FeatureStore.open(cache).failures()
        assert failures == [
            Failure("x", "x.mp4", "timeout", "60 s", 2),
            Failure("y", "y.mp4", "no-video-stream", "", 1),
        ]
        assert len((cache / "failed.jsonl").read_text().splitlines()) == 2
        writer.add("x", np.ones((1, 12)), np.zeros(1), 1)
        assert len(FeatureStore.open(cache).failures()) == 2  # not before the commit
    assert [failure.video_id for failure in FeatureStore.open(cache).failures()] == ["y"]
    assert len((cache / "failed.jsonl").read_text().splitlines()) == 1


def test_a_damaged_line_of_failures_is_named_and_left_out(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = json.dumps({"video_id": "x", "path": "p", "reason": "r", "detail": "d", "attempts": 1})
    (cache / "failed.jsonl").write_text(
        good[:20] + "\n" + good + '\n{"video_id": 3, "path": "", "reason": ""}\n[1]\n'
    )
    assert [failure.video_id for failure in FeatureStore.open(cache).failures()] == ["x"]
    assert all(f"line {line} cannot be read" in caplog.text for line in (1, 3, 4))


# ---- processes and threads


def test_a_store_travels_to_another_process_and_opens_there(cache: Path, tools: Any) -> None:
    store = FeatureStore.open(cache)
    tools.check(store, tools.names)
    copy = pickle.loads(pickle.dumps(store))
    assert len(pickle.dumps(store)) < 20_000  # the rows, not the data
    tools.check(copy, tools.names)


def total(store: FeatureStore) -> float:
    return float(sum(store[name].features.astype(np.float64).sum() for name in store))


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_processes_read_the_same(cache: Path, tools: Any, method: str) -> None:
    store = FeatureStore.open(cache)
    tools.check(store, tools.names[:1])
    with ProcessPoolExecutor(2, multiprocessing.get_context(method)) as pool:
        found = list(pool.map(store.__getitem__, tools.names))
    for name, frames in zip(tools.names, found, strict=True):
        np.testing.assert_array_equal(frames.features, tools.video(name).features)


def test_a_fork_uses_the_store_that_it_inherits(cache: Path) -> None:
    store = FeatureStore.open(cache)
    assert store["video-00"] is not None  # one shard is mapped, the others are not
    expected = total(FeatureStore.open(cache))
    child = os.fork()
    if child == 0:
        os._exit(0 if total(store) == expected else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert total(store) == expected


def test_threads_read_the_same(cache: Path) -> None:
    expected = total(FeatureStore.open(cache))
    for _ in range(10):
        store = FeatureStore.open(cache)  # so that all threads meet unopened shards
        found: list[float] = []
        threads = [threading.Thread(target=lambda s=store, f=found: f.append(total(s))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [expected] * 8


def test_more_shards_than_may_be_mapped_at_once(
    cache: Path, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stepclip.cache.store._most_maps", lambda: 1)
    store = FeatureStore.open(cache)
    kept = [store[name] for name in tools.names]
    for found, name in zip(kept, tools.names, strict=True):
        np.testing.assert_array_equal(found.features, tools.video(name).features)
    assert len(store._maps) == 1


def test_a_writer_belongs_to_one_process(tmp_path: Path, tools: Any) -> None:
    writer = FeatureWriter(tmp_path, tools.fingerprint, dim=12)
    child = os.fork()
    if child == 0:
        try:
            writer.commit()
        except StepclipError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    writer.close()


def test_writers_of_one_name_never_share_a_shard(tmp_path: Path, tools: Any) -> None:
    one, two = (
        FeatureWriter(tmp_path, tools.fingerprint, dim=12, name="w", shard_videos=1) for _ in range(2)
    )
    for number in range(4):
        (one if number % 2 else two).add(f"v{number}", np.full((1, 12), number + 1.0), np.zeros(1), 1)
        (one if number % 2 else two).commit()
    store = FeatureStore.open(tmp_path)
    assert [float(store[f"v{number}"].features[0, 0]) for number in range(4)] == [1, 2, 3, 4]
    assert sorted(path.name for path in (tmp_path / "shards").glob("*.h5")) == [
        f"w-0000{n}.h5" for n in range(4)
    ]


def test_one_video_by_two_writers_is_there_once_and_the_newest_counts(tmp_path: Path, tools: Any) -> None:
    one, two = (FeatureWriter(tmp_path, tools.fingerprint, dim=12) for _ in range(2))
    one.add("v", np.full((1, 12), 1.0), np.zeros(1), 1)
    two.add("v", np.full((2, 12), 2.0), np.arange(2), 2)
    two.close()
    one.close()
    store = FeatureStore.open(tmp_path)
    assert store.video_ids == ("v",) and store["v"].features.tolist() == [[1.0] * 12]


def test_a_reader_keeps_its_view_while_a_writer_goes_on(cache: Path, tools: Any) -> None:
    store = FeatureStore.open(cache)
    tools.write(cache, ["later"])
    assert "later" not in store
    tools.check(store, tools.names)
    tools.check(FeatureStore.open(cache), (*tools.names, "later"))


def fill(path: Path, tools: Any, names: tuple[str, ...]) -> None:
    tools.write(path, names, shard_videos=2)
    with FeatureWriter(path, tools.fingerprint, dim=tools.dim) as writer:
        for name in names:
            writer.add_text([name, "same"], np.full((2, 3), len(names)), "step")
            writer.fail(Failure("bad " + name, "", "timeout"))


def test_several_processes_write_at_once(tmp_path: Path, tools: Any) -> None:
    names = tuple(f"v{number:02d}" for number in range(24))
    children = []
    for part in range(3):
        child = os.fork()
        if child == 0:
            try:
                fill(tmp_path, tools, names[part::3])
            except BaseException:
                os._exit(1)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    store = FeatureStore.open(tmp_path)
    assert store.video_ids == names and store.problems == ()
    tools.check(store, names)
    assert store.text([*names, "same"], "step").shape == (25, 3)
    assert [failure.video_id for failure in store.failures()] == ["bad " + name for name in names]

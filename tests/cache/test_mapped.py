"""Features that stay on the disk: the same rows as in memory, whatever is asked for, and whatever happens."""

from __future__ import annotations

import multiprocessing
import pickle
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stepclip.cache.errors import StepclipError
from stepclip.cache.mapped import MappedFeatures
from stepclip.cache.store import FeatureStore
from stepclip.cache.writer import FeatureWriter


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tools: Any) -> FeatureStore:
    """Twenty videos in five shards, each frame with two augmented copies."""
    folder = tmp_path_factory.mktemp("mapped")
    with FeatureWriter(folder, tools.fingerprint, dim=tools.dim, shard_videos=4, views=2) as writer:
        for number in range(20):
            truth = tools.video(f"v{number:02d}")
            views = np.stack([truth.features + 1, truth.features + 2])
            writer.add(f"v{number:02d}", truth.features, truth.times, truth.duration, views=views)
    return FeatureStore.open(folder)


def test_it_is_the_packed_tensor_but_for_the_memory(store: FeatureStore) -> None:
    mapped, packed = store.mapped(), store.load(views=True)
    assert len(mapped) == 20 and mapped.video_ids == packed.video_ids and mapped.index == packed.index
    assert mapped.count == packed.count == len(packed.features) and mapped.device == packed.device
    assert mapped.dim == 12 and mapped.dtype == packed.features.dtype
    for name in ("times", "offsets", "durations", "lengths"):
        mine, theirs = getattr(mapped, name), getattr(packed, name)
        assert torch.equal(mine, theirs) and mine.dtype == theirs.dtype, name
    assert [mapped.rows(i) for i in range(20)] == [packed.rows(i) for i in range(20)]
    every = torch.arange(mapped.count)
    for view in (None, 0, 1):
        assert torch.equal(mapped.gather(every, view), packed.gather(every, view))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_rows_of_any_videos_come_as_from_memory(store: FeatureStore, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.sampled_from(store.video_ids), unique=True, min_size=1))
    mapped, packed = store.mapped(video_ids=ids), store.load(video_ids=ids, views=True)
    one = st.integers(0, mapped.count - 1)
    spans = st.tuples(one, one).map(lambda ends: list(range(min(ends), max(ends) + 1)))
    rows = torch.tensor(data.draw(st.lists(one, max_size=300) | st.lists(spans, max_size=4).map(sum_up)))
    rows = rows.long()
    if len(rows) % 2 == 0:
        rows = rows.view(2, -1)
    view = data.draw(st.sampled_from([None, 0, 1]))
    assert torch.equal(mapped.gather(rows, view), packed.gather(rows, view))


def sum_up(spans: list[list[int]]) -> list[int]:
    return [row for span in spans for row in span]


@pytest.mark.parametrize("rows", [[-1], [0, 10_000], [[3, 4], [-2, 1]]])
def test_a_row_that_is_none_is_refused(store: FeatureStore, rows: Any) -> None:
    with pytest.raises(StepclipError, match=r"rows .* of"):
        store.mapped().gather(torch.tensor(rows))


@pytest.mark.parametrize("view", [-1, 2])
def test_a_view_that_is_none_is_refused(store: FeatureStore, view: int) -> None:
    with pytest.raises(StepclipError, match="2 augmented views"):
        store.mapped().gather(torch.tensor([0]), view)


def test_unknown_videos_are_named_and_none_is_asked_for_twice(store: FeatureStore) -> None:
    with pytest.raises(StepclipError, match="did you mean"):
        store.mapped(video_ids=["v1"])
    with pytest.raises(StepclipError, match="twice"):
        store.mapped(video_ids=["v01", "v01"])
    assert len(store.mapped(video_ids=[])) == 0
    assert store.mapped(video_ids=[]).gather(torch.empty(0, dtype=torch.int64)).shape == (0, 12)


def total(mapped: MappedFeatures) -> float:
    return float(mapped.gather(torch.arange(mapped.count)).double().sum())


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_processes_gather_the_same(store: FeatureStore, method: str) -> None:
    mapped = store.mapped()
    expected = total(mapped)
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(total, [mapped] * 4) == [expected] * 4


def test_it_travels_without_its_data(store: FeatureStore) -> None:
    mapped = store.mapped()
    expected = total(mapped)
    packed = pickle.dumps(mapped)
    assert mapped.gather(torch.arange(5)).numpy().tobytes() not in packed
    assert total(pickle.loads(packed)) == expected


def test_threads_gather_the_same(store: FeatureStore) -> None:
    mapped, found = store.mapped(), []
    expected = total(mapped)
    store.close()
    threads = [threading.Thread(target=lambda: found.append(total(mapped))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 8


def moved(cache: Path, tools: Any, change: bool = False) -> None:
    """Every video into one new shard, the old ones removed: what a compaction does."""
    old = list((cache / "shards").iterdir())
    with FeatureWriter(cache, tools.fingerprint, dim=tools.dim, name="new") as writer:
        for name in reversed(tools.names):
            truth = tools.video(name + "x" * change)
            writer.add(name, truth.features, truth.times, truth.duration, replace=True)
    for file in old:
        file.unlink()


def test_a_compaction_meanwhile_changes_nothing(cache: Path, tools: Any) -> None:
    mapped = FeatureStore.open(cache).mapped()
    expected = total(FeatureStore.open(cache).mapped())
    before = mapped.gather(torch.tensor([0, 1]))
    moved(cache, tools)
    assert total(mapped) == expected and torch.equal(mapped.gather(torch.tensor([0, 1])), before)
    assert len(mapped.times) == mapped.count


def test_videos_made_anew_meanwhile_are_refused_not_mixed_up(cache: Path, tools: Any) -> None:
    mapped, late = FeatureStore.open(cache).mapped(), FeatureStore.open(cache).mapped()
    moved(cache, tools, change=True)
    for _ in range(2):
        with pytest.raises(StepclipError, match=r"'video-\d\d' was made anew while it was read"):
            mapped.gather(torch.arange(mapped.count))
    with pytest.raises(StepclipError, match="made anew"):
        _ = late.times


def test_a_shard_that_is_gone_is_named_when_a_row_of_it_is_asked_for(cache: Path, tools: Any) -> None:
    mapped = FeatureStore.open(cache).mapped()
    (cache / "shards" / "a-00001.h5").unlink()
    whole = mapped.rows(mapped.index["video-00"])
    np.testing.assert_array_equal(
        mapped.gather(torch.arange(whole.start, whole.stop)).numpy(), tools.video("video-00").features
    )
    with pytest.raises(StepclipError, match="a-00001"):
        mapped.gather(torch.arange(mapped.count))
    shutil.rmtree(cache)
    with pytest.raises(StepclipError):
        mapped.gather(torch.arange(mapped.count))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_rows_on_a_gpu_give_features_on_it(store: FeatureStore) -> None:
    mapped, packed = store.mapped("cuda"), store.load("cuda")
    rows = torch.randint(mapped.count, (3, 5), device="cuda")
    assert torch.equal(mapped.gather(rows), packed.gather(rows))
    assert mapped.to("cpu").gather(rows).device.type == "cpu"

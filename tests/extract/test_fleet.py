"""Extraction by dask workers: a real scheduler, two real workers, one of them killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stepclip.cache import FeatureStore, Manifest, StepclipError, VideoRow
from stepclip.extract import Sampling, extract, load_encoder
from stepclip.extract.engine import Retry
from stepclip.extract.fleet import EncoderSpec, extract_on_dask

STEPS = ("take up the red beaker", "pour the blue liquid into the flask")
SAMPLING = Sampling(fps=6)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, tools: SimpleNamespace) -> Manifest:
    """Twelve good videos, one that is text, one that is missing."""
    folder = tmp_path_factory.mktemp("fleet")
    for k in range(12):
        tools.video(folder / f"{k:02d}.mp4", [frame / 8 for frame in range(24)], size=(96, 64), fps=8)
    (folder / "text.mp4").write_text("not a video")
    names = [*(f"{k:02d}.mp4" for k in range(12)), "text.mp4", "gone.mp4"]
    return Manifest(tuple(VideoRow(name, str(folder / name), steps=STEPS) for name in names))


@pytest.fixture(scope="module")
def alone(many: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same by one process."""
    out = tmp_path_factory.mktemp("alone")
    encoder = load_encoder("embedded", device="cpu")
    report = extract(many, out, encoder=encoder, sampling=SAMPLING, progress=False)
    assert (report.done, report.failed) == (12, 2)
    return out


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    import dask
    from distributed import LocalCluster

    with (
        dask.config.set({"distributed.worker.daemon": False}),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", memory_limit=0) as started,
    ):
        yield started


def same(a: Path, b: Path) -> None:
    with FeatureStore.open(a) as first, FeatureStore.open(b) as second:
        assert first.fingerprint == second.fingerprint and set(first) == set(second)
        for name in first:
            np.testing.assert_array_equal(first[name].features, second[name].features)
            np.testing.assert_array_equal(first[name].times, second[name].times)
        np.testing.assert_array_equal(first.text(STEPS), second.text(STEPS))
        assert {f.video_id: f.reason for f in first.failures()} == {
            f.video_id: f.reason for f in second.failures()
        }


@pytest.mark.slow
def test_workers_give_what_one_process_gives(
    many: Manifest, alone: Path, cluster: Any, tmp_path: Path
) -> None:
    spec = EncoderSpec("embedded", "cpu")
    report = extract_on_dask(
        many, tmp_path, cluster.scheduler_address, encoder=spec, sampling=SAMPLING, progress=False, group=2
    )
    assert (report.inputs, report.done, report.failed, report.skipped) == (14, 12, 2, 0)
    assert report.frames == 12 * 18 and "2 dask workers" in report.run and report.stages.encoders == 2
    same(alone, tmp_path)
    again = extract_on_dask(
        many, tmp_path, cluster.scheduler_address, encoder=spec, sampling=SAMPLING, progress=False
    )
    assert (again.done, again.failed, again.skipped, again.not_tried) == (0, 2, 12, 2)
    tried = extract_on_dask(
        many,
        tmp_path,
        cluster.scheduler_address,
        encoder=spec,
        sampling=SAMPLING,
        progress=False,
        retry=Retry(every=True),
    )
    assert {failure.attempts for failure in tried.failures} == {2}


@pytest.mark.slow
def test_a_killed_worker_costs_its_groups_second_try(
    many: Manifest, alone: Path, cluster: Any, tmp_path: Path
) -> None:
    """kill -9 as soon as the first shard is there; the nanny starts another, the scheduler tries again."""
    killed = []

    def kill() -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if list((tmp_path / "shards").glob("*.parquet")):
                process = next(iter(cluster.workers.values())).process
                os.kill(process.pid, signal.SIGKILL)
                killed.append(process.pid)
                return
            time.sleep(0.01)

    thread = threading.Thread(target=kill)
    thread.start()
    report = extract_on_dask(
        many,
        tmp_path,
        cluster.scheduler_address,
        encoder=EncoderSpec("embedded", "cpu"),
        sampling=SAMPLING,
        progress=False,
        group=2,
        workers=1,
    )
    thread.join()
    assert killed
    assert (report.inputs, report.done, report.failed, report.skipped) == (14, 12, 2, 0)
    same(alone, tmp_path)
    with FeatureStore.open(tmp_path) as store:
        assert sum(len(rows.ids) for rows in store._catalogue.shards) == 12  # none twice


@pytest.mark.slow
def test_a_process_for_each_device(many: Manifest, alone: Path, tmp_path: Path) -> None:
    """As with `--device cuda:0,cuda:1`: two devices are two processes, whose features are those of one."""
    spec = EncoderSpec("embedded", "cpu,cpu")
    report = extract_on_dask(many, tmp_path, "local", encoder=spec, sampling=SAMPLING, progress=False)
    assert (report.inputs, report.done, report.failed) == (14, 12, 2)
    assert "2 dask workers" in report.run and report.stages.workers == report.stages.encoders == 2
    same(alone, tmp_path)
    assert len(list((tmp_path / "shards").glob("*.h5"))) >= 2  # each writes its own


def test_each_worker_takes_its_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    monkeypatch.setattr("stepclip.extract.fleet.load_encoder", lambda *key: taken.append(key[1]))
    monkeypatch.setattr("stepclip.extract.fleet._encoders", {})

    def devices(spec: EncoderSpec, places: int) -> list[str]:
        taken.clear()
        for place in range(places):
            spec.load(place)
        return list(taken)

    assert devices(EncoderSpec("a", "cuda:0,cuda:2"), 4) == ["cuda:0", "cuda:2"]  # loaded once per process
    monkeypatch.setattr("stepclip.extract.fleet._gpus", lambda: 3)
    assert devices(EncoderSpec("b", "auto"), 3) == ["cuda:0", "cuda:1", "cuda:2"]
    assert devices(EncoderSpec("d", "cuda:1"), 2) == ["cuda:1"]
    monkeypatch.setattr("stepclip.extract.fleet._gpus", lambda: 1)
    assert devices(EncoderSpec("c", "auto"), 2) == ["auto"]
    with pytest.raises(StepclipError, match="the device 'cuda:7' is not here"):
        EncoderSpec("c", "cpu,cuda:7").here("local:2")


@pytest.mark.slow
def test_a_scheduler_that_is_not_there_is_a_clear_error(many: Manifest, tmp_path: Path) -> None:
    for address in ("tcp://127.0.0.1:9", "nonsense"):
        with pytest.raises(StepclipError, match="no dask scheduler answers") as caught:
            extract_on_dask(many, tmp_path, address, sampling=SAMPLING, progress=False)
        assert "dask worker" in caught.value.run

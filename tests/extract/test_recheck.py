"""Features against their videos: what deviates is named, what does not is quiet."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stepclip.cache import FeatureStore, FeatureWriter, Fingerprint, Manifest, StepclipError, VideoRow
from stepclip.extract import Sampling, extract, load_encoder
from stepclip.extract.recheck import recheck


@pytest.fixture(scope="module")
def encoder() -> Any:
    return load_encoder("embedded", device="cpu")


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory, tools: SimpleNamespace, encoder: Any) -> Path:
    """Four videos of 2 s, trimmed and whole, at 6 frames/s."""
    folder = tmp_path_factory.mktemp("recheck")
    for k in range(4):
        times = [frame / 12 for frame in range(24)]
        tools.video(folder / f"{k}.mp4", times, size=(96, 64 + 16 * k), fps=12)
    rows = [
        VideoRow(f"{k}", str(folder / f"{k}.mp4"), steps=("pour",), start=0.5 if k % 2 else None)
        for k in range(4)
    ]
    manifest = Manifest(tuple(rows))
    manifest.write(folder / "manifest")
    extract(manifest, folder / "features", encoder=encoder, sampling=Sampling(fps=6), progress=False)
    return folder


@pytest.fixture
def here(extracted: Path, tmp_path: Path) -> Path:
    shutil.copytree(extracted, tmp_path / "data")
    return tmp_path / "data"


def look(folder: Path, encoder: Any, **more: Any) -> Any:
    """The manifest keeps paths relative to it as well, so the copies of the videos are looked at."""
    with FeatureStore.open(folder / "features") as store:
        return recheck(store, Manifest.read(folder / "manifest"), encoder, progress=False, **more)


def test_features_that_are_those_of_their_files_are_found_to_be(
    here: Path, encoder: Any, tmp_path: Path
) -> None:
    found = look(here, encoder, frames=10)
    assert found.ok and found.frames == 10 and found.videos == 3 and found.worst < 1e-5
    assert "10 frames of 3 videos" in str(found)
    saved = json.loads(found.save(tmp_path / "recheck.json").read_text())
    assert saved["ok"] is True and saved["frames"] == 10
    assert look(here, encoder, frames=1000).videos == 4


def test_another_video_under_the_same_id_is_noticed(here: Path, encoder: Any, tools: SimpleNamespace) -> None:
    tools.video(here / "2.mp4", [frame / 12 for frame in range(36)], size=(96, 64), fps=12)
    found = look(here, encoder, frames=1000)
    assert not found.ok and {each.video_id for each in found.deviations} == {"2"}
    assert "18 frames now, 12 in the cache" in str(found)


def test_a_feature_that_is_not_its_frames_is_noticed(here: Path, encoder: Any) -> None:
    with FeatureStore.open(here / "features") as store:
        fingerprint, dim, kept = store.fingerprint, store.dim, store["1"]
        features = np.roll(kept.features, 5, axis=0)  # the right features, of the wrong frames
    with FeatureWriter(here / "features", fingerprint, dim=dim) as writer:
        writer.add("1", features, kept.times, kept.duration, replace=True)
    found = look(here, encoder, frames=1000, tolerance=1e-6)
    assert {each.video_id for each in found.deviations} == {"1"} and found.deviations[0].frame >= 0
    assert "1 - cosine is" in found.deviations[0].why


def test_times_and_durations_that_are_not_the_files_are_noticed(here: Path, encoder: Any) -> None:
    with FeatureStore.open(here / "features") as store:
        fingerprint, dim, kept = store.fingerprint, store.dim, {name: store[name] for name in ("0", "3")}
    with FeatureWriter(here / "features", fingerprint, dim=dim) as writer:
        late, long = kept["0"], kept["3"]
        writer.add("0", late.features, late.times + 0.01, late.duration, replace=True)
        writer.add("3", long.features, long.times, long.duration + 1, replace=True)
    found = look(here, encoder, frames=1000)
    said = {each.video_id: each.why for each in found.deviations}
    assert set(said) == {"0", "3"} and "off by 0.01 s" in said["0"] and "it lasts 1.500 s" in said["3"]


def test_files_that_are_gone_or_broken_are_told_apart(here: Path, encoder: Any) -> None:
    (here / "0.mp4").unlink()
    (here / "1.mp4").write_bytes((here / "1.mp4").read_bytes()[:200])
    with FeatureStore.open(here / "features") as store:
        rows = [VideoRow(f"{k}", str(here / f"{k}.mp4"), start=0.5 if k % 2 else None) for k in range(4)]
        found = recheck(store, Manifest(tuple(rows)), encoder, 1000, progress=False)
    assert list(found.unreachable) == ["0"] and [each.video_id for each in found.deviations] == ["1"]
    assert "cannot be decoded any more" in found.deviations[0].why and "1 videos could not" in str(found)


def test_another_encoder_and_imported_features_are_refused(here: Path, tmp_path: Path, encoder: Any) -> None:
    with FeatureStore.open(here / "features") as store:
        fields = store.fingerprint.fields
        other = Fingerprint({**fields, "encoder.weights": "0" * 64})
    for name, fingerprint, said in (
        ("other", other, "encoder.weights"),
        ("imported", Fingerprint({"source": "import"}), "imported"),
    ):
        with FeatureWriter(tmp_path / name, fingerprint, dim=encoder.dim) as writer:
            writer.add("0", np.ones((1, encoder.dim)), np.zeros(1), 1)
        with FeatureStore.open(tmp_path / name) as store, pytest.raises(StepclipError, match=said):
            recheck(store, Manifest.read(here / "manifest"), encoder, progress=False)

"""A small cache and what went into it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from stepclip.cache.fingerprint import Fingerprint
from stepclip.cache.store import FeatureStore
from stepclip.cache.writer import FeatureWriter

DIM = 12
FINGERPRINT = Fingerprint({"encoder.name": "test", "sampling.fps": 4.0, "decoder.name": "pyav"})


@dataclass(frozen=True)
class Truth:
    """What was written of one video."""

    features: np.ndarray
    times: np.ndarray
    duration: float


def video(name: str) -> Truth:
    """A video that depends on its name alone: any process makes the same one."""
    random = np.random.default_rng(list(name.encode()))
    frames = int(random.integers(1, 30))
    times = np.cumsum(random.uniform(0.05, 0.4, frames))
    return Truth(random.normal(size=(frames, DIM)).astype(np.float16), times, float(times[-1] + 0.25))


def write(path: Path, names: Iterable[str], shard_videos: int = 4, **options: object) -> None:
    with FeatureWriter(path, FINGERPRINT, dim=DIM, shard_videos=shard_videos, **options) as writer:  # type: ignore[arg-type]
        for name in names:
            truth = video(name)
            writer.add(name, truth.features, truth.times, truth.duration)


def check(store: FeatureStore, names: Iterable[str]) -> None:
    for name in names:
        truth, found = video(name), store[name]
        np.testing.assert_array_equal(found.features, truth.features)
        np.testing.assert_array_equal(found.times, truth.times)
        assert found.features.dtype == np.float16 and found.times.dtype == np.float64
        assert found.duration == truth.duration


NAMES = tuple(f"video-{number:02d}" for number in range(10))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Ten videos in three shards, named a-00000 to a-00002."""
    write(tmp_path / "features", NAMES, name="a")
    return tmp_path / "features"


@dataclass(frozen=True)
class Tools:
    video: Callable[[str], Truth]
    write: Callable[..., None]
    check: Callable[[FeatureStore, Iterable[str]], None]
    names: tuple[str, ...]
    fingerprint: Fingerprint
    dim: int


@pytest.fixture(scope="session")
def tools() -> Tools:
    return Tools(video, write, check, NAMES, FINGERPRINT, DIM)

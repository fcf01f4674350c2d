"""A made cache: step features are random directions, a video shows its steps in order, with noise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from stepclip.cache import FeatureWriter, Fingerprint, Manifest, VideoRow
from stepclip.train import Recipe, load_recipe

DIM = 16


@dataclass(frozen=True)
class Made:
    store: Path
    manifest: Manifest
    labels: dict[str, np.ndarray]  # the true step of each cached row


def make(
    folder: Path, *, tasks: int = 4, people: int = 3, noise: float = 0.3, fps: float = 4.0, seed: int = 0
) -> Made:
    rng = np.random.default_rng(seed)
    words = {f"do thing {i}": rng.normal(size=DIM) for i in range(12)}
    rows, labels, videos = [], {}, {}
    for task in range(tasks):
        vocabulary = list(rng.choice(list(words), 5, replace=False))
        scripts = [vocabulary, vocabulary[::-1], vocabulary[:-1]]
        for procedure, steps in enumerate(scripts):
            for person in range(people):
                name = f"{task}.{procedure}/{person}"
                lengths = rng.integers(3, 9, len(steps))
                shown = np.repeat(np.arange(len(steps)), lengths)
                clean = np.stack([words[steps[k]] for k in shown])
                videos[name] = clean + noise * rng.normal(size=clean.shape)
                labels[name] = shown
                split = "train" if task < tasks - 1 else "test"
                ends = np.cumsum(lengths) / fps
                rows.append(
                    VideoRow(
                        name,
                        f"/nowhere/{name}.mp4",
                        str(task),
                        f"{task}.{procedure}",
                        split,
                        None,
                        None,
                        tuple(steps),
                        tuple((ends - lengths / fps).tolist()),
                        tuple(ends.tolist()),
                    )
                )
    manifest = Manifest(tuple(rows), name="made")
    with FeatureWriter(folder, Fingerprint({"encoder.name": "made", "seed": seed}), dim=DIM) as writer:
        for name, features in videos.items():
            writer.add(name, features.astype(np.float16), np.arange(len(features)) / fps, len(features) / fps)
        writer.add_text(list(words), np.stack(list(words.values())).astype(np.float32), "step")
        paragraphs = {
            row.paragraph: np.mean([words[s] * (1 + i) for i, s in enumerate(row.steps)], 0) for row in rows
        }
        writer.add_text(list(paragraphs), np.stack(list(paragraphs.values())).astype(np.float32), "paragraph")
    return Made(folder, manifest, labels)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("made") / "features")


@pytest.fixture
def small() -> Recipe:
    return small_recipe()


def small_recipe(*overrides: str) -> Recipe:
    return load_recipe(
        "benchlab",
        [
            "data.batch=8",
            "model.frames=8",
            "model.width=32",
            "model.heads=2",
            "model.head_dim=16",
            "train.epochs=6",
            "train.log_every=2",
            "train.save_every=2",
            "train.precision=fp32",
            "optim.lr=0.001",
            *overrides,
        ],
    )


@pytest.fixture
def recipe_with():
    return small_recipe


@pytest.fixture
def make_cache():
    return make

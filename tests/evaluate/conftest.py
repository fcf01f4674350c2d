"""A planted world: every sentence has its own direction, every frame shows the step it lies in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from stepclip.cache.errors import StepclipError
from stepclip.cache.fingerprint import Fingerprint
from stepclip.cache.layout import Failure
from stepclip.cache.manifest import Manifest, MatchRow, Pair, VideoRow
from stepclip.cache.packed import PackedFeatures
from stepclip.cache.store import FrameFeatures
from stepclip.evaluate.embed import Embedded

DIM = 32
FPS = 4.0
TASKS = 3
KINDS = ("order", "deletion", "addition")


class MemoryStore:
    """The reading side of a feature store, held in memory."""

    def __init__(
        self, frames: dict[str, np.ndarray], texts: dict[str, np.ndarray], fingerprint: Fingerprint
    ) -> None:
        self.frames, self.texts, self.fingerprint = frames, texts, fingerprint
        self.video_ids = tuple(frames)
        self.dim = self.text_dim = DIM
        self.dtype = "float16"
        self.failed: list[Failure] = []

    def length(self, video_id: str) -> int:
        return len(self.frames[video_id])

    def __getitem__(self, video_id: str) -> FrameFeatures:
        frames = self.frames[video_id]
        return FrameFeatures(frames, np.arange(len(frames)) / FPS, len(frames) / FPS)

    def __contains__(self, video_id: object) -> bool:
        return video_id in self.frames

    def __len__(self) -> int:
        return len(self.frames)

    def failures(self) -> list[Failure]:
        return self.failed

    def has_text(self, string: str, kind: str) -> bool:
        return f"{kind}:{string}" in self.texts

    def text(self, strings: Sequence[str], kind: str) -> np.ndarray:
        try:
            return np.stack([self.texts[f"{kind}:{s}"] for s in strings]).astype(np.float32)
        except KeyError as error:
            raise StepclipError(f"no text {error}") from None

    def load(
        self, device: str = "cpu", video_ids: Sequence[str] | None = None, dtype: object = None
    ) -> PackedFeatures:
        ids = self.video_ids if video_ids is None else tuple(video_ids)
        parts = [self.frames[v] for v in ids]
        lengths = [len(p) for p in parts]
        return PackedFeatures(
            torch.from_numpy(np.concatenate(parts)),
            torch.from_numpy(np.concatenate([np.arange(n) / FPS for n in lengths])),
            torch.from_numpy(np.concatenate(([0], np.cumsum(lengths)))),
            ids,
            durations=torch.tensor([n / FPS for n in lengths], dtype=torch.float64),
        )


@dataclass
class World:
    manifest: Manifest
    store: MemoryStore
    embedded: Embedded  # frames as planted; video = the paragraph's own feature: perfect


def script_of(task: int, procedure: int) -> tuple[str, ...]:
    """Procedures of a task: the base, two steps swapped, one left out, one added."""
    base = [f"task {task} step {k}" for k in range(6)]
    if procedure == 1:
        base[1], base[3] = base[3], base[1]
    elif procedure == 2:
        del base[2]
    elif procedure == 3:
        base.insert(4, f"task {task} extra")
    return tuple(base)


def build_world(people: int = 3, noise: float = 0.05, seed: int = 0, idle: int = 2) -> World:
    rng = np.random.default_rng(seed)
    scripts = {f"{t}.{p}": script_of(t, p) for t in range(TASKS) for p in range(4)}
    sentences = sorted({s for script in scripts.values() for s in script})
    directions = np.linalg.qr(rng.normal(size=(DIM, DIM)))[0][: len(sentences)]
    texts = {f"step:{s}": d for s, d in zip(sentences, directions, strict=True)}
    idle_feature = np.linalg.qr(rng.normal(size=(DIM, DIM)))[0][-1] * 0.2
    frames, videos = {}, []
    for procedure, script in scripts.items():
        paragraph = rng.normal(size=DIM)
        texts[f"paragraph:{', '.join(script)}"] = paragraph / np.linalg.norm(paragraph)
        for person in range(people):
            rows, start, end = [np.tile(idle_feature, (idle, 1))], [], []
            at = idle
            for sentence in script:
                n = int(rng.integers(4, 12))
                rows.append(np.tile(texts[f"step:{sentence}"], (n, 1)))
                start.append((at - 0.5) / FPS)  # a frame stands for the half gap on each side of it
                at += n
                end.append((at - 0.5) / FPS)
            rows.append(np.tile(idle_feature, (idle, 1)))
            video_id = f"{procedure}-p{person}"
            features = np.concatenate(rows)
            frames[video_id] = (5 * (features + noise * rng.normal(size=features.shape))).astype(np.float16)
            videos.append(
                VideoRow(
                    video_id,
                    f"/videos/{video_id}.mp4",
                    procedure.split(".")[0],
                    procedure,
                    "test",
                    steps=script,
                    step_start=tuple(start),
                    step_end=tuple(end),
                )
            )
    pairs, matching = [], []
    for t in range(TASKS):
        for person in range(people):
            other = (person + 1) % people
            for p in range(4):
                pairs.append(Pair(f"{t}.{p}-p{person}", f"{t}.{p}-p{other}", True, "matched", "test"))
                candidates = tuple(f"{t}.{q}-p{person}" for q in range(4))
                matching.append(MatchRow(f"{t}.{p}", candidates, p, "test"))
            for p in range(1, 4):
                pairs.append(Pair(f"{t}.0-p{person}", f"{t}.{p}-p{other}", False, KINDS[p - 1], "test"))
    manifest = Manifest(tuple(videos), tuple(pairs), tuple(matching), "planted")
    store = MemoryStore(
        frames, texts, Fingerprint({"encoder.name": "planted", "encoder.weights": "w", "schema": 1})
    )
    packed = store.load()
    video = torch.from_numpy(store.text([v.paragraph for v in videos], "paragraph"))
    embedded = Embedded(
        "planted",
        packed.video_ids,
        video,
        packed.features.float(),
        packed.times.numpy(),
        packed.offsets.numpy(),
        packed.durations.numpy(),
    )
    return World(manifest, store, embedded)


@pytest.fixture(scope="session")
def world() -> World:
    return build_world()

"""What bench_search.py and bench_serve.py search: vectors made after features of videos, and an index of
them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stepclip.cache.files import write_json
from stepclip.cache.manifest import Manifest
from stepclip.evaluate.embed import Embedded
from stepclip.evaluate.search.build import SCHEMA
from stepclip.evaluate.search.kinds import Level
from stepclip.evaluate.search.ordered import WINDOWS, Windows
from stepclip.evaluate.search.part import write_part
from stepclip.evaluate.search.vectors import Vectors


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


class Directions:
    """Normal vectors whose variances fall as 1 / k; `turn` (D, D) takes them off the axes."""

    def __init__(self, rng: np.random.Generator, dim: int) -> None:
        scale = np.arange(1, dim + 1) ** -0.5
        self.rng, self.scale = rng, (scale / np.linalg.norm(scale)).astype(np.float32)
        self.turn = np.linalg.qr(rng.normal(size=(dim, dim)))[0].astype(np.float32)

    def drawn(self, *shape: int) -> np.ndarray:
        """(*shape, D) float32, of length 1 on average."""
        return self.scale * self.rng.normal(size=(*shape, len(self.scale))).astype(np.float32)


def write_made(
    folder: Path,
    ids: Sequence[str],
    moments: int,
    seconds: float,
    levels: dict[str, Level],
    *,
    manifest: Manifest | None = None,
    fingerprint: dict[str, Any] | None = None,
    labels: np.ndarray | None = None,
) -> Path:
    """An index of videos `ids` of `moments` each, `seconds` apart, as build_index writes it; `labels`: the
    place in the script of each moment of a video. Its ordered windows are all alike."""
    videos = len(ids)
    embedded = Embedded(
        "made", tuple(ids), torch.zeros(videos, 0), torch.zeros(videos * moments, 0),
        np.tile(np.arange(moments) * seconds, videos), np.arange(videos + 1) * moments,
        np.full(videos, moments * seconds),
    )  # fmt: skip
    windows = Windows(torch.zeros(videos * WINDOWS, 1, dtype=torch.bfloat16), np.arange(videos + 1) * WINDOWS)
    nothing = np.zeros(0, np.int64)
    vectors = Vectors(
        embedded, {}, windows, [nothing if labels is None else labels] * videos, [nothing] * videos,
        [np.zeros((0, 2))] * videos,
    )  # fmt: skip
    write_part(folder / "parts" / "0000", vectors, levels, manifest or Manifest(()))
    about = {
        "schema": SCHEMA, "fingerprint": fingerprint or {}, "checkpoint": "", "recipe": None, "step": None,
        "kind": levels["windows"].kind,
        "spaces": {"videos": "raw", "windows": "raw", "ordered": "raw", "texts": True},
        "model_embeds_texts": False, "window_seconds": 1.0, "parts": {"0000": {"gone": []}},
    }  # fmt: skip
    write_json(folder / "meta.json", about)
    return folder

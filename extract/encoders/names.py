"""Texts that are names, not language: labels such as `take` or `P03`, which no CLIP was taught."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from .base import clean

DIM = 256


class Names:
    """A random direction of its own for each name, drawn from the name's SHA-256: the same everywhere.

    Any two are all but orthogonal (their cosine is 0 +- 1/16). A text of several names, with commas between
    them, is their mean, so that a script read as one text lies among its steps. Names have no images.
    """

    name, dim, image_size, context, device, precision = "names", DIM, 0, 2**31, "cpu", "fp32"

    def fields(self) -> dict[str, Any]:
        return {"encoder.name": self.name, "encoder.dim": self.dim, "encoder.precision": self.precision}

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """n texts to (n, 256) float32; case and white space count for nothing."""
        return np.stack([self._mean(clean(text).lower()) for text in texts])

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        return [text.count(",") + 1 for text in texts]

    def encode_images(self, images: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def _mean(self, text: str) -> np.ndarray:
        parts = [part.strip() for part in text.split(",")]
        return np.stack([_direction(part) for part in parts]).mean(0).astype(np.float32)


def _direction(name: str) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "big")
    drawn = np.random.Generator(np.random.PCG64(seed)).standard_normal(DIM)
    return drawn / np.linalg.norm(drawn)

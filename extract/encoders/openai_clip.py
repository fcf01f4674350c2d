"""OpenAI's own `clip` package as a second backend: `--encoder clip:ViT-B/32`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...cache.errors import StepclipError, nearest
from .base import autocast, clean, resolve_device, resolve_precision, sha256_of
from .preprocess import Preprocess

INSTALL = (
    "pip install openai-clip 'setuptools<82' and a torchvision that fits torch (see the README, 'Encoders')"
)


def import_clip() -> Any:
    """OpenAI's `clip` module. StepclipError where it is not there, does not import, or is another project."""
    try:
        import clip
    except Exception as error:  # a torchvision of another build raises RuntimeError
        raise StepclipError(
            f"OpenAI's package `clip` cannot be used here: {type(error).__name__}: {error}",
            "the package; the same weights need no package as --encoder openai/clip-vit-base-patch32",
            INSTALL,
        ) from error
    if not hasattr(clip, "tokenize") or not hasattr(clip, "available_models"):
        raise StepclipError(
            f"the module `clip` at {getattr(clip, '__file__', '?')} is another project",
            "OpenAI's CLIP",
            INSTALL,
        )
    return clip


class OpenAICLIP:
    """A model of the `clip` package as an Encoder; images pass this project's own preprocessing."""

    def __init__(
        self, name: str, *, device: str = "auto", precision: str = "fp32", cache: Path | None = None
    ) -> None:
        self._clip = import_clip()
        known = self._clip.available_models()
        if name not in known:
            raise StepclipError(
                f"the package clip has no model '{name}'{nearest(name, known)}", ", ".join(known)
            )
        self.name, self.device = f"clip:{name}", resolve_device(device)
        folder = cache or Path("~/.cache/clip").expanduser()
        try:
            self.model, _ = self._clip.load(name, device="cpu", jit=False, download_root=str(folder))
        except (OSError, RuntimeError) as error:
            raise StepclipError(
                f"the weights of {name} are not in {folder} and cannot be fetched: {error}",
                "its .pt file there",
                "copy the .pt file into that folder, or use --encoder PATH.pt",
            ) from error
        self.model = self.model.float().eval().requires_grad_(False).to(self.device)
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self.precision = resolve_precision(precision, self.device, parameters)
        size = int(self.model.visual.input_resolution)
        self.preprocess = Preprocess(size, size)
        self.image_size, self.context = size, int(self.model.context_length)
        self.dim = int(self.model.text_projection.shape[1])
        self.batch = self.at_once = 256 if self.device != "cpu" else 32
        file = folder / (name.replace("/", "-").replace("@", "-") + ".pt")
        self.weights = sha256_of([file]) if file.is_file() else _digest(self.model.state_dict())

    def fields(self) -> dict[str, Any]:
        """For the fingerprint."""
        return {
            "encoder.name": self.name,
            "encoder.weights": self.weights,
            "encoder.precision": self.precision,
            "encoder.context": self.context,
            **self.preprocess.fields(),
        }

    @torch.inference_mode()
    def encode_images(self, images: np.ndarray) -> np.ndarray:
        """(T, H, W, 3) uint8 RGB to (T, D) float32, raw."""
        parts = [np.zeros((0, self.dim), np.float32)]
        for first in range(0, len(images), self.batch):
            pixels = self.preprocess(images[first : first + self.batch], self.device)
            with autocast(self.device, self.precision):
                parts.append(self.model.encode_image(pixels).float().cpu().numpy())
        return np.concatenate(parts)

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """n texts to (n, D) float32, raw."""
        parts = [np.zeros((0, self.dim), np.float32)]
        for first in range(0, len(texts), self.batch):
            cleaned = [clean(text) for text in texts[first : first + self.batch]]
            tokens = self._clip.tokenize(cleaned, context_length=self.context, truncate=True).to(self.device)
            with autocast(self.device, self.precision):
                parts.append(self.model.encode_text(tokens).float().cpu().numpy())
        return np.concatenate(parts)

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, start and end included, before it is cut."""
        # tokenize pads with zeros and cuts silently, so give it room: no text has more tokens than bytes and
        # two
        return [
            int((self._clip.tokenize([text], context_length=len(text.encode()) + 2) != 0).sum())
            for text in map(clean, texts)
        ]


def _digest(state: dict[str, torch.Tensor]) -> str:
    import hashlib

    digest = hashlib.sha256()
    for key in sorted(state):
        digest.update(key.encode())
        digest.update(np.ascontiguousarray(state[key].cpu().float().numpy()).tobytes())
    return digest.hexdigest()

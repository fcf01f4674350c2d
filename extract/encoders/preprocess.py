"""CLIP's preprocessing on tensors: short side to size (bicubic, antialiased), centre crop, mean and std."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ...cache.errors import StepclipError
from ...cache.files import read_json
from ..geometry import centre, short_side

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
RESAMPLING = {2: "bilinear", 3: "bicubic"}  # PIL's numbers, as in preprocessor_config.json


@dataclass(frozen=True)
class Preprocess:
    """Resolved preprocessing. `size`: the short side after resizing; `crop`: the side of the centre crop."""

    size: int
    crop: int
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    mode: str = "bicubic"

    @classmethod
    def read(cls, path: Path, image_size: int) -> Preprocess:
        """From a preprocessor_config.json; CLIP's values where it is absent. `image_size`: the model's."""
        config: dict[str, Any] = read_json(path) if path.is_file() else {}
        size = _side(config.get("size", image_size), path)
        crop = _side(config.get("crop_size", size), path) if config.get("do_center_crop", True) else size
        number = config.get("resample", 3)
        if number not in RESAMPLING:
            raise StepclipError(f"{path} resamples by method {number}", "3 (bicubic) or 2 (bilinear)")
        if crop != image_size or size < crop:
            raise StepclipError(
                f"{path} makes images of {crop} pixels from a short side of {size}",
                f"{image_size} pixels, the size that the model was made for",
            )
        mean, std = MEAN, STD
        if config.get("do_normalize", True):
            mean, std = tuple(config.get("image_mean", MEAN)), tuple(config.get("image_std", STD))
        else:
            mean, std = (0.0,) * 3, (1.0,) * 3
        return cls(size, crop, mean, std, RESAMPLING[number])

    def fields(self) -> dict[str, Any]:
        """For the fingerprint: `preprocess.size`, `.crop`, `.mean`, `.std`, `.resample`."""
        return {
            "preprocess.size": self.size,
            "preprocess.crop": self.crop,
            "preprocess.mean": list(self.mean),
            "preprocess.std": list(self.std),
            "preprocess.resample": self.mode,
        }

    def resize(self, images: torch.Tensor) -> torch.Tensor:
        """(T, 3, H, W) uint8 to (T, 3, crop, crop) uint8: within one grey level of PIL's result."""
        height, width = images.shape[-2:]
        if min(height, width) != self.size:
            height, width = short_side(height, width, self.size)
            images = _interpolate(images, (height, width), self.mode)
        top, left = centre(height, self.crop), centre(width, self.crop)
        return images[..., top : top + self.crop, left : left + self.crop]

    def __call__(self, images: np.ndarray, device: str) -> torch.Tensor:
        """(T, H, W, 3) uint8 RGB to (T, 3, crop, crop) float32 on `device`."""
        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
            raise StepclipError(f"images of shape {images.shape}, {images.dtype}", "(T, H, W, 3) uint8")
        tensor = torch.from_numpy(np.require(images, requirements=["C", "W"]))
        small = self.resize(tensor.to(device, non_blocking=True).permute(0, 3, 1, 2))
        mean = torch.tensor(self.mean, device=device).view(1, 3, 1, 1)
        std = torch.tensor(self.std, device=device).view(1, 3, 1, 1)
        return small.to(torch.float32).mul_(1 / 255).sub_(mean).div_(std)


def _interpolate(images: torch.Tensor, shape: tuple[int, int], mode: str) -> torch.Tensor:
    if images.device.type == "cpu":
        return F.interpolate(images, size=shape, mode=mode, antialias=True)
    return in_two_passes(images, shape, mode)  # there is no uint8 kernel elsewhere


def in_two_passes(images: torch.Tensor, shape: tuple[int, int], mode: str = "bicubic") -> torch.Tensor:
    """The same in float: across, then down, each rounded to uint8's range as PIL does."""
    for size in ((images.shape[-2], shape[1]), shape):
        images = F.interpolate(images.float(), size=size, mode=mode, antialias=True).round_().clamp_(0, 255)
    return images.to(torch.uint8)


def _side(value: Any, path: Path) -> int:
    sides = set(value.values()) if isinstance(value, dict) else {value}
    side = sides.pop() if len(sides) == 1 else None
    if not isinstance(side, int) or side < 1:
        raise StepclipError(
            f"{path}: a size of {value!r}", "one number, or shortest_edge, or equal height and width"
        )
    return side

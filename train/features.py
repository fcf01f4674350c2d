"""Where features lie: on the device, or on the disk where they do not fit; and how they spread."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..cache.mapped import MappedFeatures
from ..cache.packed import PackedFeatures
from ..cache.progress import byte_bar
from ..cache.store import FeatureStore

Features = PackedFeatures | MappedFeatures
SHARE = 0.6  # of the free memory that features may take: the rest is for the model and what it computes
_WHOLE = 1 << 28  # numbers, 1 GiB in float32, up to which a spread is computed in one go
_CHUNK = 1 << 24
_SHOWN = 1 << 30  # bytes beyond which the reading shows a progress bar


def place_features(
    store: FeatureStore,
    ids: Sequence[str],
    device: torch.device,
    asked: str = "auto",
    answer: int = 0,
) -> tuple[bool, str]:
    """(whether the features of `ids` stay on the disk, why they do, or ""): asked is auto, device or mapped.

    answer: float32 numbers that are kept beside each frame's features.
    """
    if asked != "auto":
        return asked == "mapped", "features read from the disk, as asked" if asked == "mapped" else ""
    frame = store.dim * np.dtype(store.dtype).itemsize + 4 * answer
    size = sum(map(store.length, ids)) * frame
    for where in dict.fromkeys(
        (device, torch.device("cpu"))
    ):  # on their way to a GPU they pass through the host's memory
        free = free_memory(where)
        if free is not None and size > SHARE * free:
            return True, f"features read from the disk: {_gb(size)} of them, {_gb(free)} free on {where}"
    return False, ""


def free_memory(device: torch.device) -> int | None:
    """Bytes of memory that can still be had on the device; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = _number(Path("/proc/meminfo"), "MemAvailable:")
    # a container may have less than its machine; what it keeps of files can be freed
    group = Path("/sys/fs/cgroup")
    most, used = _number(group / "memory.max"), _number(group / "memory.current")
    if most is not None and used is not None:
        left = max(0, most - used + (_number(group / "memory.stat", "inactive_file") or 0))
        return left if free is None else min(left, 1024 * free)
    return None if free is None else 1024 * free


def _number(file: Path, name: str = "") -> int | None:
    """The number after `name` in a file of the system."""
    try:
        words = file.read_text(encoding="ascii").split()
        return int(words[words.index(name) + 1 if name else 0])
    except (OSError, ValueError, IndexError):
        return None


class Spread(NamedTuple):
    """Of features (N, D): `mean` (D,) and standard deviation `std` (D,) of each number, and the root of the
    mean square of all, `size` ()."""

    mean: Tensor
    std: Tensor
    size: Tensor


@torch.no_grad()
def spread(features: Features, progress: bool = True) -> Spread:
    """Float32, on the device of the features; the same wherever they lie."""
    rows, dim, device = features.count, features.dim, features.device
    if rows * dim <= _WHOLE:
        x = features.gather(torch.arange(rows, device=device)).float()
        return Spread(x.mean(0), x.std(0, correction=0), x.square_().mean().sqrt())
    mean = squares = torch.zeros(dim, dtype=torch.float64)  # squares: of the distances from the mean, summed
    seen = 0
    shown = progress and isinstance(features, MappedFeatures) and rows * dim * 2 > _SHOWN
    with byte_bar("reading the features", rows * dim * 2, shown) as done:
        for part in torch.arange(rows, device=device).split(max(1, _CHUNK // dim)):
            x = features.gather(part).float()
            var, here = (value.double().cpu() for value in torch.var_mean(x, 0, correction=0))
            step, both = here - mean, seen + len(part)
            squares = squares + len(part) * (var + step.square() * (seen / both))  # Chan et al. 1983
            mean, seen = mean + step * (len(part) / both), both
            done(len(part) * dim * 2)
    size = (squares / seen + mean.square()).mean().sqrt()
    return Spread(*(value.float().to(device) for value in (mean, (squares / seen).sqrt(), size)))


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"

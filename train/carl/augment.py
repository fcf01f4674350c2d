"""What makes the two views of a video look different, in feature space (`methods/carl.md` 10.2).

Where the cache has augmented copies, the views take two of them, and nothing here is needed. Otherwise each
view gets, once for all its frames: an offset (fitted to the copies of some videos, or Gaussian), features
that it does not see, a gain, and part of its mean exchanged for that of another video; and single frames are
replaced by the one before. A flip cannot be made of features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ...cache.packed import PackedFeatures

if TYPE_CHECKING:
    from .knobs import CarlData

FIT_SHARE, FIT_LEAST = 0.05, 16  # of the videos, to fit an offset
COMPONENTS = 32
SMOOTH = 5  # frames over which noise within a view holds together


@dataclass(frozen=True)
class Fitted:
    """How augmented copies of a frame differ from it: a part that stays over a view (mean (D,), `offset` (k,
    D) principal directions times their spreads) and a part that changes (`noise` (k, D))."""

    mean: Tensor
    offset: Tensor
    noise: Tensor


@torch.no_grad()
def fit_offsets(packed: PackedFeatures, seed: int = 0) -> Fitted:
    """Principal components of (copy - frame), split into a mean over the view and the rest, on FIT_SHARE of
    the videos (at least FIT_LEAST)."""
    assert packed.views is not None
    videos = len(packed)
    count = min(videos, max(FIT_LEAST, round(FIT_SHARE * videos)))
    chosen = torch.randperm(videos, generator=torch.Generator().manual_seed(seed))[:count].tolist()
    means, rest = [], []
    for i in chosen:
        rows = packed.rows(i)
        apart = packed.views[:, rows].float() - packed.features[rows].float()  # (K, L, D)
        centre = apart.mean(1, keepdim=True)
        means.append(centre[:, 0])
        rest.append((apart - centre).flatten(0, 1)[::SMOOTH])
    stays = torch.cat(means)
    return Fitted(stays.mean(0), _directions(stays - stays.mean(0)), _directions(torch.cat(rest)))


def _directions(x: Tensor) -> Tensor:
    """Principal directions (k, D) of rows (n, D), each as long as its spread."""
    k = min(COMPONENTS, *x.shape)
    _, size, direction = torch.linalg.svd(x, full_matrices=False)
    return size[:k, None] * direction[:k] / max(len(x) - 1, 1) ** 0.5


def change_looks(
    frames: Tensor,
    config: CarlData,
    *,
    spread: Tensor,
    own_mean: Tensor,
    other_mean: Tensor,
    fitted: Fitted | None = None,
    part: slice = slice(None),
) -> Tensor:
    """`frames` (B', 2, T, D) -> the same, changed. `spread` (D,) of the training set's features, `own_mean`
    and `other_mean` (B, D) of each video and of another one.

    Random numbers are drawn for all B videos, of which `frames` are those of `part`, so that several
    processes draw the same.
    """
    b, d = own_mean.shape
    t = frames.shape[2]
    x = frames.float()

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, device=x.device)

    if config.mix:
        share = config.mix * uniform(b, 2, 1, 1)[part]
        x = x + share * (other_mean - own_mean)[part, None, None, :]
    if fitted is not None:
        k = len(fitted.offset)
        x = x + fitted.mean + (torch.randn(b, 2, 1, k, device=x.device) @ fitted.offset)[part]
        noise = torch.randn(b * 2, len(fitted.noise), t + SMOOTH - 1, device=x.device)
        smooth = F.avg_pool1d(noise, SMOOTH, 1).mT.view(b, 2, t, -1)[part] * SMOOTH**0.5
        x = x + smooth @ fitted.noise
    elif config.offset:
        size = config.offset * (0.6 + 0.8 * uniform(b, 2, 1, 1))
        x = x + (size * torch.randn(b, 2, 1, d, device=x.device))[part] * spread
    if config.channels:
        seen = uniform(b, 2, 1, d)[part] >= config.channels
        centre = own_mean[part, None, None, :]  # unseen: at the video's mean, which says nothing of the frame
        x = torch.where(seen, x, centre)
    if config.gain:
        x = x * (1 + config.gain * (2 * uniform(b, 2, 1, 1)[part] - 1))
    if config.replace:
        lost = (uniform(b, 2, t, 1) < config.replace)[part]
        x = torch.where(lost, x.roll(1, 2), x)
    return x

"""What a step of CARL minimises: the losses that a recipe asks for, and their weighted sum."""

from __future__ import annotations

import torch
from torch import Tensor

from ..losses.cross_video import cross_video_loss
from ..losses.cycle_consistency import cycle_consistency_loss
from ..losses.time_contrast import time_contrast_loss
from ..losses.timestamp_contrast import timestamp_contrast_loss
from .data import ViewBatch
from .knobs import CarlLoss


def frame_losses(
    z: Tensor, batch: ViewBatch, config: CarlLoss, pairs: Tensor, weak_counts: Tensor | float = 1.0
) -> dict[str, Tensor]:
    """All terms of a batch and their weighted sum under "loss".

    `z` (B, 2, T, P) the projected frames of both views (of the first alone where no term compares two);
    `pairs` (2, P) videos of one label; `weak_counts`: 0 while the weak loss is not to count yet.
    """
    terms: dict[str, Tensor] = {}
    if config.contrast:
        terms["contrast"] = timestamp_contrast_loss(
            z,
            batch.times,
            batch.real,
            sigma=batch.sigma,
            temperature=config.temperature,
            negatives=config.negatives,
            row_cutoff=config.row_cutoff,
            floor=config.floor,
        )
    first, second = pairs
    one, real, times = z[:, 0], batch.real[:, 0], batch.times[:, 0]
    if config.weak:
        terms["weak"] = weak_counts * cross_video_loss(
            one[first],
            one[second],
            times[first],
            times[second],
            real[first],
            real[second],
            sigma=config.weak_sigma * (batch.sigma[first] + batch.sigma[second]) / 2,
            temperature=config.temperature,
            gamma=config.weak_gamma,
            ends=config.weak_ends,
            matched_spread=config.weak_spread,
            confidence=config.weak_confidence,
        )
    if config.cycle:
        from_, to = torch.cat([first, second]), torch.cat([second, first])
        terms["cycle"] = cycle_consistency_loss(
            one[from_],
            one[to],
            batch.share[:, 0][from_],
            real[from_],
            real[to],
            temperature=config.temperature,
            variance_weight=config.cycle_variance,
        )
    if config.time:
        terms["time"] = time_contrast_loss(z[:, 0], z[:, 1], real, regulariser=config.time_regulariser)
    total = torch.stack([getattr(config, name) * term for name, term in terms.items()]).sum()
    return {"loss": total, **terms}

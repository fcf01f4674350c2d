"""Units against sentences: symmetric InfoNCE of windows and texts (VideoCLIP's loss, TempCLR's unit loss)."""

from __future__ import annotations

import torch
from torch import Tensor

from .unit import unit


def unit_contrast_loss(
    windows: Tensor,
    texts: Tensor,
    scale: Tensor | float | None = None,
    *,
    unused: Tensor | None = None,
    real: Tensor | None = None,
) -> Tensor:
    """Both directions, summed: `windows` (M, E), `texts` (M, E) raw, pair by pair -> ().

    `scale` multiplies cosines; None: raw dot products without a temperature, as released
    (`methods/tempclr.md` 2.4). `unused` (M, M) bool: answers that are neither right nor wrong, such as
    another window of the same sentence. (To count them as right, too, changes nothing: their texts are the
    same, and so is the sum.) `real` (M,) bool: which pairs there are; the others neither ask nor stand among
    the answers.
    """
    logits = windows @ texts.mT if scale is None else scale * (unit(windows) @ unit(texts).mT)
    own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    out = torch.zeros_like(own) if unused is None else unused & ~own
    if real is None:
        real = torch.ones(len(logits), dtype=torch.bool, device=logits.device)
    out = out | ~(real[:, None] & real)
    return _one_way(logits, out & ~own, real) + _one_way(logits.mT, out.mT & ~own, real)


def _one_way(logits: Tensor, out: Tensor, real: Tensor) -> Tensor:
    each = -logits.masked_fill(out, -torch.inf).log_softmax(-1).diagonal()
    return torch.where(real, each, 0.0).sum() / real.sum().clamp(min=1)


def step_naming_loss(logits: Tensor, labels: Tensor, real: Tensor, steps: Tensor) -> Tensor:
    """CrossTask's fine-tuning loss (`methods/tempclr.md` 2.4): each window against each step of its script,
    right or wrong, by binary cross-entropy.

    `logits` (V, P, K), `labels` (V, P) int64 the step of each window, `real` (V, P), `steps` (V,) how many
    there are -> the mean over real cells, ().
    """
    place = torch.arange(logits.shape[-1], device=logits.device)
    cells = real[..., None] & (place < steps[:, None, None])
    each = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, (labels[..., None] == place).to(logits.dtype), reduction="none"
    )
    return each.masked_fill(~cells, 0.0).sum() / cells.sum().clamp(min=1)

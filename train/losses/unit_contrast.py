"""Units against sentences: symmetric InfoNCE of windows and texts (VideoCLIP's loss, TempCLR's unit loss)."""

from __future__ import annotations

import torch
from torch import Tensor

from .unit import unit


def unit_contrast_loss(
    windows: Tensor,
    texts: Tensor,
    together: Tensor | None = None,
    scale: Tensor | float | None = None,
    *,
    real_windows: Tensor | None = None,
    real_texts: Tensor | None = None,
) -> Tensor:
    """Both directions, summed: `windows` (M, E), `texts` (K, E) raw -> ().

    `together` (M, K) bool: which belong together; of several the mean of the log-softmax counts (Khosla et
    al. 2020, eq. 2). None: the diagonal. `scale` multiplies cosines; None: raw dot products without a
    temperature, as released (`methods/tempclr.md` 2.4). What is not real (M,), (K,) bool is not there:
    neither asks nor stands among the answers.
    """
    logits = windows @ texts.mT if scale is None else scale * (unit(windows) @ unit(texts).mT)
    if together is None:
        together = torch.eye(len(windows), len(texts), dtype=torch.bool, device=logits.device)
    if real_windows is not None:
        together = together & real_windows[:, None]
        logits = logits.masked_fill(~real_windows[:, None], -torch.inf)
    if real_texts is not None:
        together = together & real_texts
        logits = logits.masked_fill(~real_texts, -torch.inf)
    return _one_way(logits, together) + _one_way(logits.mT, together.mT)


def _one_way(logits: Tensor, together: Tensor) -> Tensor:
    """Mean over the rows that have an answer; a row without one weighs nothing and stays finite."""
    right = together.sum(-1)
    asks = right > 0
    log_p = torch.where(asks[:, None], logits, 0.0).log_softmax(-1)
    each = -log_p.masked_fill(~together, 0.0).sum(-1) / right.clamp(min=1)
    return each.sum() / asks.sum().clamp(min=1)


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

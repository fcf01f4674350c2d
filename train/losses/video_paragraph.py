"""The coarse loss: a video against the paragraphs of its batch (WeakSVR, CVPR 2023, eq. 4; InfoNCE)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from ...cache.errors import StepclipError, nearest

CoarseForm = Literal["plain", "multi", "mil", "exclude"]


def unit(x: Tensor) -> Tensor:
    """Rows at length 1, as the released code does it: 1e-6 is added to the norm, so an all-zero row stays
    zero."""
    return x / (x.norm(dim=-1, keepdim=True) + 1e-6)


def video_paragraph_loss(
    video: Tensor,
    paragraph: Tensor,
    scale: Tensor | float,
    positives: Tensor | None = None,
    form: CoarseForm = "multi",
) -> Tensor:
    """InfoNCE in both directions, summed: `video`, `paragraph` (B, E) raw, `scale` = exp(log temperature) ->
    ().

    `positives` (B, B) bool says which pairs belong together (the same procedure); the diagonal always does.
    `form`:
    - "plain": only the diagonal is right; others of the same procedure are pushed away (as released);
    - "multi": the mean over the positives of the log-softmax (Khosla et al. 2020, eq. 2);
    - "mil": the log of the positives' summed probability (released as `info_mask`; Miech et al. 2020);
    - "exclude": the diagonal is right, the other positives are left out of the sum.
    """
    if form not in get_args(CoarseForm):
        known = get_args(CoarseForm)
        raise StepclipError(f"coarse form {form!r}{nearest(str(form), known)}", f"one of {', '.join(known)}")
    logits = scale * (unit(video) @ unit(paragraph).T)
    diagonal = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    together = diagonal if positives is None or form == "plain" else positives | diagonal
    return _one_way(logits, together, diagonal, form) + _one_way(logits.T, together.T, diagonal, form)


def _one_way(logits: Tensor, together: Tensor, diagonal: Tensor, form: CoarseForm) -> Tensor:
    if form == "exclude":
        logits, together = logits.masked_fill(together & ~diagonal, -torch.inf), diagonal
    log_p = logits.log_softmax(1)
    if form == "mil":
        return -log_p.masked_fill(~together, -torch.inf).logsumexp(1).mean()
    return -(log_p.masked_fill(~together, 0.0).sum(1) / together.sum(1)).mean()

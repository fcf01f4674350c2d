"""The coarse loss: a video against the paragraphs of its batch (WeakSVR, CVPR 2023, eq. 4; InfoNCE)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from ...cache.errors import StepclipError, nearest
from .unit import unit

CoarseForm = Literal["plain", "multi", "mil", "exclude"]


def video_paragraph_loss(
    video: Tensor,
    paragraph: Tensor,
    scale: Tensor | float,
    positives: Tensor | None = None,
    form: CoarseForm = "multi",
    *,
    negatives: Tensor | None = None,
    real: Tensor | None = None,
) -> Tensor:
    """InfoNCE in both directions, summed: `video`, `paragraph` (..., B, E) raw, `scale` = exp(log
    temperature) -> (), the mean over leading dimensions (groups that do not see each other).

    `positives` (..., B, B) bool says which pairs belong together (the same procedure); the diagonal always
    does. `form`:
    - "plain": only the diagonal is right; others of the same procedure are pushed away (as released);
    - "multi": the mean over the positives of the log-softmax (Khosla et al. 2020, eq. 2);
    - "mil": the log of the positives' summed probability (released as `info_mask`; Miech et al. 2020);
    - "exclude": the diagonal is right, the other positives are left out of the sum.

    `negatives` (..., B, M, E): for each video M paragraphs of its own that are wrong for it, such as the
    other procedures of its task, or its script with sentences swapped; `real` (..., B, M) bool, which of them
    there are. They enter the video's sum only: a paragraph that no video shows has no row.
    """
    if form not in get_args(CoarseForm):
        known = get_args(CoarseForm)
        raise StepclipError(f"coarse form {form!r}{nearest(str(form), known)}", f"one of {', '.join(known)}")
    v = unit(video)
    logits = scale * (v @ unit(paragraph).mT)
    diagonal = torch.eye(logits.shape[-1], dtype=torch.bool, device=logits.device)
    together = diagonal.expand(logits.shape) if positives is None or form == "plain" else positives | diagonal
    wrong = None
    if negatives is not None:
        wrong = scale * (unit(negatives) @ v[..., None])[..., 0]
        wrong = wrong if real is None else wrong.masked_fill(~real, -torch.inf)
    return _one_way(logits, together, diagonal, form, wrong) + _one_way(
        logits.mT, together.mT, diagonal, form, None
    )


def _one_way(
    logits: Tensor, together: Tensor, diagonal: Tensor, form: CoarseForm, wrong: Tensor | None
) -> Tensor:
    if form == "exclude":
        logits, together = logits.masked_fill(together & ~diagonal, -torch.inf), diagonal.expand(logits.shape)
    every = logits if wrong is None else torch.cat([logits, wrong], -1)
    log_p = logits - every.logsumexp(-1, keepdim=True)
    if form == "mil":
        return -log_p.masked_fill(~together, -torch.inf).logsumexp(-1).mean()
    return -(log_p.masked_fill(~together, 0.0).sum(-1) / together.sum(-1)).mean()

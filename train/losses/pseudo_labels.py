"""Which sentence each frame is taken to show, from the order of the sentences alone.

| labelling | what it is |
|---|---|
| `viterbi` | the best path, any forward jump (WeakSVR, section 3.3) |
| `visit-all` | the best path that visits every sentence: stay or next |
| `prior` | likewise, and a sentence is expected near its share of the video |
| `sort` | the best sentence of each frame, the frames' labels then sorted (WeakSVR's released choice) |
| `uniform` | equal parts, which looks at nothing: the baseline that the others must beat |
| `soft-monotone`, `soft-visit-all`, `soft-prior` | the posteriors of these paths, not the best one |
| `soft-dtw` | the expected warping path (soft-DTW), each frame's cells as shares |
| `split` | no labels of frames: see `split.py` |
"""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

from ...cache.errors import StepclipError, nearest
from ..alignment import monotone, monotone_posteriors, soft_dtw_alignment
from ..knobs import Labelling

PRIOR_SPREAD = 0.15  # of "prior": standard deviation of a sentence's place, as a share of the video


@torch.no_grad()
def pseudo_labels(
    log_p: Tensor, lengths: Tensor, labelling: Labelling = "viterbi", spread: float = PRIOR_SPREAD
) -> Tensor:
    """`log_p` (B, N, K) log-softmax over the first `lengths` (B,) sentences -> int64 (B, N), non-decreasing,
    < lengths; for the soft ones (B, N, K), rows that sum to 1.

    `spread`: of "prior" and "soft-prior", the standard deviation of the Gaussian about the middle of a
    sentence's equal part, as a share of the video.
    """
    if labelling not in get_args(Labelling):
        known = get_args(Labelling)
        raise StepclipError(
            f"labelling {labelling!r}{nearest(str(labelling), known)}", f"one of {', '.join(known)}"
        )
    if labelling in ("uniform", "split"):
        frame = torch.arange(log_p.shape[1], device=log_p.device)
        return frame * lengths[:, None] // log_p.shape[1]
    if labelling == "sort":
        return log_p.argmax(2).sort(1).values
    if labelling.endswith("prior"):
        place = (torch.arange(log_p.shape[1], device=log_p.device) + 0.5) / log_p.shape[1]
        middle = (torch.arange(log_p.shape[2], device=log_p.device) + 0.5) / lengths[:, None]
        off = (place[:, None] - middle[:, None]) / spread
        log_p = log_p - 0.5 * off.square()
    if labelling == "soft-dtw":
        cells = soft_dtw_alignment(-log_p, 1.0, (None, lengths), check=False).weights
        return cells / cells.sum(2, keepdim=True)
    free = labelling in ("viterbi", "soft-monotone")
    if labelling.startswith("soft"):
        return monotone_posteriors(log_p, 1.0, (None, lengths), visit_all=not free, check=False).weights
    return monotone(log_p, (None, lengths), visit_all=not free, check=False)

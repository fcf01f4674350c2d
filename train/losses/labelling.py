"""Every way to make pseudo-labels by one door: for measuring them against the truth, without a trainer."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

from .frame_sentence import frame_log_p
from .frame_sentence_official import OfficialLabelling, split_image
from .pseudo_labels import PRIOR_SPREAD, Labelling, pseudo_labels
from .unit import unit
from .viterbi_official import viterbi_official

OFFICIAL = "official-"
LABELLINGS: tuple[str, ...] = (
    *get_args(Labelling),
    *(OFFICIAL + name for name in get_args(OfficialLabelling)),
)


@torch.no_grad()
def label_frames(
    frames: Tensor,
    steps: Tensor,
    lengths: Tensor,
    scale: Tensor | float,
    labelling: str,
    *,
    spread: float = PRIOR_SPREAD,
    seed: int = 0,
) -> Tensor:
    """`frames` (B, N, E) raw, `steps` (B, K, E) raw and padded, `lengths` (B,) -> int64 (B, N).

    Of soft labels the largest. The official ones see raw cosines and the padding as it is handed over, so
    that labels >= lengths occur; "official-sort" draws its Gumbel noise from `seed`.
    """
    if not labelling.startswith(OFFICIAL):
        made = pseudo_labels(frame_log_p(frames, steps, lengths, scale), lengths, labelling, spread)  # type: ignore[arg-type]
        return made.argmax(2) if made.is_floating_point() else made
    cosines = unit(frames) @ unit(steps).mT
    kind = labelling.removeprefix(OFFICIAL)
    if kind == "viterbi":
        return viterbi_official(cosines)
    if kind == "split":
        return split_image(cosines, lengths)[1]
    drawn = torch.empty(cosines.shape).exponential_(generator=torch.Generator().manual_seed(seed))
    noisy = cosines - drawn.log().to(cosines.device)
    return noisy.argmax(2).sort(1).values

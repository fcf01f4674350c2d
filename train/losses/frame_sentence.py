"""The fine loss: each frame against the sentences of its own script, with pseudo-labels made from their
order.

WeakSVR (CVPR 2023, eq. 5-9), corrected as `methods/weaksvr.md` 8.4 lists: padding sentences take no part, the
logits are s * cos, the pseudo-labels are a Viterbi path over log-softmax emissions, and the text side is
divided by the number of real sentences. (The released forms, with Gumbel noise and one-hot logits, are not in
this file.)
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from ...cache.errors import StepclipError, nearest
from ..alignment import monotone
from .video_paragraph import unit

Labelling = Literal["viterbi", "visit-all", "prior", "uniform"]
PRIOR_SPREAD = 0.15  # of "prior": standard deviation of a sentence's place, as a share of the video
TextForm = Literal["mean", "mil"]


class FrameSentence(NamedTuple):
    """`image` () cross-entropy over sentences, `text` () over frames, `labels` (B, N) the pseudo-labels
    used."""

    image: Tensor
    text: Tensor
    labels: Tensor


@torch.no_grad()
def pseudo_labels(log_p: Tensor, lengths: Tensor, labelling: Labelling = "viterbi") -> Tensor:
    """Which sentence each frame is taken to show, from the order alone: int64 (B, N), non-decreasing, <
    lengths.

    `log_p` (B, N, K) log-softmax over the first `lengths` (B,) sentences. "viterbi": any forward jump;
    "visit-all": every sentence visited; "prior": likewise, and a sentence is expected near its share of the
    video (a Gaussian about the middle of its equal part); "uniform": equal parts, which looks at nothing (the
    baseline that the others must beat).
    """
    if labelling == "uniform":
        frame = torch.arange(log_p.shape[1], device=log_p.device)
        return frame * lengths[:, None] // log_p.shape[1]
    if labelling not in get_args(Labelling):
        known = get_args(Labelling)
        raise StepclipError(
            f"labelling {labelling!r}{nearest(str(labelling), known)}", f"one of {', '.join(known)}"
        )
    if labelling == "prior":
        place = (torch.arange(log_p.shape[1], device=log_p.device) + 0.5) / log_p.shape[1]
        middle = (torch.arange(log_p.shape[2], device=log_p.device) + 0.5) / lengths[:, None]
        off = (place[:, None] - middle[:, None]) / PRIOR_SPREAD
        log_p = log_p - 0.5 * off.square()
    return monotone(log_p, lengths_s=lengths, visit_all=labelling != "viterbi", check=False)


def frame_sentence_loss(
    frames: Tensor,
    steps: Tensor,
    lengths: Tensor,
    scale: Tensor | float,
    *,
    labelling: Labelling = "viterbi",
    text_form: TextForm = "mean",
    labels: Tensor | None = None,
) -> FrameSentence:
    """`frames` (B, N, E) raw, `steps` (B, K, E) raw and padded, `lengths` (B,) real sentences, at least 1
    each.

    Image side: the mean over frames of -log softmax_k(s cos) at the frame's label. Text side: for each
    sentence, over the frames, -log softmax_t(s cos) at the frames that carry its label: their mean ("mean")
    or the log of their summed probability ("mil"); summed over sentences that have a frame, divided by the
    number of real sentences. `labels` (B, N) replaces the pseudo-labels (a teacher's, say).
    """
    logits = scale * (unit(frames) @ unit(steps).transpose(1, 2))
    real = torch.arange(steps.shape[1], device=steps.device) < lengths[:, None]
    log_p = logits.masked_fill(~real[:, None], -torch.inf).log_softmax(2)
    if labels is None:
        labels = pseudo_labels(log_p.detach(), lengths, labelling)
    image = -log_p.gather(2, labels[..., None]).mean()

    shown = labels[..., None] == torch.arange(steps.shape[1], device=steps.device)  # (B, N, K)
    count = shown.sum(1)
    log_q = logits.log_softmax(1)
    if text_form == "mil":
        absent = (
            shown | (count == 0)[:, None]
        )  # a column without a positive would be log 0; it is dropped below
        term = log_q.masked_fill(~absent, -torch.inf).logsumexp(1)
    else:
        term = log_q.masked_fill(~shown, 0.0).sum(1) / count.clamp(min=1)
    text = -term.masked_fill((count == 0) | ~real, 0.0).sum() / lengths.sum()
    return FrameSentence(image, text, labels)

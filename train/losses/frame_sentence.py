"""The fine loss: each frame against the sentences of its own script, with pseudo-labels made from their
order.

WeakSVR (CVPR 2023, eq. 5-9), corrected as `methods/weaksvr.md` 8.4 lists: padding sentences take no part, the
logits are s * cos, Viterbi's emissions are their log-softmax, and the text side is divided by the number of
real sentences. The released form, with Gumbel noise on raw cosines and one-hot logits, is in
`frame_sentence_official.py`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .pseudo_labels import PRIOR_SPREAD, Labelling, pseudo_labels
from .split import split_loss
from .unit import unit

TextForm = Literal["mean", "mil"]


class FrameSentence(NamedTuple):
    """`image` () cross-entropy over sentences, `text` () over frames, `labels` the pseudo-labels used: (B, N)
    int64, or (B, N, K) where they are soft."""

    image: Tensor
    text: Tensor
    labels: Tensor


def gumbel(like: Tensor) -> Tensor:
    """Standard Gumbel noise of the same shape, from torch's generator (always in float32 or better)."""
    drawn = torch.empty_like(like, dtype=torch.promote_types(like.dtype, torch.float32))
    return -drawn.exponential_().log()


def frame_log_p(frames: Tensor, steps: Tensor, lengths: Tensor, scale: Tensor | float) -> Tensor:
    """Log-softmax of s cos over the real sentences: (B, N, K), -inf beyond `lengths`. What a teacher hands to
    `pseudo_labels`."""
    logits = scale * (unit(frames) @ unit(steps).mT)
    real = torch.arange(steps.shape[1], device=steps.device) < lengths[:, None]
    return logits.masked_fill(~real[:, None], -torch.inf).log_softmax(2)


def frame_sentence_loss(
    frames: Tensor,
    steps: Tensor,
    lengths: Tensor,
    scale: Tensor | float,
    *,
    labelling: Labelling = "viterbi",
    text_form: TextForm = "mean",
    labels: Tensor | None = None,
    noise: Tensor | None = None,
    tau: float = 1.0,
    spread: float = PRIOR_SPREAD,
    sentences: Tensor | float | None = None,
    log_shares: Tensor | None = None,
) -> FrameSentence:
    """`frames` (B, N, E) raw, `steps` (B, K, E) raw and padded, `lengths` (B,) real sentences, at least 1
    each.

    Image side: the mean over frames of -log softmax_k(s cos) at the frame's label. Text side: for each
    sentence, over the frames, -log softmax_t(s cos) at the frames that carry its label: their mean ("mean")
    or the log of their summed probability ("mil"); summed over sentences that have a frame, divided by the
    number of real sentences. Soft labels weigh frames in place of choosing them.

    `labels` (B, N) or (B, N, K) replaces the pseudo-labels (a teacher's, say). `noise` (B, N, K), see
    `gumbel`, is added to s cos, which is then divided by `tau` (at most 1): the prediction is a sample's. The
    pseudo-labels never see the noise. `sentences`: what to divide the text side by, where the batch is only a
    part of a larger one.

    `log_shares` (B, K): the logarithm of the share of the video that each sentence is expected to last. Then
    s cos is the log-likelihood of a frame and the share its prior: the image side predicts
    softmax_k(s cos + log share), the logit adjustment of Menon et al. (ICLR 2021), and s cos alone says which
    step a frame shows, however long that lasts.
    """
    logits = scale * (unit(frames) @ unit(steps).mT)
    place = torch.arange(steps.shape[1], device=steps.device)
    real = place < lengths[:, None]
    wall = ~real[:, None]
    if labels is None:
        clean = logits.detach().masked_fill(wall, -torch.inf).log_softmax(2)
        labels = pseudo_labels(clean, lengths, labelling, spread)
    if noise is not None:
        logits = (logits + noise) / tau
    if labelling == "split":
        image, text = split_loss(logits, lengths)
        return FrameSentence(image, text, labels)
    target = labels if labels.is_floating_point() else labels[..., None] == place
    target = target.to(logits.dtype)
    prior = 0.0 if log_shares is None else log_shares.detach()[:, None].masked_fill(wall, 0.0)
    log_p = (logits + prior).masked_fill(wall, -torch.inf).log_softmax(2).masked_fill(wall, 0.0)
    image = -(target * log_p).sum(2).mean()

    share = target.sum(1)
    log_q = logits.log_softmax(1)
    if text_form == "mil":
        shown = target > 0
        any_shown = shown.any(1, keepdim=True)
        # a column without a positive would be log 0; it is dropped below
        weight = torch.where(shown, target, torch.where(any_shown, 0.0, 1.0)).log()
        term = (log_q + weight).logsumexp(1)
    else:
        term = (target * log_q).sum(1) / torch.where(share > 0, share, 1.0)
    whole = lengths.sum() if sentences is None else sentences
    text = -term.masked_fill((share == 0) | ~real, 0.0).sum() / whole
    return FrameSentence(image, text, labels)

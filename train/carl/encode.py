"""Whole videos through the frame encoder: padded batches of like length, and long videos in parts.

A part is as good as the whole where a frame's embedding depends on near frames alone (`attention_window`):
the parts then overlap by that reach, and positions are those of the whole video. Where attention spans the
video, what parts give is an approximation, and `Encoded.exact` says so.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...cache.errors import StepclipError
from ..features import Features
from .model import FrameEncoder

LIMIT = 2048  # frames of one pass; attention grows with its square


class Encoded(NamedTuple):
    """`frames` (L, E) of one video; `exact`: as one pass over the whole video would give them."""

    frames: Tensor
    exact: bool


@torch.no_grad()
def encode_video(model: FrameEncoder, features: Tensor, limit: int | None = None) -> Encoded:
    """One video's features (L, D) -> its embeddings. Longer than `limit` (LIMIT), it is taken in parts of so
    many frames, with the reach of the model on both sides, or, where that is all, a quarter of a part."""
    length, limit = len(features), limit or LIMIT
    if length <= limit:
        return Encoded(_embedding(model, model(features[None].float()).frames)[0], True)
    reach = model.reach
    exact = reach is not None and 2 * reach < limit
    margin = reach if reach is not None and exact else limit // 4
    inner = limit - 2 * margin
    position = torch.arange(length, device=features.device) * ((model.span - 1) / (length - 1))
    parts = []
    for start in range(0, length, inner):
        low, high = max(0, start - margin), min(length, start + inner + margin)
        part = model(features[None, low:high].float(), positions=position[None, low:high]).frames[0]
        parts.append(part[start - low : start - low + inner])
    return Encoded(_embedding(model, torch.cat(parts)), exact)


def encode_packed(model: FrameEncoder, packed: Features, batch: int = 256) -> tuple[Tensor, Tensor]:
    """(video (V, E), frames (N, E)) float32: every cached frame in the context of its whole video; a video is
    the mean of its frames. `batch`: how many times the frames of training one pass may hold."""
    lengths = packed.lengths.tolist()
    if not lengths:
        raise StepclipError("no video to embed", "at least one video with features", "stepclip extract")
    budget = batch * model.span
    offsets = packed.offsets[:-1]
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    videos: list[Tensor] = [torch.empty(0)] * len(lengths)
    approximate = 0
    while order:
        longest = lengths[order[-1]]
        if longest > LIMIT:
            i = order.pop()
            rows = torch.arange(longest, device=packed.device) + offsets[i]
            videos[i], exact = encode_video(model, packed.gather(rows))
            approximate += not exact
            continue
        count = max(1, min(budget // longest, len(order)))
        taken, order = order[-count:], order[:-count]
        of = torch.tensor([lengths[i] for i in taken], device=packed.device)
        slot = torch.arange(longest, device=packed.device)
        rows = slot.minimum(of[:, None] - 1) + offsets[taken][:, None]
        found = _embedding(model, model(packed.gather(rows).float(), slot < of[:, None]).frames)
        for i, one in zip(taken, found, strict=True):
            videos[i] = one[: lengths[i]]
    if approximate:
        logging.getLogger("stepclip").warning(
            "%d videos of more than %d frames were embedded in parts: their frames see only their part, as "
            "attention here is over all of a video (model.attention_window: 0)",
            approximate,
            LIMIT,
        )
    return torch.stack([one.mean(0) for one in videos]), torch.cat(videos)


def _embedding(model: FrameEncoder, frames: Tensor) -> Tensor:
    return F.normalize(frames.float(), dim=-1) if model.config.unit else frames.float()

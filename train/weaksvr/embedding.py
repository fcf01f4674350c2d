"""A whole set of videos through the model: its test views for the video, interleaved ones for every frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...cache.errors import StepclipError
from .sampling import VIEWS, dense_rows, view_rows

if TYPE_CHECKING:
    from ..features import Features
    from .model import StepModel


def embed_packed(
    model: StepModel, packed: Features, batch: int = 256, views: int = VIEWS
) -> tuple[Tensor, Tensor]:
    """Video embeddings (V, E) and dense frame embeddings (N, E), float32, of all videos of `packed`.

    The video embedding is the mean, un-normalised, of the model's output on three views of N frames, one per
    segment (WeakSVR's test protocol, `methods/weaksvr.md` 5.1). The dense frame embeddings come from
    interleaved views of N frames that together hold every cached frame exactly once, so each frame is seen
    in the context it was trained in. `batch` is the number of views in one forward.
    """
    n = model.frames
    spread, dense, own = _plan(packed, n, views)
    videos = [model(packed.gather(rows).float()).video.float() for rows in spread.split(batch)]
    frames = None
    for rows, keep in zip(dense.split(batch), own.split(batch), strict=True):
        out = model(packed.gather(rows).float()).frames.float()
        if frames is None:
            frames = out.new_empty((packed.count, out.shape[-1]))
        frames[rows[keep]] = out[keep]
    if frames is None:
        raise _nothing()
    return torch.cat(videos).reshape(len(packed), views, -1).mean(1), frames


def _plan(packed: Features, n: int, views: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows (V * views, n) of every test view; rows and first occurrences (M, n) of every dense view."""
    lengths, offsets = packed.lengths.tolist(), packed.offsets[:-1].cpu()
    test = {t: view_rows(t, n, views) for t in set(lengths)}
    full = {t: dense_rows(t, n) for t in set(lengths)}
    spread = [test[t] + o for t, o in zip(lengths, offsets, strict=True)]
    dense = [full[t][0] + o for t, o in zip(lengths, offsets, strict=True)]
    own = [full[t][1] for t in lengths]
    if not spread:
        raise _nothing()
    device = packed.device
    return torch.cat(spread).to(device), torch.cat(dense).to(device), torch.cat(own).to(device)


def _nothing() -> StepclipError:
    return StepclipError("no video to embed", "at least one video with features", "stepclip extract")

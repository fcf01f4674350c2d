"""WeakSVR's "split" (section 3.3): the longer sequence is averaged in equal parts to the length of the
shorter, and the diagonal of the square that remains is right.

For every length the averaging is a matrix that does not depend on the data, so that a whole batch is two
matrix products with a table of them: no loop over samples.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=64)
def frame_table(frames: int, most: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(most + 1, most, N): row j of entry n averages frames floor(N j / n) .. floor(N (j+1) / n) - 1, for
    j < n <= N; rows beyond n, and entries n > N, are zero."""
    n = torch.arange(most + 1, dtype=torch.float64)[:, None, None]
    return _averages(torch.full_like(n, frames), n, frames, most, n <= frames, device, dtype)


@lru_cache(maxsize=64)
def sentence_table(frames: int, most: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(most + 1, N, most): row i of entry n averages sentences floor(n i / N) .. floor(n (i+1) / N) - 1, for
    n > N; entries n <= N are zero."""
    n = torch.arange(most + 1, dtype=torch.float64)[:, None, None]
    return _averages(n, torch.full_like(n, frames), most, frames, n > frames, device, dtype)


def _averages(
    long: Tensor,
    parts: Tensor,
    columns: int,
    rows: int,
    used: Tensor,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """Rows of equal weights over the `long` columns that are cut up into `parts`."""
    j = torch.arange(rows, dtype=torch.float64)[:, None]
    t = torch.arange(columns, dtype=torch.float64)
    # the released code multiplies the double N / n by j and cuts off what is behind the point: the same here
    size = long / parts.clamp(min=1)  # of tensors: torch divides a plain number by way of the reciprocal
    inside = (t >= (size * j).floor()) & (t < (size * (j + 1)).floor()) & (j < parts) & used
    return (inside / inside.sum(-1, keepdim=True).clamp(min=1)).to(device, dtype)


def split_loss(logits: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """As it was meant: `logits` (B, N, K) s * cos of frames and sentences -> (image (), text ()).

    With n <= N sentences, frames are averaged to n parts; with n > N, sentences to N parts. On the square of
    m = min(n, N) parts: cross-entropy of part i against all m sentences and of sentence i against all m
    parts, mean over the parts of a video, then over videos.
    """
    frames, most = logits.shape[1:]
    m = lengths.clamp(max=frames)
    few = frame_table(frames, most, logits.device, logits.dtype)[torch.where(lengths <= frames, lengths, 0)]
    square = few @ logits  # (B, K, K): part, sentence
    if most > frames:
        steps = sentence_table(frames, most, logits.device, logits.dtype)[lengths]  # (B, N, K)
        many = torch.zeros_like(square)
        many[:, :frames, :frames] = logits @ steps.mT
        square = torch.where((lengths > frames)[:, None, None], many, square)
    place = torch.arange(most, device=logits.device)
    real = place < m[:, None]
    square = square.masked_fill(~(real[:, :, None] & real[:, None]), -torch.inf)
    square = torch.where((place[:, None] == place) & ~real[:, None], 0.0, square)  # no row of -inf only
    terms = [-square.log_softmax(d).diagonal(dim1=1, dim2=2) for d in (2, 1)]
    image, text = ((term.masked_fill(~real, 0.0).sum(1) / m).mean() for term in terms)
    return image, text

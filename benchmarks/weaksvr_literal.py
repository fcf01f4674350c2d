"""WeakSVR's released losses one sample at a time, as `methods/weaksvr.md` 4 describes them: the yardstick of
bench_train.py and the oracle of the tests. Own words, the released structure: Python loops over samples,
`.item()`, numpy on the host, a dense K x K transition. ("split" labels beyond the last place, where the
released code crashes, are the last place.)
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def normalised(x: Tensor) -> Tensor:
    return x / (x.norm(dim=-1, keepdim=True) + 1e-6)


def viterbi_labels(cosines: Tensor) -> Tensor:
    """One sample (T, K): the hidden Markov path by dense products in numpy, float64."""
    emission = cosines.detach().cpu().numpy().T  # state, time
    k, t = emission.shape
    transition = np.triu(np.full((k, k), 1 / k))
    best, back = np.empty((k, t)), np.empty((k, t), np.uint8)
    best[:, 0] = 1 / k * emission[:, 0]
    for i in range(1, t):
        came = best[:, i - 1] * transition.T
        best[:, i] = np.max(came * emission[None, :, i].T, 1)
        back[:, i] = np.argmax(came, 1)
    path = np.empty(t, np.uint8)
    path[-1] = np.argmax(best[:, -1])
    for i in range(t - 1, 0, -1):
        path[i - 1] = back[path[i], i]
    return torch.from_numpy(path).long().to(cosines.device)


def split_of_image(cosines: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """One sample (T, K) -> labels (T,), the judged matrix: zeros but where n > T."""
    t, k = cosines.shape
    judged = torch.zeros_like(cosines)
    if t > n:
        return torch.tensor([min(round(i * n / t), k - 1) for i in range(t)]), judged
    if n > t:
        square = torch.zeros(t, t)
        for i in range(t):
            for j in range(t):
                square[i][j] = cosines[i][int(n / t * j) : int(n / t * (j + 1))].mean()
        judged[:, :t] = square
    return torch.arange(t), judged


def split_of_text(cosines: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """One sample (K, T) -> labels (K,), the judged matrix."""
    k, t = cosines.shape
    labels = torch.zeros(k)
    if n > t:
        labels[:n] = torch.tensor([min(round(i * t / n), t - 1) for i in range(n)])
        return labels.long(), cosines
    labels[:n] = torch.arange(n)
    if n == t:
        return labels.long(), cosines
    square = torch.zeros(n, n)
    for i in range(n):
        for j in range(n):
            square[i][j] = cosines[i][int(t / n * j) : int(t / n * (j + 1))].mean()
    judged = torch.zeros_like(cosines)
    judged[:n, :n] = square
    return labels.long(), judged


def fine_loss(
    frames: Tensor, steps: Tensor, lengths: Tensor, tau: Tensor | float, kind: str, noise: bool = True
) -> Tensor:
    mask = torch.zeros(steps.shape[:2])
    for row, n in zip(mask, lengths.int(), strict=True):
        row[:n] = 1
    frames, steps = normalised(frames), normalised(steps)
    of_image, of_text = frames @ steps.permute(0, 2, 1), steps @ frames.permute(0, 2, 1)

    def sample(logits: Tensor) -> Tensor:
        if noise:
            return F.gumbel_softmax(logits, tau=tau, hard=True, dim=-1)
        soft = (logits / tau).softmax(-1)
        hard = torch.zeros_like(soft).scatter_(-1, soft.argmax(-1, keepdim=True), 1.0)
        return hard - soft.detach() + soft

    if kind == "split":
        made = [split_of_image(matrix, lengths[i].item()) for i, matrix in enumerate(of_image)]
        image_labels, of_image = (torch.stack(part) for part in zip(*made, strict=True))
        made = [split_of_text(matrix, lengths[i].item()) for i, matrix in enumerate(of_text)]
        text_labels, of_text = (torch.stack(part) for part in zip(*made, strict=True))
    image_sample, text_sample = sample(of_image), sample(of_text)
    if kind == "viterbi":
        image_labels = torch.stack([viterbi_labels(matrix) for matrix in of_image])
        text_labels = torch.stack([viterbi_labels(matrix) for matrix in of_text])
    elif kind == "sort":
        image_labels = image_sample.max(-1)[1].sort(-1)[0]
        text_labels = text_sample.max(-1)[1].sort(-1)[0]
    image = F.cross_entropy(image_sample.permute(0, 2, 1), image_labels)
    text = F.cross_entropy(text_sample.permute(0, 2, 1), text_labels, reduction="none")
    return image + (text * mask).mean()


def coarse_loss(video: Tensor, paragraph: Tensor, scale: Tensor | float) -> Tensor:
    video, paragraph = normalised(video), normalised(paragraph)
    right = torch.arange(len(video))
    return F.cross_entropy(scale * video @ paragraph.t(), right) + F.cross_entropy(
        scale * paragraph @ video.t(), right
    )

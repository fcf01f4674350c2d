"""The fine loss as released (WeakSVR's `compute_gumbel_loss`), number for number, without its loops.

Its quirks live here, and only here (`methods/weaksvr.md` 4.2, 4.3, 7.2):
- the prediction is a straight-through Gumbel sample of *raw* cosines, tau = the logit scale (14.3 at the
  start): the noise swamps the cosines, and the cross-entropy of a one-hot vector is nearly flat;
- padding sentences compete, and "sort" and "viterbi" label frames with them;
- "sort" makes the labels from the very sample that it judges;
- "viterbi" multiplies signed cosines (`viterbi_official.py`);
- "split" hands back an image side of zeros: no gradient but tau's. Only with more sentences than frames it
  works as meant. Its text side leaves the columns beyond n at zero, and they compete;
- the text side is divided by B * K, padding included.
One thing differs: where a "split" label lies one beyond the last place (4 steps of 4: the released code
crashes), it is the last place.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor

from ...cache.errors import StepclipError, nearest
from .frame_sentence import FrameSentence, gumbel
from .split import frame_table, sentence_table
from .unit import unit
from .viterbi_official import viterbi_official

OfficialLabelling = Literal["sort", "viterbi", "split"]


def frame_sentence_official(
    frames: Tensor,
    steps: Tensor,
    lengths: Tensor,
    scale: Tensor | float,
    *,
    labelling: OfficialLabelling = "sort",
    noise: bool = True,
) -> FrameSentence:
    """`frames` (B, N, E), `steps` (B, K, E) raw, padding rows included as they are encoded, `lengths` (B,)
    -> the loss of the image side (), of the text side (), the labels of the frames (B, N).

    `noise=False` leaves the Gumbel noise out (to compare numbers; the released code cannot).
    """
    if labelling not in get_args(OfficialLabelling):
        known = get_args(OfficialLabelling)
        raise StepclipError(
            f"labelling {labelling!r}{nearest(str(labelling), known)}", f"one of {', '.join(known)}"
        )
    cosines = unit(frames) @ unit(steps).mT
    of_text = cosines.mT
    if labelling == "split":
        cosines, labels = split_image(cosines, lengths)
        of_text, text_labels = split_text(of_text, lengths)
    image_soft, image_best = _sample(cosines, scale, noise)
    text_soft, text_best = _sample(of_text, scale, noise)
    if labelling == "sort":
        labels, text_labels = image_best.sort(1).values, text_best.sort(1).values
    elif labelling == "viterbi":
        labels, text_labels = viterbi_official(cosines), viterbi_official(of_text)
    image = _cross_entropy(image_soft, image_best, labels).mean()
    real = torch.arange(steps.shape[1], device=steps.device) < lengths[:, None]
    text = (_cross_entropy(text_soft, text_best, text_labels) * real).mean()
    return FrameSentence(image, text, labels)


def split_image(cosines: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """ "split" of (B, N, K) -> the matrix that is judged (zeros but where n > N), labels (B, N)."""
    _, n, k = cosines.shape
    judged = torch.zeros_like(cosines)
    if k > n:  # entries of the table up to n sentences are zero, and so is what comes out
        judged[:, :, :n] = cosines @ sentence_table(n, k, cosines.device, cosines.dtype)[lengths].mT
    return judged, _image_labels(n, k, cosines.device)[lengths]


def split_text(cosines: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """ "split" of (B, K, N) -> the matrix that is judged, labels (B, K)."""
    _, k, n = cosines.shape
    few = (lengths < n)[:, None, None]
    pooled = torch.zeros_like(cosines)
    width = min(n, k)
    table = frame_table(n, k, cosines.device, cosines.dtype)[:, :width][lengths]
    real = torch.arange(k, device=cosines.device) < lengths[:, None]
    pooled[:, :, :width] = (cosines @ table.mT) * real[..., None]
    return torch.where(few, pooled, cosines), _text_labels(n, k, cosines.device)[lengths]


@lru_cache(maxsize=64)
def _image_labels(n: int, k: int, device: torch.device) -> Tensor:
    """(K + 1, N): Python's round, half to even, as released."""
    rows = [[round(i * s / n) if n > s else i for i in range(n)] for s in range(k + 1)]
    return torch.tensor(rows, device=device).clamp(max=k - 1)


@lru_cache(maxsize=64)
def _text_labels(n: int, k: int, device: torch.device) -> Tensor:
    """(K + 1, K): the diagonal; 0 for padding."""
    rows = [[(round(i * n / s) if s > n else i) if i < s else 0 for i in range(k)] for s in range(k + 1)]
    return torch.tensor(rows, device=device).clamp(max=n - 1)


def _sample(cosines: Tensor, tau: Tensor | float, noise: bool) -> tuple[Tensor, Tensor]:
    """The softmax of a noisy last dimension, and the place of its largest: the sample."""
    soft = ((cosines + gumbel(cosines) if noise else cosines) / tau).softmax(-1)
    return soft, soft.argmax(-1)


def _cross_entropy(soft: Tensor, best: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy, as if it were logits, of the one-hot sample that carries the gradient of `soft`.

    With z = e + K - 1 it is log z, less 1 for a hit (`methods/weaksvr.md` 4.2); its slope against the sample,
    softmax minus label, is (e - 1) / z at the best and -1 at the label beside a constant, which `soft` (its
    sum is 1) does not feel. So nothing of size K is written out.
    """
    z = math.e + soft.shape[-1] - 1
    places = torch.stack([best, labels], -1)
    at_best, at_label = soft.gather(-1, places).unbind(-1)
    slope = (math.e - 1) / z * at_best - at_label
    return slope - slope.detach() + (math.log(z) - (best == labels).to(soft.dtype))

"""Which procedure of the training set a video shows (SVIP, and WeakSVR "with class labels")."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def classification_loss(logits: Tensor, procedures: Tensor, paired: bool = False) -> Tensor:
    """Softmax cross-entropy: `logits` (B, C), `procedures` (B,) int64 -> ().

    `paired`: the batch holds pairs, and the loss is that of the first videos plus that of the second, as
    released: twice the mean.
    """
    loss = F.cross_entropy(logits.float(), procedures)
    return 2 * loss if paired else loss

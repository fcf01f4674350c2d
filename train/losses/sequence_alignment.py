"""SVIP's sequence alignment (CVPR 2022, eq. 4; WeakSVR's "adjusted position" when fed with H)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def sequence_alignment_loss(first: Tensor, second: Tensor, temperature: float = 1.0) -> Tensor:
    """Frame t of one video should look most like frame t of the other: two (B, N, E) raw -> ().

    With R the cosines, P = (softmax over the rows + softmax over the columns) / 2; the sum over t of
    1 - P_tt, mean over pairs. As released there is no temperature (1), so the value moves only between about
    N - 1 and, at N = 16, 13.55: `methods/weaksvr.md` 4.4. With .1 it has a gradient.
    """
    cosines = F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).mT / temperature
    matched = (cosines.softmax(1) + cosines.softmax(2)) / 2
    return (1 - matched.diagonal(dim1=1, dim2=2)).sum() / len(first)

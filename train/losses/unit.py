"""The length of a feature taken off, the same way in every loss."""

from __future__ import annotations

from torch import Tensor


def unit(x: Tensor) -> Tensor:
    """Rows at length 1, as the released code does it: 1e-6 is added to the norm, so an all-zero row stays
    zero."""
    return x / (x.norm(dim=-1, keepdim=True) + 1e-6)

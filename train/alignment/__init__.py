"""Alignment of two sequences: batched, masked dynamic programmes over (..., T, S) matrices, one small family.

| function | works on | gives |
|---|---|---|
| `dtw` | a cost | the least cost of a warping path (differentiable) |
| `dtw_path` | a cost | that path |
| `monotone` | a similarity | one non-decreasing label per row |

Each problem of a batch may have its own lengths; what lies beyond them is never read (NaN included).
"""

from .labels import monotone
from .warping import dtw, dtw_path

__all__ = ["dtw", "dtw_path", "monotone"]

"""Alignment of two sequences: batched, masked dynamic programmes over (..., T, S) matrices, one small family.

| function | works on | gives |
|---|---|---|
| `dtw`, `soft_dtw` | a cost | the least, or soft least, cost of a warping path, corner to corner |
| `otam`, `soft_otam` | a cost | the same with relaxed ends, in one direction or the sum of both |
| `subsequence` | a cost | the whole script somewhere inside a longer video |
| `drop_dtw` | a cost | frames (background) and steps (missing) may be left out |
| `monotone` | a similarity | one non-decreasing label per row; `soft_monotone` sums over all labellings |
| `duration_labels` | a similarity | the same, knowing how long each step lasts; `duration_posteriors` |
| `semi_markov` | log-likelihoods | posteriors of steps that last, with rests between them |
| `sinkhorn` | a cost | the control that does not see order |
| `pairs` | features | any of these for all pairs of two sets of sequences, through one matrix product |

Values are differentiable; `*_alignment`, `*_path`, `*_labels`, `*_posteriors`, `*_span`, `*_plan` say where.
Each problem of a batch may have its own lengths; what lies beyond them is never read (NaN included). Backends
(numba, Triton, plain torch) are chosen by device and agree: `backends.py`. docs/alignment.md has pictures.
"""

from .costs import COSTS, cost_matrix
from .dropping import drop_dtw, drop_dtw_labels, percentile_drop
from .durations import duration_columns, duration_labels, duration_posteriors, duration_width
from .labels import monotone, monotone_posteriors, monotone_value, soft_monotone
from .otam import otam, otam_alignment, soft_otam
from .pairs import pairs
from .semi_markov import Segments, log_normal_durations, semi_markov
from .subsequence import Span, subsequence, subsequence_alignment, subsequence_span
from .transport import Transport, sinkhorn, sinkhorn_plan
from .warping import Alignment, dtw, dtw_alignment, dtw_path, soft_dtw, soft_dtw_alignment

__all__ = [
    "COSTS",
    "Alignment",
    "Segments",
    "Span",
    "Transport",
    "cost_matrix",
    "drop_dtw",
    "drop_dtw_labels",
    "dtw",
    "dtw_alignment",
    "dtw_path",
    "duration_columns",
    "duration_labels",
    "duration_posteriors",
    "duration_width",
    "log_normal_durations",
    "monotone",
    "monotone_posteriors",
    "monotone_value",
    "otam",
    "otam_alignment",
    "pairs",
    "percentile_drop",
    "semi_markov",
    "sinkhorn",
    "sinkhorn_plan",
    "soft_dtw",
    "soft_dtw_alignment",
    "soft_monotone",
    "soft_otam",
    "subsequence",
    "subsequence_alignment",
    "subsequence_span",
]

"""Step patterns: which steps a path through the (T, S) matrix may take, where it may start and end.

Every alignment of this family but the free forward jump is the same recurrence over cells,

    D[t, s] = cost[t, s] + min or softmin of the predecessors that the pattern allows,

and a pattern says which they are. `t` are rows (frames), `s` columns (steps, or the other video's frames).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Pattern:
    """The diagonal step (t-1, s-1) is always allowed.

    up: the step (t-1, s), a further row at the same column: everywhere, or in the first column only.
    left: the step (t, s-1), a further column at the same row.
    start: "corner" (0, 0); "row": any row of column 0; "otam": a column of zeros before the first.
    end: "corner"; "row": any row of the last column; "otam": a column of zeros after the last.
    """

    name: str
    up: Literal["all", "first"] = "all"
    left: bool = True
    start: Literal["corner", "row", "otam"] = "corner"
    end: Literal["corner", "row", "otam"] = "corner"


#: Sakoe and Chiba 1978: (1,1), (1,0), (0,1), corner to corner
DTW = Pattern("dtw")
#: OTAM (CVPR 2020) as TempCLR computes it (metrics.py:35-87): each column once, rows never back and, inside,
#: advancing by at most one; rows before the start and after the end are free. The zero columns make some ways
#: count more than once in the soft form; the released values have that, so it is kept.
OTAM = Pattern("otam", up="first", start="otam", end="otam")
#: the whole script somewhere in a longer video
SUBSEQUENCE = Pattern("subsequence", start="row", end="row")
#: one column per row, stay or next, every column visited
STAY_OR_NEXT = Pattern("stay-or-next", left=False)

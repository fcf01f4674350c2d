"""WeakSVR's 16 segments (`methods/weaksvr.md` 2.1): which frames of a video are kept, and which row is which.

The boundaries b_0..b_16 are the whole parts of 17 equally spaced values from 0 to F - 2, F the frames of the
(trimmed) video. The released test takes of each segment the frames b_j + i * floor((b_j+1 - b_j) / 4) for
i = 1, 2, 3; training takes a random one. Extraction keeps either the 48 test frames ("test"), or M candidates
of each segment (M a multiple of 4) among which the test frames are; of a segment of M frames or fewer, all. A
frame is kept once. Whoever reads them back needs no F: the number of rows R says which row is which, for kept
candidates by one rule: segment j has the rows from floor(j R / 16) up to floor((j + 1) R / 16), and view i
is the first of them + i * floor(how many / 4). An empty segment (F < 18, where the released training
crashes) has the row at its start.
"""

from __future__ import annotations

import numpy as np

from .errors import StepclipError

SEGMENTS = 16
VIEWS = 3
PARTS = VIEWS + 1  # the test frames lie where quarters of a segment begin

Take = int | str  # "test", or the candidates of each segment


def check_take(take: Take) -> Take:
    """`take` as "test" or a whole number; StepclipError if it is neither, or no multiple of 4."""
    if take == "test":
        return "test"
    if str(take).isdigit() and int(take) > 0 and int(take) % PARTS == 0:
        return int(take)
    raise StepclipError(
        f"weaksvr={take}",
        "'test' (the 48 test frames), or how many frames of each of the 16 segments: 4, 8, 12, ... "
        "(a multiple of 4, so that the test frames are among them)",
    )


def boundaries(span: int) -> np.ndarray:
    """b_0..b_16 for `span` frames to be divided: int64 (17,)."""
    return np.arange(SEGMENTS + 1) * max(span, 0) // SEGMENTS


def kept_frames(frames: int, take: Take) -> np.ndarray:
    """Numbers, counted from 0, of the frames of a video of `frames` that are kept: int64 (R,), increasing."""
    if frames < 1:
        raise StepclipError(f"a video of {frames} frames", "one or more")
    take = check_take(take)
    if take == "test":
        return np.unique(_views(frames - 2))
    kept = [0]  # of one frame or two, the first; else it is the first candidate anyway
    for first, end in zip(*_segments(frames - 2), strict=True):
        kept.extend(range(first, end) if end - first <= int(take) else _spread(first, end, int(take)))
    return np.unique(kept)


def segment_rows(rows: int) -> np.ndarray:
    """Where the segments' rows begin among `rows` kept candidates: int64 (17,), the last the end of all."""
    return boundaries(rows)


def view_rows(rows: int, take: Take) -> np.ndarray:
    """The rows of the three test views among the `rows` kept as `take` says: int64 (3, 16).

    Raises StepclipError when no video gives that many rows.
    """
    take = check_take(take)
    if take == "test":
        # with segments of 3 frames and 4, only the latter have views that differ: two rows more each
        span = rows if rows <= SEGMENTS else PARTS * SEGMENTS - SEGMENTS + (rows - SEGMENTS) // (VIEWS - 1)
        kept, where = np.unique(_views(span), return_inverse=True)
        if rows < 1 or len(kept) != rows:
            raise StepclipError(
                f"{rows} rows of WeakSVR's test frames", "1 to 16, or an even number up to 48"
            )
        return where.reshape(VIEWS, SEGMENTS)
    if not 1 <= rows <= SEGMENTS * int(take):
        raise StepclipError(f"{rows} rows of {take} in each segment", f"1 to {SEGMENTS * int(take)}")
    return _views(rows)


def _segments(span: int) -> tuple[list[int], list[int]]:
    edges = boundaries(span).tolist()
    return edges[:-1], edges[1:]


def _views(span: int) -> np.ndarray:
    edges = boundaries(span)
    return edges[:-1] + np.arange(1, VIEWS + 1)[:, None] * (np.diff(edges) // PARTS)


def _spread(first: int, end: int, count: int) -> list[int]:
    """`count` frames of first..end: each quarter's own, evenly, from the one where it begins."""
    quarter, each = (end - first) // PARTS, count // PARTS
    starts = [first + part * quarter for part in range(PARTS)] + [end]
    return [
        starts[part] + place * (starts[part + 1] - starts[part]) // each
        for part in range(PARTS)
        for place in range(each)
    ]

"""An answer from what the index holds of its video: spans, the peak, the step there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..localisation import frame_borders
from .answers import Answer, Matched
from .ordered import window_edges
from .part import Part

SPAN_SHARE = 0.5  # a span reaches as far as the score stays above peak - share * (peak - median of the video)


def moment_answer(part: Part, row: int, score: float, moment: np.ndarray) -> Answer:
    """Video `row` of a part, around the moment most like `moment` (E,)."""
    scores = _scores(part, row, moment)
    labels, times = part.array("labels", row), part.array("times", row)
    peak = int(scores.argmax())
    begin, end = grow(scores, peak)
    borders = frame_borders(times, float(part.cell("duration", row)))
    place = int(labels[peak]) if len(labels) else -1
    return _answer(part, row, score, (borders[begin], borders[end]), times[peak], place)


def step_answer(part: Part, row: int, at: int, score: float, moment: np.ndarray) -> Answer:
    """Video `row` of a part, at row `at` of its level of steps."""
    k = int(at - part.firsts["steps"][row])
    place = int(part.array("step_at", row)[k])
    span = (part.array("step_start", row)[k], part.array("step_end", row)[k])
    inside = part.array("labels", row) == place
    peak = int(np.where(inside, _scores(part, row, moment), -np.inf).argmax())
    return _answer(part, row, score, span, part.array("times", row)[peak], place)


def aligned_answer(part: Part, row: int, score: float, matched: tuple[Matched, ...] = ()) -> Answer:
    """Video `row` of a part as a whole, with the steps of a script that were found in it."""
    trim, length = float(part.cell("trim", row)), float(part.cell("duration", row))
    spans = [(m.start, m.end) for m in matched if m.start is not None and m.end is not None]
    best = max((m for m in matched if m.start is not None), key=lambda m: m.score, default=None)
    return Answer(
        score=score,
        start=spans[0][0] if spans else trim,
        end=spans[-1][1] if spans else trim + length,
        peak=trim if best is None or best.start is None else best.start,
        step="",
        steps=matched,
        **_about(part, row),
    )


def step_spans(
    part: Part, row: int, labels: np.ndarray, steps: int
) -> Iterator[tuple[float, float] | tuple[None, None]]:
    """Start and end of each step, seconds of the file, from the step of each ordered window of a video."""
    times = part.array("times", row)
    borders = frame_borders(times, float(part.cell("duration", row))) + float(part.cell("trim", row))
    borders = borders[window_edges(len(times))]
    for step in range(steps):
        here = np.flatnonzero(labels[: len(borders) - 1] == step)
        yield (float(borders[here[0]]), float(borders[here[-1] + 1])) if len(here) else (None, None)


def _scores(part: Part, row: int, moment: np.ndarray) -> np.ndarray:
    first, last = part.firsts["windows"][row : row + 2]
    return part.levels["windows"].vectors(slice(int(first), int(last))) @ moment


def _answer(part: Part, row: int, score: float, span: tuple[float, float], peak: float, place: int) -> Answer:
    trim = float(part.cell("trim", row))
    return Answer(
        score=score,
        start=float(span[0]) + trim,
        end=float(span[1]) + trim,
        peak=float(peak) + trim,
        step=part.cell("script", row)[place] if place >= 0 else "",
        **_about(part, row),
    )


def _about(part: Part, row: int) -> dict[str, Any]:
    columns = ("video_id", "path", "task", "procedure", "split", "duration")
    return {column: part.cell(column, row) for column in columns}


def grow(scores: np.ndarray, peak: int, share: float = SPAN_SHARE) -> tuple[int, int]:
    """First and one past the last window of the stretch around `peak` where `scores` (T,) stay near the peak.

    Near is above the peak by less than `share` of what it stands over the video's median, so a video that
    scores the same everywhere is one whole span and a sharp moment a short one.
    """
    floor = scores[peak] - share * (scores[peak] - np.median(scores))
    below = np.flatnonzero(scores < floor - 1e-7)
    before, after = below[below < peak], below[below > peak]
    return (int(before[-1]) + 1 if len(before) else 0), (int(after[0]) if len(after) else len(scores))

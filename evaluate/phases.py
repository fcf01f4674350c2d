"""Which phase each frame shows, which videos are compared, and on which a classifier is fitted.

A phase is a step of the script, by its sentence. What the papers call an action is a group here: the videos
of one task, or all videos where most tasks have one. A classifier is fitted on the training split where that
shows the phases that are asked for; else in folds of the evaluated split, each of people (or videos) that the
fit has not seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .frame_metrics import Phased

if TYPE_CHECKING:
    from ..cache.manifest import VideoRow
    from .embed import Embedded

FOLDS = 5
KNOWN = 0.9  # share of the split's labelled frames whose phase the training split must show
NO_PHASE = -1


def frame_phases(video: VideoRow, times: np.ndarray) -> np.ndarray:
    """The step (T,) of each frame at `times` (T,) seconds, -1 outside; of overlapping ones the last to start.

    A frame lies in a step when start <= time < end; as in `localise`.
    """
    out = np.full(len(times), NO_PHASE, dtype=np.int64)
    if video.step_start is None or video.step_end is None:
        return out
    spans = sorted(zip(video.step_start, video.step_end, range(len(video.steps)), strict=True))
    for start, end, k in spans:
        out[(times >= start) & (times < end)] = k
    return out


@dataclass(frozen=True)
class Group:
    """Videos that are compared with each other: rows of the evaluated and of the fitted set, and the
    sentences of its phases, in the order in which they mostly come.

    `pairs`: ordered pairs of places in `test`, of one procedure, for the order across videos.
    """

    name: str
    test: tuple[int, ...]
    fit: tuple[int, ...]
    phases: tuple[str, ...]
    folds: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    pairs: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class FramePlan:
    """`groups`; whether the fit is on the training split (`fit_split`), and the protocol in words."""

    groups: tuple[Group, ...]
    fit_split: bool
    described: str


def plan_frames(test: Sequence[VideoRow], train: Sequence[VideoRow]) -> FramePlan | str:
    """How the videos of `test` are evaluated, `train` being at hand; or why they cannot be.

    Videos without step times take no part. Of a group's folds each is (places fitted on, places tested): in
    the training split's rows and in `test`, or both in `test`.
    """
    test_rows = [i for i, video in enumerate(test) if _timed(video)]
    train_rows = [i for i, video in enumerate(train) if _timed(video)]
    if not test_rows:
        return "no video has true step times"
    tasks = Counter(test[i].task for i in test_rows)
    # one video of a task has nobody to be compared with
    by_task = sum(n for n in tasks.values() if n > 1) > len(test_rows) / 2
    names = sorted(task for task in tasks if tasks[task] > 1) if by_task else [""]
    known = {sentence for i in train_rows for sentence in train[i].steps}
    asked = [sentence for i in test_rows for sentence in test[i].steps]
    fit_split = bool(train_rows) and sum(s in known for s in asked) >= KNOWN * len(asked)
    groups = []
    for name in names:
        mine = [i for i in test_rows if not by_task or test[i].task == name]
        theirs = [i for i in train_rows if not by_task or train[i].task == name] if fit_split else []
        if fit_split and not theirs:
            continue
        folds = ((tuple(theirs), tuple(mine)),) if fit_split else _folds([test[i] for i in mine], mine)
        if not folds:
            continue
        phases = _ordered([test[i] for i in mine] + [train[i] for i in theirs])
        groups.append(Group(name, tuple(mine), tuple(theirs), phases, folds, _pairs(test, mine)))
    if not groups:
        return "no two videos show the same phases"
    what = f"{len(groups)} tasks" if by_task else "all tasks together"
    if fit_split:
        how = "classifiers fitted on the training split"
    else:
        count = len(groups[0].folds)
        how = f"classifiers fitted in {count} folds of the split, tested on people they have not seen"
    return FramePlan(tuple(groups), fit_split, f"{what}; {how}")


def _timed(video: VideoRow) -> bool:
    return video.step_start is not None and len(video.steps) > 0


def person_of(video: VideoRow) -> str:
    """Who is seen: the last part of the id, as in 10.1/anna; the same part elsewhere is the same person."""
    return video.video_id.rsplit("/", 1)[-1]


def _folds(
    videos: Sequence[VideoRow], rows: Sequence[int]
) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
    """Leave some people out, in turn; single videos where no person has two."""
    people = [person_of(video) for video in videos]
    if len(set(people)) < 2:
        return ()
    order = {person: i for i, person in enumerate(sorted(set(people)))}
    count = min(FOLDS, len(order))
    of = np.array([order[person] % count for person in people])
    at = np.asarray(rows)
    return tuple(
        (tuple(at[of != k].tolist()), tuple(at[of == k].tolist())) for k in range(count) if (of == k).any()
    )


def _ordered(videos: Sequence[VideoRow]) -> tuple[str, ...]:
    """Distinct sentences by where in a script they mostly stand."""
    places: dict[str, list[float]] = {}
    for video in videos:
        for k, sentence in enumerate(video.steps):
            places.setdefault(sentence, []).append((k + 0.5) / len(video.steps))
    return tuple(sorted(places, key=lambda sentence: (float(np.mean(places[sentence])), sentence)))


def _pairs(test: Sequence[VideoRow], rows: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Places in `rows` of two videos of one procedure; of one task where no two are of one procedure."""
    for key in (lambda v: (v.task, v.procedure), lambda v: (v.task,)):
        found = tuple(
            (a, b)
            for a, i in enumerate(rows)
            for b, j in enumerate(rows)
            if a != b and key(test[i]) == key(test[j])
        )
        if found:
            return found
    return ()


def phased(
    embedded: Embedded, x: np.ndarray, videos: Sequence[VideoRow], rows: Sequence[int], group: Group
) -> Phased:
    """The labelled frames of some videos: `x` (N, E) as `embedded` lays its frames out, `rows` of `videos`,
    which `embedded` holds in the same order. Labels count in the group's phases."""
    number = {sentence: i for i, sentence in enumerate(group.phases)}
    xs, labels, lengths = [], [], []
    for i in rows:
        at = embedded.slice(i)
        steps = frame_phases(videos[i], embedded.times[at])
        of_step = np.array([number.get(s, NO_PHASE) for s in videos[i].steps] + [NO_PHASE])
        found = of_step[steps]  # -1 is the last
        keep = found >= 0
        xs.append(x[at][keep])
        labels.append(found[keep])
        lengths.append(int(keep.sum()))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Phased(np.concatenate(xs), np.concatenate(labels), offsets)

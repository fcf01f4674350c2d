"""TempCLR's tables: full-video retrieval, clip retrieval, step localisation, few-shot; each beside what
learns nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..cache.errors import StepclipError
from .controls import EXPLAINED
from .embed import Embedded, centred
from .fewshot import FewShot, VideoDistance, draw_episodes, even_frames, few_shot, video_distances
from .localisation import random_cuts, true_spans, uniform_split
from .results import CHANCE, CONTROL, TRAINED, Results, Row
from .retrieval import Queries, Retrieval, retrieve
from .sequences import (
    Measure,
    Sequences,
    clip_units,
    count_scores,
    order_scores,
    other_orders,
    sentence_units,
    sequence_scores,
    swapped_orders,
    window_units,
)
from .steps import DECODERS, Decoded, score_steps, step_similarities

if TYPE_CHECKING:
    from ..cache.manifest import VideoRow
    from .parts import Material

EPISODES = 10_000
NEGATIVES = 31
MEASURES: tuple[tuple[str, Measure, Any, float | None, str], ...] = (
    ("dtw", "dtw", "path", None, "DTW over the cells of its path"),
    ("dtw, L+N", "dtw", "L+N", None, "DTW over the summed lengths"),
    ("dtw, sum", "dtw", "sum", None, "DTW as published, over nothing"),
    (
        "dtw, chosen",
        "dtw",
        "L+N",
        1.3,
        "as published: 1.3 windows a sentence, chosen before they are aligned",
    ),
    ("otam", "otam", "columns", None, "OTAM, each direction over its columns"),
    ("otam, sum", "otam", "sum", None, "OTAM as published, over nothing"),
    ("cap. avg.", "cap", "sum", None, "each sentence's best window: sees no order"),
)


@dataclass(frozen=True)
class FullVideo:
    """Scripts asking for videos: background `kept` (windows) or `removed` (true steps); `own_task` among the
    videos of their own task. Videos asking for their own script among the same sentences `shuffled`, or two
    of them `swapped`."""

    kept: Retrieval
    removed: Retrieval | None
    own_task: Retrieval | None
    shuffled: Retrieval
    swapped: Retrieval

    def to_dict(self) -> dict[str, Any]:
        names = ("kept", "removed", "own_task", "shuffled", "swapped")
        found = {name: getattr(self, name) for name in names}
        return {name: x.to_dict() if x else None for name, x in found.items()}


@dataclass(frozen=True)
class Clips:
    """Sentences asking for true clips, and the other way round."""

    text: Retrieval
    video: Retrieval

    def to_dict(self) -> dict[str, Any]:
        return {"text": self.text.to_dict(), "video": self.video.to_dict()}


@dataclass(frozen=True)
class Shots:
    """Few-shot accuracy with one video of each class, with more, and with classes of one task alone."""

    one: FewShot
    more: FewShot | None
    within: FewShot | None

    def to_dict(self) -> dict[str, Any]:
        return {
            name: found.to_dict() if (found := getattr(self, name)) else None
            for name in ("one", "more", "within")
        }


def sequence_tables(results: Results, m: Material) -> None:
    """All four, as far as the split has what they need."""
    m.stage("retrieving whole videos", None)
    missing = [w for v in m.videos for w in v.steps if not m.store.has_text(w, "step")]
    if missing:
        results.notes.append(
            f"full-video retrieval is left out: {len(set(missing))} steps have no features: {missing[0]!r}"
        )
    elif not m.raw_text:
        results.notes.append("full-video retrieval is left out: the features share no space with text")
    else:
        results.sequences = full_video(m)
        results.clips = clip_retrieval(m, results)
        results.steps = step_table(m, results)
    m.stage("few-shot episodes", None)
    results.few_shot = few_shot_table(m, results)


def window_seconds(videos: Sequence[VideoRow], durations: np.ndarray) -> float:
    """Half of what a step has on average: as long as a window can be and still lie inside most steps."""
    return float(np.median(durations)) / (2 * float(np.median([len(v.steps) for v in videos])))


@dataclass
class _Galleries:
    """What every row of full-video retrieval is scored against."""

    m: Material
    queries: Queries
    scripts: list[tuple[str, ...]]
    seconds: float
    known: list[int]  # videos with true times, if all of them

    def score(self, embedded: Embedded, measure: Measure, normalise: Any, keep: float | None) -> FullVideo:
        m = self.m
        texts = sentence_units(embedded, m.store, self.queries.scripts)
        own = sentence_units(embedded, m.store, self.scripts)
        windows = window_units(embedded, self.seconds)
        kept = sequence_scores(texts, windows, measure, normalise, keep)
        removed = None
        if self.known:
            clips = clip_units(embedded, m.videos)
            removed = retrieve(sequence_scores(texts, clips, measure, normalise), self.queries.relevant)
        hard = []
        for orders in (other_orders(self.scripts, NEGATIVES, m.seed), swapped_orders(self.scripts)):
            scores = order_scores(self.scripts, own, windows, orders, measure, normalise)
            hard.append(retrieve(scores, _first_of(scores.shape)))
        return FullVideo(retrieve(kept, self.queries.relevant), removed, self.own_task(kept), *hard)

    def own_task(self, scores: np.ndarray) -> Retrieval | None:
        """Among the videos of a script's own task: those of others are no candidates."""
        task = np.array([video.task for video in self.m.videos])
        of_query = np.array([task[row.argmax()] for row in self.queries.relevant])
        inside = of_query[:, None] == task
        if len(set(task)) < 2:
            return None
        return retrieve(np.where(inside, scores, -np.inf), self.queries.relevant)

    def flat(self, scores: np.ndarray, removed: np.ndarray) -> FullVideo:
        """Of scores that know no order."""
        hard = []
        for orders in (other_orders(self.scripts, NEGATIVES, self.m.seed), swapped_orders(self.scripts)):
            texts = sentence_units(self.m.raw, self.m.store, self.scripts)
            blind = order_scores(self.scripts, texts, texts, orders, "cap")
            hard.append(retrieve(blind, _first_of(blind.shape)))
        found = retrieve(removed, self.queries.relevant) if self.known else None
        return FullVideo(retrieve(scores, self.queries.relevant), found, self.own_task(scores), *hard)


def _first_of(shape: tuple[int, ...]) -> np.ndarray:
    right = np.zeros(shape, dtype=bool)
    right[:, 0] = True
    return right


def full_video(m: Material) -> list[Row]:
    scripts = [video.steps for video in m.videos]
    known = [i for i, video in enumerate(m.videos) if true_spans(video) is not None]
    seconds = window_seconds(m.videos, m.raw.durations)
    g = _Galleries(m, Queries.of(m.videos), scripts, seconds, known if len(known) == len(scripts) else [])
    rows = []
    if m.text:
        for name, measure, normalise, keep, about in MEASURES:
            rows.append(
                Row(name, TRAINED, g.score(m.trained, measure, normalise, keep), about, name == "dtw")
            )
    off_centre = centred(m.raw)
    for name, embedded, measure, normalise, about in (
        ("dtw-raw", m.raw, "dtw", "path", "DTW of the CLIP frames"),
        ("otam-raw", m.raw, "otam", "columns", "OTAM of the CLIP frames"),
        ("cap-raw", m.raw, "cap", "sum", "the best CLIP window of each sentence"),
        ("dtw-centred", off_centre, "dtw", "path", "DTW, each video's mean frame taken off"),
        ("content-free", m.bare, "dtw", "path", "the trained model, every frame the mean frame"),
    ):
        if embedded is m.bare and not m.text:
            continue
        rows.append(Row(name, CONTROL, g.score(embedded, measure, normalise, None), about))
    texts = sentence_units(m.raw, m.store, g.queries.scripts)
    counts = count_scores(texts, window_units(m.raw, seconds))
    removed = count_scores(texts, clip_units(m.raw, m.videos)) if g.known else counts
    about = "long videos to long scripts: how many sentences, how many windows"
    rows.append(Row("duration", CONTROL, g.flat(counts, removed), about))
    nothing = np.zeros(counts.shape)
    rows.append(Row("chance", CHANCE, g.flat(nothing, nothing), "all alike"))
    return rows


def clip_retrieval(m: Material, results: Results) -> list[Row]:
    known = [video for video in m.videos if true_spans(video) is not None]
    if not known:
        results.notes.append(
            "clip retrieval and step localisation are left out: no video has true step times"
        )
        return []
    words = [word for video in known for word in video.steps]
    same = np.array(words)[:, None] == np.array(words)

    def score(embedded: Embedded) -> Clips:
        clips, texts = clip_units(embedded, known), sentence_units(embedded, m.store, [words])
        real = torch.arange(clips.vectors.shape[1], device=clips.vectors.device) < clips.lengths[:, None]
        each = torch.nn.functional.normalize(clips.vectors[real], dim=-1)
        scores = (texts.vectors[0] @ each.T).cpu().numpy()
        return Clips(retrieve(scores, same), retrieve(scores.T, same))

    rows = (
        [Row("trained", TRAINED, score(m.trained), "trained windows and sentences", True)] if m.text else []
    )
    rows.append(Row("raw", CONTROL, score(m.raw), "mean CLIP frame of the clip"))
    rows.append(Row("centred", CONTROL, score(centred(m.raw)), "the same, each video's mean frame taken off"))
    if m.text:
        rows.append(Row("content-free", CONTROL, score(m.bare), EXPLAINED["content-free"]))
    place = np.concatenate([(np.arange(len(v.steps)) + 0.5) / len(v.steps) for v in known])
    near = retrieve(-np.abs(place[:, None] - place), same)
    rows.append(Row("clock", CONTROL, Clips(near, near), "the same place in the script and in the video"))
    blank = retrieve(np.zeros(same.shape), same)
    rows.append(Row("chance", CHANCE, Clips(blank, blank), "all clips alike"))
    return rows


def step_table(m: Material, results: Results) -> list[Row]:
    known = [video for video in m.videos if true_spans(video) is not None]
    if not known:
        return []
    places = [m.raw.row(video.video_id) for video in known]
    times = [m.raw.times[m.raw.slice(i)] for i in places]
    spans = list(m.raw.durations[places])

    def add(name: str, kind: str, decoded: Decoded, about: str, headline: bool = False) -> None:
        rows.append(Row(name, kind, score_steps(decoded, times, spans, known), about, headline))

    rows: list[Row] = []
    explained = {
        "ordered": "steps in the order of the script, every frame one of them",
        "drop-dtw": "the same, frames that fit none left out",
        "unordered": "each step and each frame by itself",
    }
    for kind, embedded, prefix in ((TRAINED, m.trained, ""), (CONTROL, m.raw, "raw ")):
        if kind == TRAINED and not m.text:
            continue
        similar = step_similarities(embedded, m.store, known)
        for name, decode in DECODERS.items():
            add(prefix + name, kind, decode(similar), explained[name], kind == TRAINED and name == "ordered")
    similar = step_similarities(centred(m.raw), m.store, known)
    add("centred ordered", CONTROL, DECODERS["ordered"](similar), "each video's mean frame taken off")
    if m.text:
        similar = step_similarities(m.bare, m.store, known)
        add("content-free", CONTROL, DECODERS["ordered"](similar), EXPLAINED["content-free"])
    sizes = [(len(at), len(video.steps)) for at, video in zip(times, known, strict=True)]
    add("uniform", CONTROL, _middles([uniform_split(*size) for size in sizes], sizes), "equal parts, a clock")
    rng = np.random.default_rng(m.seed)
    add(
        "chance", CHANCE, _middles([random_cuts(*size, rng) for size in sizes], sizes), "random cuts in order"
    )
    return rows


def _middles(labels: list[np.ndarray], sizes: list[tuple[int, int]]) -> Decoded:
    """The middle frame of each labelled run as its point."""
    points = []
    for found, (_, steps) in zip(labels, sizes, strict=True):
        runs = [np.flatnonzero(found == k) for k in range(steps)]
        points.append(np.array([run[len(run) // 2] if len(run) else -1 for run in runs]))
    return Decoded(points, labels)


def few_shot_table(m: Material, results: Results) -> list[Row]:
    """Classes are procedures, or tasks where no procedure has two videos."""
    classes = [f"{video.task}/{video.procedure}" for video in m.videos]
    tasks: list[str] | None = [video.task for video in m.videos]
    members = np.unique(classes, return_counts=True)[1]
    if members.max() < 2:
        classes, tasks = [video.task for video in m.videos], None
        members = np.unique(classes, return_counts=True)[1]
    usable = np.sort(members[members > 1])[::-1]
    ways = min(5, len(usable))
    if ways < 2:
        results.notes.append("few-shot is left out: fewer than two procedures or tasks have two videos")
        return []
    shots = min(5, int(usable[ways - 1]) - 1)

    def episodes(ways: int, shots: int, **how: Any) -> Any:
        try:
            return draw_episodes(classes, ways, shots, EPISODES, seed=m.seed, **how)
        except StepclipError:
            return None

    one = episodes(ways, 1)
    more = episodes(ways, shots) if shots > 1 else None
    within = None
    if tasks is not None:
        of_task = {t: len({c for c, u in zip(classes, tasks, strict=True) if u == t}) for t in set(tasks)}
        if (most := min(5, max(of_task.values()))) > 1:
            within = episodes(most, 1, within=tasks)

    def score(distances: np.ndarray) -> Shots:
        return Shots(*(few_shot(distances, e) if e is not None else None for e in (one, more, within)))  # type: ignore[arg-type]

    kinds: tuple[tuple[VideoDistance, str], ...] = (
        ("otam", "OTAM of 8 frames"),
        ("dtw", "DTW of 8 frames"),
        ("chamfer", "each frame's nearest, both ways: no order"),
        ("mean", "mean of the frames"),
    )
    rows = []
    units: Callable[[Embedded], Sequences] = even_frames
    for kind, about in kinds:
        rows.append(Row(kind, TRAINED, score(video_distances(units(m.trained), kind)), about, kind == "otam"))
    for kind, about in kinds:
        rows.append(Row(f"{kind}-raw", CONTROL, score(video_distances(units(m.raw), kind)), f"{about}, CLIP"))
    off_centre = video_distances(units(centred(m.raw)), "dtw")
    rows.append(Row("dtw-centred", CONTROL, score(off_centre), "each video's mean frame taken off"))
    blind = video_distances(units(m.bare), "otam")
    rows.append(Row("content-free", CONTROL, score(blind), EXPLAINED["content-free"]))
    long = np.log(np.maximum(m.raw.durations, 1e-3))
    rows.append(Row("duration", CONTROL, score(np.abs(long[:, None] - long)), EXPLAINED["duration"]))
    nothing = np.zeros((len(classes), len(classes)))
    rows.append(Row("chance", CHANCE, score(nothing), "all alike"))
    return rows

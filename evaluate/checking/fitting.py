"""Fitting a checker on a run's own training videos, from their scripts alone.

Each video is aligned with its script; faults are made by cutting at the borders that alignment finds
(`faults`), the edited recordings are embedded and their evidence is taken. The background's cost is learned
too: of a few quantiles of the cosines of all frames with all steps, the one by which the evidence tells the
made faults best. A fault is reported where its probability passes the threshold of the best F1 on them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .checker import Checker, Judge, Logistic, summary
from .comparison import fit_likeness
from .edits import KINDS, Evidence, align, evidence
from .faults import SOUND, Recording, Recordings, with_faults
from .likeness import (
    BETWEEN,
    References,
    nearest_others,
    other_sentences,
    similarities,
    unit_frames,
    with_references,
)

if TYPE_CHECKING:
    from ...cache.manifest import VideoRow
    from ...cache.store import FeatureStore
    from ..embed import Embedded

    Embed = Callable[[Any, Sequence[str]], Embedded]

LEAST = 8  # videos on which a checker can be fitted
MOST_VIDEOS = 300  # on which it is
GAIN = {"missing": 0, "moved": 1, "repeated": 2, "added": 0}  # the column of each kind's own gain
QUANTILES = (0.6, 0.75)  # of the cosines: candidates for the background


@dataclass(frozen=True)
class Table:
    """A recording with its cosines (T, K + O) and the seconds (T,) of its frames."""

    recording: Recording
    similarity: torch.Tensor
    seconds: np.ndarray


def fit_checker(
    videos: Sequence[VideoRow],
    store: FeatureStore,
    embed: Embed,
    *,
    seed: int = 0,
    quantiles: Sequence[float] = QUANTILES,
    stage: Callable[[str], None] = lambda _: None,
) -> Checker:
    """Fit on `videos` of a cache, whose step times are not looked at. `embed(store, ids)` embeds recordings
    as the checked ones will be; `stage` is told what is done. With fewer than LEAST usable videos, the
    unfitted checker."""
    usable = [v for v in videos if v.video_id in store and all(store.has_text(s, "step") for s in v.steps)]
    usable = [v for v in usable if len(v.steps) > 1 and store.length(v.video_id) > len(v.steps) + 2]
    if len(usable) < LEAST:
        return Checker.unfitted()
    if len(usable) > MOST_VIDEOS:
        chosen = np.random.default_rng(seed).permutation(len(usable))[:MOST_VIDEOS]
        usable = [usable[i] for i in sorted(chosen)]
    stage("embedding the training videos")
    plain = embed(store, [v.video_id for v in usable])
    stage("making faults in them")
    made = with_faults(found_sources(usable, store, plain), partners(usable, seed), seed)
    embedded = embed(Recordings(made, store), [each.name for each in made])
    stage("aligning them")
    references = References.take(plain, store, usable)
    judges, about = {}, {}
    for name, given in (("script", None), ("references", references)):
        tables = make_tables(made, embedded, store, usable, given)
        if len({t.recording.kind for t in tables}) > len(KINDS):
            judges[name], about[name] = fit_judge(tables, quantiles)
    if "script" not in judges:
        return Checker.unfitted()
    told = {
        "fitted": "on training videos with faults made",
        "videos": len(usable),
        "recordings": len(made),
        "fingerprint": store.fingerprint.digest,
        **about,
    }
    pairs = fit_likeness(usable, plain, seed)
    return Checker(judges["script"], judges.get("references"), pairs, told)


def make_tables(
    made: Sequence[Recording],
    embedded: Embedded,
    store: Any,
    videos: Sequence[VideoRow],
    references: References | None = None,
    without: Callable[[str], Sequence[str]] = lambda video_id: (video_id,),
) -> list[Table]:
    """The cosines of recordings made of `videos`, whose names begin with the video's id and "|".

    With `references`, of those alone whose steps all have some, but those that `without(video_id)` names."""
    of = {v.video_id: v for v in videos}
    tables = []
    for each in made:
        video = of[each.name.rpartition("|")[0]]
        steps, i = len(each.script), embedded.row(each.name)
        sentences = [*each.script, *other_sentences(each.script, video.task, videos)]
        similarity, seconds = similarities(embedded, store, i, sentences)
        if len(similarity) <= steps + 1:
            continue
        if references is not None:
            prototypes = references.prototypes(sentences, without(video.video_id))
            found = with_references(similarity, unit_frames(embedded, i), prototypes, steps)
            if found is None:
                continue
            similarity = found[0]
        tables.append(Table(each, similarity[:, nearest_others(similarity, steps)], seconds))
    return tables


def fit_judge(tables: Sequence[Table], quantiles: Sequence[float]) -> tuple[Judge, dict[str, Any]]:
    """The background, the regressions and thresholds that suit these recordings, and how well they do."""
    pool = np.concatenate([t.similarity[:, : len(t.recording.script)].flatten().numpy() for t in tables])
    best: tuple[float, float, float, list[Evidence]] | None = None
    recordings = [t.recording for t in tables]
    for q in quantiles:
        level = float(np.quantile(pool, q))
        found = [evidence(t.similarity, len(t.recording.script), level, t.seconds) for t in tables]
        score = float(np.mean([_auc(recordings, found, kind) for kind in KINDS]))
        if best is None or score > best[0]:
            best = (score, q, level, found)
    assert best is not None
    score, q, level, found = best
    kinds = {kind: Logistic.fit(*_rows(recordings, found, kind)) for kind in KINDS}
    p = [{kind: kinds[kind](e.features[kind]) for kind in KINDS} for e in found]
    faulty = np.array([each.kind != SOUND for each in recordings])
    verdict = Logistic.fit(np.stack([summary(each) for each in p]), faulty, half(faulty))
    verdict = replace(verdict, threshold=0.5)  # even odds
    return Judge(level, q, kinds, verdict), {"auc": round(score, 4), "quantile": q, "recordings": len(tables)}


def found_sources(
    videos: Sequence[VideoRow], store: FeatureStore, plain: Embedded
) -> dict[str, tuple[np.ndarray, list[tuple[int, int]], tuple[str, ...], float]]:
    """Of each video what `with_faults` wants, the steps where alignment finds them."""
    tables = [similarities(plain, store, plain.row(v.video_id), v.steps)[0] for v in videos]
    level = float(np.quantile(np.concatenate([t.flatten().numpy() for t in tables]), BETWEEN))
    found = {}
    for video, similarity in zip(videos, tables, strict=True):
        frames = store[video.video_id]
        pace = float(np.diff(frames.times).mean()) if len(frames.times) > 1 else 1.0
        spans = found_spans(similarity, level)
        found[video.video_id] = (np.asarray(frames.features), spans, video.steps, pace)
    return found


def found_spans(similarity: torch.Tensor, background: float) -> list[tuple[int, int]]:
    """Where alignment puts each step, as frames [first, last); ascending, empty where it finds none."""
    labels = align(similarity, range(similarity.shape[1]), background)
    spans, at = [], 0
    for k in range(similarity.shape[1]):
        here = np.flatnonzero(labels == k)
        first, last = (int(here[0]), int(here[-1]) + 1) if len(here) else (at, at)
        spans.append((first, last))
        at = last
    return spans


def partners(videos: Sequence[VideoRow], seed: int = 0) -> dict[str, list[str]]:
    """Of each video up to four others from which an action may be added: of its task where there are some."""
    rng = np.random.default_rng(seed)
    found = {}
    for video in videos:
        others = [v for v in videos if not set(v.steps) <= set(video.steps)]
        same = [v.video_id for v in others if v.task == video.task]
        pool = same or [v.video_id for v in others]
        found[video.video_id] = [pool[int(i)] for i in rng.permutation(len(pool))[:4]]
    return found


def truth_rows(recording: Recording, kind: str, count: int) -> np.ndarray:
    """(n,) bool: the steps (of "added": gaps) that a fault of the kind names."""
    named = {place for places in recording.wrong(kind) for place in places}
    return np.array([i in named for i in range(count)])


def _rows(
    recordings: Sequence[Recording], found: Sequence[Evidence], kind: str
) -> tuple[np.ndarray, np.ndarray]:
    """Features and truth of all steps (of "added": gaps) of recordings."""
    x = np.concatenate([e.features[kind] for e in found])
    pairs = zip(recordings, found, strict=True)
    return x, np.concatenate([truth_rows(r, kind, len(e.features[kind])) for r, e in pairs])


def half(sick: np.ndarray) -> np.ndarray:
    """Weights (n,) by which those that are True and those that are not count the same."""
    share = np.clip(sick.mean(), 1e-6, 1 - 1e-6)
    return np.where(sick, 0.5 / share, 0.5 / (1 - share))


def _auc(recordings: Sequence[Recording], found: Sequence[Evidence], kind: str) -> float:
    from sklearn.metrics import roc_auc_score

    x, y = _rows(recordings, found, kind)
    column = GAIN[kind]
    return float(roc_auc_score(y, x[:, column])) if y.any() and not y.all() else 0.5

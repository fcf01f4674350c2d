"""Text-to-video retrieval and matching, with ties broken neither for nor against the scorer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from ..cache.errors import StepclipError
from .bootstrap import interval
from .embed import Embedded
from .localisation import align_scripts

if TYPE_CHECKING:
    from ..cache.manifest import MatchRow, VideoRow
    from ..cache.store import FeatureStore


@dataclass(frozen=True)
class Retrieval:
    """Recall at 1, 5, 10 of the first relevant video, its median rank (1 is best), mean reciprocal rank."""

    r1: float
    r5: float
    r10: float
    medr: float
    mrr: float
    queries: int
    gallery: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Matching:
    """Share of lists whose true video is among the first 1, 2, 3 candidates, and mean reciprocal rank.

    `ci` is the 95 % interval of `acc1` over resampled lists. `auc` is that of telling right from wrong
    candidates by their score, all lists together; `query_auc` the mean over the texts of the same among the
    lists of one text, whose scores need not be comparable with another text's.
    """

    acc1: float
    acc2: float
    acc3: float
    mrr: float
    rows: int
    candidates: float
    ci: tuple[float, float] = (float("nan"), float("nan"))
    auc: float = float("nan")
    query_auc: float = float("nan")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def first_rank(scores: np.ndarray, relevant: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Possible ranks (R,) of the first relevant item of one query, and how likely each is, (R,).

    Ranks count from 1, higher `scores` (G,) first. Items with the score of the best relevant one are taken
    in every order, all equally likely: with n irrelevant and r relevant ones tied, the first relevant comes
    after j irrelevant ones with probability C(n, j) / C(n + r, j) * r / (n + r - j). A constant scorer thus
    scores chance.
    """
    best = scores[relevant].max()
    ahead = int((scores > best).sum())
    tied = int((scores == best).sum())
    r = int((relevant & (scores == best)).sum())
    n = tied - r
    j = np.arange(n + 1)
    # alive[j]: none of the first j tied items is relevant
    alive = np.concatenate(([1.0], np.cumprod((n - j[:-1]) / (tied - j[:-1]))))
    return ahead + 1.0 + j, alive * r / (tied - j)


def _over_queries(
    scores: np.ndarray, relevant: np.ndarray, at: Sequence[int]
) -> tuple[np.ndarray, float, float]:
    """Recall (Q, len(at)) of each query, median expected rank, mean reciprocal rank."""
    recall = np.zeros((len(scores), len(at)))
    expected, reciprocal = np.zeros(len(scores)), np.zeros(len(scores))
    for q, (row, hits) in enumerate(zip(scores, relevant, strict=True)):
        rank, likely = first_rank(row, hits)
        recall[q] = [float(likely[rank <= k].sum()) for k in at]
        expected[q] = float((rank * likely).sum())
        reciprocal[q] = float((likely / rank).sum())
    return recall, float(np.median(expected)), float(reciprocal.mean())


def retrieve(scores: np.ndarray, relevant: np.ndarray) -> Retrieval:
    """Score a text-to-video search: `scores` (Q, G), higher = better match; `relevant` (Q, G) bool.

    The rank of a query is that of its first relevant video, in expectation over ties. StepclipError when
    there is no query, a query has no relevant video, or a score is nan.
    """
    scores, relevant = np.asarray(scores, dtype=np.float64), np.asarray(relevant, dtype=bool)
    if scores.ndim != 2 or scores.shape != relevant.shape or scores.size == 0:
        raise StepclipError(
            f"scores {scores.shape} and relevance {relevant.shape}", "the same (queries, videos) shape"
        )
    if np.isnan(scores).any():
        raise StepclipError("a retrieval score is not a number", "numbers")
    if not relevant.any(1).all():
        raise StepclipError("a query has no relevant video", "at least one each")
    recall, medr, mrr = _over_queries(scores, relevant, (1, 5, 10))
    r1, r5, r10 = map(float, recall.mean(0))
    return Retrieval(r1, r5, r10, medr, mrr, *scores.shape)


def matching(
    scores: Sequence[np.ndarray],
    answers: Sequence[int],
    texts: Sequence[str] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Matching:
    """Score matching lists: `scores[i]` (C_i,) of the candidates of list i, whose true one is `answers[i]`.

    `texts[i]` says which text list i asks for; by default each asks for one of its own. (The released script
    computes an AUC of the predicted index, on which a perfect model gets 0: `methods/weaksvr.md` 5.3. These
    are not that figure.)
    """
    from sklearn.metrics import roc_auc_score

    if len(scores) == 0 or len(scores) != len(answers):
        raise StepclipError(
            f"{len(scores)} rows and {len(answers)} answers", "at least one row, one answer each"
        )
    width = max(len(row) for row in scores)
    # Short rows are filled with candidates that lose to every true one.
    table = np.full((len(scores), width), -np.inf)
    relevant = np.zeros((len(scores), width), dtype=bool)
    for i, (row, answer) in enumerate(zip(scores, answers, strict=True)):
        if not 0 <= answer < len(row) or not np.isfinite(row).all():
            raise StepclipError(
                f"matching row {i}: answer {answer} of scores {row}", "finite scores, an answer inside"
            )
        table[i, : len(row)] = row
        relevant[i, answer] = True
    recall, _, mrr = _over_queries(table, relevant, (1, 2, 3))
    rng = np.random.default_rng(seed)
    again = recall[:, 0][rng.integers(len(table), size=(resamples, len(table)))].mean(1)
    names = np.asarray(range(len(table)) if texts is None else texts, dtype=object).astype(str)
    of_text = []
    for name in np.unique(names):
        mine, right = table[names == name], relevant[names == name]
        real = np.isfinite(mine)
        if not right[real].all():  # a text whose lists hold right candidates only has nothing to tell apart
            of_text.append(float(roc_auc_score(right[real], mine[real])))
    real = np.isfinite(table)
    acc1, acc2, acc3 = map(float, recall.mean(0))
    return Matching(
        acc1,
        acc2,
        acc3,
        mrr=mrr,
        rows=len(scores),
        candidates=float(np.mean([len(row) for row in scores])),
        ci=interval(again),
        auc=float(roc_auc_score(relevant[real], table[real])) if of_text else float("nan"),
        query_auc=float(np.mean(of_text)) if of_text else float("nan"),
    )


@dataclass(frozen=True)
class Queries:
    """The distinct scripts of a set of videos, and which of the videos follow each."""

    scripts: tuple[tuple[str, ...], ...]
    paragraphs: tuple[str, ...]
    relevant: np.ndarray  # (Q, V)
    of_procedure: dict[str, int]

    @classmethod
    def of(cls, videos: Sequence[VideoRow]) -> Queries:
        """Procedures with the same sentences in the same order are one query: no text tells them apart."""
        scripts = tuple(dict.fromkeys(video.steps for video in videos))
        place = {script: i for i, script in enumerate(scripts)}
        relevant = np.zeros((len(scripts), len(videos)), dtype=bool)
        for v, video in enumerate(videos):
            relevant[place[video.steps], v] = True
        paragraph = {video.steps: video.paragraph for video in videos}
        of_procedure = {video.procedure: place[video.steps] for video in videos}
        return cls(scripts, tuple(paragraph[s] for s in scripts), relevant, of_procedure)


def paragraph_scores(embedded: Embedded, store: FeatureStore, paragraphs: Sequence[str]) -> np.ndarray:
    """Cosine (Q, V) of each paragraph's feature with each video embedding. Both must have one dimension."""
    video = F.normalize(embedded.video, dim=-1)
    text = embedded.texts(store, paragraphs, "paragraph")
    _same_width(text, video)
    return (text @ video.T).cpu().numpy()


def script_scores(embedded: Embedded, store: FeatureStore, scripts: Sequence[Sequence[str]]) -> np.ndarray:
    """Ordered match (Q, V) of each script with each video's frames.

    The mean, over the frames, of the cosine between frame and step along the best path that visits every
    step in order: unlike the paragraph score it sees where each sentence stands.
    """
    _same_width(embedded.texts(store, scripts[0][:1], "step"), embedded.frames)
    rows = np.tile(np.arange(len(embedded)), len(scripts))
    every = [script for script in scripts for _ in range(len(embedded))]
    found = align_scripts(embedded, store, rows, every, durations=False)
    return found.scores.reshape(len(scripts), len(embedded))


def length_scores(embedded: Embedded, scripts: Sequence[Sequence[str]]) -> np.ndarray:
    """A score (Q, V) without content: a long script asks for a long video.

    Minus the difference of log duration and log number of steps, each taken from its median.
    """
    steps = np.log([len(script) for script in scripts])
    seconds = np.log(np.maximum(embedded.durations, 1e-3))
    return -np.abs((steps - np.median(steps))[:, None] - (seconds - np.median(seconds))[None])


def match_rows(
    rows: Sequence[MatchRow], queries: Queries, embedded: Embedded
) -> tuple[list[MatchRow], list[str]]:
    """The distinct rows whose procedure and candidates are all embedded, and notes on the others."""
    distinct = list(dict.fromkeys(rows))
    kept = [
        r
        for r in distinct
        if r.procedure in queries.of_procedure and all(c in embedded for c in r.candidates)
    ]
    notes = []
    if len(distinct) < len(rows):
        notes.append(f"matching: {len(rows) - len(distinct)} repeated rows counted once")
    if len(kept) < len(distinct):
        notes.append(
            f"matching: {len(distinct) - len(kept)} of {len(distinct)} rows left out, a video has no features"
        )
    return kept, notes


def match_scores(
    rows: Sequence[MatchRow], queries: Queries, embedded: Embedded, scores: np.ndarray
) -> Matching:
    """Matching from the scores (Q, V) of all queries and videos."""
    chosen = [
        scores[queries.of_procedure[r.procedure], [embedded.row(c) for c in r.candidates]] for r in rows
    ]
    return matching(chosen, [r.answer for r in rows], [str(queries.of_procedure[r.procedure]) for r in rows])


def _same_width(text: torch.Tensor, video: torch.Tensor) -> None:
    if text.shape[-1] != video.shape[-1]:
        raise StepclipError(
            f"text features of {text.shape[-1]} numbers and video features of {video.shape[-1]}",
            "one shared space",
        )

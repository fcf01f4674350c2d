"""The tables of an evaluation, one function each: trained rows first, then what needs no training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from .controls import CONTROLS, EXPLAINED, control_distances
from .distances import (
    DISTANCES,
    EXPLAINED_DISTANCES,
    POOLED,
    alignment,
    combined,
    diagonal,
    pair_rows,
    pooled,
    soft_alignment,
)
from .embed import LAST_QUARTER, MIDDLE, Embedded, centred, embed_views, flatten_segments
from .localisation import (
    DRAWS,
    align_scripts,
    duration_split,
    localise,
    mean_of,
    random_cuts,
    true_spans,
    uniform_split,
)
from .results import CHANCE, CONTROL, TRAINED, Results, Row
from .retrieval import (
    Queries,
    length_scores,
    match_rows,
    match_scores,
    paragraph_scores,
    retrieve,
    script_scores,
)
from .verification import Verification, gain, verify

if TYPE_CHECKING:
    from ..cache.manifest import Manifest, VideoRow
    from ..cache.store import FeatureStore
    from ..train.checkpoint import Checkpoint


@dataclass
class Material:
    """What the tables are made from: a checkpoint, and its embeddings of the `videos` of one split (`part`).

    `manifest` is the whole one, for the pseudo-labels of the training videos. `stage(name, total)` begins a
    part of the progress bar and returns what advances it.
    """

    checkpoint: Checkpoint
    store: FeatureStore
    manifest: Manifest
    part: Manifest
    videos: list[VideoRow]
    trained: Embedded
    raw: Embedded
    bare: Embedded
    device: str
    stage: Callable[[str, int | None], Callable[[int], None]]

    @property
    def seed(self) -> int:
        return int(self.checkpoint.recipe.seed)

    @property
    def distance(self) -> str:
        """What the recipe says is to be quoted: pooled, alignment or combined."""
        return str(self.checkpoint.recipe.evaluate.distance)

    @property
    def text(self) -> bool:
        """The model's embeddings lie in the space of the texts."""
        return bool(getattr(self.checkpoint.model, "text", True))

    @property
    def raw_text(self) -> bool:
        """The features themselves do."""
        return bool(self.raw.video.shape[1] == self.store.text_dim)

    def views(self, *chosen: int) -> Embedded:
        ids = [video.video_id for video in self.videos]
        return embed_views(self.checkpoint, self.store, ids, chosen, self.device)

    @cached_property
    def middle(self) -> Embedded:
        return self.views(*MIDDLE)


def verification(results: Results, m: Material) -> None:
    """Verification of pairs, by the recipe's distances and by every control; then by other distances."""
    pairs = [pair for pair in m.part.pairs if pair.video_a in m.trained and pair.video_b in m.trained]
    if len(pairs) < len(m.part.pairs):
        results.notes.append(
            f"verification: {len(m.part.pairs) - len(pairs)} of {len(m.part.pairs)} pairs left out, "
            "a video has no features"
        )
    matched = sum(pair.matched for pair in pairs)
    if not 0 < matched < len(pairs):
        results.notes.append(
            f"verification is left out: split {results.split!r} has {matched} matched and "
            f"{len(pairs) - matched} unmatched pairs, and both are needed"
        )
        return
    a, b = pair_rows(m.trained, [(pair.video_a, pair.video_b) for pair in pairs])
    results.details.unmatched = np.array([not pair.matched for pair in pairs])
    step = m.stage("verifying pairs", (5 if m.distance == "pooled" else 6) * len(pairs))
    found = {"pooled": pooled(m.trained.video, a, b), "alignment": alignment(m.trained, a, b, step=step)}
    found["combined"] = combined(found["pooled"], found["alignment"])
    for name in CONTROLS:
        found[name] = control_distances(name, m.raw, a, b, bare=m.bare, distance=m.distance, step=step)
    results.details.distances = found
    scored = {name: verify(values, pairs, m.part, seed=m.seed) for name, values in found.items()}
    for name, result in scored.items():
        trained = name in DISTANCES
        kind = TRAINED if trained else CHANCE if name == "chance" else CONTROL
        about = EXPLAINED_DISTANCES[name] if trained else EXPLAINED[name]
        results.verification.append(Row(name, kind, result, about, name == m.distance))
    results.notes += dict.fromkeys(note for result in scored.values() for note in result.notes)
    best = max((name for name in CONTROLS), key=lambda name: scored[name].auc)
    more, (low, high) = gain(scored[m.distance], scored[best])
    results.remarks["verification"] = [
        f"{m.distance} over the best control, {best}: {_points(more)} AUC points "
        f"(95 % CI {_points(low)} to {_points(high)}, the same resampled pairs)"
    ]
    _other_distances(
        results, m, scored, lambda values: verify(values, pairs, m.part, seed=m.seed, kinds=False), a, b, step
    )


def _points(x: float) -> str:
    return f"{100 * x:+.1f}"


@dataclass(frozen=True)
class ByViews:
    """A distance on three views of each video and on one; None where views make no difference."""

    three: Verification
    one: Verification | None

    def to_dict(self) -> dict[str, Any]:
        return {"three": self.three.to_dict(), "one": self.one.to_dict() if self.one else None}


def _other_distances(
    results: Results,
    m: Material,
    scored: dict[str, Verification],
    score: Callable[[np.ndarray], Verification],
    a: np.ndarray,
    b: np.ndarray,
    step: Callable[[int], None],
) -> None:
    three, one = m.views(0, 1, 2), m.middle

    def both(distance: Callable[[Embedded], np.ndarray]) -> ByViews:
        return ByViews(score(distance(three)), score(distance(one)))

    about = {
        "norm-l2": "squared distance of the L2-normalised video embeddings, as released",
        "euclid": "its root, as the papers write it",
        "l2": "squared distance of the video embeddings as they are",
        "l1": "sum of absolute differences of the video embeddings",
        "cos": "1 - cosine of the video embeddings",
    }
    rows = []
    for kind in POOLED:
        result = both(lambda e, kind=kind: pooled(e.video, a, b, kind))  # type: ignore[misc]
        rows.append(Row(kind, TRAINED, result, about[kind], kind == "norm-l2" and m.distance == "pooled"))
    for name, distance, what in (
        ("diagonal", lambda e: diagonal(e, a, b), "segment t against segment t, mean of 1 - cosine"),
        ("dtw of segments", lambda e: alignment(e, a, b, step=step), "DTW of the segments' embeddings"),
        ("soft dtw", lambda e: soft_alignment(e, a, b), "soft-DTW divergence of the segments' embeddings"),
    ):
        rows.append(Row(name, TRAINED, both(distance), what))
    for name in ("alignment", "combined"):
        what = f"{EXPLAINED_DISTANCES[name]}, of every cached frame"
        rows.append(Row(name, TRAINED, ByViews(scored[name], None), what, name == m.distance))
    for name in CONTROLS:
        single = score(pooled(flatten_segments(m.raw, MIDDLE).video, a, b)) if name == "flat" else None
        kind = CHANCE if name == "chance" else CONTROL
        rows.append(Row(name, kind, ByViews(scored[name], single), EXPLAINED[name]))
    results.distances = rows


def retrieval(results: Results, m: Material) -> None:
    """Text-to-video retrieval over the split, and matching on the released lists."""
    queries = Queries.of(m.videos)
    missing = [p for p in queries.paragraphs if not m.store.has_text(p, "paragraph")]
    missing += [
        s for s in dict.fromkeys(s for q in queries.scripts for s in q) if not m.store.has_text(s, "step")
    ]
    if missing:
        results.notes.append(
            f"retrieval is left out: {len(missing)} texts have no features, such as {missing[0]!r}"
        )
        return
    if not m.text and not m.raw_text:
        results.notes.append(
            "retrieval is left out: neither the model nor the features share a space with text"
        )
        return
    quoted = "paragraph" if m.distance == "pooled" else "script"
    scored: list[tuple[str, str, np.ndarray, str]] = []

    def by_paragraph(name: str, kind: str, embedded: Embedded, about: str) -> None:
        scored.append((name, kind, paragraph_scores(embedded, m.store, queries.paragraphs), about))

    def by_script(name: str, kind: str, embedded: Embedded, about: str) -> None:
        scored.append((name, kind, script_scores(embedded, m.store, queries.scripts), about))

    if m.text:
        by_paragraph("paragraph", TRAINED, m.trained, "one vector for the whole text, three views")
        by_paragraph("paragraph, 1 view", TRAINED, m.views(*LAST_QUARTER), "the view that WeakSVR matches by")
        by_script("script", TRAINED, m.trained, "steps and frames aligned in order")
    else:
        results.notes.append("retrieval: this model has no text space, so there are no trained rows")
    if m.raw_text:
        by_paragraph("mean-pool", CONTROL, m.raw, EXPLAINED["mean-pool"])
        by_script("script-raw", CONTROL, m.raw, "steps and raw CLIP frames aligned in order")
        by_script("script-centred", CONTROL, centred(m.raw), "the same, each video's mean frame taken off")
    scored.append(("duration", CONTROL, length_scores(m.raw, queries.scripts), "long videos to long scripts"))
    if m.text:
        free = by_paragraph if quoted == "paragraph" else by_script
        free("content-free", CONTROL, m.bare, EXPLAINED["content-free"])
    scored.append(("clock", CONTROL, np.zeros(queries.relevant.shape), EXPLAINED["clock"]))
    scored.append(("chance", CHANCE, np.zeros(queries.relevant.shape), "all videos alike"))
    rows, notes = match_rows(m.part.matching, queries, m.trained)
    results.notes += notes
    if not rows:
        results.notes.append(f"matching is left out: split {results.split!r} has no matching list")
    for name, kind, scores, about in scored:
        headline = kind == TRAINED and name == quoted
        results.retrieval.append(Row(name, kind, retrieve(scores, queries.relevant), about, headline))
        if rows:
            matched = match_scores(rows, queries, m.trained, scores)
            results.matching.append(Row(name, kind, matched, about, headline))


def localisation(results: Results, m: Material) -> None:
    """The steps of each video found by its script, where the true times are known; then the pseudo-labels."""
    known = [video for video in m.videos if true_spans(video) is not None]
    if not known:
        results.notes.append(
            f"localisation is left out: no video of split {results.split!r} has true step times"
        )
        return
    if len(known) < len(m.videos):
        results.notes.append(
            f"localisation: {len(m.videos) - len(known)} videos without true step times are left out"
        )
    missing = [s for video in known for s in video.steps if not m.store.has_text(s, "step")]
    if missing:
        results.notes.append(
            f"localisation is left out: {len(set(missing))} steps have no features, such as {missing[0]!r}"
        )
        return
    rows = np.array([m.trained.row(video.video_id) for video in known])
    scripts = [video.steps for video in known]
    times = [m.trained.times[m.trained.slice(r)] for r in rows]
    spans = list(m.trained.durations[rows])

    def add(name: str, kind: str, labels: Sequence[np.ndarray], about: str) -> None:
        result = localise(labels, times, spans, known)
        results.localisation.append(Row(name, kind, result, about, kind == TRAINED))
        results.details.labels[name] = {v.video_id: x for v, x in zip(known, labels, strict=True)}

    def aligned(name: str, kind: str, embedded: Embedded, about: str) -> None:
        add(name, kind, align_scripts(embedded, m.store, rows, scripts).labels, about)

    if m.text:
        aligned("trained", TRAINED, m.trained, "ordered alignment, trained frames")
    else:
        results.notes.append("localisation: this model has no text space, so there are no trained rows")
    if m.raw_text:
        aligned("raw", CONTROL, m.raw, "ordered alignment, raw CLIP frames")
        aligned("centred", CONTROL, centred(m.raw), "the same, each video's mean frame taken off")
    sizes = [(int(m.trained.lengths[r]), len(s)) for r, s in zip(rows, scripts, strict=True)]
    uniform = [uniform_split(*size) for size in sizes]
    add("uniform", CONTROL, uniform, "the video cut into equal parts, what a clock knows")
    lasting = [m.trained.lasting(m.store, script) for script in scripts]
    known_lasting = [each.cpu().numpy() for each in lasting if each is not None]
    if known_lasting:
        lasted = [duration_split(t, each) for (t, _), each in zip(sizes, known_lasting, strict=True)]
        add("durations", CONTROL, lasted, "the video cut as the model expects its sentences to last")
    if m.text:
        aligned("content-free", CONTROL, m.bare, EXPLAINED["content-free"])
    rng = np.random.default_rng(m.seed)
    draws = [localise([random_cuts(*size, rng) for size in sizes], times, spans, known) for _ in range(DRAWS)]
    about = f"random cuts in the order of the script, mean of {DRAWS} draws"
    results.localisation.append(Row("chance", CHANCE, mean_of(draws), about))

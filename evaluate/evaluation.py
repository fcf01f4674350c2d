"""Stage three in one call: verification, retrieval, localisation of a trained run, beside every control."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..cache.errors import StepclipError
from .controls import CONTROLS, EXPLAINED, control_distances
from .distances import DISTANCES, alignment, combined, pair_rows, pooled
from .embed import Embedded, embed, embed_raw
from .localisation import align_scripts, localise, true_spans, uniform_split
from .results import CHANCE, CONTROL, TRAINED, Results, Row
from .retrieval import Queries, match_rows, match_scores, paragraph_scores, retrieve, script_scores
from .verification import verify

if TYPE_CHECKING:
    from ..cache.manifest import Manifest, VideoRow
    from ..cache.store import FeatureStore
    from ..train.checkpoint import Checkpoint

ALL = "all"


def evaluate(
    run: str | os.PathLike[str] | Checkpoint,
    store: FeatureStore | str | os.PathLike[str],
    manifest: Manifest,
    split: str = "test",
    *,
    device: str = "auto",
    progress: bool = True,
) -> Results:
    """Evaluate a trained run (a run folder, a checkpoint folder, or a loaded Checkpoint) on one split.

    `split` is train, val, test, or "all" for a manifest without splits. Each distinct video is embedded
    once. A part for which the split has no pairs, lists or true step times is left out with a note; videos
    without features are left out and counted. StepclipError when the checkpoint was trained on features of
    another fingerprint, or no video of the split has features.
    """
    started = time.perf_counter()
    checkpoint, store = opened(run, store)
    part = manifest if split == ALL else manifest.split(split)
    videos = [video for video in part if video.video_id in store]
    if not videos:
        raise StepclipError(
            f"none of the {len(part)} videos of split {split!r} has features",
            "an extracted split",
            "stepclip extract",
        )
    name = Path(run).name if isinstance(run, str | os.PathLike) else str(checkpoint.recipe.name)
    results = Results(name, manifest.name, split, len(videos), about=_about(checkpoint, store))
    if len(videos) < len(part):
        results.notes.append(
            f"{len(part) - len(videos)} of {len(part)} videos of the split have no features and are left out"
        )
    headline = checkpoint.recipe.evaluate.distance
    with _stages(progress) as stage:
        ids = [video.video_id for video in videos]
        stage("embedding the videos", None)
        trained = embed(checkpoint, store, ids, device)
        raw = embed_raw(store, ids, device)
        results.details.trained, results.details.raw = trained, raw
        _verification(results, part, trained, raw, headline, checkpoint, stage)
        stage("searching by text", None)
        _retrieval(results, part, videos, trained, raw, store, headline)
        stage("finding the steps", None)
        _localisation(results, videos, trained, raw, store)
    results.seconds = time.perf_counter() - started
    return results


def opened(
    run: str | os.PathLike[str] | Checkpoint, store: FeatureStore | str | os.PathLike[str]
) -> tuple[Checkpoint, FeatureStore]:
    """Both loaded where only their paths were given, and checked to belong together."""
    if isinstance(run, str | os.PathLike):
        from ..train.checkpoint import load_checkpoint

        run = load_checkpoint(run)
    if isinstance(store, str | os.PathLike):
        from ..cache.store import FeatureStore

        store = FeatureStore.open(store)
    check_fingerprint(run, store)
    return run, store


def check_fingerprint(checkpoint: Checkpoint, store: FeatureStore) -> None:
    """StepclipError, with every difference, when the checkpoint was trained on features of another kind."""
    if checkpoint.fingerprint != store.fingerprint:
        raise StepclipError(
            "the checkpoint was trained on features that were made otherwise than these:\n"
            + checkpoint.fingerprint.table(store.fingerprint, "checkpoint", "cache"),
            "features of the same encoder, sampling and decoder",
            "stepclip extract with the settings of the checkpoint, or stepclip train on these features",
        )


def _verification(
    results: Results,
    part: Manifest,
    trained: Embedded,
    raw: Embedded,
    headline: str,
    checkpoint: Checkpoint,
    stage: Callable[[str, int | None], Callable[[int], None]],
) -> None:
    pairs = [pair for pair in part.pairs if pair.video_a in trained and pair.video_b in trained]
    if len(pairs) < len(part.pairs):
        results.notes.append(
            f"verification: {len(part.pairs) - len(pairs)} of {len(part.pairs)} pairs left out, "
            "a video has no features"
        )
    matched = sum(pair.matched for pair in pairs)
    if not 0 < matched < len(pairs):
        results.notes.append(
            f"verification is left out: split {results.split!r} has {matched} matched and "
            f"{len(pairs) - matched} unmatched pairs, and both are needed"
        )
        return
    a, b = pair_rows(trained, [(pair.video_a, pair.video_b) for pair in pairs])
    results.details.unmatched = np.array([not pair.matched for pair in pairs])
    step = stage("verifying pairs", 2 * len(pairs))
    found = {"pooled": pooled(trained.video, a, b), "alignment": alignment(trained, a, b, step=step)}
    found["combined"] = combined(found["pooled"], found["alignment"])
    explained = {
        "pooled": "squared distance of the L2-normalised video embeddings",
        "alignment": "DTW of the frame embeddings",
        "combined": "half and half, each in its own standard deviation",
    }
    rows = [(name, TRAINED, found[name], explained[name]) for name in DISTANCES]
    rows += [
        (name, CONTROL, control_distances(name, raw, a, b, step=step), EXPLAINED[name]) for name in CONTROLS
    ]
    seed = int(checkpoint.recipe.seed)
    for name, kind, distances, about in rows:
        result = verify(distances, pairs, part, seed=seed)
        results.verification.append(Row(name, kind, result, about, kind == TRAINED and name == headline))
        results.details.distances[name] = distances
    results.notes += dict.fromkeys(note for row in results.verification for note in row.result.notes)


def _retrieval(
    results: Results,
    part: Manifest,
    videos: list[VideoRow],
    trained: Embedded,
    raw: Embedded,
    store: FeatureStore,
    distance: str,
) -> None:
    queries = Queries.of(videos)
    missing = [p for p in queries.paragraphs if not store.has_text(p, "paragraph")]
    missing += [
        s for s in dict.fromkeys(s for q in queries.scripts for s in q) if not store.has_text(s, "step")
    ]
    if missing:
        results.notes.append(
            f"retrieval is left out: {len(missing)} texts have no features, such as {missing[0]!r}"
        )
        return
    scored = [
        (
            "paragraph",
            TRAINED,
            paragraph_scores(trained, store, queries.paragraphs),
            "one vector for the whole text",
        ),
        (
            "script",
            TRAINED,
            script_scores(trained, store, queries.scripts),
            "steps and frames aligned in order",
        ),
    ]
    if raw.video.shape[1] == store.text_dim:
        scored += [
            ("mean-pool", CONTROL, paragraph_scores(raw, store, queries.paragraphs), EXPLAINED["mean-pool"]),
            (
                "script-raw",
                CONTROL,
                script_scores(raw, store, queries.scripts),
                "steps and raw CLIP frames aligned in order",
            ),
        ]
    scored.append(("constant", CHANCE, np.zeros(queries.relevant.shape), "all videos alike"))
    rows, notes = match_rows(part.matching, queries, trained)
    results.notes += notes
    if not rows:
        results.notes.append(f"matching is left out: split {results.split!r} has no matching list")
    quoted = "paragraph" if distance == "pooled" else "script"
    for name, kind, scores, about in scored:
        headline = kind == TRAINED and name == quoted
        results.retrieval.append(Row(name, kind, retrieve(scores, queries.relevant), about, headline))
        if rows:
            results.matching.append(
                Row(name, kind, match_scores(rows, queries, trained, scores), about, headline)
            )


def _localisation(
    results: Results, videos: list[VideoRow], trained: Embedded, raw: Embedded, store: FeatureStore
) -> None:
    known = [video for video in videos if true_spans(video) is not None]
    if not known:
        results.notes.append(
            f"localisation is left out: no video of split {results.split!r} has true step times"
        )
        return
    if len(known) < len(videos):
        results.notes.append(
            f"localisation: {len(videos) - len(known)} videos without true step times are left out"
        )
    missing = [s for video in known for s in video.steps if not store.has_text(s, "step")]
    if missing:
        results.notes.append(
            f"localisation is left out: {len(set(missing))} steps have no features, such as {missing[0]!r}"
        )
        return
    rows = np.array([trained.row(video.video_id) for video in known])
    scripts = [video.steps for video in known]
    found = [
        (
            "trained",
            TRAINED,
            align_scripts(trained, store, rows, scripts).labels,
            "ordered alignment, trained frames",
        )
    ]
    if raw.frames.shape[1] == store.text_dim:
        found.append(
            (
                "raw",
                CONTROL,
                align_scripts(raw, store, rows, scripts).labels,
                "ordered alignment, raw CLIP frames",
            )
        )
    uniform = [uniform_split(int(trained.lengths[r]), len(s)) for r, s in zip(rows, scripts, strict=True)]
    found.append(("uniform", CONTROL, uniform, "the video cut into equal parts, what a clock knows"))
    times = [trained.times[trained.slice(r)] for r in rows]
    for name, kind, labels, about in found:
        result = localise(labels, times, list(trained.durations[rows]), known)
        results.localisation.append(Row(name, kind, result, about, kind == TRAINED))
        results.details.labels[name] = {v.video_id: x for v, x in zip(known, labels, strict=True)}


def _about(checkpoint: Checkpoint, store: FeatureStore) -> dict[str, Any]:
    """What the figures were made from and on."""
    import torch

    from .. import __version__

    return {
        "stepclip": __version__,
        "recipe": checkpoint.recipe.model_dump(mode="json"),
        "step": checkpoint.step,
        "fingerprint": store.fingerprint.digest,
        "features": dict(store.fingerprint.fields),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


@contextmanager
def _stages(progress: bool) -> Iterator[Callable[[str, int | None], Callable[[int], None]]]:
    """A bar of named stages: `stage(name, total)` begins one and returns what advances it."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), transient=True, disable=not progress) as bar:

        def stage(name: str, total: int | None) -> Callable[[int], None]:
            for task in bar.tasks:
                if not task.finished:
                    bar.update(task.id, total=task.total or 1, completed=task.total or 1)
            current = bar.add_task(name, total=total)
            return lambda n: bar.advance(current, n)

        yield stage

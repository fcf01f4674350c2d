"""Stage three in one call: verification, retrieval, localisation of a trained run, beside every control."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cache.errors import StepclipError
from . import parts
from .embed import content_free, embed, embed_raw
from .frame_tasks import frames as frames_table
from .neighbours import neighbours
from .probe import linear_probe
from .pseudolabels import pseudo_labels
from .results import Results
from .selection import SELECTED, select_checkpoint
from .sequence_tables import sequence_tables

if TYPE_CHECKING:
    from ..cache.manifest import Manifest
    from ..cache.store import FeatureStore
    from ..train.checkpoint import Checkpoint

ALL = "all"
FRAME_METHODS = ("carl", "joint")
SEQUENCE_METHODS = ("tempclr", "joint")


def evaluate(
    run: str | os.PathLike[str] | Checkpoint,
    store: FeatureStore | str | os.PathLike[str],
    manifest: Manifest,
    split: str = "test",
    *,
    checkpoint: str = SELECTED,
    transfer: Mapping[str, str] | None = None,
    frames: bool | None = None,
    sequences: bool | None = None,
    device: str = "auto",
    progress: bool = True,
) -> Results:
    """Evaluate a trained run (a run folder, a checkpoint folder, or a loaded Checkpoint) on one split.

    `split` is train, val, test, or "all" for a manifest without splits. `checkpoint` says which one of a run
    folder: see `selection`. `transfer` are the linear probe's lists, video id -> "train" or "test". `frames`:
    whether to make the table of frames, which takes a minute, `sequences`: those of whole videos, clips,
    steps and few shots; None: for what was trained for it. Each
    distinct video is embedded once for every figure. A part for which the split has no pairs, lists or true
    step times is left out with a note; videos without features are left out and counted. StepclipError when
    the checkpoint was trained on features of another fingerprint, or no video of the split has features.
    """
    started = time.perf_counter()
    store = opened_store(store)
    part = manifest if split == ALL else manifest.split(split)
    videos = [video for video in part if video.video_id in store]
    if not videos:
        raise StepclipError(
            f"none of the {len(part)} videos of split {split!r} has features",
            "an extracted split",
            "stepclip extract",
        )
    with _stages(progress) as stage:
        name, selection = "", None
        if isinstance(run, str | os.PathLike):
            name = Path(run).name
            run, selection = select_checkpoint(
                run, checkpoint, store, manifest, split, device=device, step=stage
            )
        chosen, store = opened(run, store)
        results = Results(
            name or str(chosen.recipe.name), manifest.name, split, len(videos), about=_about(chosen, store)
        )
        results.selection = selection
        if len(videos) < len(part):
            results.notes.append(
                f"{len(part) - len(videos)} of {len(part)} videos of the split have no features and are left "
                "out"
            )
        if results.on_test:
            results.notes.append(
                f"{selection}: the figures below chose it, so they are too good; quote last or best-val"
            )
        ids = [video.video_id for video in videos]
        stage("embedding the videos", None)
        trained, raw = embed(chosen, store, ids, device), embed_raw(store, ids, device)
        bare = content_free(chosen, raw)
        results.details.trained, results.details.raw = trained, raw
        m = parts.Material(chosen, store, manifest, part, videos, trained, raw, bare, device, stage)
        parts.verification(results, m)
        neighbours(results, m)
        stage("searching by text", None)
        parts.retrieval(results, m)
        stage("finding the steps", None)
        parts.localisation(results, m)
        pseudo_labels(results, m)
        linear_probe(results, m, transfer)
        if frames or (frames is None and chosen.recipe.method in FRAME_METHODS):
            frames_table(results, m)
        if sequences or (sequences is None and chosen.recipe.method in SEQUENCE_METHODS):
            sequence_tables(results, m)
    results.seconds = time.perf_counter() - started
    return results


def opened_store(store: FeatureStore | str | os.PathLike[str]) -> FeatureStore:
    if isinstance(store, str | os.PathLike):
        from ..cache.store import FeatureStore

        return FeatureStore.open(store)
    return store


def opened(
    run: str | os.PathLike[str] | Checkpoint, store: FeatureStore | str | os.PathLike[str]
) -> tuple[Checkpoint, FeatureStore]:
    """Both loaded where only their paths were given, and checked to belong together."""
    if isinstance(run, str | os.PathLike):
        from ..train.checkpoint import load_checkpoint

        run = load_checkpoint(run)
    store = opened_store(store)
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


def _about(checkpoint: Checkpoint, store: FeatureStore) -> dict[str, Any]:
    """What the figures were made from and on."""
    import torch

    from .. import __version__

    return {
        "stepclip": __version__,
        "commit": _commit(),
        "recipe": checkpoint.recipe.model_dump(mode="json"),
        "step": checkpoint.step,
        "fingerprint": store.fingerprint.digest,
        "features": dict(store.fingerprint.fields),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def _commit() -> str:
    """The commit of the checkout that this package is run from, and whether it was changed; "" elsewhere."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return ""
    ask = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(ask, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


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

"""Evaluations while a run trains: what `fit` is handed to measure a model with."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..cache.errors import StepclipError
from ..cache.manifest import Manifest, Pair, VideoRow
from ..cache.store import FeatureStore

if TYPE_CHECKING:
    from ..train.method import Embedder
    from ..train.recipe import Recipe
    from ..train.selection import Watch

MOST = 500  # pairs of each sort that are made of held-out tasks


@dataclass(frozen=True)
class _Measured:
    """What `verification_auc` asks of a checkpoint."""

    model: Embedder
    recipe: Recipe


def watch_for(recipe: Recipe, features: Path, manifest: Manifest, device: str = "auto") -> Watch | None:
    """The hook of a recipe that evaluates while it trains, else None: the AUC of verification on the pairs it
    selects by, in the recipe's own distance, each distinct video embedded once.

    "best-on-test": the pairs of the split test. Otherwise those of the split val, or, where
    `data.val_tasks` holds tasks out, pairs made of them. StepclipError where there are none.
    """
    if not recipe.evaluate.every:
        return None
    part = _part(recipe, features, manifest)
    from ..evaluate.selection import verification_auc

    def watch(model: Embedder, step: int) -> dict[str, float]:
        with FeatureStore.open(features) as store:
            return {"auc": verification_auc(_Measured(model, recipe), store, part, device)}  # type: ignore[arg-type]

    return watch


def _part(recipe: Recipe, features: Path, manifest: Manifest) -> Manifest:
    if recipe.evaluate.select == "best-on-test":
        part, wanted = manifest.split("test"), "pairs of the split test, matched and not"
    elif recipe.data.val_tasks:
        from ..train.order import split_rows

        with FeatureStore.open(features) as store:
            rows = split_rows(manifest, store, recipe.data.val_tasks, recipe.seed)[1]
        part = Manifest(tuple(rows), tuple(pairs_of(rows, recipe.seed)), name=manifest.name)
        wanted = "held-out tasks with two procedures and two videos of one"
    else:
        part = manifest.split("val")
        wanted = "pairs of the split val, or tasks held out (--set data.val_tasks=1)"
    if len({pair.matched for pair in part.pairs}) < 2:
        raise StepclipError(
            f"evaluate.every = {recipe.evaluate.every}, and no pairs to evaluate on",
            wanted,
            "--set evaluate.every=0 --set evaluate.select=last",
        )
    return part


def pairs_of(rows: list[VideoRow], seed: int) -> list[Pair]:
    """Pairs of videos of one task, matched where the procedure is the same; at most `MOST` of each sort,
    drawn by `seed`."""
    found: dict[bool, list[Pair]] = {True: [], False: []}
    for a, b in itertools.combinations(rows, 2):
        if a.task == b.task:
            matched = a.procedure == b.procedure
            found[matched].append(Pair(a.video_id, b.video_id, matched, "matched" if matched else "other"))
    draw = random.Random(seed)
    return [pair for sort in found.values() for pair in draw.sample(sort, min(MOST, len(sort)))]

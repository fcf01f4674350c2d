"""The training loop: the cache lies on the device where it fits, a step is gather, forward, losses, backward,
AdamW.

Nothing in a step waits for the device: losses are summed there and read when a line of the log is written.
The order of the data is a pure function of (seed, epoch), so a resumed run continues to the same weights, bit
for bit on a CPU; and torchrun's processes share each batch between them, to the weights of one process but
for rounding.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ..cache.errors import StepclipError
from ..cache.manifest import Manifest
from ..cache.store import FeatureStore
from .checkpoint import load_checkpoint
from .console import pick_device, pick_precision
from .features import place_features
from .launch import start_fabric
from .loop import Loop
from .method import Embedder, Setting, start_method
from .order import split_rows
from .recipe import Recipe
from .run import RunFolder
from .selection import Watch


@dataclass(frozen=True)
class FitResult:
    """What `fit` made: the run folder, optimiser steps in all, the last logged loss, seconds of this call;
    `stopped`: why before the end, if so."""

    out: Path
    steps: int
    loss: float
    seconds: float
    videos: int
    parameters: int
    stopped: str = ""

    def __str__(self) -> str:
        return (
            f"trained {self.steps} steps on {self.videos} videos in {self.seconds:.1f} s, "
            f"loss {self.loss:.4f}, {self.parameters / 1e6:.2f} M parameters -> {self.out}"
            + (f" ({self.stopped})" if self.stopped else "")
        )

    def save(self, path: Path) -> None:
        from ..cache.files import write_json

        write_json(path, {**asdict(self), "out": str(self.out)})


def fit(
    recipe: Recipe,
    store_path: str | Path,
    manifest: Manifest,
    out: str | Path,
    *,
    resume: bool = False,
    device: str = "auto",
    progress: bool = True,
    overwrite: bool = False,
    stop_after: int | None = None,
    watch: Watch | None = None,
) -> FitResult:
    """Train `recipe` on the cache `store_path` and the scripts of `manifest` into the run folder `out`.

    Only the split "train" is trained on, without step times unless the recipe needs them. `stop_after` ends
    after so many steps of this call, with a checkpoint (a resume goes on from there). `watch` evaluates the
    model every `recipe.evaluate.every` epochs (see `selection.Watch`). Under torchrun each process calls this
    alike, and the first one writes. StepclipError: a run is there already (unless `resume` or `overwrite`), a
    resume with another recipe, cache or set of videos, texts without features, a loss that is not finite or
    grows without bounds (its state is kept in `diverged/`).
    """
    began = time.monotonic()
    if recipe.evaluate.every and watch is None:
        raise StepclipError(
            f"evaluate.every = {recipe.evaluate.every}, and nothing that evaluates",
            "fit(..., watch=...), as `stepclip train` gives it, or evaluate.every = 0",
        )
    where = pick_device(device)
    precision = pick_precision(recipe.train.precision, where)
    fabric = start_fabric(where, precision)
    where, first = fabric.device, fabric.global_rank == 0
    with FeatureStore.open(store_path) as store, torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        train_rows, held_rows, notes = split_rows(
            manifest if recipe.needs_times else manifest.without_truth(),
            store,
            recipe.data.val_tasks,
            recipe.seed,
        )
        ids = [row.video_id for row in (*train_rows, *held_rows)]
        mapped, why = place_features(store, ids, where, recipe.data.features)
        shown = progress and first
        method = start_method(recipe, Setting(store, train_rows, held_rows, where, mapped, shown))
        if recipe.train.init:
            notes.append(_start_from(recipe, method.model, store))
        run = RunFolder(
            Path(out), recipe, store.fingerprint, method, resume=resume, overwrite=overwrite, first=first
        )
        loop = Loop(recipe, method, run, precision, fabric, watch)
        loop.resume()
        here = f"{where} ({torch.get_num_threads()} threads)" + (
            f" x {fabric.world_size} processes" if fabric.world_size > 1 else ""
        )
        line = (
            f"train: {here} · {precision} · recipe {recipe.name} · {method.says()}"
            f" · cache {store.fingerprint.digest} · {method.model.parameter_count / 1e6:.2f} M parameters"
            + (f" · {why}" if why else "")
            + (f" · from step {loop.step}" if loop.step else "")
        )
        loss = loop.run_to(stop_after, [line, *notes], shown)
    return FitResult(
        run.path,
        loop.step,
        loss,
        time.monotonic() - began,
        len(method.ids),
        method.model.parameter_count,
        loop.stopped,
    )


def _start_from(recipe: Recipe, model: Embedder, store: FeatureStore) -> str:
    """Take the weights of `train.init`; what was taken, in words."""
    before = load_checkpoint(recipe.train.init)
    if before.fingerprint != store.fingerprint:
        raise StepclipError(
            f"train.init = {recipe.train.init} was trained on features that were made otherwise:\n"
            + before.fingerprint.table(store.fingerprint, "init", "cache"),
            "a run on features of this kind",
        )
    try:
        model.load_state_dict(before.model.state_dict())
    except RuntimeError as error:
        raise StepclipError(
            f"the weights of train.init = {recipe.train.init} (recipe {before.recipe.name}) do not fit: "
            + " ".join(str(error).split())[:300],
            "a run of the same model section on the same kind of features",
        ) from None
    return f"starts from {before.path}, step {before.step}"

"""Which checkpoint of a run is evaluated, and who chose it.

| name | which | chosen by |
|---|---|---|
| selected | the run's own: what `load_checkpoint(run)` gives | the recipe, or nobody: then it is the last |
| last | the newest | nobody |
| best-val | the best on validation | the trainer's record, else the AUC of the kept ones on split "val" |
| best-on-test | the best on the evaluated split itself | its AUC, as WeakSVR did; marked wherever it shows |
| a number | that step | you |
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..cache.errors import StepclipError, nearest
from ..cache.files import read_json
from .distances import distance_of, pair_rows
from .embed import embed
from .verification import gap_auc

if TYPE_CHECKING:
    from ..cache.manifest import Manifest
    from ..cache.store import FeatureStore
    from ..train.checkpoint import Checkpoint

SELECTED, LAST, BEST_VAL, BEST_ON_TEST = "selected", "last", "best-val", "best-on-test"
ALL = "all"  # a split that holds every other
RULES = (SELECTED, LAST, BEST_VAL, BEST_ON_TEST)


@dataclass(frozen=True)
class Selection:
    """`rule` last, best-val, best-on-test or step; `chosen_on` the split whose figures chose it, "" for none.

    `tried` are step and AUC of every checkpoint that was compared here; `on_test` when the choice was made by
    the very figures that are reported; `asked` when it is not what the run selects by itself.
    """

    rule: str
    step: int
    chosen_on: str = ""
    tried: tuple[tuple[int, float], ...] = ()
    on_test: bool = False
    asked: bool = True

    @property
    def label(self) -> str:
        """For file names: the rule, with the step where that was asked for; "" for the run's own."""
        rule = f"step-{self.step}" if self.rule == "step" else self.rule
        return rule if self.asked else ""

    def __str__(self) -> str:
        if self.rule == LAST:
            return f"last checkpoint (step {self.step})"
        if not self.chosen_on:
            return f"checkpoint of step {self.step}"
        among = f" of {len(self.tried)} kept" if self.tried else ""
        # training may have held out whole tasks instead of a split
        where = f"split {self.chosen_on!r}" if self.tried or self.on_test else "validation, while training"
        marked = ", THE ONE REPORTED" if self.on_test else ""
        return f"checkpoint of step {self.step}: best{among} on {where}{marked}"

    def to_dict(self) -> dict[str, Any]:
        tried = [{"step": step, "auc": auc} for step, auc in self.tried]
        rest = {"rule": self.rule, "step": self.step, "chosen_on": self.chosen_on, "on_test": self.on_test}
        return {**rest, "tried": tried}


def kept_checkpoints(run: str | os.PathLike[str]) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    home = Path(run) / "checkpoints"
    if not home.is_dir():
        return []
    found = [p for p in home.iterdir() if p.name.isdigit() and (p / "meta.json").is_file()]
    return sorted(found, key=lambda path: int(path.name))


def select_checkpoint(
    run: str | os.PathLike[str],
    which: str,
    store: FeatureStore,
    manifest: Manifest,
    split: str,
    *,
    device: str = "auto",
    step: Callable[[str, int | None], Callable[[int], None]] | None = None,
) -> tuple[Path, Selection]:
    """The checkpoint folder that `which` names, for an evaluation on `split` ("all" for every video).

    StepclipError for an unknown name, a step that was not kept, and best-val where neither the trainer
    recorded one nor split "val" has pairs of both sorts.
    """
    from ..train.checkpoint import find_checkpoint

    own = find_checkpoint(run)
    kept = kept_checkpoints(run) or [own]
    steps = ", ".join(str(int(path.name)) for path in kept if path.name.isdigit())
    if which == SELECTED:
        return own, replace(recorded(own, split), asked=False)
    if which == LAST:
        return kept[-1], Selection(LAST, step_of(kept[-1]))
    if which.isdecimal():
        for path in kept:
            if step_of(path) == int(which):
                return path, Selection("step", int(which))
        raise StepclipError(f"no checkpoint of step {which} in {run}", f"one of the kept steps: {steps}")
    if which not in RULES:
        raise StepclipError(
            f"checkpoint {which!r}{nearest(which, RULES)}", f"{', '.join(RULES)} or a kept step: {steps}"
        )
    if (found := recorded(own, split)).rule == which:
        return own, found
    chosen_on = "val" if which == BEST_VAL else split
    part = manifest if chosen_on == ALL else _split(manifest, chosen_on)
    tried = []
    advance = step(f"comparing checkpoints on {chosen_on}", len(kept)) if step else lambda n: None
    for path in kept:
        tried.append((step_of(path), verification_auc(path, store, part, device)))
        advance(1)
    values = [auc for _, auc in tried]
    if not np.isfinite(values).any():
        raise StepclipError(
            f"{which}: split {chosen_on!r} has no matched and unmatched pairs to choose by",
            "pairs of both sorts",
            "stepclip eval --checkpoint last",
        )
    best = int(np.nanargmax(values))  # the earliest of equal ones
    step_no = tried[best][0]
    return kept[best], Selection(which, step_no, chosen_on, tuple(tried), on_test=split in (chosen_on, ALL))


def verification_auc(
    checkpoint: Checkpoint | str | os.PathLike[str], store: FeatureStore, part: Manifest, device: str = "auto"
) -> float:
    """AUC of the recipe's own distance over the pairs of `part` with features; nan without both sorts."""
    from ..train.checkpoint import load_checkpoint

    if isinstance(checkpoint, str | os.PathLike):
        checkpoint = load_checkpoint(checkpoint)
    pairs = [pair for pair in part.pairs if pair.video_a in store and pair.video_b in store]
    unmatched = np.array([not pair.matched for pair in pairs], dtype=bool)
    if not unmatched.any() or unmatched.all():
        return float("nan")
    ids = list(dict.fromkeys(v for pair in pairs for v in (pair.video_a, pair.video_b)))
    embedded = embed(checkpoint, store, ids, device)
    a, b = pair_rows(embedded, [(pair.video_a, pair.video_b) for pair in pairs])
    return gap_auc(distance_of(checkpoint.recipe.evaluate.distance, embedded, a, b), unmatched)


def recorded(checkpoint: Path, split: str) -> Selection:
    """How training itself came to this checkpoint, from its meta.json, for an evaluation on `split`."""
    says = read_json(checkpoint / "meta.json").get("selection") or {}
    step = step_of(checkpoint)
    by = says.get("by", LAST) if says.get("step", step) == step else LAST
    if by == "val":
        return Selection(BEST_VAL, step, "val", on_test=split in ("val", ALL))
    if by == BEST_ON_TEST:
        return Selection(BEST_ON_TEST, step, "test", on_test=split in ("test", ALL))
    return Selection(LAST, step)


def step_of(checkpoint: Path) -> int:
    return int(read_json(checkpoint / "meta.json").get("step", -1))


def _split(manifest: Manifest, name: str) -> Manifest:
    if any(row.split == name for row in manifest):
        return manifest.split(name)
    raise StepclipError(
        f"no video of split {name!r} in {manifest.name or 'the manifest'} to choose a checkpoint by",
        "a validation split, or a run whose training held some tasks out (data.val_tasks)",
        "stepclip eval --checkpoint last",
    )

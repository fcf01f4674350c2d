"""Which videos are trained on, and the order in which they are seen: a pure function of seed and epoch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..cache.errors import StepclipError
from ..cache.manifest import Manifest, VideoRow
from ..cache.store import FeatureStore


@dataclass(frozen=True)
class Epoch:
    """`order` (steps, B) int64 on the host: which videos each step sees; `draws` (V, N): where in its part
    each row lies."""

    order: Tensor
    draws: Tensor


def steps_of_epoch(videos: int, batch: int, items: int = 0, pairs: bool = False) -> int:
    """Steps of an epoch of `items` videos or pairs (0: as many as there are videos), last short batch
    dropped."""
    return max(1, (items or videos) // (batch // 2 if pairs else batch))


def plan_epoch(
    seed: int,
    epoch: int,
    tasks: Tensor,
    batch: int,
    frames: int,
    same_task: float = 0.0,
    *,
    items: int = 0,
    procedures: Tensor | None = None,
) -> Epoch:
    """Order and draws of an epoch (counted from 0): `tasks` (V,) int64 -> every video once, but for a last
    short batch. The number of processes does not enter: each takes its part of every step.

    A share `same_task` of the batches is drawn from the videos laid task by task (in a random order of
    tasks), so that procedures of one task meet; the rest is shuffled. Fewer videos than `batch` make one
    batch of them all. `items`: only so many of the shuffled videos, or the videos several times over until
    there are so many. `procedures` (V,) int64 makes pairs, one beside the other: each video with another one
    of its procedure (itself where it has no other); `batch` still counts videos, `items` pairs.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    videos = len(tasks)
    order = torch.randperm(videos, generator=generator)
    draws = torch.rand(videos, frames, generator=generator)
    size = min(batch, videos) if procedures is None else batch // 2
    steps = steps_of_epoch(videos, size, items)
    while len(order) < steps * size:
        order = torch.cat([order, torch.randperm(videos, generator=generator)])
    grouped = round(same_task * steps) * size
    if grouped:
        rank = torch.randperm(int(tasks.max()) + 1, generator=generator)
        near = order[:grouped]
        order = torch.cat([near[rank[tasks[near]].argsort(stable=True)], order[grouped:]])
    batches = order[: steps * size].view(steps, size)
    batches = batches[torch.randperm(steps, generator=generator)]
    if procedures is not None:
        batches = torch.stack([batches, _partners(batches, procedures, generator)], 2).flatten(1)
    return Epoch(batches, draws)


def _partners(chosen: Tensor, procedures: Tensor, generator: torch.Generator) -> Tensor:
    """For each chosen video another one of its procedure, each as likely."""
    ranked = procedures.argsort(stable=True)
    place = torch.empty_like(ranked)
    place[ranked] = torch.arange(len(ranked))
    count = torch.bincount(procedures)
    first = count.cumsum(0) - count
    of = procedures[chosen]
    others = count[of] - 1
    skip = 1 + (torch.rand(chosen.shape, generator=generator) * others).long().minimum(
        (others - 1).clamp(min=0)
    )
    return ranked[first[of] + (place[chosen] - first[of] + skip) % count[of]]


def split_rows(
    manifest: Manifest, store: FeatureStore, val_tasks: int, seed: int
) -> tuple[list[VideoRow], list[VideoRow], list[str]]:
    """(training rows, held-out rows, notes). A manifest that names no split at all trains on everything.

    Held out are `val_tasks` whole tasks of the training split, chosen by `seed`; with 0, the rows of the
    split "val", which are only looked at. Rows without features or without steps are left out and counted in
    the notes.
    """
    notes = []
    splits = {row.split for row in manifest}
    if splits == {""}:
        train = list(manifest)
        notes.append("the manifest names no split: every video is trained on")
    else:
        train = [row for row in manifest if row.split == "train"]
    if not train:
        found = ", ".join(sorted(repr(split) for split in splits)) or "none"
        raise StepclipError(
            f"the manifest has no video of the split 'train' (its splits: {found})", "training videos"
        )
    held = [row for row in manifest if row.split == "val"]
    if val_tasks:
        tasks = sorted({row.task for row in train})
        if val_tasks >= len(tasks):
            raise StepclipError(
                f"data.val_tasks = {val_tasks} of {len(tasks)} training tasks", "fewer than there are"
            )
        chosen = torch.randperm(len(tasks), generator=torch.Generator().manual_seed(seed))[
            :val_tasks
        ].tolist()
        out = {tasks[i] for i in chosen}
        held = [row for row in train if row.task in out]
        train = [row for row in train if row.task not in out]
        notes.append(f"held out to watch the loss: task {', '.join(sorted(out))} ({len(held)} videos)")
    known = [row for row in train if row.video_id in store]
    if len(known) < len(train):
        notes.append(
            f"{len(train) - len(known)} of {len(train)} training videos have no features and are left out"
        )
    return known, [row for row in held if row.video_id in store], notes

"""The training set on the device, and the order in which it is seen: a pure function of seed and epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..cache.errors import StepclipError
from ..cache.manifest import Manifest, VideoRow
from ..cache.store import FeatureStore
from .features import Features, Spread, spread
from .sampling import rows_from_draws


@dataclass(frozen=True)
class Batch:
    """B videos: `frames` (B, N, D); `steps` (B, K, E), zeros beyond `step_lengths` (B,); `paragraphs` (B, E);
    `procedures` (B,) int64, equal where the scripts are one procedure's."""

    frames: Tensor
    steps: Tensor
    step_lengths: Tensor
    paragraphs: Tensor
    procedures: Tensor


@dataclass(frozen=True)
class Epoch:
    """`order` (steps, B) int64 on the host: which videos each step sees; `draws` (V, N): where in its part
    each row lies."""

    order: Tensor
    draws: Tensor


class TrainingSet:
    """Videos with features, their scripts' features, all on one device: a batch is a few gathers, nothing
    else. `mapped`: the features stay on the disk, and each batch is read from there."""

    def __init__(
        self,
        store: FeatureStore,
        rows: Sequence[VideoRow],
        device: torch.device,
        progress: bool = True,
        mapped: bool = False,
    ) -> None:
        if not rows:
            raise StepclipError(
                "no video to train on has features", "a cache of this manifest", "stepclip extract"
            )
        if empty := [row.video_id for row in rows if not row.steps]:
            raise StepclipError(f"the video '{empty[0]}' has no steps", "at least one step per video")
        self.ids = tuple(row.video_id for row in rows)
        self.tasks = _numbers([row.task for row in rows])
        # the features stay in half precision until a batch is gathered
        self.packed: Features = (
            store.mapped(device, self.ids) if mapped else store.load(device, self.ids, progress=progress)
        )
        self.first, self.lengths = self.packed.offsets[:-1], self.packed.lengths
        self._progress = progress
        if int(self.lengths.min()) < 1:
            raise StepclipError(
                f"the video '{self.ids[int(self.lengths.argmin())]}' has no frames", "at least one"
            )

        sentences = sorted({step for row in rows for step in row.steps})
        scripts = sorted({row.paragraph for row in rows})
        place = {sentence: i for i, sentence in enumerate(sentences)}
        script = {paragraph: i for i, paragraph in enumerate(scripts)}
        table = torch.zeros(len(rows), max(len(row.steps) for row in rows), dtype=torch.int64)
        for i, row in enumerate(rows):  # once, at the start
            table[i, : len(row.steps)] = torch.tensor([place[step] for step in row.steps])
        self.sentences = torch.as_tensor(store.text(sentences, "step")).float().to(device)
        self.paragraphs = torch.as_tensor(store.text(scripts, "paragraph")).float().to(device)
        if self.sentences.shape[1] != self.paragraphs.shape[1]:
            raise StepclipError(
                f"steps of {self.sentences.shape[1]} and paragraphs of {self.paragraphs.shape[1]} dimensions"
            )
        self.table = table.to(device)
        self.step_lengths = torch.tensor([len(row.steps) for row in rows], device=device)
        self.script = torch.tensor([script[row.paragraph] for row in rows], device=device)
        self.procedures = _numbers([f"{row.task}\n{row.procedure}" for row in rows]).to(device)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def text_dim(self) -> int:
        return self.sentences.shape[1]

    @property
    def device(self) -> torch.device:
        return self.packed.device

    @cached_property
    def spread(self) -> Spread:
        """Of all frame features; its size is the unit of the feature noise. Reads them all, once."""
        return spread(self.packed, self._progress)

    def gather(self, index: Tensor, draws: Tensor, *, noise: float = 0.0, dropout: float = 0.0) -> Batch:
        """The videos `index` (B,) int64, on the device, with `draws` (B, N); noise and dropout from torch's
        generator."""
        rows = rows_from_draws(self.lengths[index], draws)
        if dropout:
            place = torch.arange(rows.shape[1], device=rows.device)
            kept = (torch.rand(rows.shape, device=rows.device) >= dropout) | (place == 0)
            rows = rows.gather(1, torch.where(kept, place, 0).cummax(1).values)
        frames = self.packed.gather(self.first[index, None] + rows).float()
        if noise:
            frames = frames + noise * self.spread.size * torch.randn_like(frames)
        lengths = self.step_lengths[index]
        real = torch.arange(self.table.shape[1], device=index.device) < lengths[:, None]
        steps = self.sentences[self.table[index]] * real[..., None]
        return Batch(frames, steps, lengths, self.paragraphs[self.script[index]], self.procedures[index])


def plan_epoch(
    seed: int, epoch: int, tasks: Tensor, batch: int, frames: int, same_task: float = 0.0
) -> Epoch:
    """Order and draws of an epoch (counted from 0): `tasks` (V,) int64 -> every video once, but for a last
    short batch.

    A share `same_task` of the batches is drawn from the videos laid task by task (in a random order of
    tasks), so that procedures of one task meet; the rest is shuffled. Fewer videos than `batch` make one
    batch of them all.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(len(tasks), generator=generator)
    draws = torch.rand(len(tasks), frames, generator=generator)
    batch = min(batch, len(tasks))
    steps = len(tasks) // batch
    grouped = round(same_task * steps) * batch
    if grouped:
        rank = torch.randperm(int(tasks.max()) + 1, generator=generator)
        near = order[:grouped]
        order = torch.cat([near[rank[tasks[near]].argsort(stable=True)], order[grouped:]])
    batches = order[: steps * batch].view(steps, batch)
    return Epoch(batches[torch.randperm(steps, generator=generator)], draws)


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


def _numbers(names: Sequence[str]) -> Tensor:
    known = {name: i for i, name in enumerate(sorted(set(names)))}
    return torch.tensor([known[name] for name in names], dtype=torch.int64)

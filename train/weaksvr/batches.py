"""The training set on the device: features, scripts, and what a batch of them is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from ...cache.errors import StepclipError
from ...cache.manifest import VideoRow
from ...cache.store import FeatureStore
from ..features import SHARE, Features, Spread, free_memory, spread
from ..losses.corpus_labels import BYTES as CORPUS_BYTES
from ..losses.corpus_labels import corpus_labels
from ..method import digest_of
from ..rows import check_rows, numbers, procedures_of, script_table
from .sampling import rows_from_draws

Padding = Literal["mask", "zeros", "mean"]


@dataclass(frozen=True)
class Batch:
    """B videos of a step, or those of them that one process has (B' <= B):

    `frames` (B', N, D); `steps` (B', K, E), zeros (or padding features) beyond `step_lengths` (B',); `words`
    (B', K) int64, the sentences' places in the table. Of the whole step, as each process needs them for the
    coarse loss: `paragraphs` (B, E); `procedures` (B,) int64, equal where the scripts are one procedure's;
    `rivals` (B, M, E) other paragraphs of its task and `rival_real` (B, M), which there are (or None);
    `sentences` () how many real sentences a process has on average; `own` the slice of this process; `labels`
    (B', N, K) pseudo-labels of the frames, where the set has learned them.
    """

    frames: Tensor
    steps: Tensor
    step_lengths: Tensor
    words: Tensor
    paragraphs: Tensor
    procedures: Tensor
    sentences: Tensor
    own: slice
    rivals: Tensor | None = None
    rival_real: Tensor | None = None
    labels: Tensor | None = None


class TrainingSet:
    """Videos with features, their scripts' features, all on one device: a batch is a few gathers, nothing
    else. `mapped`: the features stay on the disk, and each batch is read from there.

    `padding`, `pad_to`: what stands beyond the end of a script, and how far. "mean" is the mean of all
    sentences. As released it is the text tower's answer to a row of zeros, one constant vector among the
    texts, which a cache does not hold: the mean stands in for it. `rivals`: paragraphs of other procedures of
    its task that each procedure has at hand, chosen by `seed` where there are more.
    """

    def __init__(
        self,
        store: FeatureStore,
        rows: Sequence[VideoRow],
        device: torch.device,
        progress: bool = True,
        mapped: bool = False,
        *,
        padding: Padding = "mask",
        pad_to: int = 0,
        rivals: int = 0,
        seed: int = 0,
    ) -> None:
        check_rows(rows)
        self.ids = tuple(row.video_id for row in rows)
        self.tasks = numbers([row.task for row in rows])
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

        sentences, table = script_table(rows, pad_to)  # the last row of the sentences is the padding
        if 0 < pad_to < (longest := table.shape[1]):
            raise StepclipError(f"data.pad_to = {pad_to}, and a script of {longest} steps", f"{longest} or 0")
        scripts = sorted({row.paragraph for row in rows})
        known = torch.as_tensor(store.text(sentences, "step")).float()
        beyond = known.mean(0, keepdim=True) if padding == "mean" else torch.zeros(1, known.shape[1])
        self.sentences = torch.cat([known, beyond]).to(device)
        self.paragraphs = torch.as_tensor(store.text(scripts, "paragraph")).float().to(device)
        if self.sentences.shape[1] != self.paragraphs.shape[1]:
            raise StepclipError(
                f"steps of {self.sentences.shape[1]} and paragraphs of {self.paragraphs.shape[1]} dimensions"
            )
        self.table = table.to(device)
        self.step_lengths = torch.tensor([len(row.steps) for row in rows], device=device)
        self.script = numbers([row.paragraph for row in rows]).to(device)
        procedures = procedures_of(rows)
        self.procedures = procedures.to(device)
        self.classes = int(procedures.max()) + 1
        self.vocabulary, self.vocabulary_size = _vocabularies(table, self.tasks, len(sentences), device)
        task_of = torch.zeros(self.classes, dtype=torch.int64)
        task_of[procedures] = self.tasks
        self.procedure_task = task_of.to(device)
        self.labels: Tensor | None = None
        self.rivals: Tensor | None = None
        if rivals:
            scripts_of = dict(zip(procedures.tolist(), self.script.tolist(), strict=True))
            tasks_of = dict(zip(procedures.tolist(), self.tasks.tolist(), strict=True))
            self.rivals = _rivals(scripts_of, tasks_of, rivals, seed).to(device)

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

    def learn_labels(self) -> None:
        """Pseudo-labels of every frame, from all videos together: `losses/corpus_labels.py`.

        StepclipError where memory is too small for it."""
        every = torch.arange(int(self.packed.offsets[-1]), device=self.device)
        size = CORPUS_BYTES * len(every) * self.packed.gather(every[:1]).shape[1]
        free = free_memory(self.device)
        if free is not None and size > SHARE * free:
            raise StepclipError(
                f"loss.labels = corpus takes {size >> 20} MB, and {free >> 20} MB of memory are free",
                "room for all frames at once",
                "stepclip train --set loss.labels=soft-prior, or extract fewer frames a second",
            )
        self.labels = corpus_labels(
            self.packed.gather(every), self.packed.offsets, self.table, self.step_lengths, self.sentences
        )

    def digest(self) -> str:
        """Of ids, lengths, scripts, procedures."""
        scripts = [self.table.tolist(), self.step_lengths.tolist(), self.procedures.tolist()]
        return digest_of(self.ids, self.lengths.tolist(), *scripts)

    def gather(
        self,
        index: Tensor,
        draws: Tensor,
        *,
        noise: float = 0.0,
        dropout: float = 0.0,
        rank: int = 0,
        world: int = 1,
    ) -> Batch:
        """The videos `index` (B,) int64, on the device, with `draws` (B, N); noise and dropout from torch's
        generator. Process `rank` of `world` gets its share of the frames; what is random is drawn for all, so
        that the processes' generators stay level and their frames are those of one process."""
        share = len(index) // world
        own = slice(rank * share, (rank + 1) * share)
        rows = rows_from_draws(self.lengths[index], draws)
        if dropout:
            place = torch.arange(rows.shape[1], device=rows.device)
            kept = (torch.rand(rows.shape, device=rows.device) >= dropout) | (place == 0)
            rows = rows.gather(1, torch.where(kept, place, 0).cummax(1).values)
        rows = (self.first[index, None] + rows)[own]
        frames = self.packed.gather(rows).float()
        if noise:
            drawn = torch.randn(*draws.shape, frames.shape[2], device=frames.device)
            frames = frames + noise * self.spread.size * drawn[own]
        lengths, words = self.step_lengths[index], self.table[index[own]]
        procedures = self.procedures[index]
        rivals = None if self.rivals is None else self.rivals[procedures]
        return Batch(
            frames,
            self.sentences[words],
            lengths[own],
            words,
            self.paragraphs[self.script[index]],
            procedures,
            lengths.sum() / world,
            own,
            None if rivals is None else self.paragraphs[rivals.clamp(min=0)],
            None if rivals is None else rivals >= 0,
            None if self.labels is None else self.labels[rows],
        )


def _vocabularies(table: Tensor, tasks: Tensor, padding: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The distinct sentences of each task, (tasks, W) padded, and how many there are, (tasks,)."""
    words = [table[tasks == task].unique() for task in range(int(tasks.max()) + 1)]
    words = [found[found != padding] for found in words]
    return (
        torch.nn.utils.rnn.pad_sequence(words, batch_first=True, padding_value=padding).to(device),
        torch.tensor([len(found) for found in words], device=device),
    )


def _rivals(scripts: dict[int, int], tasks: dict[int, int], most: int, seed: int) -> Tensor:
    """(procedures, most) int64: paragraphs of other procedures of the task, -1 where there are no more."""
    generator = torch.Generator().manual_seed(seed)
    out = torch.full((len(scripts), most), -1)
    for procedure, script in scripts.items():
        others = sorted({scripts[p] for p, task in tasks.items() if task == tasks[procedure]} - {script})
        chosen = torch.randperm(len(others), generator=generator)[:most].tolist()
        out[procedure, : len(chosen)] = torch.tensor([others[i] for i in chosen], dtype=torch.int64)
    return out

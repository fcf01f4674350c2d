"""TempCLR's training set on the device: where in each video each sentence is, and the windows of a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...cache.errors import StepclipError
from ...cache.manifest import VideoRow
from ...cache.store import FeatureStore
from ..features import Features, spread
from ..losses import label_frames
from ..losses.unit import unit
from ..method import digest_of
from ..rows import check_rows, procedures_of, script_table
from .knobs import TempCLRData
from .model import unit_means


class Units(NamedTuple):
    """Windows of B videos, P each, in the order of the script; of `frames`, `real` and `base` one process has
    its share of the videos (B'), all else is of the whole step.

    `frames` (B', P, W, D), `real` (B', P, W); `base` (B', D) or None; `step` (B, P) which sentence of its
    script a window shows; `there` (B, P) which windows there are, all before those that are not; `first`,
    `last` (B, P) rows of the video, the last exclusive; `words` (B, S) the scripts, `steps` (B,) their
    lengths; `procedures` (B,).
    """

    frames: Tensor
    real: Tensor
    base: Tensor | None
    step: Tensor
    there: Tensor
    first: Tensor
    last: Tensor
    words: Tensor
    steps: Tensor
    procedures: Tensor


class SequenceSet:
    """Videos with features, their scripts, and the span of rows of each sentence, all on one device. Without
    `texts` no sentence is looked at: the cache need not have them."""

    def __init__(
        self,
        store: FeatureStore,
        rows: Sequence[VideoRow],
        config: TempCLRData,
        device: torch.device,
        progress: bool = True,
        mapped: bool = False,
        centre: bool = False,
        texts: bool = True,
    ) -> None:
        check_rows(rows)
        self.config = config
        self.ids = tuple(row.video_id for row in rows)
        self.packed: Features = (
            store.mapped(device, self.ids) if mapped else store.load(device, self.ids, progress=progress)
        )
        self.first, self.lengths = self.packed.offsets[:-1], self.packed.lengths
        if int(self.lengths.min()) < 1:
            raise StepclipError(
                f"the video '{self.ids[int(self.lengths.argmin())]}' has no frames", "at least one"
            )
        self.means = unit_means(self.packed) if centre or config.neighbours else None
        self.base = self.means if centre else None

        sentences, table = script_table(rows, beyond=0)
        self.sentences = torch.zeros(len(sentences), store.dim, device=device)
        if texts:
            self.sentences = torch.as_tensor(store.text(sentences, "step")).float().to(device)
        self.table = table.to(device)
        self.steps = torch.tensor([len(row.steps) for row in rows], device=device)
        self.procedures = procedures_of(rows).to(device)
        self.classes, self.tasks = int(self.procedures.max()) + 1, len({row.task for row in rows})
        self.spans = self._spans(rows).to(device)
        self.labelled: tuple[Tensor, Tensor, Tensor] | None = None
        if config.units == "rows":
            self.labelled = tuple(x.to(device) for x in self._labelled())  # type: ignore[assignment]
        self.size = spread(self.packed, progress).size if config.feature_noise else None
        self.near: Tensor | None = None
        if config.neighbours and len(rows) > 1:
            assert self.means is not None
            self.near = nearest(self.means, min(config.neighbours, len(rows))).cpu()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def text_dim(self) -> int:
        return self.sentences.shape[1]

    @property
    def device(self) -> torch.device:
        return self.packed.device

    @property
    def units(self) -> int:
        """Windows of a video, P."""
        if self.config.units == "drawn":
            return self.config.pairs
        return self.table.shape[1] * (
            self.config.windows if self.config.units == "script" else self.config.rows
        )

    def digest(self) -> str:
        return digest_of(self.ids, self.lengths.tolist(), self.table.tolist(), self.spans.tolist())

    # ---- where sentences are

    def _spans(self, rows: Sequence[VideoRow]) -> Tensor:
        """(V, S, 2) rows of each sentence, at least one; the last exclusive."""
        if self.config.spans == "given":
            return self._given(rows)
        spans = torch.zeros(*self.table.shape, 2, dtype=torch.int64)
        lengths = self.lengths.tolist()
        if self.config.spans != "uniform" and self.packed.dim != self.text_dim:
            raise StepclipError(
                f"data.spans = {self.config.spans}, and frames of {self.packed.dim} numbers beside texts of "
                f"{self.text_dim}",
                "features of one space, or data.spans given or uniform",
            )
        for length in sorted(set(lengths)):  # videos of one length are labelled together
            of = [i for i, t in enumerate(lengths) if t == length]
            labels = self._labels(torch.tensor(of, device=self.device), length).cpu()
            for i, found in zip(of, labels, strict=True):
                n = len(rows[i].steps)
                step = torch.arange(n)
                start = torch.searchsorted(found, step)
                end = torch.searchsorted(found, step, right=True)
                start = start.clamp(max=length - 1)
                spans[i, :n] = torch.stack([start, torch.maximum(end, start + 1)], 1)
        return spans

    def _labels(self, of: Tensor, length: int) -> Tensor:
        """(B, T) the sentence of each row, non-decreasing, of videos that have `length` rows."""
        steps = self.steps[of]
        if self.config.spans == "uniform":
            return torch.arange(length, device=self.device) * steps[:, None] // length
        frames = unit(
            self.packed.gather(self.first[of, None] + torch.arange(length, device=self.device)).float()
        )
        texts = unit(self.sentences)
        frames, texts = frames - frames.mean(1, keepdim=True), texts - texts.mean(0)
        return label_frames(frames, texts[self.table[of]], steps, 1 / 0.07, self.config.spans)

    def _given(self, rows: Sequence[VideoRow]) -> Tensor:
        times, offsets = self.packed.times.cpu().numpy(), self.packed.offsets.tolist()
        spans = torch.zeros(*self.table.shape, 2, dtype=torch.int64)
        for i, row in enumerate(rows):
            if row.step_start is None or row.step_end is None:
                raise StepclipError(
                    f"data.spans = given, and the video '{row.video_id}' has no step times",
                    "step_start and step_end in the manifest, or data.spans = visit-all",
                )
            at = times[offsets[i] : offsets[i + 1]]
            start = np.searchsorted(at, row.step_start).clip(max=len(at) - 1)
            end = np.maximum(np.searchsorted(at, row.step_end), start + 1)
            spans[i, : len(row.steps)] = torch.as_tensor(np.stack([start, end], 1))
        return spans

    def _labelled(self) -> tuple[Tensor, Tensor, Tensor]:
        """Rows (V, P) inside some step, their steps (the first of several), and how many, (V,): at most
        `config.rows` for each step of the script, evenly spread (`methods/tempclr.md` 2.3)."""
        width = self.units
        rows = torch.zeros(len(self), width, dtype=torch.int64)
        steps, counts = rows.clone(), torch.ones(len(self), dtype=torch.int64)
        for i, (spans, n, length) in enumerate(
            zip(self.spans.cpu(), self.steps.tolist(), self.lengths.tolist(), strict=True)
        ):
            row = torch.arange(length)
            inside = (row >= spans[:n, :1]) & (row < spans[:n, 1:])
            labels = inside.int().argmax(0)
            kept = inside.any(0).nonzero()[:, 0]
            kept = kept[torch.linspace(0, len(kept) - 1, min(len(kept), self.config.rows * n)).long()]
            rows[i, : len(kept)], steps[i, : len(kept)], counts[i] = kept, labels[kept], len(kept)
        return rows, steps, counts

    # ---- a step

    def plan(self, seed: int, epoch: int, batch: int, steps: int) -> tuple[Tensor, Tensor]:
        """Videos (steps, B) int64 and draws (steps, B, P, 4) in [0, 1) of an epoch, on the host."""
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        order = torch.randperm(len(self), generator=generator)
        while len(order) < steps * batch:
            order = torch.cat([order, torch.randperm(len(self), generator=generator)])
        order = order[: steps * batch].view(steps, batch)
        if self.near is not None and epoch:  # as released: the first epoch is plain
            near = self.near[order[:, 0]]
            chosen = torch.rand(near.shape, generator=generator).argsort(1)[:, : min(batch, near.shape[1])]
            order = torch.cat([near.gather(1, chosen), order[:, chosen.shape[1] :]], 1)
        return order, torch.rand(steps, batch, self.units, 4, generator=generator)

    def gather(self, index: Tensor, draws: Tensor, rank: int = 0, world: int = 1) -> Units:
        """The units of videos `index` (B,), where `draws` (B, P, 4) say: sentence, place in its span, length,
        how much of the window lies before that place."""
        share = len(index) // world
        own = slice(rank * share, (rank + 1) * share)
        steps, lengths = self.steps[index], self.lengths[index, None]
        step, at, there = self._places(index, draws)
        c = self.config
        if c.units == "rows":
            size = torch.full_like(at, c.longest)
            before = torch.full_like(at, c.longest // 2)
        else:
            size = c.shortest + (draws[..., 2] * (c.longest - c.shortest + 1)).long()
            before = (draws[..., 3] * size).long()
        size = size.minimum(lengths)
        first = (at - before).clamp(min=0).minimum(lengths - size)
        place = torch.arange(c.longest, device=self.device)
        rows = first[..., None] + place.minimum(size[..., None] - 1)
        if c.units == "drawn":  # in the order of the script, and in time
            order = (step * (1 + int(1e6)) + first).argsort(1)
            step, first, size = (x.gather(1, order) for x in (step, first, size))
            rows = rows.gather(1, order[..., None].expand(rows.shape))
        frames = self.packed.gather((self.first[index, None, None] + rows)[own])
        if self.size is not None:  # drawn for all, so that the processes' generators stay level
            drawn = torch.randn(*rows.shape, self.packed.dim, device=self.device)
            frames = frames.float() + c.feature_noise * self.size * drawn[own]
        return Units(
            frames, (place < size[..., None])[own], None if self.base is None else self.base[index[own]],
            step, there, first, first + size, self.table[index], steps, self.procedures[index],
        )  # fmt: skip

    def _places(self, index: Tensor, draws: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Which sentence, around which row, and whether there is such a unit, each (B, P)."""
        c, steps = self.config, self.steps[index, None]
        if self.labelled is not None:
            rows, step, counts = (x[index] for x in self.labelled)
            return step, rows, torch.arange(self.units, device=self.device) < counts[:, None]
        u = draws[..., 1]
        if c.units == "drawn":
            step = (draws[..., 0] * steps).long().minimum(steps - 1)
            there = torch.ones_like(step, dtype=torch.bool)
        else:  # the windows of a sentence lie one after the other, each in its part of the span
            place = torch.arange(self.units, device=self.device).expand(draws.shape[:2])
            step, there = place // c.windows, place < steps * c.windows
            step = step.minimum(steps - 1)
            u = (place % c.windows + u) / c.windows
        spans = self.spans[index].gather(1, step[..., None].expand(*step.shape, 2))
        start, end = spans[..., 0], spans[..., 1]
        return step, (start + (u * (end - start)).long()).minimum(end - 1), there


def nearest(vectors: Tensor, count: int) -> Tensor:
    """(V, D) -> (V, count) int64: the nearest of each by L2, itself first, in parts that fit in memory."""
    return torch.cat(
        [torch.cdist(part, vectors).topk(count, largest=False).indices for part in vectors.split(1024)]
    )

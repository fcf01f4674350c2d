"""The training set of CARL on the device: features, their times, and two views of each video of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...cache.errors import StepclipError
from ...cache.manifest import VideoRow
from ...cache.packed import PackedFeatures
from ...cache.store import FeatureStore
from ..features import Features, Spread, spread
from ..method import digest_of
from ..rows import check_rows
from .augment import Fitted, change_looks, fit_offsets
from .knobs import CarlData
from .views import draws_needed, sample_views


class ViewBatch(NamedTuple):
    """`frames` (B', 2, T, D) of this process; of the whole batch: `real` (B, 2, T), `rows` (B, 2, T) in each
    video, `times` (B, 2, T) in the clock's unit, `share` (B, 2, T) of the video that lies before, `sigma`
    (B,)."""

    frames: Tensor
    real: Tensor
    rows: Tensor
    times: Tensor
    share: Tensor
    sigma: Tensor


class ViewSet:
    """Videos with features on one device. `mapped`: the features stay on the disk, read batch by batch."""

    def __init__(
        self,
        store: FeatureStore,
        videos: Sequence[VideoRow],
        config: CarlData,
        device: torch.device,
        *,
        progress: bool = True,
        mapped: bool = False,
        seed: int = 0,
    ) -> None:
        check_rows(videos, scripts=False)
        self.config, self.ids = config, tuple(row.video_id for row in videos)
        self.appearance = _appearance(config, store.views, mapped)
        copies = self.appearance in ("cached", "fitted")
        self.packed: Features = (
            store.mapped(device, self.ids)
            if mapped
            else store.load(device, self.ids, progress=progress, views=copies)
        )
        lengths = self.packed.lengths
        if int(lengths.min()) < 2:
            raise StepclipError(
                f"the video {self.ids[int(lengths.argmin())]!r} has one frame",
                "two or more: views of it are compared",
                "stepclip extract --fps with a higher rate",
            )
        self.first, self.lengths = self.packed.offsets[:-1], lengths
        times = self.packed.times
        # seconds from each video's first frame: small numbers, exact in float32
        owner = torch.repeat_interleave(torch.arange(len(self.ids), device=device), lengths)
        self.times = (times - times[self.first][owner]).float()
        last = self.times[self.first + lengths - 1]
        self.step_seconds = last / (lengths - 1)
        labels = [_label(row, config.label) for row in videos]
        known = {label: i for i, label in enumerate(dict.fromkeys(labels))}
        self.labels = torch.tensor([known[label] for label in labels])
        self.fitted: Fitted | None = None
        if self.appearance == "fitted" and isinstance(self.packed, PackedFeatures):
            self.fitted = fit_offsets(self.packed, seed)
        self.spread: Spread = spread(self.packed, progress)
        self.means = self._means() if config.mix or config.channels else None
        longest = int(lengths.max())
        self.draws = draws_needed(config.frames, longest, config.sampler, config.region) + 1

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def device(self) -> torch.device:
        return self.packed.device

    def digest(self) -> str:
        """Of ids, lengths, labels and what the views look like."""
        return digest_of(self.ids, self.lengths.tolist(), self.labels.tolist(), self.appearance)

    def gather(
        self,
        index: Tensor,
        draws: Tensor,
        *,
        clock: str = "seconds",
        sigma: float = 0.1265,
        least_sigma: float = 1.0,
        part: slice = slice(None),
        changed: bool = True,
    ) -> ViewBatch:
        """Views of the videos `index` (B,) by uniform `draws` (B, 2, K); frames of those of `part` only.

        `sigma` in the unit of `clock` (seconds, or rows); at least `least_sigma` steps between rows.
        `changed`: with the views' changed looks.
        """
        c = self.config
        lengths = self.lengths[index]
        limit = c.frames if c.least == 1 else (lengths // c.least).clamp(min=2, max=c.frames)
        rows, real = sample_views(
            lengths, draws[..., :-1], c.frames, c.sampler, c.region, c.overlap, limit=limit
        )
        at = rows + self.first[index][:, None, None]
        seconds = clock == "seconds"
        times = self.times[at.flatten()].view(at.shape) if seconds else rows.float()
        unit = self.step_seconds[index] if seconds else torch.ones_like(self.step_seconds[index])
        spread_ = (least_sigma * unit).clamp(min=sigma)
        share = rows / lengths[:, None, None]
        return ViewBatch(self._frames(index, at, draws, part, changed), real, rows, times, share, spread_)

    def _frames(self, index: Tensor, at: Tensor, draws: Tensor, part: slice, changed: bool) -> Tensor:
        own = at[part]
        if self.appearance == "cached" and changed:
            assert isinstance(self.packed, PackedFeatures) and self.packed.views is not None
            count = len(self.packed.views)
            first = (draws[part, 0, -1] * count).long()
            # another one than the first; of one copy, the frames as they are
            other = (first + 1 + (draws[part, 1, -1] * max(count - 1, 1)).long()) % max(count, 1)
            if count == 1:
                plain = self.packed.gather(own[:, 1])
                return torch.stack([self.packed.gather(own[:, 0], view=0), plain], 1).float()
            chosen = torch.stack([first, other], 1)[..., None] * self.packed.count
            flat = self.packed.views.flatten(0, 1)
            return flat.index_select(0, (own + chosen).flatten()).view(*own.shape, -1).float()
        frames = self.packed.gather(own)
        if self.appearance == "none" or not changed:
            return frames.float()
        b = len(index)
        if self.means is None:
            mean = torch.zeros(b, frames.shape[-1], device=frames.device)
            other_mean = mean
        else:
            mean = self.means[index]
            other_mean = mean.roll(1, 0)
        return change_looks(
            frames, self.config, spread=self.spread.std, own_mean=mean, other_mean=other_mean,
            fitted=self.fitted, part=part,
        )  # fmt: skip

    def _means(self) -> Tensor:
        """(V, D): once, at the start."""
        found = []
        for i in range(len(self)):
            rows = torch.arange(int(self.lengths[i]), device=self.device) + self.first[i]
            found.append(self.packed.gather(rows).float().mean(0))
        return torch.stack(found)


def _label(row: VideoRow, kind: str) -> str:
    return {"procedure": f"{row.task}\n{row.procedure}", "task": row.task, "none": ""}[kind]


def _appearance(config: CarlData, copies: int, mapped: bool) -> str:
    """What `auto` is on this cache; StepclipError where the cache lacks what is asked for."""
    asked = config.appearance
    if asked in ("cached", "fitted") and (not copies or mapped):
        raise StepclipError(
            f"data.appearance = {asked}, and "
            + ("features that stay on the disk" if mapped else "a cache without augmented copies"),
            "a cache with copies, in memory; or data.appearance = features",
            "stepclip extract --views 4",
        )
    if asked == "auto":
        return "cached" if copies >= 2 and not mapped else "features"
    return asked

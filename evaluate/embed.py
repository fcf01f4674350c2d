"""From cached features to embeddings: one vector per video and one per cached frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from ..cache.errors import StepclipError
from ..train.console import pick_device
from ..train.features import place_features
from ..train.sampling import dense_rows, view_rows

if TYPE_CHECKING:
    from ..cache.store import FeatureStore
    from ..train.checkpoint import Checkpoint
    from ..train.features import Features
    from ..train.model import ModelOutput, StepModel

VIEWS = 3
SEGMENTS = 16
MIDDLE, LAST_QUARTER = (1,), (2,)  # of the three views of a segment, at 1/4, 2/4, 3/4 of it


@dataclass(frozen=True)
class Embedded:
    """What a model, or a control, makes of a set of videos.

    `video` (V, E) float32, raw; `frames` (N, E) float32, one row per cached frame, video after video;
    `times` (N,) seconds from the start of the trim; `offsets` (V+1,); `durations` (V,) seconds.
    """

    name: str
    video_ids: tuple[str, ...]
    video: torch.Tensor
    frames: torch.Tensor
    times: np.ndarray
    offsets: np.ndarray
    durations: np.ndarray

    @cached_property
    def index(self) -> dict[str, int]:
        return {video_id: i for i, video_id in enumerate(self.video_ids)}

    @cached_property
    def lengths(self) -> np.ndarray:
        """Cached frames of each video, (V,)."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.video_ids)

    def __contains__(self, video_id: object) -> bool:
        return video_id in self.index

    def row(self, video_id: str) -> int:
        """Position of a video; StepclipError when it was not embedded."""
        try:
            return self.index[video_id]
        except KeyError:
            raise StepclipError(
                f"video {video_id!r} has no embedding",
                f"one of the {len(self)} embedded videos",
                "stepclip extract",
            ) from None

    def slice(self, i: int) -> slice:
        return slice(int(self.offsets[i]), int(self.offsets[i + 1]))

    def take(self, rows: Sequence[int]) -> Embedded:
        """Some of the videos, in the order of `rows`."""
        if list(rows) == list(range(len(self))):
            return self
        at = np.concatenate([np.arange(self.offsets[i], self.offsets[i + 1]) for i in rows])
        return replace(
            self,
            video_ids=tuple(self.video_ids[i] for i in rows),
            video=self.video[torch.as_tensor(list(rows))],
            frames=self.frames[torch.as_tensor(at, device=self.frames.device)],
            times=self.times[at],
            offsets=np.concatenate(([0], np.cumsum(self.lengths[list(rows)]))),
            durations=self.durations[list(rows)],
        )


def embed(
    checkpoint: Checkpoint,
    store: FeatureStore,
    video_ids: Sequence[str],
    device: str = "auto",
    batch: int = 256,
) -> Embedded:
    """Embed videos with a trained model, each distinct video once.

    The video embedding is the mean, un-normalised, of the model's output on three views of N frames, one per
    segment (WeakSVR's test protocol, `methods/weaksvr.md` 5.1). The dense frame embeddings come from
    interleaved views of N frames that together hold every cached frame exactly once, so each frame is seen
    in the context it was trained in. `batch` is the number of views in one forward. Features that do not fit
    in memory beside the answer are read from the disk, batch by batch.
    """
    where = pick_device(device)
    mapped, _ = place_features(store, video_ids, where, answer=store.text_dim)
    packed = store.mapped(where, video_ids) if mapped else store.load(where, video_ids)
    model = checkpoint.model.to(where).eval()
    with torch.no_grad():
        video, frames = embed_packed(model, packed, VIEWS, batch)
    return _embedded("trained", packed, video, frames)


def embed_packed(
    model: StepModel, packed: Features, views: int = VIEWS, batch: int = 256
) -> tuple[torch.Tensor, torch.Tensor]:
    """Video embeddings (V, E) and dense frame embeddings (N, E), float32, of all videos of `packed`."""
    n = model.frames
    spread, dense, own = _plan(packed, n, views)
    videos = [model(packed.gather(rows).float()).video.float() for rows in spread.split(batch)]
    frames = None
    for rows, keep in zip(dense.split(batch), own.split(batch), strict=True):
        out = model(packed.gather(rows).float()).frames.float()
        if frames is None:
            frames = out.new_empty((packed.count, out.shape[-1]))
        frames[rows[keep]] = out[keep]
    if frames is None:
        raise StepclipError("no video to embed", "at least one video with features", "stepclip extract")
    return torch.cat(videos).reshape(len(packed), views, -1).mean(1), frames


def _plan(packed: Features, n: int, views: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows (V * views, n) of every test view; rows and first occurrences (M, n) of every dense view."""
    lengths, offsets = np.diff(packed.offsets.cpu().numpy()), packed.offsets[:-1].cpu()
    test = {t: view_rows(t, n, views) for t in set(lengths.tolist())}
    full = {t: dense_rows(t, n) for t in set(lengths.tolist())}
    spread = [test[int(t)] + o for t, o in zip(lengths, offsets, strict=True)]
    dense = [full[int(t)][0] + o for t, o in zip(lengths, offsets, strict=True)]
    own = [full[int(t)][1] for t in lengths]
    if not spread:
        raise StepclipError("no video to embed", "at least one video with features", "stepclip extract")
    device = packed.device
    return torch.cat(spread).to(device), torch.cat(dense).to(device), torch.cat(own).to(device)


def embed_raw(store: FeatureStore, video_ids: Sequence[str], device: str = "auto") -> Embedded:
    """The cached features themselves, no learning: `video` is the mean over the frames."""
    packed = store.load(pick_device(device), video_ids)
    frames = packed.features.float()
    mean, _ = _video_means(frames, packed.offsets.diff())
    return _embedded("raw", packed, mean, frames)


def _video_means(frames: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean frame of each video, (V, E), and the video of each frame, (N,), from `lengths` (V,)."""
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=frames.device), lengths)
    total = frames.new_zeros((len(lengths), frames.shape[1])).index_add_(0, owner, frames)
    return total / lengths[:, None], owner


@torch.no_grad()
def embed_views(
    checkpoint: Checkpoint,
    store: FeatureStore,
    video_ids: Sequence[str],
    views: Sequence[int] = (0, 1, 2),
    device: str = "auto",
    batch: int = 256,
) -> Embedded:
    """The N frames of the test views as the model sees them, one per segment, instead of every cached frame.

    `video` and `frames` (N per video) are the means, un-normalised, over the chosen ones of the three views:
    (0, 1, 2) is WeakSVR's test protocol, (1,) the middle of each segment, (2,) what its text-to-video
    matching looks at (`methods/weaksvr.md` 2.1). `times` are of the middle one of the chosen views.
    """
    where = pick_device(device)
    mapped, _ = place_features(store, video_ids, where, answer=store.text_dim)
    packed = store.mapped(where, video_ids) if mapped else store.load(where, video_ids)
    model = checkpoint.model.to(where).eval()
    n, chosen = model.frames, list(views)
    lengths, offsets = np.diff(packed.offsets.cpu().numpy()), packed.offsets[:-1].cpu()
    of = {t: view_rows(t, n, VIEWS)[chosen] for t in set(lengths.tolist())}
    rows = torch.stack([of[int(t)] + o for t, o in zip(lengths, offsets, strict=True)])  # (V, views, n)
    videos, frames = [], []
    for part in rows.split(max(1, batch // len(chosen))):
        out = model(packed.gather(part.flatten(0, 1).to(where)).float())
        videos.append(out.video.float().unflatten(0, part.shape[:2]).mean(1))
        frames.append(out.frames.float().unflatten(0, part.shape[:2]).mean(1).flatten(0, 1))
    whole = _embedded("views", packed, torch.cat(videos), torch.cat(frames))
    times = whole.times[rows[:, len(chosen) // 2].flatten().numpy()]
    return replace(whole, times=times, offsets=np.arange(len(rows) + 1) * n)


@torch.no_grad()
def blank_frames(checkpoint: Checkpoint, raw: Embedded) -> ModelOutput:
    """What the model makes of one view whose frames are all the mean frame of `raw`: (1, n, E) and (1, E)."""
    model = checkpoint.model.to(raw.frames.device).eval()
    out: ModelOutput = model(raw.frames.mean(0).expand(1, model.frames, -1))
    return out


def content_free(checkpoint: Checkpoint, raw: Embedded) -> Embedded:
    """The trained model when it sees nothing: every frame of every video is the mean frame of `raw`.

    What it still knows is how long a video is and where in it a frame stands. A control: what the trained
    rows reach and this one reaches too does not come from the pictures.
    """
    out = blank_frames(checkpoint, raw)
    n, slots = out.frames.shape[1], []
    for t in raw.lengths.tolist():
        rows, own = dense_rows(t, n)
        slot = torch.empty(t, dtype=torch.int64)
        slot[rows[own]] = torch.arange(n).expand_as(rows)[own]
        slots.append(slot)
    frames = out.frames.float()[0, torch.cat(slots).to(raw.frames.device)]
    return replace(raw, name="content-free", video=out.video.float().expand(len(raw), -1), frames=frames)


def raw_views(raw: Embedded, n: int, chosen: Sequence[int] = (0, 1, 2)) -> Embedded:
    """The n segment frames of `raw`, mean of the chosen of three views, in place of every cached frame."""
    views = {int(t): view_rows(int(t), n, VIEWS)[list(chosen)] for t in np.unique(raw.lengths)}
    rows = torch.stack([views[int(t)] + int(o) for t, o in zip(raw.lengths, raw.offsets[:-1], strict=True)])
    frames = raw.frames[rows.to(raw.frames.device)].mean(1).flatten(0, 1)
    times = raw.times[rows[:, len(chosen) // 2].flatten().numpy()]
    return replace(raw, frames=frames, times=times, offsets=np.arange(len(raw) + 1) * n)


def flatten_segments(raw: Embedded, chosen: Sequence[int] = (0, 1, 2)) -> Embedded:
    """`raw` with `video` = its 16 segment frames, mean of the chosen of three views, laid end to end:
    (V, 16 * D)."""
    return replace(raw, name="flat", video=raw_views(raw, SEGMENTS, chosen).frames.view(len(raw), -1))


def centred(raw: Embedded) -> Embedded:
    """`raw` with the mean frame of each video taken off its frames: what a room and a person add to all of
    them."""
    mean, owner = _video_means(raw.frames, torch.as_tensor(raw.lengths, device=raw.frames.device))
    return replace(raw, name="centred", frames=raw.frames - mean[owner])


def _embedded(name: str, packed: Features, video: torch.Tensor, frames: torch.Tensor) -> Embedded:
    times, offsets = packed.times.cpu().numpy(), packed.offsets.cpu().numpy()
    last = np.array([times[b - 1] if b > a else 0.0 for a, b in pairwise(offsets)])
    known = last if packed.durations is None else packed.durations.cpu().numpy()
    durations = np.maximum(np.where(np.isfinite(known), known, last), last)
    return Embedded(name, tuple(packed.video_ids), video, frames, times, offsets, durations)


def text_features(
    store: FeatureStore, strings: Sequence[str], kind: str, device: torch.device | str
) -> torch.Tensor:
    """L2-normalised features (n, D) of sentences or paragraphs in the cache."""
    return F.normalize(torch.as_tensor(store.text(list(strings), kind), device=device).float(), dim=-1)

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
from ..cache.packed import PackedFeatures
from ..train.console import pick_device
from ..train.features import place_features
from ..train.weaksvr.sampling import VIEWS, dense_rows, view_rows

if TYPE_CHECKING:
    from ..cache.store import FeatureStore
    from ..train.checkpoint import Checkpoint
    from ..train.features import Features
    from ..train.method import Embedder

SEGMENTS = 16
MIDDLE, LAST_QUARTER = (1,), (2,)  # of the three views of a segment, at 1/4, 2/4, 3/4 of it


@dataclass(frozen=True)
class Embedded:
    """What a model, or a control, makes of a set of videos.

    `video` (V, E) float32, raw; `frames` (N, E) float32, one row per cached frame, video after video;
    `times` (N,) seconds from the start of the trim; `offsets` (V+1,); `durations` (V,) seconds; `model`:
    what embedded them, and embeds texts beside them, or None for features as they are.
    """

    name: str
    video_ids: tuple[str, ...]
    video: torch.Tensor
    frames: torch.Tensor
    times: np.ndarray
    offsets: np.ndarray
    durations: np.ndarray
    model: Embedder | None = None

    @torch.no_grad()
    def embed_texts(self, store: FeatureStore, strings: Sequence[str], kind: str) -> torch.Tensor:
        """Embeddings (n, E) of sentences ("step") or whole scripts ("paragraph") of the cache, where these
        frames lie, on their device; raw, not normalised."""
        found = self._cached(store, strings, kind)
        return found if self.model is None else self.model.embed_texts(found, kind).float()

    def texts(self, store: FeatureStore, strings: Sequence[str], kind: str) -> torch.Tensor:
        """The same at length 1."""
        return F.normalize(self.embed_texts(store, strings, kind), dim=-1)

    @torch.no_grad()
    def lasting(self, store: FeatureStore, sentences: Sequence[str]) -> torch.Tensor | None:
        """What the model expects sentences to last, (n,), in a unit of their own; None: nothing."""
        if self.model is None or not self.model.least:
            return None
        return self.model.durations(self._cached(store, sentences, "step"))

    def _cached(self, store: FeatureStore, strings: Sequence[str], kind: str) -> torch.Tensor:
        return torch.as_tensor(store.text(list(strings), kind), device=self.frames.device).float()

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
    """Embed videos with a trained model of any method, each distinct video once, every cached frame in the
    context it was trained in (the model's `embed_packed` says how).

    `batch` is the number of inputs in one forward. Features that do not fit in memory beside the answer are
    read from the disk, batch by batch.
    """
    where = pick_device(device)
    mapped, _ = place_features(store, video_ids, where, answer=store.text_dim)
    packed = store.mapped(where, video_ids) if mapped else store.load(where, video_ids)
    model = checkpoint.model.to(where).eval()
    with torch.no_grad():
        video, frames = model.embed_packed(packed, batch)
    return replace(_embedded("trained", packed, video, frames), model=model)


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
    matching looks at (`methods/weaksvr.md` 2.1). `times` are of the middle one of the chosen views. A model
    that embeds whole videos has 16 segments of what it makes of every frame.
    """
    n = checkpoint.model.frames
    if n is None:
        return raw_views(embed(checkpoint, store, video_ids, device, batch), SEGMENTS, views)
    where = pick_device(device)
    mapped, _ = place_features(store, video_ids, where, answer=store.text_dim)
    packed = store.mapped(where, video_ids) if mapped else store.load(where, video_ids)
    model = checkpoint.model.to(where).eval()
    chosen = list(views)
    lengths, offsets = np.diff(packed.offsets.cpu().numpy()), packed.offsets[:-1].cpu()
    of = {t: view_rows(t, n, VIEWS)[chosen] for t in set(lengths.tolist())}
    rows = torch.stack([of[int(t)] + o for t, o in zip(lengths, offsets, strict=True)])  # (V, views, n)
    videos, frames = [], []
    for part in rows.split(max(1, batch // len(chosen))):
        out = model(packed.gather(part.flatten(0, 1).to(where)).float())
        videos.append(out.video.float().unflatten(0, part.shape[:2]).mean(1))
        frames.append(out.frames.float().unflatten(0, part.shape[:2]).mean(1).flatten(0, 1))
    whole = replace(_embedded("views", packed, torch.cat(videos), torch.cat(frames)), model=model)
    times = whole.times[rows[:, len(chosen) // 2].flatten().numpy()]
    return replace(whole, times=times, offsets=np.arange(len(rows) + 1) * n)


@torch.no_grad()
def content_free(checkpoint: Checkpoint, raw: Embedded) -> Embedded:
    """The trained model when it sees nothing: every frame of every video is the mean frame of `raw`.

    What it still knows is how long a video is and where in it a frame stands. A control: what the trained
    rows reach and this one reaches too does not come from the pictures.
    """
    model = checkpoint.model.to(raw.frames.device).eval()
    blank = raw.frames.mean(0)
    if model.frames is not None:
        out = model(blank.expand(1, model.frames, -1))
        places = {t: _slots(t, model.frames) for t in set(raw.lengths.tolist())}
        where = torch.cat([places[t] for t in raw.lengths.tolist()])
        frames = out.frames.float()[0, where.to(raw.frames.device)]
        video = out.video.float().expand(len(raw), -1)
    else:
        video, frames = _blank_videos(model, blank, raw)
    return replace(raw, name="content-free", video=video, frames=frames, model=model)


def _slots(length: int, n: int) -> torch.Tensor:
    """(length,) the place in its view of n frames at which the model sees each cached frame."""
    rows, own = dense_rows(length, n)
    slot = torch.empty(length, dtype=torch.int64)
    slot[rows[own]] = torch.arange(n).expand_as(rows)[own]
    return slot


def _blank_videos(model: Embedder, blank: torch.Tensor, raw: Embedded) -> tuple[torch.Tensor, torch.Tensor]:
    """Video and frames of `raw` when all show the frame `blank` (D,); each length is embedded once."""
    lengths = raw.lengths.tolist()
    first = {t: lengths.index(t) for t in set(lengths)}
    sizes = torch.tensor([0, *first], device=blank.device)
    times = torch.cat([torch.as_tensor(raw.times[raw.slice(i)]) for i in first.values()])
    packed = PackedFeatures(
        blank.expand(int(sizes.sum()), -1),
        times.to(blank.device),
        sizes.cumsum(0),
        tuple(raw.video_ids[i] for i in first.values()),
    )
    video, frames = model.embed_packed(packed)
    place = {t: i for i, t in enumerate(first)}
    return video[[place[t] for t in lengths]], torch.cat([frames[packed.rows(place[t])] for t in lengths])


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

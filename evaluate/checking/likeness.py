"""How like each frame of a recording is to each step: by the step's sentence, and by how others did it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from ..localisation import frame_borders
from .edits import align

if TYPE_CHECKING:
    from ...cache.manifest import VideoRow
    from ...cache.store import FeatureStore
    from ..embed import Embedded

OTHERS = 32  # sentences of other scripts that are tried as added actions
MOST = 64  # recordings that are looked at as references
BETWEEN = 0.7  # quantile of the cosines that counts as background when references are cut into steps
WEIGHT = 0.5  # of references beside sentences: chosen on the bench of seed 7, where 0.3 to 1 are much alike


def similarities(
    embedded: Embedded, store: Any, i: int, sentences: Sequence[str]
) -> tuple[torch.Tensor, np.ndarray]:
    """Cosines (T, S) of video `i`'s frames with sentences, and the seconds (T,) each frame stands for."""
    here = embedded.slice(i)
    seconds = np.diff(frame_borders(embedded.times[here], float(embedded.durations[i])))
    return (unit_frames(embedded, i) @ embedded.texts(store, sentences, "step").T).cpu(), seconds


def unit_frames(embedded: Embedded, i: int) -> torch.Tensor:
    return F.normalize(embedded.frames[embedded.slice(i)].float(), dim=-1)


def other_sentences(steps: Sequence[str], task: str, videos: Sequence[VideoRow]) -> list[str]:
    """Sentences of other scripts, of the same task where that has some, that `steps` lack."""
    same = {s for v in videos if v.task == task for s in v.steps} - set(steps)
    every = {s for v in videos for s in v.steps} - set(steps)
    return sorted(same or every)


def nearest_others(similarity: torch.Tensor, steps: int, most: int = OTHERS) -> np.ndarray:
    """The columns of `similarity` (T, K + O) to keep: the K steps, and at most `most` of the O other
    sentences, those that some frame is most like."""
    kept = np.arange(steps, similarity.shape[1])
    if len(kept) > most:
        peak = similarity[:, steps:].max(0).values
        kept = np.sort(peak.topk(most).indices.numpy()) + steps
    return np.concatenate([np.arange(steps), kept])


@dataclass(frozen=True)
class References:
    """How steps look in recordings of the cache: sentence -> video id -> unit mean (E,) of the frames that
    the alignment with the video's own script gives the step. No step times are used."""

    of: dict[str, dict[str, torch.Tensor]]

    @classmethod
    def take(cls, embedded: Embedded, store: Any, videos: Sequence[VideoRow]) -> References:
        """From `videos`, all of them embedded."""
        found: dict[str, dict[str, torch.Tensor]] = {}
        tables = [similarities(embedded, store, embedded.row(v.video_id), v.steps)[0] for v in videos]
        if not tables:
            return cls(found)
        level = float(np.quantile(np.concatenate([t.flatten().numpy() for t in tables]), BETWEEN))
        for video, similarity in zip(videos, tables, strict=True):
            if len(similarity) <= len(video.steps):
                continue
            labels = torch.from_numpy(align(similarity, range(len(video.steps)), level))
            frames = unit_frames(embedded, embedded.row(video.video_id)).cpu()
            for k, step in enumerate(video.steps):
                if (labels == k).any():
                    mean = F.normalize(frames[labels == k].mean(0), dim=0)
                    found.setdefault(step, {})[video.video_id] = mean
        return cls(found)

    def prototypes(self, sentences: Sequence[str], without: Sequence[str] = ()) -> list[torch.Tensor | None]:
        """Of each sentence the unit mean (E,) over recordings, but those of `without`; None where none is."""
        out: list[torch.Tensor | None] = []
        for sentence in sentences:
            means = [m for v, m in self.of.get(sentence, {}).items() if v not in without]
            out.append(F.normalize(torch.stack(means).mean(0), dim=0) if means else None)
        return out


def with_references(
    similarity: torch.Tensor, frames: torch.Tensor, prototypes: Sequence[torch.Tensor | None], steps: int
) -> tuple[torch.Tensor, np.ndarray] | None:
    """Cosines (T, W) with sentences and references, half and half, and the columns of `similarity`
    (T, K + O) that they stand for: those with a reference. None unless all K `steps` have one.

    `frames` (T, E) unit."""
    kept = np.array([i for i, p in enumerate(prototypes) if p is not None], dtype=np.int64)
    if len(kept) < steps or (kept[:steps] != np.arange(steps)).any():
        return None
    stacked = torch.stack([prototypes[i] for i in kept])
    return (1 - WEIGHT) * similarity[:, kept] + WEIGHT * (frames.cpu() @ stacked.T), kept


def reference_videos(
    steps: Sequence[str], videos: Sequence[VideoRow], store: FeatureStore, without: Sequence[str] = ()
) -> list[VideoRow]:
    """At most MOST videos that show some of `steps`, those that share the most first."""
    wanted = set(steps)
    shared = [
        (len(wanted & set(v.steps)), v)
        for v in videos
        if v.video_id in store
        and v.video_id not in without
        and all(store.has_text(s, "step") for s in v.steps)
    ]
    ranked = sorted(((n, v) for n, v in shared if n), key=lambda each: (-each[0], each[1].video_id))
    return [v for _, v in ranked[:MOST]]

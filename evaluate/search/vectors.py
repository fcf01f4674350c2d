"""What is indexed of a set of videos: one vector each, one per moment, one per step, and ordered windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from ...cache.errors import StepclipError
from ...train.method import Embedder
from ..embed import Embedded, centred, embed, embed_raw
from ..localisation import align_scripts, frame_borders
from .ordered import Windows, make_windows

if TYPE_CHECKING:
    from ...cache.manifest import Manifest
    from ...cache.store import FeatureStore
    from ...train.checkpoint import Checkpoint

WINDOW_SECONDS = 1.0
LEVELS = ("videos", "windows", "steps")


@dataclass(frozen=True)
class Spaces:
    """Whose vectors a level holds: "model" (trained), "raw" (the cached features) or "centred" (likewise,
    each video's mean taken off). Texts meet "raw" and "centred" as they are cached, "model" as the model
    embeds them; `texts` False: the model has no place for texts."""

    videos: str
    windows: str
    ordered: str
    texts: bool = True

    @property
    def steps(self) -> str:
        return self.windows

    @classmethod
    def of(cls, checkpoint: Checkpoint | None, store: FeatureStore) -> Spaces:
        """Without its video's mean a frame says how it differs from the rest of the video: right for the
        video's own script, wrong for a sentence that is asked of all videos. So a model that takes the mean
        off leaves moments to the raw features, where texts live in their space; one without texts leaves
        scripts to them too. StepclipError when no level shares a space with the texts."""
        shared = store.dim == store.text_dim
        if checkpoint is None:
            found = cls("raw", "raw", "centred", shared)
        elif not checkpoint.model.text:
            found = cls("model", "raw", "centred" if shared else "model", False)
        else:
            takes_mean_off = getattr(getattr(checkpoint.model, "config", None), "centre", False)
            found = cls("model", "raw" if takes_mean_off and shared else "model", "model")
        if not shared and found.windows == "raw":
            raise StepclipError(
                f"video vectors of {store.dim} numbers, texts of {store.text_dim}",
                "one shared space",
                "train a model on these features and build the index with it",
            )
        return found


def embeds_texts(checkpoint: Checkpoint | None) -> bool:
    """Whether the model changes the features of texts."""
    return checkpoint is not None and type(checkpoint.model).embed_texts is not Embedder.embed_texts


@dataclass(frozen=True)
class Vectors:
    """Unit vectors of each level (n, E) float32; the ordered windows; and of each video the step of each of
    its frames (empty: no script features) and its steps' places, starts and ends."""

    embedded: Embedded
    levels: dict[str, np.ndarray]
    windows: Windows
    labels: list[np.ndarray]
    step_at: list[np.ndarray]
    step_spans: list[np.ndarray]  # (s, 2) seconds from the start of the trim


def make_vectors(
    checkpoint: Checkpoint | None,
    store: FeatureStore,
    manifest: Manifest,
    ids: Sequence[str],
    device: str = "auto",
) -> Vectors:
    """Embed `ids` and align each with its own script, as far as its sentences have features."""
    spaces = Spaces.of(checkpoint, store)
    made: dict[str, Embedded] = {}
    if "raw" in (spaces.videos, spaces.windows) or spaces.ordered == "centred":
        made["raw"] = embed_raw(store, ids, device)
    if spaces.ordered == "centred":
        made["centred"] = centred(made["raw"])
    if checkpoint is not None:
        made["model"] = embed(checkpoint, store, ids, device)
    video, moments, ordered = (made[s] for s in (spaces.videos, spaces.windows, spaces.ordered))
    means = window_means(moments, WINDOW_SECONDS)
    labels = own_steps(ordered, store, manifest)
    step_at, spans, of_step = _steps(ordered, labels, moments)
    levels = {
        "videos": F.normalize(video.video, dim=-1),
        "windows": F.normalize(means, dim=-1),
        "steps": F.normalize(of_step, dim=-1),
    }
    return Vectors(
        ordered,
        {name: value.float().cpu().numpy() for name, value in levels.items()},
        make_windows(ordered.frames, ordered.offsets),
        labels,
        step_at,
        spans,
    )


def window_means(embedded: Embedded, seconds: float) -> torch.Tensor:
    """Mean (N, E) of the frame embeddings within `seconds` / 2 of each cached frame of the same video."""
    times = np.asarray(embedded.times, dtype=np.float64)
    owner = np.repeat(np.arange(len(embedded)), embedded.lengths)
    # One sorted key for all videos: each starts far after the one before has ended.
    gap = float(times.max(initial=0.0)) + 2 * seconds + 1
    key = times + owner * gap
    first = np.searchsorted(key, key - seconds / 2 - 1e-6)
    last = np.searchsorted(key, key + seconds / 2 + 1e-6, side="right")
    frames = embedded.frames.double()
    total = torch.cat([frames.new_zeros(1, frames.shape[1]), frames.cumsum(0)])
    device = frames.device
    a, b = torch.as_tensor(first, device=device), torch.as_tensor(last, device=device)
    return ((total[b] - total[a]) / (b - a)[:, None]).float()


def own_steps(embedded: Embedded, store: FeatureStore, manifest: Manifest) -> list[np.ndarray]:
    """Step (T,) at each frame of each video; empty where the texts have no features."""
    scripts = {v: manifest[v].steps for v in embedded.video_ids if v in manifest}
    known = {s: store.has_text(s, "step") for script in scripts.values() for s in script}
    rows = [
        i for i, v in enumerate(embedded.video_ids) if scripts.get(v) and all(known[s] for s in scripts[v])
    ]
    found = align_scripts(
        embedded, store, np.array(rows, dtype=np.int64), [scripts[embedded.video_ids[i]] for i in rows]
    )
    steps = [np.zeros(0, dtype=np.int64)] * len(embedded)
    for i, labels in zip(rows, found.labels, strict=True):
        steps[i] = labels
    return steps


def _steps(
    ordered: Embedded, labels: list[np.ndarray], moments: Embedded
) -> tuple[list[np.ndarray], list[np.ndarray], torch.Tensor]:
    """Of each video the places of its steps and their spans (s, 2); the mean moments (sum of s, E) of all."""
    places, spans = [], []
    owner = np.full(len(moments.frames), -1, dtype=np.int64)
    total = 0
    for i, found in enumerate(labels):
        here = ordered.slice(i)
        # labels ascend, so a step is one stretch of frames
        at, first = np.unique(found, return_index=True)
        last = np.append(first[1:], len(found))
        borders = frame_borders(ordered.times[here], float(ordered.durations[i]))
        places.append(at.astype(np.int64))
        spans.append(np.stack([borders[first], borders[last]], axis=1) if len(at) else np.zeros((0, 2)))
        if len(at):
            owner[here] = total + np.searchsorted(at, found)
        total += len(at)
    real = torch.as_tensor(np.flatnonzero(owner >= 0))
    frames = F.normalize(moments.frames, dim=-1).cpu()
    means = torch.zeros(total, frames.shape[1]).index_add_(0, torch.as_tensor(owner)[real], frames[real])
    return places, spans, means

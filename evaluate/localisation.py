"""Where each step of its script happens in a video: ordered alignment, scored against true step times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from ..cache.errors import StepclipError
from ..train.alignment import duration_labels, duration_width, monotone
from .embed import Embedded

if TYPE_CHECKING:
    from ..cache.manifest import VideoRow
    from ..cache.store import FeatureStore

CHUNK_BYTES = 256 << 20
DRAWS = 20  # of random cuts


@dataclass(frozen=True)
class Localisation:
    """How well predicted steps lie on the true ones.

    `frame_accuracy`: share of the frames that lie inside a true step whose predicted step is that one;
    `all_frames`: the same over every frame, so that each background frame counts as wrong; `iou`: mean over
    the true steps of the length of intersection / union of the predicted and the true span; `same_sentence`:
    as `frame_accuracy`, but any step with that sentence counts, where a script says it again.
    """

    frame_accuracy: float
    all_frames: float
    iou: float
    same_sentence: float
    videos: int
    steps: int
    frames: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def mean_of(several: Sequence[Localisation]) -> Localisation:
    """The mean of the figures of several labellings of the same videos."""

    def mean(name: str) -> float:
        return float(np.mean([getattr(one, name) for one in several]))

    return replace(
        several[0],
        frame_accuracy=mean("frame_accuracy"),
        all_frames=mean("all_frames"),
        iou=mean("iou"),
        same_sentence=mean("same_sentence"),
    )


@dataclass(frozen=True)
class Aligned:
    """`labels[i]` (T_i,) the step of each frame of video i; `scores` (V,) mean cosine along its path."""

    labels: list[np.ndarray]
    scores: np.ndarray


def align_scripts(
    embedded: Embedded,
    store: FeatureStore,
    rows: np.ndarray,
    scripts: Sequence[Sequence[str]],
    *,
    durations: bool = True,
    chunk_bytes: int = CHUNK_BYTES,
) -> Aligned:
    """Best ordered assignment of frames to steps, for video `rows[i]` (P,) and `scripts[i]`.

    Maximises the sum of cosines of frame and step features over paths that start at the first step, end at
    the last and visit each (WeakSVR's Viterbi with full coverage, `methods/weaksvr.md` 8.4); a video with
    fewer frames than steps may skip some. A model that knows how long sentences last gives each step at
    least a share of that, unless `durations` is false. Batched with padding, in parts of at most
    `chunk_bytes`.
    """
    if not len(rows):
        return Aligned([], np.zeros(0))
    scripts = [tuple(script) for script in scripts]
    distinct = {script: i for i, script in enumerate(dict.fromkeys(scripts))}
    sentences = list(dict.fromkeys(s for script in distinct for s in script))
    place = {s: i for i, s in enumerate(sentences)}
    device = embedded.frames.device
    text = embedded.texts(store, sentences, "step")
    if text.shape[1] != embedded.frames.shape[1]:
        raise StepclipError(
            f"step features of {text.shape[1]} numbers and frame features of {embedded.frames.shape[1]}",
            "one shared space",
        )
    # One product of all frames with all distinct sentences; the pairs only gather from it.
    similarity = F.normalize(embedded.frames, dim=-1) @ text.T
    lasting = embedded.lasting(store, sentences) if durations else None
    least = 0.0 if lasting is None or embedded.model is None else embedded.model.least
    t = embedded.lengths[rows]
    s = np.array([len(script) for script in scripts])
    which = np.array([distinct[script] for script in scripts])
    columns = np.zeros((len(distinct), int(s.max())), dtype=np.int64)
    for script, i in distinct.items():
        columns[i, : len(script)] = [place[sentence] for sentence in script]
    chunk = max(1, chunk_bytes // (12 * int(t.max()) * duration_width(int(t.max()), int(s.max()), least)))
    labels: list[np.ndarray] = []
    scores = np.zeros(len(rows))
    for first in range(0, len(rows), chunk):
        part = slice(first, first + chunk)
        nt, ns = torch.as_tensor(t[part], device=device), torch.as_tensor(s[part], device=device)
        frame = torch.arange(int(nt.max()), device=device).minimum(nt[:, None] - 1)
        frame = frame + torch.as_tensor(embedded.offsets[rows[part]], device=device)[:, None]
        step = torch.as_tensor(columns[which[part], : int(s[part].max())], device=device)
        cosine = similarity[frame[:, :, None], step[:, None, :]]
        if lasting is None:
            found = monotone(cosine, (nt, ns), visit_all=True)
        else:
            found = duration_labels(cosine, lasting[step], nt, ns, least)
        inside = found >= 0
        along = cosine.gather(2, found.clamp_min(0)[..., None])[..., 0]
        scores[part] = ((along * inside).sum(1) / nt).cpu().numpy()
        labels += [row[:n] for row, n in zip(found.cpu().numpy(), t[part], strict=True)]
    return Aligned(labels, scores)


def uniform_split(frames: int, steps: int) -> np.ndarray:
    """Labels (T,) that give every step an equal share of the frames, in order: what a clock would say."""
    return np.arange(frames) * steps // frames


def duration_split(frames: int, lasting: np.ndarray) -> np.ndarray:
    """Labels (T,) that give every step what it is expected to last, in any unit, of the frames, in order."""
    until = np.cumsum(lasting / lasting.sum())
    return np.minimum(np.searchsorted(until, (np.arange(frames) + 0.5) / frames), len(lasting) - 1)


def random_cuts(frames: int, steps: int, rng: np.random.Generator) -> np.ndarray:
    """Labels (T,) of random borders between the steps, in the order of the script: what chance would say."""
    return np.searchsorted(np.sort(rng.uniform(0, frames, steps - 1)), np.arange(frames) + 0.5)


def frame_borders(times: np.ndarray, duration: float) -> np.ndarray:
    """Borders (T+1,) of the stretches that the frames at `times` stand for: half-way to each neighbour."""
    middle = (times[1:] + times[:-1]) / 2
    return np.concatenate(([0.0], middle, [max(duration, float(times[-1]))]))


def step_spans(labels: np.ndarray, times: np.ndarray, duration: float, steps: int) -> np.ndarray:
    """Start and end (S, 2), seconds, of each step of ordered `labels` (T,); nan where a step has no frame."""
    borders = frame_borders(times, duration)
    spans = np.full((steps, 2), np.nan)
    for k in np.unique(labels[labels >= 0]):
        here = np.flatnonzero(labels == k)
        spans[k] = borders[here[0]], borders[here[-1] + 1]
    return spans


def span_iou(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Intersection over union (S,) of spans (S, 2); 0 where nothing was predicted."""
    shared = np.minimum(predicted[:, 1], true[:, 1]) - np.maximum(predicted[:, 0], true[:, 0])
    shared = np.clip(np.nan_to_num(shared, nan=0.0), 0, None)
    union = np.nan_to_num(np.diff(predicted, axis=1)[:, 0]) + np.diff(true, axis=1)[:, 0] - shared
    return np.divide(shared, union, out=np.zeros(len(shared)), where=union > 0)


def true_spans(video: VideoRow) -> np.ndarray | None:
    """True start and end (S, 2) of the steps of a video, seconds; None where they are not known."""
    if video.step_start is None or video.step_end is None:
        return None
    return np.stack([np.asarray(video.step_start, float), np.asarray(video.step_end, float)], axis=1)


def localise(
    labels: Sequence[np.ndarray],
    times: Sequence[np.ndarray],
    durations: Sequence[float],
    videos: Sequence[VideoRow],
) -> Localisation:
    """Score predicted `labels[i]` (T_i,) of frames at `times[i]` (T_i,) seconds; the truth is in `videos[i]`.

    A frame is inside a step when start <= time < end. Where true steps overlap, each of them is right. Means
    are taken over all frames and all steps of all videos; steps without a length have no IoU. StepclipError
    when no video has step times, or labels and times differ in length.
    """
    right = named = inside = frames = 0
    overlaps: list[np.ndarray] = []
    counted = 0
    for found, at, duration, video in zip(labels, times, durations, videos, strict=True):
        truth = true_spans(video)
        if truth is None:
            continue
        if len(found) != len(at):
            raise StepclipError(
                f"{len(found)} labels for the {len(at)} frames of {video.video_id!r}", "one per frame"
            )
        within = (at[:, None] >= truth[:, 0]) & (at[:, None] < truth[:, 1])
        step = np.clip(found, 0, None)
        hit = within[np.arange(len(at)), step] & (found >= 0)
        right, inside, frames = right + int(hit.sum()), inside + int(within.any(1).sum()), frames + len(at)
        says = np.unique(np.asarray(video.steps, dtype=object).astype(str), return_inverse=True)[1]
        named += int(((within & (says[step][:, None] == says)).any(1) & (found >= 0)).sum())
        real = truth[:, 1] > truth[:, 0]
        overlaps.append(span_iou(step_spans(found, at, duration, len(truth))[real], truth[real]))
        counted += 1
    if not counted:
        raise StepclipError("no video has true step times", "step_start and step_end in the manifest")
    iou = np.concatenate(overlaps)
    return Localisation(
        frame_accuracy=right / inside if inside else float("nan"),
        all_frames=right / frames,
        iou=float(iou.mean()) if len(iou) else float("nan"),
        same_sentence=named / inside if inside else float("nan"),
        videos=counted,
        steps=len(iou),
        frames=frames,
    )

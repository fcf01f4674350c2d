"""Where each step happens, by the field's metrics: CrossTask's recall, mean over frames, IoU, segmental F1.

`methods/tempclr.md` 5.3: with the order of the script known, each step gets one frame, in order, so that
their summed similarity is largest; the recall is the share of steps whose frame lies inside the true step,
mean over tasks. Unordered, each step takes its best frame. Labels of all frames come from the ordered
alignment, from Drop-DTW, which leaves background out, or frame by frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from ..cache.errors import StepclipError
from ..train.alignment import drop_dtw_labels, monotone
from .embed import Embedded
from .localisation import span_iou, step_spans, true_spans

if TYPE_CHECKING:
    from ..cache.manifest import VideoRow
    from ..cache.store import FeatureStore

THRESHOLDS = (0.10, 0.25, 0.50)


class Decoded(NamedTuple):
    """Of each video: `points` (S,) the frame of each step, -1 for none; `labels` (T,) the step of each frame,
    -1 for background."""

    points: list[np.ndarray]
    labels: list[np.ndarray]


@dataclass(frozen=True)
class Steps:
    """`recall`: steps whose frame lies inside the true step, mean over tasks; `mof`: frames with the right
    label, background being one; `iou`: overlap of predicted and true span, mean over steps; `f1_10`, `f1_25`,
    `f1_50`: segmental F1 (Lea et al., CVPR 2017) at these overlaps."""

    recall: float
    mof: float
    iou: float
    f1_10: float
    f1_25: float
    f1_50: float
    videos: int
    steps: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def step_similarities(
    embedded: Embedded, store: FeatureStore, videos: Sequence[VideoRow]
) -> list[torch.Tensor]:
    """(T, S) cosines of each video's frames and its own script's sentences."""
    words = list(dict.fromkeys(word for video in videos for word in video.steps))
    place = {word: i for i, word in enumerate(words)}
    texts = embedded.texts(store, words, "step")
    frames = F.normalize(embedded.frames, dim=-1)
    if texts.shape[1] != frames.shape[1]:
        raise StepclipError(
            f"step features of {texts.shape[1]} numbers and frame features of {frames.shape[1]}",
            "one shared space",
        )
    return [
        frames[embedded.slice(embedded.row(video.video_id))] @ texts[[place[w] for w in video.steps]].T
        for video in videos
    ]


def one_frame_each(similarity: torch.Tensor) -> np.ndarray:
    """(T, S) -> (S,): one frame for each step, in order, no frame twice, with the largest sum (CrossTask's
    decoding with background at no cost; Zhukov et al., CVPR 2019). With fewer frames than steps the last ones
    get -1."""
    t, s = similarity.shape
    if t < s:
        return np.concatenate([one_frame_each(similarity[:, :t]), np.full(s - t, -1)])
    best, back = similarity[:, 0], []
    never = similarity.new_full((1,), -torch.inf)
    for k in range(1, s):
        before, place = best.cummax(0)
        back.append(place)
        best = similarity[:, k] + torch.cat([never, before[:-1]])
    at = int(best.argmax())
    points = [at]
    for place in reversed(back):
        at = int(place[at - 1])
        points.append(at)
    return np.array(points[::-1])


def decode_ordered(similarities: Sequence[torch.Tensor]) -> Decoded:
    """Each step's one frame; every frame a step, each step shown, in order."""
    cost, lengths = _stacked(similarities)
    labels = _cut(monotone(cost, lengths, visit_all=True), lengths)
    return Decoded([one_frame_each(x) for x in similarities], labels)


def decode_dropping(similarities: Sequence[torch.Tensor], share: float = 0.3) -> Decoded:
    """Drop-DTW: a frame is background where no step comes up to the `share` highest cells of the video (the
    percentile drop cost of Dvornik et al., NeurIPS 2021; its softmax cancels where a frame has one step)."""
    cost, lengths = _stacked([-x for x in similarities])
    drop = torch.stack([-x.flatten().quantile(1 - share) for x in similarities])
    labels = _cut(drop_dtw_labels(cost, drop, lengths=lengths), lengths)
    return Decoded([_best(x, found) for x, found in zip(similarities, labels, strict=True)], labels)


def decode_unordered(similarities: Sequence[torch.Tensor], share: float = 0.3) -> Decoded:
    """Without the order: each step's best frame; each frame's best step, or background where that is among
    the lowest `share` of the video's."""
    points, labels = [], []
    for x in similarities:
        points.append(x.argmax(0).cpu().numpy())
        best, step = x.max(1)
        labels.append(torch.where(best > best.quantile(share), step, -1).cpu().numpy())
    return Decoded(points, labels)


DECODERS = {"ordered": decode_ordered, "drop-dtw": decode_dropping, "unordered": decode_unordered}


def _stacked(each: Sequence[torch.Tensor]) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    t, s = (torch.tensor([x.shape[i] for x in each], device=each[0].device) for i in (0, 1))
    out = each[0].new_zeros(len(each), int(t.max()), int(s.max()))
    for row, x in zip(out, each, strict=True):
        row[: x.shape[0], : x.shape[1]] = x
    return out, (t, s)


def _cut(labels: torch.Tensor, lengths: tuple[torch.Tensor, torch.Tensor]) -> list[np.ndarray]:
    return [row[:n] for row, n in zip(labels.cpu().numpy(), lengths[0].tolist(), strict=True)]


def _best(similarity: torch.Tensor, labels: np.ndarray) -> np.ndarray:
    """Of each step its best frame among those that are labelled with it, -1 where none is."""
    x = similarity.cpu().numpy().copy()
    own = labels[:, None] == np.arange(x.shape[1])
    return np.where(own.any(0), np.where(own, x, -np.inf).argmax(0), -1)


def score_steps(
    decoded: Decoded,
    times: Sequence[np.ndarray],
    durations: Sequence[float],
    videos: Sequence[VideoRow],
) -> Steps:
    """Against the true times in `videos`. Frames at `times[i]` (T_i,) seconds; a frame is inside a step when
    start <= time < end, of two steps in the first. StepclipError where a video has no step times."""
    hits: dict[str, list[float]] = {}
    right = frames = 0
    overlaps: list[np.ndarray] = []
    found = np.zeros((len(THRESHOLDS), 3), dtype=np.int64)
    for points, labels, at, duration, video in zip(*decoded, times, durations, videos, strict=True):
        truth = true_spans(video)
        if truth is None:
            raise StepclipError(
                f"video {video.video_id!r} has no true step times", "step_start and step_end in the manifest"
            )
        within = (at[:, None] >= truth[:, 0]) & (at[:, None] < truth[:, 1])
        hit = within[np.clip(points, 0, None), np.arange(len(truth))] & (points >= 0)
        hits.setdefault(video.task, []).extend(hit.tolist())
        true = np.where(within.any(1), within.argmax(1), -1)
        right, frames = right + int((labels == true).sum()), frames + len(at)
        real = truth[:, 1] > truth[:, 0]
        spans = step_spans(labels, at, duration, len(truth))
        overlaps.append(span_iou(spans[real], truth[real]))
        for row, threshold in zip(found, THRESHOLDS, strict=True):
            row += segment_counts(labels, true, threshold)
    f1_10, f1_25, f1_50 = (2 * tp / max(2 * tp + fp + fn, 1) for tp, fp, fn in found.tolist())
    iou = np.concatenate(overlaps)
    recall = float(np.mean([np.mean(task) for task in hits.values()]))
    return Steps(recall, right / frames, float(iou.mean()), f1_10, f1_25, f1_50, len(videos), len(iou))


def segments(labels: np.ndarray) -> list[tuple[int, int, int]]:
    """Runs of equal labels: (label, first frame, last frame exclusive); background is none."""
    borders = np.flatnonzero(np.diff(labels)) + 1
    edges = [0, *borders.tolist(), len(labels)]
    return [(int(labels[a]), a, b) for a, b in pairwise(edges) if labels[a] >= 0]


def segment_counts(predicted: np.ndarray, true: np.ndarray, threshold: float) -> tuple[int, int, int]:
    """True positives, false positives, false negatives of segments: each predicted one takes the true one of
    its label that it overlaps most; right where the overlap is `threshold` or more and nobody took it
    before."""
    actual = segments(true)
    taken = [False] * len(actual)
    tp = fp = 0
    for label, a, b in segments(predicted):
        overlap = [
            max(0, min(b, d) - max(a, c)) / (max(b, d) - min(a, c)) if label == k else 0.0
            for k, c, d in actual
        ]
        best = int(np.argmax(overlap)) if overlap else -1
        if best >= 0 and overlap[best] >= threshold and not taken[best]:
            taken[best] = True
            tp += 1
        else:
            fp += 1
    return tp, fp, len(actual) - tp

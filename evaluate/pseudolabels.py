"""How right are the labels that training makes for itself? Measured where the true step times are known.

Training labels the N frames of a view, one per segment, with sentences, from the order of the script alone.
Here the same labellings label the middle view of each video, with the trained model and without one, and are
scored like a localisation: frames in the right step, overlap of the spans (`methods/weaksvr.md` 8.6).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..train import losses
from ..train.losses.frame_sentence import Labelling
from .embed import MIDDLE, Embedded, blank_frames, centred, embed_raw, embed_views, raw_views
from .localisation import DRAWS, Localisation, localise, mean_of, random_cuts, true_spans, uniform_split
from .results import CHANCE, CONTROL, TRAINED, Results, Row

if TYPE_CHECKING:
    from ..cache.manifest import VideoRow
    from ..cache.store import FeatureStore
    from .parts import Material

BATCH = 256


@dataclass(frozen=True)
class PseudoLabels:
    """The same labelling on the training videos (None where their times are unknown) and on the split."""

    train: Localisation | None
    split: Localisation | None

    def to_dict(self) -> dict[str, Any]:
        parts = {"train": self.train, "split": self.split}
        return {name: part.to_dict() if part else None for name, part in parts.items()}


def labellings() -> tuple[str, ...]:
    """Every way of labelling that training knows."""
    return tuple(getattr(losses, "LABELLINGS", get_args(Labelling)))


def label_views(
    views: Embedded,
    store: FeatureStore,
    scripts: Sequence[Sequence[str]],
    labelling: str,
    scale: float,
) -> list[np.ndarray]:
    """Labels (N,) of the frames of each video of `views` (see `embed_views`, `raw_views`) by its script.

    `scale` is the factor of the cosines in training (the model's own; 1 / 0.07 for raw features).
    """
    sentences = list(dict.fromkeys(s for script in scripts for s in script))
    place = {sentence: i for i, sentence in enumerate(sentences)}
    device = views.frames.device
    text = torch.as_tensor(store.text(sentences, "step"), device=device).float()
    n = int(views.lengths[0])
    frames = views.frames.view(len(views), n, -1)
    longest = max(map(len, scripts))
    labels: list[np.ndarray] = []
    for first in range(0, len(scripts), BATCH):
        part = scripts[first : first + BATCH]
        lengths = torch.tensor([len(script) for script in part], device=device)
        steps = text.new_zeros(len(part), longest, text.shape[1])
        for i, script in enumerate(part):
            steps[i, : len(script)] = text[[place[s] for s in script]]
        found = _label(frames[first : first + BATCH], steps, lengths, scale, labelling)
        labels += list(found.cpu().numpy())
    return labels


def _label(frames: Tensor, steps: Tensor, lengths: Tensor, scale: float, labelling: str) -> Tensor:
    if hasattr(losses, "label_frames"):
        return torch.as_tensor(losses.label_frames(frames, steps, lengths, scale, labelling))
    logits = scale * F.normalize(frames, dim=-1) @ F.normalize(steps, dim=-1).transpose(1, 2)
    real = torch.arange(steps.shape[1], device=steps.device) < lengths[:, None]
    log_p = logits.masked_fill(~real[:, None], -torch.inf).log_softmax(2)
    return losses.pseudo_labels(log_p, lengths, labelling)  # type: ignore[arg-type]


def score_labels(labels: Sequence[np.ndarray], views: Embedded, videos: Sequence[VideoRow]) -> Localisation:
    """Labels that name a padding sentence are wrong, and none of the steps' spans is theirs."""
    inside = [
        np.where(found < len(video.steps), found, -1) for found, video in zip(labels, videos, strict=True)
    ]
    times = [views.times[views.slice(i)] for i in range(len(views))]
    return localise(inside, times, list(views.durations), videos)


def pseudo_labels(results: Results, m: Material) -> None:
    """Every labelling that training knows, on the training videos and on the split, against the truth."""
    here = _labelled(m, m.videos, m.raw)
    if not here:
        return
    trains = (
        [v for v in m.manifest if v.split == "train" and v.video_id in m.store]
        if results.split != "train"
        else []
    )
    trains = [v for v in trains if true_spans(v) is not None]
    there: dict[str, Any] = {}
    if trains:
        there = _labelled(m, trains, embed_raw(m.store, [v.video_id for v in trains], m.device))
    used = m.checkpoint.recipe.loss.labels
    for name, result in here.items():
        kind = (
            TRAINED if name in labellings() and name != "uniform" else CHANCE if name == "chance" else CONTROL
        )
        both = PseudoLabels(there.get(name), result)
        about = _LABELLINGS.get(name, "")
        if kind == TRAINED:
            about = about or "labelling of the trained frames"
        results.pseudo_labels.append(Row(name, kind, both, about, kind == TRAINED and name == used))


_LABELLINGS = {
    "viterbi": "any forward jump, trained frames",
    "visit-all": "every sentence visited, trained frames",
    "prior": "likewise, each near its share of the video",
    "raw visit-all": "every sentence visited, raw CLIP frames",
    "centred visit-all": "the same, each video's mean frame taken off",
    "uniform": "equal parts, what a clock knows",
    "content-free": "every sentence visited, all frames replaced by their mean",
    "chance": f"random cuts in the order of the script, mean of {DRAWS} draws",
}


def _labelled(m: Material, videos: Sequence[VideoRow], raw: Embedded) -> dict[str, Any]:
    """The score of each labelling of the videos whose times are known, trained ones first."""
    known = [
        v for v in videos if true_spans(v) is not None and all(m.store.has_text(s, "step") for s in v.steps)
    ]
    if not known or not m.text:
        return {}
    ids = [v.video_id for v in known]
    scripts = [v.steps for v in known]
    n = m.checkpoint.model.frames
    views = embed_views(m.checkpoint, m.store, ids, MIDDLE, m.device)
    scale = float(torch.as_tensor(getattr(m.checkpoint.model, "scale_frame", 1 / 0.07)).detach())
    found = {}
    for name in labellings():
        if name != "uniform":
            found[name] = score_labels(label_views(views, m.store, scripts, name, scale), views, known)
    if m.raw_text:
        mine = raw.take([raw.row(v) for v in ids])
        for name, embedded in (("raw", mine), ("centred", centred(mine))):
            labels = label_views(raw_views(embedded, n, MIDDLE), m.store, scripts, "visit-all", 1 / 0.07)
            found[f"{name} visit-all"] = score_labels(labels, views, known)
    found["uniform"] = score_labels([uniform_split(n, len(s)) for s in scripts], views, known)
    blank = blank_frames(m.checkpoint, m.raw).frames.float()
    free = replace(views, frames=blank.expand(len(known), -1, -1).flatten(0, 1))
    found["content-free"] = score_labels(
        label_views(free, m.store, scripts, "visit-all", scale), views, known
    )
    rng = np.random.default_rng(m.seed)
    draws = [score_labels([random_cuts(n, len(s), rng) for s in scripts], views, known) for _ in range(DRAWS)]
    found["chance"] = mean_of(draws)
    return found

"""How right are the labels that training makes for itself? Measured where the true step times are known.

Training labels the N frames of a view, one per segment, with sentences, from the order of the script alone.
Here the same labellings label the middle view of each video, with the trained model and without one, and are
scored like a localisation: frames in the right step, overlap of the spans (`methods/weaksvr.md` 8.6).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..train.losses import LABELLINGS, corpus_labels, label_frames
from .embed import MIDDLE, Embedded, centred, content_free, embed_raw, embed_views, raw_views
from .localisation import DRAWS, Localisation, localise, mean_of, random_cuts, true_spans, uniform_split
from .results import CHANCE, CONTROL, TRAINED, Results, Row

if TYPE_CHECKING:
    from ..cache.manifest import VideoRow
    from ..cache.store import FeatureStore
    from .parts import Material

BATCH = 256
BLIND = ("uniform", "split")  # equal parts


@dataclass(frozen=True)
class PseudoLabels:
    """The same labelling on the training videos (None where their times are unknown) and on the split."""

    train: Localisation | None
    split: Localisation | None

    def to_dict(self) -> dict[str, Any]:
        parts = {"train": self.train, "split": self.split}
        return {name: part.to_dict() if part else None for name, part in parts.items()}


def labellings() -> tuple[str, ...]:
    """Every way of labelling that training knows, but for those that look at nothing."""
    return tuple(name for name in LABELLINGS if name not in BLIND)


def label_views(
    views: Embedded,
    store: FeatureStore,
    scripts: Sequence[Sequence[str]],
    labelling: str,
    scale: float,
    *,
    padding: str = "zeros",
    pad_to: int = 0,
    seed: int = 0,
) -> list[np.ndarray]:
    """Labels (N,) of the frames of each video of `views` (see `embed_views`, `raw_views`) by its script.

    `scale` is the factor of the cosines in training (the model's own; 1 / 0.07 for raw features). `padding`
    and `pad_to` as in the recipe: what stands beyond the end of a script, which the official labellings see.
    """
    sentences = list(dict.fromkeys(s for script in scripts for s in script))
    place = {sentence: i for i, sentence in enumerate(sentences)}
    device = views.frames.device
    text = views.embed_texts(store, sentences, "step")
    beyond = text.mean(0, keepdim=True) if padding == "mean" else torch.zeros_like(text[:1])
    text = torch.cat([text, beyond])
    table = torch.full((len(scripts), max(pad_to, *map(len, scripts), 1)), len(sentences))
    for i, script in enumerate(scripts):
        table[i, : len(script)] = torch.tensor([place[s] for s in script])
    lengths = torch.tensor([len(script) for script in scripts], device=device)
    frames = views.frames.view(len(views), int(views.lengths[0]), -1)
    labels: list[np.ndarray] = []
    for part in torch.arange(len(scripts)).split(BATCH):
        steps = text[table[part].to(device)]
        found = label_frames(frames[part], steps, lengths[part], scale, labelling, seed=seed)
        labels += list(found.cpu().numpy())
    return labels


def label_corpus(
    raw: Embedded, store: FeatureStore, scripts: Sequence[Sequence[str]], n: int
) -> list[np.ndarray]:
    """Labels (n,) of the middle view of each video of `raw`, learned from all of them and their scripts."""
    sentences = list(dict.fromkeys(s for script in scripts for s in script))
    place = {sentence: i for i, sentence in enumerate(sentences)}
    device = raw.frames.device
    table = torch.zeros(len(scripts), max(map(len, scripts)), dtype=torch.int64)
    for i, script in enumerate(scripts):
        table[i, : len(script)] = torch.tensor([place[s] for s in script])
    offsets = torch.as_tensor(raw.offsets, device=device)
    lengths = torch.tensor([len(script) for script in scripts], device=device)
    text = torch.as_tensor(store.text(sentences, "step"), device=device)
    found = corpus_labels(raw.frames, offsets, table.to(device), lengths, text)
    seen = raw_views(replace(raw, frames=found), n, MIDDLE).frames
    return list(seen.view(len(raw), n, -1).argmax(2).cpu().numpy())


def score_labels(labels: Sequence[np.ndarray], views: Embedded, videos: Sequence[VideoRow]) -> Localisation:
    """Labels that name a padding sentence are wrong, and none of the steps' spans is theirs."""
    inside = [
        np.where(found < len(video.steps), found, -1) for found, video in zip(labels, videos, strict=True)
    ]
    times = [views.times[views.slice(i)] for i in range(len(views))]
    return localise(inside, times, list(views.durations), videos)


def pseudo_labels(results: Results, m: Material) -> None:
    """Every labelling that training knows, on the training videos and on the split, against the truth."""
    loss = m.checkpoint.recipe.loss
    if not hasattr(loss, "labels"):  # a method that trains without
        return
    here = _labelled(m, m.videos, m.raw)
    if not here:
        return
    trains = [
        v for v in m.manifest if v.split == "train" and v.video_id in m.store and true_spans(v) is not None
    ]
    there: dict[str, Localisation] = {}
    if trains and results.split != "train":
        there = _labelled(m, trains, embed_raw(m.store, [v.video_id for v in trains], m.device))
    official = getattr(loss, "fine_form", "corrected") == "official"
    used = "uniform" if loss.labels in BLIND and not official else f"{'official-' * official}{loss.labels}"
    for name, result in here.items():
        learned = name == "corpus" or (name in LABELLINGS and name not in BLIND)
        kind = TRAINED if learned else CHANCE if name == "chance" else CONTROL
        both = PseudoLabels(there.get(name), result)
        results.pseudo_labels.append(Row(name, kind, both, _EXPLAINED.get(name, ""), name == used))


_EXPLAINED = {
    "viterbi": "any forward jump",
    "visit-all": "every sentence visited",
    "prior": "likewise, each near its share of the video",
    "sort": "the best sentence of each frame, sorted",
    "soft-monotone": "posteriors of all forward paths, the largest",
    "soft-visit-all": "likewise of the paths that visit every sentence",
    "soft-prior": "likewise, each near its share of the video",
    "corpus": "learned from these very videos and their scripts, all together, before any training",
    "official-sort": "as released: noise on the cosines, padding sentences compete, then sorted",
    "official-viterbi": "as released: raw cosines multiplied, padding sentences compete",
    "official-split": "as released: rounded equal parts",
    "raw visit-all": "every sentence visited, raw CLIP frames",
    "centred visit-all": "the same, each video's mean frame taken off",
    "uniform": "equal parts, what a clock knows",
    "content-free": "every sentence visited, all frames replaced by their mean",
    "chance": f"random cuts in the order of the script, mean of {DRAWS} draws",
}


def _labelled(m: Material, videos: Sequence[VideoRow], raw: Embedded) -> dict[str, Localisation]:
    """The score of each labelling of the videos whose times are known, trained ones first."""
    known = [
        v for v in videos if true_spans(v) is not None and all(m.store.has_text(s, "step") for s in v.steps)
    ]
    if not known or not m.text:
        return {}
    ids = [v.video_id for v in known]
    scripts = [v.steps for v in known]
    views = embed_views(m.checkpoint, m.store, ids, MIDDLE, m.device)
    n = int(views.lengths[0])
    mine = raw.take([raw.row(v) for v in ids])
    scale = float(torch.as_tensor(getattr(m.checkpoint.model, "scale_frame", 1 / 0.07)).detach())
    data = m.checkpoint.recipe.data
    how: dict[str, Any] = {"padding": getattr(data, "padding", "zeros"), "pad_to": getattr(data, "pad_to", 0)}

    def scored(embedded: Embedded, labelling: str, factor: float) -> Localisation:
        labels = label_views(embedded, m.store, scripts, labelling, factor, seed=m.seed, **how)
        return score_labels(labels, views, known)

    found = {name: scored(views, name, scale) for name in labellings()}
    found["corpus"] = score_labels(label_corpus(mine, m.store, scripts, n), views, known)
    if m.raw_text:
        found["raw visit-all"] = scored(raw_views(mine, n, MIDDLE), "visit-all", 1 / 0.07)
        found["centred visit-all"] = scored(raw_views(centred(mine), n, MIDDLE), "visit-all", 1 / 0.07)
    found["uniform"] = score_labels([uniform_split(n, len(s)) for s in scripts], views, known)
    free = raw_views(content_free(m.checkpoint, mine), n, MIDDLE)
    found["content-free"] = scored(free, "visit-all", scale)
    rng = np.random.default_rng(m.seed)
    draws = [score_labels([random_cuts(n, len(s), rng) for s in scripts], views, known) for _ in range(DRAWS)]
    found["chance"] = mean_of(draws)
    return found

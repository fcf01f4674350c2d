"""Full-video retrieval: a script, sentence by sentence, against videos, window by window (TempCLR's test).

Three measures (`methods/tempclr.md` 5.1): Cap. Avg. takes for each sentence its best window and sees no
order; DTW and OTAM align. Costs are 1 - cosine, lengths are masked, and the normaliser is named. "Kept" cuts
the whole video into windows; "removed" takes the true steps instead, so that the right video has as many
units as the script has sentences: a length-only row says what that alone gives. In a hard gallery a video
looks for its own script among the same sentences in other orders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F

from ..cache.errors import StepclipError, nearest
from ..train.alignment import cost_matrix, dtw, otam, pairs
from ..train.losses import reordered
from .embed import Embedded
from .localisation import true_spans

if TYPE_CHECKING:
    from ..cache.manifest import VideoRow
    from ..cache.store import FeatureStore
    from ..train.alignment.normalise import Normalise

Measure = Literal["cap", "dtw", "otam"]
CHUNK = 1 << 25  # numbers that exist at once


@dataclass(frozen=True)
class Sequences:
    """`vectors` (V, N, E) padded, `lengths` (V,) int64: the units of V videos or scripts."""

    vectors: torch.Tensor
    lengths: torch.Tensor

    def __len__(self) -> int:
        return len(self.vectors)

    @classmethod
    def of(cls, parts: Sequence[torch.Tensor]) -> Sequences:
        lengths = torch.tensor([len(part) for part in parts], device=parts[0].device)
        return cls(torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True), lengths)


def sentence_units(embedded: Embedded, store: FeatureStore, scripts: Sequence[Sequence[str]]) -> Sequences:
    """The sentences of each script, embedded as `embedded` embeds texts."""
    words = list(dict.fromkeys(word for script in scripts for word in script))
    place = {word: i for i, word in enumerate(words)}
    table = embedded.texts(store, words, "step")
    return Sequences.of([table[[place[word] for word in script]] for script in scripts])


def window_units(embedded: Embedded, seconds: float) -> Sequences:
    """Consecutive windows of `seconds` over each whole video: the mean of their unit frames. Windows without
    a frame are left out."""
    owner = np.repeat(np.arange(len(embedded)), embedded.lengths)
    place = np.floor(embedded.times / seconds + 1e-6).astype(np.int64)
    key = owner * (int(place.max(initial=0)) + 1) + place
    found, window = np.unique(key, return_inverse=True)
    mean = _means(embedded, window, len(found))
    counts = np.bincount(found // (int(place.max(initial=0)) + 1), minlength=len(embedded))
    return Sequences.of(list(mean.split(counts.tolist())))


def clip_units(embedded: Embedded, videos: Sequence[VideoRow]) -> Sequences:
    """One unit for each true step: the mean of the unit frames inside it, or the frame nearest to its
    middle."""
    rows: list[np.ndarray] = []
    clips: list[np.ndarray] = []
    counts: list[int] = []
    for video in videos:
        truth = true_spans(video)
        if truth is None:
            raise StepclipError(
                f"video {video.video_id!r} has no true step times", "step_start and step_end in the manifest"
            )
        at = embedded.slice(embedded.row(video.video_id))
        times = embedded.times[at]
        for start, end in truth:
            inside = np.flatnonzero((times >= start) & (times < end))
            if not len(inside):
                inside = np.array([np.abs(times - (start + end) / 2).argmin()])
            rows.append(inside + at.start)
            clips.append(np.full(len(inside), len(clips)))
        counts.append(len(truth))
    taken = torch.as_tensor(np.concatenate(rows), device=embedded.frames.device)
    mean = _mean_rows(embedded.frames[taken], np.concatenate(clips), len(clips))
    return Sequences.of(list(mean.split(counts)))


def _means(embedded: Embedded, group: np.ndarray, count: int) -> torch.Tensor:
    return _mean_rows(embedded.frames, group, count)


def _mean_rows(frames: torch.Tensor, group: np.ndarray, count: int) -> torch.Tensor:
    index = torch.as_tensor(group, device=frames.device)
    total = frames.new_zeros(count, frames.shape[1]).index_add_(0, index, F.normalize(frames, dim=-1))
    return total / torch.bincount(index, minlength=count)[:, None]


def sequence_scores(
    texts: Sequences,
    videos: Sequences,
    measure: Measure = "dtw",
    normalise: Normalise | Literal["columns"] = "L+N",
    keep: float | None = None,
) -> np.ndarray:
    """(Q, V), higher is better. `normalise`: what a distance is divided by (`alignment`: "sum" is the
    published one); "columns", of OTAM only: each direction by the columns it consumes. `keep` 1.3: as
    published for "kept", only the 1.3 L windows of each pair that are nearest to some sentence, in their
    order, are aligned: an order check on chosen windows, not an alignment with background."""
    if measure not in get_args(Measure):
        known = get_args(Measure)
        raise StepclipError(f"measure {measure!r}{nearest(measure, known)}", f"one of {', '.join(known)}")
    if texts.vectors.shape[-1] != videos.vectors.shape[-1]:
        raise StepclipError(
            f"texts of {texts.vectors.shape[-1]} numbers and videos of {videos.vectors.shape[-1]}",
            "one shared space",
        )
    columns = normalise == "columns"
    if columns and measure != "otam":
        raise StepclipError(f"normalise='columns' with {measure}", "with otam, which consumes columns")
    if measure != "cap" and keep is None and not columns:
        assert normalise != "columns"
        found = pairs(
            videos.vectors, texts.vectors, measure, lengths_a=videos.lengths, lengths_b=texts.lengths,
            cost="cosine", normalise=normalise,
        )  # fmt: skip
        return -found.T.cpu().numpy()
    size = max(1, CHUNK // (texts.vectors.shape[1] * videos.vectors[..., 0].numel()))
    out = []
    for first in range(0, len(texts), size):
        part = Sequences(texts.vectors[first : first + size], texts.lengths[first : first + size])
        cost = cost_matrix(part.vectors[:, None], videos.vectors[None], "cosine")  # (q, V, L, N)
        row = torch.arange(cost.shape[2], device=cost.device) < part.lengths[:, None]
        column = torch.arange(cost.shape[3], device=cost.device) < videos.lengths[:, None]
        cost = cost.masked_fill(~column[None, :, None], torch.inf)
        if measure == "cap":
            best = 1 - cost.min(-1).values
            out.append((best * row[:, None]).sum(-1) / part.lengths[:, None])
            continue
        if keep is None:
            out.append(
                -_aligned(
                    cost.nan_to_num(posinf=2.0), part.lengths[:, None], videos.lengths, measure, normalise
                )
            )
            continue
        near = cost.masked_fill(~row[:, None, :, None], torch.inf).min(2).values  # of each window, (q, V, N)
        kept = (keep * part.lengths[:, None]).floor().long().minimum(videos.lengths).clamp(min=1)
        rank = near.argsort(-1).argsort(-1)
        order = torch.where(rank < kept[..., None], 0, 1).argsort(dim=-1, stable=True)
        chosen = cost.gather(3, order[:, :, None].expand(cost.shape)).nan_to_num(posinf=2.0)
        out.append(-_aligned(chosen, part.lengths[:, None], kept, measure, normalise))
    return torch.cat(out).cpu().numpy()


def _aligned(
    cost: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, measure: str, normalise: str
) -> torch.Tensor:
    """Distances (...) of costs (..., L, N) with lengths that broadcast to them."""
    rows, columns = (x.expand(cost.shape[:-2]).contiguous() for x in (rows, columns))
    if normalise == "columns":
        down = otam(cost, (rows, columns), symmetric=False) / columns
        return down + otam(cost.mT, (columns, rows), symmetric=False) / rows
    align = dtw if measure == "dtw" else otam
    return align(cost, (rows, columns), normalise=normalise)  # type: ignore[arg-type]


def count_scores(texts: Sequences, videos: Sequences) -> np.ndarray:
    """(Q, V): minus the difference of the numbers of units, taken from their means: what length alone
    knows."""
    a, b = (x.lengths.double().log().cpu().numpy() for x in (texts, videos))
    if np.array_equal(np.sort(a), np.sort(b)):  # background removed: the counts themselves agree
        return -np.abs(a[:, None] - b)
    return -np.abs((a - a.mean())[:, None] - (b - b.mean()))


# ---- hard galleries


def other_orders(scripts: Sequence[Sequence[str]], count: int = 31, seed: int = 0) -> torch.Tensor:
    """(V, count, L) int64: random other orders of each script, padding in its place."""
    rng = np.random.default_rng(seed)
    longest = max(map(len, scripts))
    out = np.tile(np.arange(longest), (len(scripts), count, 1))
    for v, script in enumerate(scripts):
        out[v, :, : len(script)] = np.argsort(rng.random((count, len(script))), 1)
    return torch.as_tensor(out)


def swapped_orders(scripts: Sequence[Sequence[str]]) -> torch.Tensor:
    """(V, L - 1, L) int64: every exchange of two neighbouring sentences; where a script is shorter, its own
    order."""
    longest = max(map(len, scripts))
    out = np.tile(np.arange(longest), (len(scripts), max(longest - 1, 1), 1))
    for v, script in enumerate(scripts):
        for k in range(len(script) - 1):
            out[v, k, [k, k + 1]] = k + 1, k
    return torch.as_tensor(out)


def order_scores(
    scripts: Sequence[Sequence[str]],
    texts: Sequences,
    videos: Sequences,
    orders: torch.Tensor,
    measure: Measure = "dtw",
    normalise: Normalise | Literal["columns"] = "L+N",
) -> np.ndarray:
    """(V, 1 + M): how well each video fits its own script (first), and the same sentences in M other `orders`
    (V, M, L). Orders that read the same as the script are -inf: no candidates. By Cap. Avg. all are equal."""
    orders = orders.to(texts.vectors.device)
    numbers = {word: i for i, word in enumerate(dict.fromkeys(w for s in scripts for w in s))}
    words = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor([numbers[word] for word in script]) for script in scripts], batch_first=True
    ).to(orders.device)
    own = words[:, None].expand(orders.shape)
    same = (own.gather(2, orders) == own).all(-1)
    if measure == "cap":
        scores = torch.zeros(len(orders), 1 + orders.shape[1], device=orders.device)
    else:
        cost = cost_matrix(texts.vectors, videos.vectors, "cosine")
        every = torch.cat([cost[:, None], reordered(cost, rows=orders)], 1)
        scores = -_aligned(every, texts.lengths[:, None], videos.lengths[:, None], measure, normalise)
    scores[:, 1:] = scores[:, 1:].masked_fill(same, -torch.inf)
    return scores.cpu().numpy()

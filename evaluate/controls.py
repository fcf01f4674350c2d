"""Controls: what can be had without learning, or without looking. Every table of results prints them.

| name | verification | retrieval | localisation |
|---|---|---|---|
| mean-pool | mean of the frame features | cosine with the paragraph | - |
| flat | 16 segment frames laid end to end | - | - |
| dtw-raw | DTW of the raw frame features | script-raw: steps and raw frames in order | raw |
| dtw-centred | likewise, each video's mean frame taken off | script-centred | centred |
| duration | relative difference of the durations | long videos to long scripts | - |
| clock | nothing but t/L: all videos alike | all alike: chance | uniform split |
| content-free | the trained model on one and the same frame throughout | likewise | likewise |
| chance | all pairs alike | all videos alike | random cuts in the order of the script |
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..cache.errors import StepclipError, nearest
from .distances import distance_of
from .embed import Embedded, centred, flatten_segments

CONTROLS = ("mean-pool", "flat", "dtw-raw", "dtw-centred", "duration", "clock", "content-free", "chance")
EXPLAINED = {
    "mean-pool": "mean of the CLIP frames, no order",
    "flat": "16 CLIP frames laid end to end, no learning",
    "dtw-raw": "DTW on raw CLIP frames, no learning",
    "dtw-centred": "the same, each video's mean frame taken off",
    "duration": "difference of the durations, no content",
    "clock": "time t/L only, no content",
    "content-free": "the trained model, all frames replaced by their mean",
    "chance": "no distance tells anything",
}


EMBEDDED = ("mean-pool", "flat", "dtw-raw", "dtw-centred")


def control_embedding(name: str, raw: Embedded) -> tuple[Embedded, str]:
    """What the control `name` of EMBEDDED embeds videos as, and the distance it uses: pooled or alignment."""
    if name == "mean-pool":
        return raw, "pooled"
    if name == "flat":
        return flatten_segments(raw), "pooled"
    return (raw if name == "dtw-raw" else centred(raw)), "alignment"


def control_distances(
    name: str,
    raw: Embedded,
    a: np.ndarray,
    b: np.ndarray,
    *,
    bare: Embedded | None = None,
    distance: str = "alignment",
    step: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Distance (P,) of videos at rows `a` and `b` of `raw` (from `embed_raw`) by the control `name`.

    duration: |da - db| / max(da, db), seconds cancel. clock: a frame is known by t/L alone, and the 16
    segment frames of any video lie at the same t/L, so all distances are 0, all pairs tie, and the AUC is
    .5. content-free: `distance`, as the trained row is quoted, between the videos of `bare` (from
    `content_free`). chance: 1 for every pair, whose WDR is that of equal distances (`methods/weaksvr.md`
    5.2).
    """
    if name in EMBEDDED:
        embedded, kind = control_embedding(name, raw)
        return distance_of(kind, embedded, a, b, step=step)
    if name == "duration":
        long = np.maximum(raw.durations[a], raw.durations[b])
        return np.abs(raw.durations[a] - raw.durations[b]) / np.maximum(long, 1e-9)
    if name == "clock":
        return np.zeros(len(a))
    if name == "content-free":
        if bare is None:
            raise StepclipError("no embeddings without content", "those of `content_free`, as bare=")
        # rounded: what is equal up to the order of a sum must tie
        return distance_of(distance, bare, a, b, step=step).round(6)
    if name == "chance":
        return np.ones(len(a))
    raise StepclipError(f"unknown control {name!r}{nearest(name, CONTROLS)}", f"one of {', '.join(CONTROLS)}")

"""Recordings with known faults, made of good ones: frames are cut out, exchanged, put in again.

A cached frame's features depend on that frame alone, so cutting features is cutting the video. The edited
recordings are embedded by the model as any others: what it learns from neighbours sees the cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .edits import KINDS

if TYPE_CHECKING:
    import torch

    from ...cache.packed import PackedFeatures
    from ...cache.store import FeatureStore

SOUND = "sound"


@dataclass(frozen=True)
class Segment:
    """A stretch of frames [first, last) of a recording, and the step it shows (its place in the script, or
    None for a sentence that is not in it)."""

    first: int
    last: int
    place: int | None
    sentence: str


@dataclass(frozen=True)
class Recording:
    """Features (T, D) with frame times (T,), the script it is checked against, and what really happens.

    `missing`: places of steps that were not done; `moved`: places that stand elsewhere; `repeated`: places
    done twice; `added`: gaps at which something else was done. `segments`: where each thing happens.
    """

    name: str
    features: np.ndarray
    times: np.ndarray
    script: tuple[str, ...]
    kind: str = SOUND
    missing: frozenset[int] = frozenset()
    moved: tuple[frozenset[int], ...] = ()
    repeated: frozenset[int] = frozenset()
    added: frozenset[int] = frozenset()
    segments: tuple[Segment, ...] = field(default=(), repr=False)

    def wrong(self, kind: str) -> list[frozenset[int]]:
        """The faults of a kind, each as the places that would name it: of two steps that changed places
        either one."""
        found = getattr(self, kind)
        return list(found) if kind == "moved" else [frozenset((place,)) for place in sorted(found)]


def cut(
    name: str,
    features: np.ndarray,
    spans: Sequence[tuple[int, int]],
    script: Sequence[str],
    kind: str,
    rng: np.random.Generator,
    seconds: float,
    other: tuple[np.ndarray, str] | None = None,
) -> Recording | None:
    """A recording of `kind` (a fault, or "sound") from a good one: `features` (T, D), its steps at `spans`
    (first, last) of frames, ascending, `seconds` per frame. `other`: frames and sentence of what is added.

    None where it cannot be made (no step has frames, nothing to add).
    """
    real = [k for k, (a, b) in enumerate(spans) if b > a]
    if len(real) < 2 or (kind == "added" and other is None):
        return None
    # pieces: (frames, place, sentence); idle stretches have place -2
    pieces: list[tuple[np.ndarray, int | None, str]] = []
    at = 0
    for k in real:
        first, last = spans[k]
        pieces.append((features[at:first], -2, ""))
        pieces.append((features[first:last], k, script[k]))
        at = last
    pieces.append((features[at:], -2, ""))
    where = {k: 2 * i + 1 for i, k in enumerate(real)}  # of a step among the pieces
    facts: dict[str, object] = {}
    if kind == "missing":
        k = int(rng.choice(real))
        del pieces[where[k]]
        facts["missing"] = frozenset((k,))
    elif kind == "moved":
        a, b = sorted(int(k) for k in rng.choice(real, 2, replace=False))
        i, j = where[a], where[b]
        pieces[i], pieces[j] = pieces[j], pieces[i]
        facts["moved"] = (frozenset((a, b)),)
    elif kind == "repeated":
        k = int(rng.choice(real))
        gaps = [g for g in range(len(script) + 1) if g not in (k, k + 1)]
        gap = int(rng.choice(gaps))
        pieces.insert(_piece(where, gap), pieces[where[k]])
        facts["repeated"] = frozenset((k,))
    elif kind == "added":
        assert other is not None
        gap = int(rng.integers(len(script) + 1))
        pieces.insert(_piece(where, gap), (other[0], None, other[1]))
        facts["added"] = frozenset((gap,))
    segments, first = [], 0
    for frames, place, sentence in pieces:
        if place != -2 and len(frames):
            segments.append(Segment(first, first + len(frames), place, sentence))
        first += len(frames)
    joined = np.concatenate([frames for frames, *_ in pieces])
    return Recording(
        name,
        joined,
        np.arange(len(joined)) * seconds,
        tuple(script),
        kind,
        segments=tuple(segments),
        **facts,  # type: ignore[arg-type]
    )


def _piece(where: dict[int, int], gap: int) -> int:
    """Before which piece something stands that is put into a gap of the script."""
    later = [piece for step, piece in where.items() if step >= gap]
    return min(later, default=max(where.values()) + 1)


def with_faults(
    sources: Mapping[str, tuple[np.ndarray, Sequence[tuple[int, int]], Sequence[str], float]],
    others: Mapping[str, Sequence[str]],
    seed: int = 0,
    kinds: Sequence[str] = (SOUND, *KINDS),
) -> list[Recording]:
    """One recording of each of `kinds` from each of `sources`: name -> features (T, D), spans of the steps,
    script, seconds per frame. `others`: from which sources something may be added to each."""
    rng = np.random.default_rng(seed)
    made = []
    for name, (features, spans, script, seconds) in sources.items():
        for kind in kinds:
            other = None
            if kind == "added":
                choices = [
                    (each, k)
                    for each in others.get(name, ())
                    for k, (a, b) in enumerate(sources[each][1])
                    if b > a and sources[each][2][k] not in script
                ]
                if choices:
                    each, k = choices[int(rng.integers(len(choices)))]
                    theirs, their_spans, their_script, _ = sources[each]
                    other = (theirs[slice(*their_spans[k])], their_script[k])
            found = cut(f"{name}|{kind}", features, spans, script, kind, rng, seconds, other)
            if found is not None:
                made.append(found)
    return made


class Recordings:
    """Recordings as a feature store: what `embed` and `embed_raw` ask of one. Texts are those of `store`."""

    def __init__(self, recordings: Sequence[Recording], store: FeatureStore) -> None:
        self._of = {each.name: each for each in recordings}
        self.store, self.fingerprint = store, store.fingerprint
        self.video_ids = tuple(self._of)
        self.dim, self.text_dim, self.dtype = store.dim, store.text_dim, store.dtype

    def __contains__(self, name: object) -> bool:
        return name in self._of

    def __len__(self) -> int:
        return len(self._of)

    def length(self, name: str) -> int:
        return len(self._of[name].features)

    def has_text(self, string: str, kind: str) -> bool:
        return self.store.has_text(string, kind)

    def text(self, strings: Sequence[str], kind: str = "step") -> np.ndarray:
        return self.store.text(strings, kind)

    def load(
        self,
        device: str | torch.device = "cpu",
        video_ids: Sequence[str] | None = None,
        dtype: torch.dtype | None = None,
    ) -> PackedFeatures:
        import torch

        from ...cache.packed import PackedFeatures

        names = self.video_ids if video_ids is None else tuple(video_ids)
        of = [self._of[name] for name in names]
        step = [float(each.times[1] - each.times[0]) if len(each.times) > 1 else 1.0 for each in of]
        packed = PackedFeatures(
            torch.from_numpy(np.concatenate([each.features for each in of])),
            torch.from_numpy(np.concatenate([each.times for each in of])),
            torch.from_numpy(np.concatenate(([0], np.cumsum([len(each.features) for each in of])))),
            names,
            durations=torch.tensor(
                [float(e.times[-1]) + s for e, s in zip(of, step, strict=True)], dtype=torch.float64
            ),
        )
        return packed if str(device) == "cpu" and dtype is None else packed.to(device, dtype)

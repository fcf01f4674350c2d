"""Features against their videos: a few random frames are decoded and encoded again and compared.

A checksum says that the bytes are those once written; this says that they are the features of these files, by
this encoder, decoder and sampling.
"""

from __future__ import annotations

import io
import math
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..cache.errors import StepclipError
from ..cache.files import write_json
from ..cache.manifest import Manifest
from ..cache.store import FeatureStore
from .decoders.base import Sampling
from .encoders import Encoder
from .engine import decoded_size, fingerprint_of
from .pool import Chunk, DecodePool, Done, Job, Plan, usable_cores

PER_VIDEO = 4  # frames looked at in one video: its decoding is what costs
TOLERANCE = 1e-3  # 1 - cosine; float16 costs 1e-7, bfloat16 about 1e-4, another frame of the video 1e-2
SAME_TIME = 1e-6  # seconds


@dataclass(frozen=True)
class Deviation:
    """A video whose features are not those of its file. frame: its row in the cache, -1 for all of it."""

    video_id: str
    frame: int
    why: str


@dataclass
class Recheck:
    """What `recheck` saw. worst: the largest 1 - cosine; unreachable: video id -> why not looked at."""

    videos: int = 0
    frames: int = 0
    worst: float = 0.0
    tolerance: float = TOLERANCE
    seconds: float = 0.0
    deviations: list[Deviation] = field(default_factory=list)
    unreachable: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether something was compared, and nothing deviates."""
        return bool(self.frames) and not self.deviations

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it as JSON, atomically."""
        write_json(path, {**asdict(self), "ok": self.ok})
        return Path(path)

    def __str__(self) -> str:
        from rich.console import Console

        text = io.StringIO()
        Console(file=text, width=110).print(self)
        return text.getvalue().rstrip()

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        lines: list[Any] = [
            Text(
                f"encoded again: {self.frames} frames of {self.videos} videos in {self.seconds:.1f} s; "
                f"largest 1 - cosine {self.worst:.1e}, allowed {self.tolerance:.0e}"
            )
        ]
        if self.deviations:
            table = Table(title="Not the features of their files", title_justify="left")
            for column in ("video", "frame", "what"):
                table.add_column(column)
            for each in self.deviations:
                table.add_row(Text(each.video_id), "" if each.frame < 0 else str(each.frame), Text(each.why))
            lines.append(table)
        if self.unreachable:
            some = "; ".join(f"{name} ({why})" for name, why in list(self.unreachable.items())[:3])
            lines.append(Text(f"{len(self.unreachable)} videos could not be looked at: {some}"))
        return Group(*lines)


def recheck(
    store: FeatureStore,
    manifest: Manifest,
    encoder: Encoder,
    frames: int = 32,
    *,
    seed: int = 0,
    tolerance: float = TOLERANCE,
    timeout: float = 600.0,
    progress: bool = True,
) -> Recheck:
    """Decode and encode about `frames` random cached frames again, of the manifest's videos.

    Sampling and decoder are those of the cache's fingerprint. A frame deviates when 1 - cosine of its
    features is above `tolerance`, a video when its frames' times or its duration are others; timeout: seconds
    of decoding per video. Raises StepclipError when the cache was not made by this encoder, or not by
    extraction at all.
    """
    began = time.monotonic()
    refuse_imported(store)
    fields = store.fingerprint.fields
    sampling = Sampling(**{**_NO_SAMPLING, **_numbers(fields)})
    decoder = str(fields.get("decoder.name", "pyav"))
    made = fingerprint_of(
        encoder, decoder, sampling, str(fields.get("text.paragraphs", "chunks")), store.dtype
    )
    if made != store.fingerprint:
        raise StepclipError(
            f"the cache {store.path} was made in another way than it would be checked in:\n"
            + store.fingerprint.table(made, "cache", "now"),
            "the encoder and the StepCLIP that made it",
            "the same with --encoder, where its weights are now",
        )
    found = Recheck(tolerance=tolerance)
    picks = _choose(store, manifest, frames, seed, found)
    size = decoded_size(encoder)
    plan = Plan(decoder, sampling, size, square=size == encoder.image_size)
    ids = list(picks)
    jobs = [
        Job(place, manifest[name].path, manifest[name].start, manifest[name].end)
        for place, name in enumerate(ids)
    ]
    workers = max(1, min(usable_cores() - 1, len(jobs)))
    times: list[list[np.ndarray]] = [[] for _ in ids]
    if jobs:
        with DecodePool(jobs, plan, workers=workers, timeout=timeout) as pool:
            for event in _tracked(pool, len(jobs), progress):
                name = ids[event.index]
                if isinstance(event, Chunk):
                    first = sum(len(part) for part in times[event.index])
                    times[event.index].append(event.times)
                    inside = [row - first for row in picks[name] if 0 <= row - first < len(event.times)]
                    if inside:
                        _compare(found, store, encoder, name, first, inside, event)
                elif isinstance(event, Done):
                    found.videos += 1
                    _compare_times(found, store, name, np.concatenate(times[event.index]), event.end.duration)
                else:
                    found.deviations.append(
                        Deviation(name, -1, f"cannot be decoded any more: {event.reason}")
                    )
    found.deviations.sort(key=lambda each: (each.video_id, each.frame))
    found.seconds = time.monotonic() - began
    return found


def refuse_imported(store: FeatureStore) -> None:
    """Raises StepclipError for a cache of imported features."""
    if store.fingerprint.fields.get("source") == "import":
        raise StepclipError(
            f"the features of {store.path} were imported: there is nothing to encode again",
            "a cache that StepCLIP extracted",
            "stepclip cache verify, without --deep, which checks every byte",
        )


_NO_SAMPLING: dict[str, Any] = {"fps": None, "frames": None, "every": None}


def _numbers(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        key.removeprefix("sampling."): value for key, value in fields.items() if key.startswith("sampling.")
    }


def _choose(
    store: FeatureStore, manifest: Manifest, frames: int, seed: int, found: Recheck
) -> dict[str, list[int]]:
    """By video id, the rows of the frames to look at; videos whose file is gone are noted in `found`."""
    random = np.random.default_rng(seed)
    known = [row.video_id for row in manifest if row.video_id in store]
    picks: dict[str, list[int]] = {}
    for place in random.permutation(len(known)):
        if sum(map(len, picks.values())) >= frames:
            break
        name = known[int(place)]
        if not os.path.isfile(manifest[name].path):
            found.unreachable[name] = f"no file {manifest[name].path}"
            continue
        count = min(PER_VIDEO, store.length(name), frames - sum(map(len, picks.values())))
        picks[name] = sorted(random.choice(store.length(name), count, replace=False).tolist())
    return picks


def _compare(
    found: Recheck,
    store: FeatureStore,
    encoder: Encoder,
    name: str,
    first: int,
    inside: list[int],
    chunk: Chunk,
) -> None:
    cached = store[name].features
    made = encoder.encode_images(np.ascontiguousarray(chunk.images[inside])).astype(np.float64)
    for place, features in zip(inside, made, strict=True):
        row = first + place
        if row >= len(cached):
            continue  # its number of frames is told as a deviation of the video
        kept = cached[row].astype(np.float64)
        cosine = float(features @ kept / max(math.sqrt((features @ features) * (kept @ kept)), 1e-30))
        found.frames += 1
        found.worst = max(found.worst, 1 - cosine)
        if not 1 - cosine <= found.tolerance:
            found.deviations.append(Deviation(name, row, f"1 - cosine is {1 - cosine:.2g}"))


def _compare_times(
    found: Recheck, store: FeatureStore, name: str, times: np.ndarray, duration: float
) -> None:
    kept = store[name]
    if len(times) != len(kept.times):
        why = f"{len(times)} frames now, {len(kept.times)} in the cache"
    elif (apart := float(np.abs(times - kept.times).max())) > SAME_TIME:
        why = f"a frame's time is off by {apart:.3g} s"
    elif abs(duration - kept.duration) > SAME_TIME:
        why = f"it lasts {duration:.3f} s, {kept.duration:.3f} s in the cache"
    else:
        return
    found.deviations.append(Deviation(name, -1, why))


def _tracked(events: Iterable[Any], videos: int, shown: bool) -> Iterator[Any]:
    if not shown:
        yield from events
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("encoding again"), BarColumn(), MofNCompleteColumn(), TextColumn("videos, left"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=videos)
        for event in events:
            yield event
            if not isinstance(event, Chunk):
                bar.advance(task)

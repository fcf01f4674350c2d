"""Search by text: a FAISS index over whole videos and one over their moments, and the answers to a query.

An index is a folder: `videos.faiss`, `windows.faiss`, `ids.parquet` (one row per video: id, path, script,
and the times and steps of its windows) and `meta.json` (fingerprint, checkpoint, sizes). Ids live inside the
artefact; nothing is matched by the row order of another file.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..cache.errors import StepclipError, nearest
from ..cache.files import read_json, write_json
from ..cache.fingerprint import Fingerprint

if TYPE_CHECKING:
    from ..cache.manifest import Manifest
    from ..cache.store import FeatureStore
    from ..train.checkpoint import Checkpoint
    from .embed import Embedded

SCHEMA = 1
FILES = ("videos.faiss", "windows.faiss", "ids.parquet", "meta.json")
WINDOW_SECONDS = 1.0
SPAN_SHARE = 0.5  # a span reaches as far as the score stays above peak - share * (peak - median of the video)


class TextEncoder(Protocol):
    """What search asks of an encoder (docs/interfaces.md, extract)."""

    name: str

    def fields(self) -> dict[str, Any]: ...

    def encode_texts(self, texts: list[str]) -> np.ndarray: ...


@dataclass(frozen=True)
class Answer:
    """One video that answers a query: `start`, `end` around the best moment `peak`, seconds of the file.

    `score` is the cosine of query and moment (by "moment") or of query and whole video (by "video"); `step`
    is the sentence of its script that ordered alignment puts at the peak, "" where the video has no script
    features.
    """

    video_id: str
    path: str
    score: float
    start: float
    end: float
    peak: float
    step: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def load_faiss() -> Any:
    """The faiss module, with its small-batch trap cured; StepclipError when it is not installed."""
    try:
        import faiss
    except ImportError as error:
        raise StepclipError(
            "faiss is not installed", "faiss, for search", "pip install 'stepclip[cpu]' (or 'stepclip[gpu]')"
        ) from error
    # Below this batch size faiss skips BLAS, which makes small batches 9x slower (performance.md, 4).
    faiss.cvar.distance_compute_blas_threshold = 1
    return faiss


def build_index(
    checkpoint: Checkpoint | str | os.PathLike[str] | None,
    store: FeatureStore | str | os.PathLike[str],
    manifest: Manifest,
    out: str | os.PathLike[str],
    ids: Sequence[str] | None = None,
    *,
    device: str = "auto",
) -> Path:
    """Index the videos `ids` (default: all of the manifest that have features) and return the folder.

    With a checkpoint the vectors are the trained embeddings; with None the raw features (mean over the
    video). A moment is the mean of the frame embeddings within half a second of a cached frame; a model that
    takes each video's mean off leaves moments to the raw features, if texts live in their space. The folder
    is made aside and put in place of an earlier index only when whole. StepclipError when features and
    checkpoint are of different fingerprints, nothing is there to index, or `out` holds something that is not
    an index.
    """
    import torch
    import torch.nn.functional as F

    from .embed import embed, embed_raw
    from .evaluation import opened

    faiss = load_faiss()
    out = Path(out)
    if out.exists() and not (out / "meta.json").exists() and (not out.is_dir() or any(out.iterdir())):
        raise StepclipError(f"{out} exists and is not an index", "a new folder, or an index to replace")
    source = str(checkpoint) if isinstance(checkpoint, str | os.PathLike) else ""
    if checkpoint is not None:
        checkpoint, store = opened(checkpoint, store)
    elif isinstance(store, str | os.PathLike):
        from ..cache.store import FeatureStore

        store = FeatureStore.open(store)
    if ids is None:
        ids = [video.video_id for video in manifest if video.video_id in store]
    if not ids:
        raise StepclipError("no video to index has features", "an extracted data set", "stepclip extract")
    embedded = embed_raw(store, ids, device) if checkpoint is None else embed(checkpoint, store, ids, device)
    if embedded.video.shape[1] != store.text_dim or embedded.frames.shape[1] != store.text_dim:
        raise StepclipError(
            f"video vectors of {embedded.video.shape[1]} numbers, texts of {store.text_dim}",
            "one shared space",
            "train a model on these features and build the index with it",
        )

    moments = embedded
    if checkpoint is not None and checkpoint.model.config.centre and store.dim == store.text_dim:
        # Without its video's mean a frame says how it differs from the rest of the video: right for the
        # video's own script, wrong for a sentence that is asked of all videos.
        moments = embed_raw(store, ids, device)
    vectors = {
        "videos.faiss": F.normalize(embedded.video, dim=-1),
        "windows.faiss": F.normalize(window_means(moments, WINDOW_SECONDS), dim=-1),
    }
    steps = _window_steps(embedded, store, manifest)
    aside = out.with_name(f".{out.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    aside.mkdir(parents=True)
    try:
        for name, value in vectors.items():
            index = faiss.IndexFlatIP(int(value.shape[1]))
            index.add(np.ascontiguousarray(value.to(torch.float32).cpu().numpy()))
            faiss.write_index(index, str(aside / name))
        _write_ids(aside / "ids.parquet", embedded, manifest, steps)
        meta = {
            "schema": SCHEMA,
            "fingerprint": dict(store.fingerprint.fields),
            "checkpoint": source,
            "recipe": None if checkpoint is None else checkpoint.recipe.name,
            "step": None if checkpoint is None else checkpoint.step,
            "dim": int(embedded.video.shape[1]),
            "videos": len(embedded),
            "windows": len(embedded.frames),
            "moments": moments.name,
            "window_seconds": WINDOW_SECONDS,
        }
        write_json(aside / "meta.json", meta)
        _put_in_place(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return out


def window_means(embedded: Embedded, seconds: float) -> Any:
    """Mean (N, E) of the frame embeddings within `seconds` / 2 of each cached frame of the same video."""
    import torch

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


def _window_steps(embedded: Embedded, store: FeatureStore, manifest: Manifest) -> list[np.ndarray]:
    """Step (T,) at each frame of each video; empty where the texts have no features."""
    from .localisation import align_scripts

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


def _write_ids(path: Path, embedded: Embedded, manifest: Manifest, steps: list[np.ndarray]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    videos = [manifest[v] if v in manifest else None for v in embedded.video_ids]  # noqa: SIM401
    table = pa.table(
        {
            "video_id": pa.array(embedded.video_ids, pa.string()),
            "path": pa.array([v.path if v else "" for v in videos], pa.string()),
            "task": pa.array([v.task if v else "" for v in videos], pa.string()),
            "procedure": pa.array([v.procedure if v else "" for v in videos], pa.string()),
            "split": pa.array([v.split if v else "" for v in videos], pa.string()),
            "script": pa.array([list(v.steps) if v else [] for v in videos], pa.list_(pa.string())),
            # where the trim begins in the file; window times count from there
            "trim": pa.array([(v.start or 0.0) if v else 0.0 for v in videos], pa.float64()),
            "duration": pa.array(embedded.durations.tolist(), pa.float64()),
            "first": pa.array(embedded.offsets[:-1].tolist(), pa.int64()),
            "times": pa.array(
                [embedded.times[embedded.slice(i)] for i in range(len(videos))], pa.list_(pa.float64())
            ),
            "steps": pa.array(steps, pa.list_(pa.int64())),
        }
    )
    pq.write_table(table, path)


def _put_in_place(aside: Path, out: Path) -> None:
    """`aside` becomes `out`; an earlier index is moved away first and removed last."""
    old = out.with_name(f".{out.name}.{os.getpid()}.{secrets.token_hex(4)}.old")
    had = out.exists()
    if had:
        os.replace(out, old)
    try:
        os.replace(aside, out)
    except OSError:
        if had:
            os.replace(old, out)
        raise
    shutil.rmtree(old, ignore_errors=True)


class SearchIndex:
    """An index opened for many queries. Use `SearchIndex.open(folder)`."""

    def __init__(
        self, folder: Path, meta: dict[str, Any], videos: Any, windows: Any, ids: dict[str, list[Any]]
    ) -> None:
        self.folder, self.meta, self.videos, self.windows, self.ids = folder, meta, videos, windows, ids
        self.fingerprint = Fingerprint(meta["fingerprint"])
        self.first = np.array([*ids["first"], windows.ntotal], dtype=np.int64)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> SearchIndex:
        """Open an index folder; StepclipError when it is missing, damaged, or of another schema."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        faiss = load_faiss()
        folder = Path(folder)
        missing = [name for name in FILES if not (folder / name).is_file()]
        if missing:
            raise StepclipError(
                f"no index at {folder}: {', '.join(missing)} missing",
                "an index folder",
                "stepclip index build",
            )
        meta = read_json(folder / "meta.json")
        if not isinstance(meta, dict) or meta.get("schema") != SCHEMA:
            got = meta.get("schema") if isinstance(meta, dict) else meta
            raise StepclipError(
                f"{folder} has index schema {got!r}", f"schema {SCHEMA}", "stepclip index build"
            )
        try:
            videos = faiss.read_index(str(folder / "videos.faiss"))
            windows = faiss.read_index(str(folder / "windows.faiss"))
            ids = pq.read_table(folder / "ids.parquet").to_pydict()
        except (RuntimeError, OSError, pa.ArrowException) as error:
            reason = str(error).splitlines()[0][:200]
            raise StepclipError(
                f"the index at {folder} cannot be read: {reason}", "", "stepclip index build"
            ) from error
        counts = (videos.ntotal, windows.ntotal, len(ids["video_id"]), sum(map(len, ids["times"])))
        wanted = (meta["videos"], meta["windows"], meta["videos"], meta["windows"])
        if counts != wanted:
            raise StepclipError(
                f"the index at {folder} holds {counts} rows", f"{wanted}", "stepclip index build"
            )
        return cls(folder, meta, videos, windows, ids)

    def check(self, encoder: TextEncoder) -> None:
        """StepclipError when the encoder is not the one the indexed features were made by."""
        # The weights decide; a name, a precision, a crop of the images change nothing that a text meets.
        fields = self.fingerprint.fields
        mine = {k: v for k, v in fields.items() if k == "encoder.weights"}
        mine = mine or {k: v for k, v in fields.items() if k.startswith("encoder.")}
        asked = {k: v for k, v in encoder.fields().items() if k in mine}
        here, there = Fingerprint(mine), Fingerprint(asked)
        if here != there:
            raise StepclipError(
                f"the index at {self.folder} was built on features of another encoder:\n"
                + here.table(there, "index", "asked with"),
                "the encoder of the index",
                "give --encoder the index's encoder, or extract and index anew",
            )

    def search(self, text: str, encoder: TextEncoder, top: int = 5, by: str = "moment") -> list[Answer]:
        """The `top` videos for a text, best first; see `search`."""
        if not text.strip():
            raise StepclipError("the text to search for is empty", "a sentence or a whole script")
        if top < 1:
            raise StepclipError(f"top = {top}", "1 or more answers")
        if by not in ("moment", "video"):
            raise StepclipError(f"by = {by!r}{nearest(by, ('moment', 'video'))}", "'moment' or 'video'")
        self.check(encoder)
        query = np.asarray(encoder.encode_texts([text]), dtype=np.float32).reshape(1, -1)
        if query.shape[1] != self.meta["dim"]:
            raise StepclipError(
                f"a text feature of {query.shape[1]} numbers", f"{self.meta['dim']}, as in the index"
            )
        query = np.ascontiguousarray(query / max(float(np.linalg.norm(query)), 1e-12))
        top = min(top, self.videos.ntotal)
        if by == "video":
            scores, rows = self.videos.search(query, top)
            found = list(zip(rows[0].tolist(), scores[0].tolist(), strict=True))
        else:
            found = self._best_moments(query, top)
        return [self._answer(row, score, query[0]) for row, score in found]

    def _best_moments(self, query: np.ndarray, top: int) -> list[tuple[int, float]]:
        """The `top` videos by their best window: ask for more windows until that many videos show up."""
        total = self.windows.ntotal
        wanted = min(total, 64 * top)
        while True:
            scores, rows = self.windows.search(query, wanted)
            owner = np.searchsorted(self.first, rows[0], side="right") - 1
            videos, first = np.unique(owner, return_index=True)
            if len(videos) >= top or wanted == total:
                best = np.sort(first)[:top]
                return [(int(owner[i]), float(scores[0][i])) for i in best]
            wanted = min(total, wanted * 4)

    def _answer(self, row: int, score: float, query: np.ndarray) -> Answer:
        first, last = int(self.first[row]), int(self.first[row + 1])
        times = np.asarray(self.ids["times"][row])
        scores = self.windows.reconstruct_n(first, last - first) @ query
        peak = int(scores.argmax())
        begin, end = grow(scores, peak)
        from .localisation import frame_borders

        borders = frame_borders(times, float(self.ids["duration"][row])) + self.ids["trim"][row]
        steps, script = self.ids["steps"][row], self.ids["script"][row]
        return Answer(
            video_id=self.ids["video_id"][row],
            path=self.ids["path"][row],
            score=float(score),
            start=float(borders[begin]),
            end=float(borders[end]),
            peak=float(times[peak] + self.ids["trim"][row]),
            step=script[steps[peak]] if steps else "",
        )


def grow(scores: np.ndarray, peak: int, share: float = SPAN_SHARE) -> tuple[int, int]:
    """First and one past the last window of the stretch around `peak` where `scores` (T,) stay near the peak.

    Near is above the peak by less than `share` of what it stands over the video's median, so a video that
    scores the same everywhere is one whole span and a sharp moment a short one.
    """
    floor = scores[peak] - share * (scores[peak] - np.median(scores))
    below = np.flatnonzero(scores < floor - 1e-7)
    before, after = below[below < peak], below[below > peak]
    return (int(before[-1]) + 1 if len(before) else 0), (int(after[0]) if len(after) else len(scores))


def search(
    index: SearchIndex | str | os.PathLike[str],
    text: str,
    encoder: TextEncoder,
    top: int = 5,
    by: str = "moment",
) -> list[Answer]:
    """Search an index (folder, or opened once for many queries) for a text, best answer first, one per video.

    by "moment" ranks videos by their best second, for a sentence; by "video" by the whole video, for a
    script. StepclipError when the encoder is not the one of the indexed features.
    """
    opened = index if isinstance(index, SearchIndex) else SearchIndex.open(index)
    return opened.search(text, encoder, top, by)

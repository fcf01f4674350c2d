"""Making an index, adding videos to it and taking some out.

```
indexes/<run>/  meta.json       fingerprint, checkpoint, spaces, kinds, the parts in order, videos taken out
                parts/<name>/   see part.py
                trained/        approximate indices without vectors, for the parts that come
```
meta.json is replaced in one step by every change, and a part never changes: who reads sees the index as it
was before or after.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...cache.errors import StepclipError, nearest
from ...cache.files import locked, read_json, write_json
from .kinds import KINDS, Level, choose_kind, load_faiss, make_level
from .part import REBUILD, Part, write_part
from .vectors import LEVELS, WINDOW_SECONDS, Spaces, Vectors, embeds_texts, make_vectors

if TYPE_CHECKING:
    from ...cache.manifest import Manifest
    from ...cache.store import FeatureStore
    from ...train.checkpoint import Checkpoint

SCHEMA = 2
MEMORY_SHARE = 0.5  # of the free memory, for the vectors, where nobody says how much
PART_SHARE = 0.25  # of the free memory, for what is embedded at once
LOCK = "changing.lock"
QUERIES = 1000  # sentences on which an approximate index is tuned
PathLike = str | os.PathLike[str]


def build_index(
    checkpoint: Checkpoint | PathLike | None,
    store: FeatureStore | PathLike,
    manifest: Manifest,
    out: PathLike,
    ids: Sequence[str] | None = None,
    *,
    kind: str = "auto",
    memory: float | None = None,
    device: str = "auto",
    say: Callable[[str], None] | None = None,
) -> Path:
    """Index the videos `ids` (default: all of the manifest that have features) and return the folder.

    With a checkpoint the vectors are the trained embeddings; with None the raw features (mean over the
    video). `Spaces.of` says which level holds which. A moment is the mean of the frames within half a second
    of a cached frame. kind: exact, ivf, hnsw, pq (see `kinds`), or auto: exact while the moments fit into
    `memory` bytes (default: half of what is free), else pq. An approximate index is tuned on the cache's
    sentences; `say` is told its recall. The folder is made aside and put in place of an earlier index only
    when whole. StepclipError when features and checkpoint are of different fingerprints, nothing is there to
    index, or `out` holds something that is not an index.
    """
    load_faiss()
    out = Path(out)
    if out.exists() and not (out / "meta.json").exists() and (not out.is_dir() or any(out.iterdir())):
        raise StepclipError(f"{out} exists and is not an index", "a new folder, or an index to replace")
    if kind not in ("auto", *KINDS):
        raise StepclipError(
            f"an index of kind {kind!r}{nearest(kind, KINDS)}", f"auto or one of {', '.join(KINDS)}"
        )
    source = str(checkpoint) if isinstance(checkpoint, str | os.PathLike) else ""
    checkpoint, store = _opened(checkpoint, store)
    chosen = [v.video_id for v in manifest if v.video_id in store] if ids is None else list(ids)
    if not chosen:
        raise StepclipError("no video to index has features", "an extracted data set", "stepclip extract")
    spaces = Spaces.of(checkpoint, store)
    if kind == "auto":
        frames = sum(store.length(video_id) for video_id in chosen)
        kind = choose_kind(frames, store.text_dim or store.dim, _memory(memory))
    meta = {
        "schema": SCHEMA,
        "fingerprint": dict(store.fingerprint.fields),
        "checkpoint": source,
        "recipe": None if checkpoint is None else checkpoint.recipe.name,
        "step": None if checkpoint is None else checkpoint.step,
        "spaces": asdict(spaces),
        "model_embeds_texts": embeds_texts(checkpoint),
        "kind": kind,
        "window_seconds": WINDOW_SECONDS,
        "parts": {},
    }
    aside = out.with_name(f".{out.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    aside.mkdir(parents=True)
    try:
        for block in _blocks(store, chosen):
            _add_part(aside, meta, checkpoint, store, manifest, block, device, say)
        write_json(aside / "meta.json", meta)
        _put_in_place(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return out


def add_videos(
    folder: PathLike,
    checkpoint: Checkpoint | PathLike | None,
    store: FeatureStore | PathLike,
    manifest: Manifest,
    ids: Sequence[str] | None = None,
    *,
    device: str = "auto",
    say: Callable[[str], None] | None = None,
) -> list[str]:
    """Add the videos `ids` (default: all of the manifest that have features) which the index lacks, as a part
    of their own; nothing of the rest is built again. Returns the ids added.

    StepclipError when the index is of another checkpoint or of other features.
    """
    folder = Path(folder)
    source = str(checkpoint) if isinstance(checkpoint, str | os.PathLike) else ""
    checkpoint, store = _opened(checkpoint, store)
    read_meta(folder)  # a folder that is no index is told before anything is made in it
    with locked(folder / LOCK):
        meta, parts = open_parts(folder)
        _check_same(folder, meta, checkpoint, store)
        there = {v for part in parts for v, out in zip(part.ids(), part.gone, strict=True) if not out}
        wanted = [v.video_id for v in manifest if v.video_id in store] if ids is None else list(ids)
        new = [v for v in wanted if v not in there]
        for block in _blocks(store, new):
            _add_part(folder, meta, checkpoint, store, manifest, block, device, say)
        meta["checkpoint"] = source or meta["checkpoint"]
        write_json(folder / "meta.json", meta)
    return new


def remove_videos(folder: PathLike, ids: Sequence[str]) -> list[str]:
    """Take videos out: they never answer again, until they are added again. Returns the ids that were there.

    Their vectors stay on the disk until the index is built anew; a part of which all are out is deleted.
    """
    folder = Path(folder)
    read_meta(folder)
    with locked(folder / LOCK):
        meta, parts = open_parts(folder)
        found, empty = [], []
        for part in parts:
            name = part.folder.name
            rows = [i for i, v in enumerate(part.ids()) if v in set(ids) and not part.gone[i]]
            found += [part.cell("video_id", i) for i in rows]
            out = sorted({*meta["parts"][name]["gone"], *rows})
            meta["parts"][name]["gone"] = out
            if len(out) == len(part):
                empty.append(name)
        if len(empty) == len(meta["parts"]):
            raise StepclipError("every video would be taken out", "an index with one video or more", REBUILD)
        for name in empty:
            del meta["parts"][name]
        write_json(folder / "meta.json", meta)
        for name in empty:
            shutil.rmtree(folder / "parts" / name, ignore_errors=True)
    return found


def read_meta(folder: Path) -> dict[str, Any]:
    """meta.json of an index. StepclipError when there is none, or of another schema."""
    if not (folder / "meta.json").is_file():
        raise StepclipError(f"no index at {folder}", "an index folder", REBUILD)
    meta = read_json(folder / "meta.json")
    got = meta.get("schema") if isinstance(meta, dict) else meta
    if got != SCHEMA:
        raise StepclipError(f"{folder} has index schema {got!r}", f"schema {SCHEMA}", REBUILD)
    return meta


def open_parts(folder: Path, gpu: bool = False) -> tuple[dict[str, Any], list[Part]]:
    """meta.json of an index and its parts. Reads anew where the index was changed meanwhile."""
    while True:
        meta = read_meta(folder)
        try:
            return meta, [
                Part.open(folder / "parts" / name, about["gone"], gpu)
                for name, about in meta["parts"].items()
            ]
        except StepclipError:
            if read_meta(folder) == meta:
                raise


def _opened(checkpoint: Any, store: Any) -> tuple[Checkpoint | None, FeatureStore]:
    from ..evaluation import opened, opened_store

    return (None, opened_store(store)) if checkpoint is None else opened(checkpoint, store)


def _check_same(
    folder: Path, meta: dict[str, Any], checkpoint: Checkpoint | None, store: FeatureStore
) -> None:
    from ...cache.fingerprint import Fingerprint

    mine = Fingerprint(meta["fingerprint"])
    if mine != store.fingerprint:
        raise StepclipError(
            f"the index at {folder} was built on other features:\n"
            + mine.table(store.fingerprint, "index", "cache"),
            "the features of the index",
            REBUILD,
        )
    now = (None, None) if checkpoint is None else (checkpoint.recipe.name, checkpoint.step)
    if (meta["recipe"], meta["step"]) != now:
        raise StepclipError(
            f"the index at {folder} is of {meta['recipe']} at step {meta['step']}",
            f"{now[0]} at step {now[1]}, as is given now",
            REBUILD,
        )


def _memory(asked: float | None) -> float | None:
    import torch

    from ...train.features import free_memory

    if asked is not None:
        return asked
    free = free_memory(torch.device("cpu"))
    return None if free is None else MEMORY_SHARE * free


def _blocks(store: FeatureStore, ids: Sequence[str]) -> list[list[str]]:
    """`ids` in blocks whose embeddings fit into memory, a part each."""
    import torch

    from ...train.features import free_memory

    free = free_memory(torch.device("cpu"))
    most = np.inf if free is None else PART_SHARE * free
    blocks: list[list[str]] = []
    size = np.inf
    for video_id in ids:
        # float32 frames, raw and trained, their sums in double and their means
        need = 24.0 * store.length(video_id) * max(store.dim, store.text_dim)
        if size + need > most or not blocks:
            blocks.append([])
            size = 0.0
        blocks[-1].append(video_id)
        size += need
    return blocks


def _add_part(
    folder: Path,
    meta: dict[str, Any],
    checkpoint: Checkpoint | None,
    store: FeatureStore,
    manifest: Manifest,
    ids: Sequence[str],
    device: str,
    say: Callable[[str], None] | None,
) -> None:
    """Write a part of `ids` into `folder` and its name into `meta`."""
    vectors = make_vectors(checkpoint, store, manifest, ids, device)
    queries = None
    if meta["kind"] != "exact":
        queries = _sentences(checkpoint, store, manifest, meta)
    levels = {name: _level(folder, name, vectors, meta, queries) for name in LEVELS}
    name = f"{len(list((folder / 'parts').glob('*'))):04d}-{secrets.token_hex(3)}"
    home = folder / "parts" / name
    try:
        write_part(home, vectors, levels, manifest)
    except BaseException:
        shutil.rmtree(home, ignore_errors=True)
        raise
    meta["parts"][name] = {"gone": []}
    for level_name, level in levels.items():
        if say and level.kind != "exact":
            say(
                f"{level_name}: {len(level)} vectors by {level.kind}, effort {level.effort}: "
                f"{level.recall:.3f} of the ten nearest to a sentence are found"
            )


def _level(
    folder: Path, name: str, vectors: Vectors, meta: dict[str, Any], queries: np.ndarray | None
) -> Level:
    found = vectors.levels[name]
    if meta["kind"] == "exact":
        return make_level(found, "exact")
    faiss = load_faiss()
    kept = folder / "trained" / f"{name}.faiss"
    trained = faiss.read_index(str(kept)) if kept.is_file() else None
    usable = queries if queries is not None and queries.shape[1] == found.shape[1] else None
    level = make_level(found, meta["kind"], usable, trained)
    if level.trained is not None and trained is None:
        kept.parent.mkdir(exist_ok=True)
        faiss.write_index(level.trained, str(kept))
    return level


def _sentences(
    checkpoint: Checkpoint | None, store: FeatureStore, manifest: Manifest, meta: dict[str, Any]
) -> np.ndarray | None:
    """Unit features (Q, E) of sentences of the scripts, as queries of the moments would be."""
    import torch
    import torch.nn.functional as F

    known = [s for s in manifest.steps() if store.has_text(s, "step")]
    if not known:
        return None
    chosen = np.random.default_rng(0).permutation(len(known))[:QUERIES]
    features = torch.as_tensor(store.text([known[i] for i in sorted(chosen)], "step")).float()
    if checkpoint is not None and meta["spaces"]["windows"] == "model":
        with torch.no_grad():
            features = checkpoint.model.cpu().embed_texts(features, "step")
    return F.normalize(features.float(), dim=-1).numpy()


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

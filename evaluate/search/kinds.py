"""How vectors are searched: exactly, or by one of FAISS's approximate indices.

| kind | what it is | when |
|---|---|---|
| exact | every vector is compared (IndexFlatIP) | the default, while the vectors fit into the memory given |
| ivf | cells of codes of dim bytes, the best compared again with the vectors on the disk | many queries |
| hnsw | a walk on a graph of neighbours | many queries for moments, small batches |
| pq | as ivf, codes of dim / 8 bytes | beyond memory |

Sentences are asked of vectors of pictures: far from what an approximate index is trained on (text2image at
big-ann-benchmarks). So each one is tuned and measured on sentences: `tune` raises its effort until 95 % of
the ten nearest are found, and `Level.recall` says what was reached.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...cache.errors import StepclipError, nearest

KINDS = ("exact", "ivf", "hnsw", "pq")
TARGET = 0.95  # share of the ten nearest that an approximate index must find
NEAREST = 10
LEAST = 2000  # vectors below which exact search is at once the fastest
RESIDENT = 0.5  # of the free memory, for an exact index
FOR_CODES = 20_000  # vectors that the codes of pq are learned from
REFINED = {"ivf": 20, "pq": 100}  # kinds that compare codes, and how many they compare again at least
STALLED = 0.005  # of recall: less is no gain
PER_CELL = 39  # training vectors that FAISS wants for each cell


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


def choose_kind(count: int, dim: int, memory: float | None) -> str:
    """exact while `count` vectors of `dim` float32 fit into `memory` bytes (None: they do), else ivf while
    its codes do, else pq."""
    if memory is None or count < LEAST or 4.0 * count * dim <= memory:
        return "exact"
    return "ivf" if (dim + 8.0) * count <= memory else "pq"


def factory(kind: str, count: int, dim: int) -> str:
    """FAISS's name of an index of `kind` for `count` vectors."""
    if kind not in KINDS:
        raise StepclipError(f"an index of kind {kind!r}{nearest(kind, KINDS)}", f"one of {', '.join(KINDS)}")
    cells = 2 ** round(math.log2(max(1.0, min(4 * math.sqrt(count), count / PER_CELL))))
    if kind == "exact" or count < LEAST:
        return "Flat"
    if kind == "hnsw":
        return "HNSW32"
    if kind == "ivf":
        return f"IVF{cells},SQ8"
    pieces = next(m for m in range(max(1, dim // 8), 0, -1) if dim % m == 0)
    return f"IVF{cells},PQ{pieces}"


@dataclass
class Level:
    """One set of unit vectors that can be searched: `index` and, where it cannot give them back, `raw` (N, E)
    float16 on the disk. `effort`: nprobe or efSearch; ivf and pq compare `refine` times as many again."""

    index: Any
    raw: np.ndarray | None = None
    effort: int = 1
    refine: int = 10
    kind: str = "exact"
    recall: float = 1.0
    trained: Any = field(default=None, repr=False)  # the same index without vectors, for videos added later
    file: Path | None = None  # of an exact index that is mapped and may be read into memory instead
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    def __len__(self) -> int:
        return int(self.index.ntotal)

    @property
    def dim(self) -> int:
        return int(self.index.d)

    def search(
        self, queries: np.ndarray, top: int, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cosines (Q, k) and rows (Q, k) of the nearest to unit `queries` (Q, E) float32, best first.

        `allowed` (N,) bool: rows that may be found. k is `top`, or less where there are not as many; where an
        approximate index finds fewer, -inf and -1 fill the end.
        """
        top = min(top, len(self) if allowed is None else int(allowed.sum()))
        if top < 1:
            return np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int64)
        if self.file is not None:
            self._settle()
        if self.kind not in REFINED:
            scores, rows = self.index.search(queries, top, params=self._parameters(allowed, top))
        else:
            scores, rows = self._refined(queries, top, allowed)
        if self.kind != "exact":
            scores[rows < 0] = -np.inf
        return scores, rows

    def _settle(self) -> None:
        """Read an exact index into memory at its first search, where it fits: each query looks at all of it,
        and what is only mapped may be taken out of the memory between two of them."""
        from ...train.features import free_memory

        with self._lock:
            if self.file is None:
                return
            import torch

            free = free_memory(torch.device("cpu"))
            try:
                if free is None or self.file.stat().st_size <= RESIDENT * free:
                    self.index = load_faiss().read_index(str(self.file))
            except (OSError, RuntimeError):
                pass  # the part was replaced since it was opened: what is mapped of it stays
            self.file = None

    def _refined(
        self, queries: np.ndarray, top: int, allowed: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best by their codes, compared again by the vectors themselves."""
        assert self.raw is not None
        wanted = min(len(self), max(REFINED[self.kind], self.refine * top))
        _, rows = self.index.search(queries, wanted, params=self._parameters(allowed, wanted))
        scores = np.full(rows.shape, -np.inf, np.float32)
        for q, found in enumerate(rows):
            real = np.flatnonzero(found >= 0)
            real = real[np.argsort(found[real])]  # in the order of the file
            scores[q, real] = self.raw[found[real]].astype(np.float32) @ queries[q]
        best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
        return np.take_along_axis(scores, best, 1), np.take_along_axis(rows, best, 1)

    def _parameters(self, allowed: np.ndarray | None, top: int) -> Any:
        faiss = load_faiss()
        given: dict[str, Any] = {}
        if allowed is not None:
            bits = np.packbits(allowed, bitorder="little")
            given["sel"] = faiss.IDSelectorBitmap(bits)
        index = faiss.downcast_index(self.index)
        if isinstance(index, faiss.IndexIVF):
            return faiss.SearchParametersIVF(nprobe=self.effort, **given)
        if isinstance(index, faiss.IndexHNSW):
            return faiss.SearchParametersHNSW(efSearch=max(self.effort, top), **given)
        return faiss.SearchParameters(**given) if given else None

    def vectors(self, rows: np.ndarray | slice) -> np.ndarray:
        """The vectors (n, E) float32 of some rows."""
        if self.raw is not None:
            return self.raw[rows].astype(np.float32)
        if isinstance(rows, slice):
            return self.index.reconstruct_n(rows.start, rows.stop - rows.start)
        return self.index.reconstruct_batch(np.ascontiguousarray(rows, dtype=np.int64))

    def about(self) -> dict[str, Any]:
        return {
            "kind": self.kind, "effort": self.effort, "refine": self.refine, "recall": self.recall,
            "count": len(self), "dim": self.dim,
        }  # fmt: skip


def make_level(
    vectors: np.ndarray,
    kind: str,
    queries: np.ndarray | None = None,
    trained: Any = None,
    seed: int = 0,
) -> Level:
    """A level over unit `vectors` (N, E) float32. An approximate one is trained on them (or is `trained`
    already, on those of an earlier part) and tuned on `queries` (Q, E) of sentences, if there are any."""
    faiss = load_faiss()
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    count, dim = vectors.shape
    named = factory(kind, count, dim)
    if named == "Flat" and trained is None:
        index = faiss.IndexFlatIP(dim)
        index.add(vectors)
        return Level(index)
    if trained is None:
        index = faiss.index_factory(dim, named, faiss.METRIC_INNER_PRODUCT)
        if (cells := _cells(index)) is not None:
            sample = np.random.default_rng(seed).permutation(count)[: max(64 * cells, FOR_CODES)]
            index.train(np.ascontiguousarray(vectors[np.sort(sample)]))
        trained = faiss.clone_index(index)
    else:
        index = faiss.clone_index(trained)
    index.add(vectors)
    level = Level(index, None if kind == "hnsw" else vectors.astype(np.float16), kind=kind, trained=trained)
    if queries is not None and len(queries):
        tune(level, vectors, queries)
    else:
        level.effort, level.recall = (64, math.nan)
    return level


def _cells(index: Any) -> int | None:
    """How many cells an index has; None where it has none."""
    found = load_faiss().try_extract_index_ivf(index)
    return None if found is None else int(found.nlist)


def tune(level: Level, vectors: np.ndarray, queries: np.ndarray, target: float = TARGET) -> float:
    """Raise the level's effort until `target` of the ten nearest to `queries` are found; its recall.

    `target` is reached when the share, less its standard error over the queries, is: other sentences are
    asked later. With codes (ivf, pq) it is either the cells looked at or the candidates compared again that
    are too few: the one is doubled while that helps, then the other.
    """
    faiss = load_faiss()
    _, truth = faiss.knn(queries, vectors, min(NEAREST, len(vectors)), metric=faiss.METRIC_INNER_PRODUCT)
    cells = _cells(level.index)
    most = {"effort": cells or 4096, "refine": 1000 if level.kind in REFINED else 0}
    level.effort, level.refine = (1 if cells else 16), 10 if level.kind == "pq" else 2
    (level.recall, error), raised = _share(level, queries, truth), "effort"
    while level.recall - error < target:
        left = [knob for knob in most if getattr(level, knob) < most[knob]]
        if not left:
            return level.recall
        raised = raised if raised in left else left[0]
        before = level.recall
        setattr(level, raised, min(most[raised], 2 * getattr(level, raised)))
        level.recall, error = _share(level, queries, truth)
        if level.recall - before < STALLED:
            raised = "refine" if raised == "effort" else "effort"
    full = level.effort  # a part of the last doubling may do
    for less in (3 * full // 4, 7 * full // 8):
        if less < 3:
            break
        level.effort = less
        found, error = _share(level, queries, truth)
        if found - error >= target:
            level.recall = found
            return found
    level.effort = full
    return level.recall


def recall(level: Level, queries: np.ndarray, truth: np.ndarray) -> float:
    """Share of the true nearest rows `truth` (Q, k) that the level finds among its first k."""
    return _share(level, queries, truth)[0]


def _share(level: Level, queries: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """`recall`, and its standard error over the queries."""
    _, rows = level.search(queries, truth.shape[1])
    each = np.array([np.isin(a, b).mean() for a, b in zip(truth, rows, strict=True)])
    return float(each.mean()), float(each.std() / len(each) ** 0.5)


def save_level(level: Level, folder: Path, name: str) -> None:
    """Write `<name>.faiss`, beside it `<name>.npy`, the vectors that it cannot give back."""
    load_faiss().write_index(level.index, str(folder / f"{name}.faiss"))
    if level.raw is not None:
        np.save(folder / f"{name}.npy", level.raw)


def open_level(folder: Path, name: str, about: dict[str, Any], gpu: bool = False) -> Level:
    """A level mapped into memory; with `gpu`, on the GPUs that faiss-gpu sees."""
    faiss = load_faiss()
    file = folder / f"{name}.faiss"
    index = faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC)
    moved = gpu and about["kind"] != "hnsw" and bool(getattr(faiss, "get_num_gpus", int)())
    if moved:
        index = faiss.index_cpu_to_all_gpus(index)  # not run here: no GPU
    kept = file if about["kind"] == "exact" and not moved else None
    has_raw = about["kind"] in REFINED
    raw = np.load(folder / f"{name}.npy", mmap_mode="r") if has_raw else None
    return Level(index, raw, about["effort"], about["refine"], about["kind"], about["recall"], file=kept)

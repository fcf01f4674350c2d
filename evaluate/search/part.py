"""One part of an index on the disk: what was indexed together. An index is one part or more.

```
parts/<name>/  ids.arrow       a row per video: id, path, task, script, times and steps of its moments, ...
               <level>.faiss   videos, windows, steps;  <level>.npy where that cannot give vectors back
               ordered.npy     windows for the re-ranking, bfloat16
               part.json       counts, sizes of the files, kinds
```
All of it is mapped into memory, never read whole: opening takes milliseconds, whatever the size.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...cache.errors import StepclipError
from ...cache.files import read_json, write_json
from .answers import Filter
from .kinds import Level, open_level, save_level
from .ordered import Windows, window_edges
from .vectors import LEVELS, Vectors

if TYPE_CHECKING:
    import pyarrow as pa

    from ...cache.manifest import Manifest

REBUILD = "stepclip index build"


def write_part(folder: Path, vectors: Vectors, levels: dict[str, Level], manifest: Manifest) -> None:
    """Write a part into the new folder `folder`."""
    import pyarrow as pa

    folder.mkdir(parents=True)
    for name, level in levels.items():
        save_level(level, folder, name)
    np.save(folder / "ordered.npy", vectors.windows.rows.view(torch.int16).numpy())
    table = _table(vectors, manifest)
    with pa.OSFile(str(folder / "ids.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    about = {
        "videos": len(vectors.embedded),
        "ordered": len(vectors.windows.rows),
        "levels": {name: level.about() for name, level in levels.items()},
        "sizes": sizes,
    }
    write_json(folder / "part.json", about)


def _table(vectors: Vectors, manifest: Manifest) -> pa.Table:
    import pyarrow as pa

    e = vectors.embedded
    rows = [manifest[v] if v in manifest else None for v in e.video_ids]  # noqa: SIM401
    text = pa.string()
    floats, places = pa.list_(pa.float64()), pa.list_(pa.int32())
    return pa.table(
        {
            "video_id": pa.array(e.video_ids, text),
            "path": pa.array([v.path if v else "" for v in rows], text),
            "task": pa.array([v.task if v else "" for v in rows], text),
            "procedure": pa.array([v.procedure if v else "" for v in rows], text),
            "split": pa.array([v.split if v else "" for v in rows], text),
            "script": pa.array([list(v.steps) if v else [] for v in rows], pa.list_(text)),
            # where the trim begins in the file; times count from there
            "trim": pa.array([(v.start or 0.0) if v else 0.0 for v in rows], pa.float64()),
            "duration": pa.array(e.durations.tolist(), pa.float64()),
            "times": pa.array([e.times[e.slice(i)] for i in range(len(e))], floats),
            "labels": pa.array(vectors.labels, places),
            "step_at": pa.array(vectors.step_at, places),
            "step_start": pa.array([s[:, 0] for s in vectors.step_spans], floats),
            "step_end": pa.array([s[:, 1] for s in vectors.step_spans], floats),
        }
    ).combine_chunks()


@dataclass
class Part:
    """A part opened for search. `gone` (V,) bool: videos taken out since."""

    folder: Path
    table: pa.Table
    levels: dict[str, Level]
    windows: Windows
    firsts: dict[str, np.ndarray]  # level -> (V+1,): the rows of each video
    gone: np.ndarray

    @classmethod
    def open(cls, folder: Path, gone: list[int], gpu: bool = False) -> Part:
        """Raises StepclipError where a file is missing, cut, or not of this part."""
        import pyarrow as pa

        about = read_json(folder / "part.json")
        try:
            for name, size in about["sizes"].items():
                there = (folder / name).stat().st_size
                if there != size:
                    raise StepclipError(f"{folder / name} has {there} bytes", f"{size} bytes", REBUILD)
            levels = {name: open_level(folder, name, about["levels"][name], gpu) for name in LEVELS}
            table = pa.ipc.open_file(pa.memory_map(str(folder / "ids.arrow"))).read_all()
            table.validate()
            bits = np.load(folder / "ordered.npy", mmap_mode="c")  # torch wants it writable; nobody writes
            counts = {"videos": table.num_rows, "ordered": len(bits)}
            counts |= {name: len(level) for name, level in levels.items()}
        except (RuntimeError, OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            reason = str(error).splitlines()[0][:200] if str(error) else repr(error)
            raise StepclipError(f"the index part {folder} cannot be read: {reason}", "", REBUILD) from error
        wanted = {"videos": about["videos"], "ordered": about["ordered"]}
        wanted |= {name: about["levels"][name]["count"] for name in LEVELS}
        wanted["windows"], wanted["steps"] = (int(_offsets(table, c)[-1]) for c in ("times", "step_at"))
        if counts != wanted:
            raise StepclipError(f"the index part {folder} holds {counts} rows", f"{wanted}", REBUILD)
        mask = np.zeros(table.num_rows, dtype=bool)
        mask[gone] = True
        windows, steps = _offsets(table, "times"), _offsets(table, "step_at")
        counts64 = np.array([len(window_edges(int(n))) - 1 for n in np.diff(windows)], dtype=np.int64)
        ordered = np.concatenate(([0], np.cumsum(counts64)))
        firsts = {"videos": np.arange(table.num_rows + 1), "windows": windows, "steps": steps}
        rows = torch.from_numpy(bits).view(torch.bfloat16) if len(bits) else torch.zeros(0, 1)
        return cls(folder, table, levels, Windows(rows, ordered), firsts, mask)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def ids(self) -> list[str]:
        return self.table["video_id"].to_pylist()

    def cell(self, column: str, video: int) -> Any:
        return self.table[column][video].as_py()

    def array(self, column: str, video: int) -> np.ndarray:
        """A list column of one video, without a copy."""
        return self.table[column].chunk(0)[video].values.to_numpy(zero_copy_only=True)

    def owner(self, level: str, rows: np.ndarray) -> np.ndarray:
        """The video of each row of a level."""
        return np.searchsorted(self.firsts[level], rows, side="right") - 1

    def allowed(self, where: Filter) -> np.ndarray | None:
        """(V,) bool: which videos may answer; None: all of them."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if not where and not self.gone.any():
            return None
        mask = ~self.gone
        for column in ("task", "split", "procedure"):
            if (wanted := getattr(where, column)) is not None:
                mask &= pc.equal(self.table[column], wanted).to_numpy()
        duration = self.table["duration"].to_numpy()
        if where.least_seconds is not None:
            mask &= duration >= where.least_seconds
        if where.most_seconds is not None:
            mask &= duration <= where.most_seconds
        if where.without:
            named = pc.is_in(self.table["video_id"], value_set=pa.array(where.without))
            mask &= ~named.to_numpy()
        return mask

    def search(
        self, level: str, queries: np.ndarray, top: int, allowed: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cosines and rows of the nearest in a level, of the videos `allowed` (V,)."""
        if allowed is not None:
            allowed = np.repeat(allowed, np.diff(self.firsts[level]))
        return self.levels[level].search(queries, top, allowed)


def _offsets(table: pa.Table, column: str) -> np.ndarray:
    """(V+1,) offsets of a list column."""
    if not table.num_rows:
        return np.zeros(1, dtype=np.int64)
    return table[column].chunk(0).offsets.to_numpy().astype(np.int64)

"""The manifest: the videos, the script and split of each, the pairs to verify, the lists to match."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from .errors import StepclipError, nearest
from .files import write_atomically
from .rows import SPLITS, MatchRow, Pair, VideoRow
from .userfile import FORMAT, STEP_SEPARATOR, read_table, read_userfile

__all__ = ["SPLITS", "STEP_SEPARATOR", "Manifest", "MatchRow", "Pair", "VideoRow"]


@dataclass(frozen=True)
class Manifest:
    """Rows of videos, with pairs and matching lists over them. Raises StepclipError where they contradict."""

    videos: tuple[VideoRow, ...]
    pairs: tuple[Pair, ...] = ()
    matching: tuple[MatchRow, ...] = ()
    name: str = ""

    def __post_init__(self) -> None:
        for field in ("videos", "pairs", "matching"):
            object.__setattr__(self, field, tuple(getattr(self, field)))
        if len(self._index) < len(self.videos):
            counts = Counter(row.video_id for row in self.videos)
            twice = sorted(video_id for video_id, count in counts.items() if count > 1)
            raise StepclipError(f"video ids given more than once: {_some(twice)}", "one row per video id")
        for what, ids in (
            ("pairs", {name for pair in self.pairs for name in (pair.video_a, pair.video_b)}),
            ("matching lists", {name for row in self.matching for name in row.candidates}),
        ):
            if ghosts := sorted(ids - self._index.keys()):
                raise StepclipError(
                    f"the {what} name {len(ghosts)} videos that have no row: {_some(ghosts)}",
                    "pairs and lists over videos of the manifest",
                    "give the rows, or keep what is there with Manifest.select",
                )
        if wrong := [row for row in self.matching if not 0 <= row.answer < len(row.candidates)]:
            raise StepclipError(
                f"a matching list answers with candidate {wrong[0].answer} of {wrong[0].candidates}"
            )

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Manifest:
        """Read a .csv, .tsv, .jsonl or .parquet file, or a folder that `write` made.

        Columns: video (a path, relative to the file's folder) and steps; optional video_id, task, procedure,
        split, start, end, step_start, step_end. Steps are separated by "|" in a CSV and a list in JSONL and
        Parquet. A missing video_id is the stem of the path, with its folders where stems collide; a missing
        procedure a short hash of the steps. Raises StepclipError with the line for everything that is not as
        it should be.
        """
        source = Path(path)
        if not source.exists():
            beside = [entry.name for entry in source.parent.iterdir()] if source.parent.is_dir() else []
            hint = (
                nearest(source.name, beside, 3)
                or f"; {source.parent} holds: {_some(sorted(beside)) or 'nothing'}"
            )
            raise StepclipError(
                f"no manifest at {source}{hint}", "a .csv, .tsv, .jsonl or .parquet file, or a folder"
            )
        if source.is_dir() or source.name == "videos.parquet":
            return _read_folder(source if source.is_dir() else source.parent)
        return cls(tuple(read_userfile(source)), name=source.stem)

    def write(self, folder: str | os.PathLike[str]) -> Path:
        """Write videos.parquet, pairs.parquet and matching.parquet into `folder`, each atomically.

        `read(folder)` gives the same manifest. The folder may move together with its videos: paths are also
        kept relative to it.
        """
        folder = Path(folder)
        _write_table(folder / "matching.parquet", _columns(self.matching, MatchRow), self.name)
        _write_table(folder / "pairs.parquet", _columns(self.pairs, Pair), self.name)
        videos = _columns(self.videos, VideoRow)
        videos["relative"] = [_relative(row.path, folder) for row in self.videos]
        _write_table(folder / "videos.parquet", videos, self.name)
        return folder

    def split(self, name: str) -> Manifest:
        """The rows, pairs and matching lists of one split. Raises StepclipError when no row is of it."""
        rows = tuple(row for row in self.videos if row.split == name)
        if not rows:
            there = sorted({row.split for row in self.videos})
            raise StepclipError(
                f"the manifest has no row of the split '{name}'{nearest(name, there)}",
                f"one of the splits that it has: {', '.join(repr(split) for split in there) or 'none'}",
            )
        pairs = tuple(pair for pair in self.pairs if pair.split == name)
        return Manifest(rows, pairs, tuple(row for row in self.matching if row.split == name), self.name)

    def select(self, ids: Iterable[str]) -> Manifest:
        """The rows of `ids`, in the manifest's order, with the pairs and lists that lie wholly among them."""
        keep = set(ids)
        if unknown := sorted(keep - self._index.keys()):
            raise StepclipError(
                f"the manifest has no video {_some(unknown)}{nearest(unknown[0], self._index, 3)}"
            )
        return Manifest(
            tuple(row for row in self.videos if row.video_id in keep),
            tuple(pair for pair in self.pairs if pair.video_a in keep and pair.video_b in keep),
            tuple(row for row in self.matching if keep.issuperset(row.candidates)),
            self.name,
        )

    def without_truth(self) -> Manifest:
        """The same without step times: what training is given."""
        rows = tuple(replace(row, step_start=None, step_end=None) for row in self.videos)
        return replace(self, videos=rows)

    def steps(self) -> list[str]:
        """The distinct steps, sorted."""
        return sorted({step for row in self.videos for step in row.steps})

    def paragraphs(self) -> list[str]:
        """The distinct paragraphs, sorted."""
        return sorted({row.paragraph for row in self.videos})

    @cached_property
    def _index(self) -> dict[str, int]:
        return {row.video_id: place for place, row in enumerate(self.videos)}

    def __getitem__(self, video_id: str) -> VideoRow:
        if video_id not in self._index:
            raise StepclipError(f"the manifest has no video '{video_id}'{nearest(video_id, self._index, 3)}")
        return self.videos[self._index[video_id]]

    def __contains__(self, video_id: object) -> bool:
        return video_id in self._index

    def __len__(self) -> int:
        return len(self.videos)

    def __iter__(self) -> Iterator[VideoRow]:
        return iter(self.videos)


# ---- the folder that `write` makes


def _read_folder(folder: Path) -> Manifest:
    if not (folder / "videos.parquet").is_file() and (folder / "manifest" / "videos.parquet").is_file():
        folder = folder / "manifest"
    path = folder / "videos.parquet"
    if not path.is_file():
        there = _some(sorted(entry.name for entry in folder.iterdir()))
        raise StepclipError(
            f"no videos.parquet in the folder {folder}; found: {there or 'nothing'}", "a written manifest"
        )
    table, name = read_table(path)
    if "relative" not in table:  # somebody's own file of that name
        return Manifest(tuple(read_userfile(path)), name=folder.name)
    table["path"] = [
        _located(kept, relative, folder)
        for kept, relative in zip(table["path"], table.pop("relative"), strict=True)
    ]
    pairs, matching = (
        [folder / f"{kind}.parquet"] if (folder / f"{kind}.parquet").is_file() else []
        for kind in ("pairs", "matching")
    )
    return Manifest(
        tuple(_objects(path, table, VideoRow)),
        tuple(row for each in pairs for row in _objects(each, read_table(each)[0], Pair)),
        tuple(row for each in matching for row in _objects(each, read_table(each)[0], MatchRow)),
        name,
    )


def _objects(path: Path, table: dict[str, list[Any]], kind: type) -> Iterator[Any]:
    names = [field.name for field in fields(kind)]
    if missing := [name for name in names if name not in table]:
        raise StepclipError(
            f"{path} has no column '{missing[0]}'; found: {', '.join(table)}", "a file that StepCLIP wrote"
        )
    for cells in zip(*(table[name] for name in names), strict=True):
        yield kind(*(tuple(cell) if isinstance(cell, list) else cell for cell in cells))


def _located(kept: str, relative: str, folder: Path) -> str:
    """The path as it was kept, unless the folder moved and the video moved with it."""
    beside = os.path.abspath(folder / relative)
    return beside if relative and os.path.abspath(kept) != beside and os.path.exists(beside) else kept


def _relative(path: str, folder: Path) -> str:
    try:
        return os.path.relpath(path, folder) if path else ""
    except ValueError:  # another drive
        return ""


def _columns(rows: tuple[Any, ...], kind: type) -> dict[str, list[Any]]:
    return {field.name: [getattr(row, field.name) for row in rows] for field in fields(kind)}


def _write_table(path: Path, columns: dict[str, list[Any]], name: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    lists = {
        "steps": pa.string(),
        "candidates": pa.string(),
        "step_start": pa.float64(),
        "step_end": pa.float64(),
    }
    plain = {"start": pa.float64(), "end": pa.float64(), "matched": pa.bool_(), "answer": pa.int64()}
    types = {key: pa.list_(lists[key]) if key in lists else plain.get(key, pa.string()) for key in columns}
    metadata = {"stepclip.manifest": json.dumps({"format": FORMAT, "name": name})}
    try:
        table = pa.table(columns, schema=pa.schema(list(types.items()), metadata=metadata))
    except (pa.ArrowException, UnicodeError) as error:
        raise StepclipError(
            f"{path}: a value cannot be written: {error}", "text, numbers and None"
        ) from error
    with write_atomically(path) as file:
        pq.write_table(table, file)


def _some(names: list[str], count: int = 5) -> str:
    return ", ".join(names[:count]) + (f", ... ({len(names)} in all)" if len(names) > count else "")

"""The manifest: which videos there are, the script of each, their splits, the pairs to verify, the lists to match.

A user's CSV, TSV, JSONL or Parquet is read with every fault named by its line; `Manifest.write` keeps Parquet.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import math
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from .errors import StepclipError, nearest
from .files import write_atomically

STEP_SEPARATOR = "|"
SPLITS = ("train", "val", "test")
REQUIRED = ("video", "steps")
OPTIONAL = ("video_id", "task", "procedure", "split", "start", "end", "step_start", "step_end")
FORMAT = 1
_README = "see 'Your own videos' in the README: a CSV with the columns video,steps is enough"
_SPLIT_NAMES = {
    **{name: name for name in SPLITS},
    "": "",
    "validation": "val",
    "valid": "val",
    "training": "train",
}
_log = logging.getLogger("stepclip")

Record = tuple[int, dict[str, Any]]  # the number of its line (or row) in the file, from 1; column -> value


@dataclass(frozen=True)
class VideoRow:
    """One video (or one trimmed part of it) and its script.

    `start` and `end` trim it, in seconds of the file. `step_start` and `step_end` are the hidden truth, in seconds from
    the first frame of the (trimmed) video, one per step; None where unknown.
    """

    video_id: str
    path: str
    task: str = ""
    procedure: str = ""
    split: str = ""
    start: float | None = None
    end: float | None = None
    steps: tuple[str, ...] = ()
    step_start: tuple[float, ...] | None = None
    step_end: tuple[float, ...] | None = None

    @property
    def paragraph(self) -> str:
        """The script as one text: its steps joined by ", "."""
        return ", ".join(self.steps)


@dataclass(frozen=True)
class Pair:
    """Two videos to verify. `kind`: matched, or how they differ (order, deletion, addition, other)."""

    video_a: str
    video_b: str
    matched: bool
    kind: str = ""
    split: str = ""


@dataclass(frozen=True)
class MatchRow:
    """Text-to-video matching: the script of `procedure` belongs to video `candidates[answer]`."""

    procedure: str
    candidates: tuple[str, ...]
    answer: int
    split: str = ""


@dataclass(frozen=True)
class Manifest:
    """Rows of videos with the pairs and matching lists over them. Raises StepclipError where these contradict."""

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

        Columns: video (a path, relative to the file's folder) and steps; optional video_id, task, procedure, split,
        start, end, step_start, step_end. Steps are separated by "|" in a CSV and a list in JSONL and Parquet. A missing
        video_id is the stem of the path, with its folders where stems collide; a missing procedure a short hash of the
        steps. Raises StepclipError with the line for everything that is not as it should be.
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
        if source.is_dir():
            return _read_folder(source)
        kind = source.suffix.lower()
        if kind == ".parquet" and source.name == "videos.parquet":
            return _read_folder(source.parent)
        readers = {".csv": _read_csv, ".tsv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
        if kind not in readers:
            raise StepclipError(
                f"{source} is a '{kind or 'nameless'}' file", f"one of {', '.join(readers)}", _README
            )
        records = list(readers[kind](source))
        if not records:
            raise StepclipError(f"{source} is empty: it has no rows", "one row per video", _README)
        return cls(tuple(_rows(source, records)), name=source.stem)

    def write(self, folder: str | os.PathLike[str]) -> Path:
        """Write videos.parquet, pairs.parquet and matching.parquet into `folder`, each atomically; returns the folder.

        `read(folder)` gives the same manifest. The folder may move together with its videos: paths are also kept
        relative to it.
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
        """The rows of `ids`, in the manifest's order, and the pairs and lists all of whose videos are among them."""
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


# ---- a user's file: records, then rows


def _text(source: Path) -> str:
    data = source.read_bytes()
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise StepclipError(f"{source} is UTF-16 text", "UTF-8", "save it again as 'CSV UTF-8'")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise StepclipError(
            f"{source}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8 text",
            "a UTF-8 file",
            "save it again as UTF-8 (in a spreadsheet: 'CSV UTF-8')",
        ) from error


def _read_csv(source: Path) -> Iterator[Record]:
    text = _text(source)
    first = text.split("\n", 1)[0]
    delimiter = "\t" if source.suffix.lower() == ".tsv" else ";" if ";" in first and "," not in first else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    line = 1
    try:
        for cells in reader:
            here, line = line, reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = _checked_header(source, [cell.strip().lower() for cell in cells])
                continue
            if len(cells) > len(header):
                raise StepclipError(
                    f"{source}, line {here}: {len(cells)} fields where the header has {len(header)}",
                    f'a field that contains "{delimiter}" in double quotes',
                )
            yield here, dict(zip(header, cells, strict=False))
    except csv.Error as error:
        raise StepclipError(f"{source}, line {line}: {error}", "a CSV file, quotes in pairs") from error


def _checked_header(source: Path, found: list[str]) -> list[str]:
    header = ["video" if name == "path" and "video" not in found else name for name in found]
    for name in REQUIRED:
        if name not in header:
            raise StepclipError(
                f"{source} has no column '{name}'; found: {', '.join(map(repr, found))}",
                f"the columns {', '.join(REQUIRED)} (and, as you like, {', '.join(OPTIONAL)})",
                _README,
            )
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise StepclipError(f"{source} has the column '{twice[0]}' more than once", "each column once")
    for name in header:
        if name not in REQUIRED + OPTIONAL and (hint := nearest(name, REQUIRED + OPTIONAL)):
            _log.warning("%s: the column '%s' is not used%s", source, name, hint)
    return header


def _read_jsonl(source: Path) -> Iterator[Record]:
    for line, content in enumerate(_text(source).split("\n"), 1):
        if not content.strip():
            continue
        try:
            record = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise StepclipError(
                f"{source}, line {line}: not JSON: {error}", "one JSON object per line"
            ) from error
        if not isinstance(record, dict):
            raise StepclipError(
                f"{source}, line {line}: a {type(record).__name__}", "one JSON object per line"
            )
        record = {str(key).strip().lower(): value for key, value in record.items()}
        if "video" not in record and "path" in record:
            record["video"] = record.pop("path")
        for name in REQUIRED:
            if name not in record:
                keys = ", ".join(map(repr, record)) or "none"
                raise StepclipError(
                    f"{source}, line {line}: no key '{name}'; found: {keys}",
                    f"the keys {', '.join(REQUIRED)} (and, as you like, {', '.join(OPTIONAL)})",
                    _README,
                )
        yield line, record


def _read_parquet(source: Path) -> Iterator[Record]:
    table, _ = _read_table(source)
    header = _checked_header(source, [name.strip().lower() for name in table])
    for row, cells in enumerate(zip(*table.values(), strict=True), 1):
        yield row, dict(zip(header, cells, strict=True))


def _rows(source: Path, records: list[Record]) -> list[VideoRow]:
    found = [(line, _row(source, line, record)) for line, record in records]
    rows = [row for _, row in found]
    ids = _video_ids(rows)
    lines: dict[str, list[int]] = defaultdict(list)
    for (line, _), video_id in zip(found, ids, strict=True):
        lines[video_id].append(line)
    if twice := {video_id: where for video_id, where in lines.items() if len(where) > 1}:
        shown = [f"'{video_id}' on lines {', '.join(map(str, where))}" for video_id, where in twice.items()]
        raise StepclipError(
            f"{source}: {len(twice)} video ids given more than once: {'; '.join(shown[:5])}"
            + ("; ..." if len(shown) > 5 else ""),
            "one row per video; parts of one file have a start and an end each, or a video_id of their own",
        )
    return [replace(row, video_id=video_id) for row, video_id in zip(rows, ids, strict=True)]


def _row(source: Path, line: int, record: dict[str, Any]) -> VideoRow:
    def fault(found: str, expected: str) -> StepclipError:
        return StepclipError(f"{source}, line {line}: {found}", expected, _README)

    def word(key: str) -> str:
        value = record.get(key)
        if value is None:
            return ""
        if isinstance(value, bool | list | dict):
            raise fault(f"'{key}' is {value!r}", "text")
        return _clean(str(value), fault)

    def number(key: str) -> float | None:
        return None if record.get(key) in (None, "") else _seconds(record[key], key, fault)

    def numbers(key: str, count: int) -> tuple[float, ...] | None:
        value = record.get(key)
        if value is None or value == "" or value == []:
            return None
        parts = value if isinstance(value, list | tuple) else str(value).split(STEP_SEPARATOR)
        if len(parts) != count:
            raise fault(f"{len(parts)} times in '{key}' for {count} steps", "one time per step")
        return tuple(_seconds(part, key, fault) for part in parts)

    if not (video := word("video")):
        raise fault("no video", "the path of a video file")
    value = record.get("steps")
    parts = (
        value
        if isinstance(value, list | tuple)
        else []
        if value is None
        else str(value).split(STEP_SEPARATOR)
    )
    if wrong := [part for part in parts if not isinstance(part, str)]:
        raise fault(f"a step is {wrong[0]!r}", "every step a sentence")
    steps = tuple(step for step in (_clean(part, fault) for part in parts) if step)
    if not steps:
        raise fault(
            f"'{video}' has no steps",
            f"its sentences in order, separated by '{STEP_SEPARATOR}' (JSONL: a list)",
        )
    start, end = number("start"), number("end")
    if end is not None and end <= (start or 0.0):
        raise fault(f"start {start or 0.0:g}, end {end:g}", "an end after the start, in seconds")
    step_start, step_end = numbers("step_start", len(steps)), numbers("step_end", len(steps))
    if (step_start is None) != (step_end is None):
        raise fault("only one of step_start and step_end", "both, or none")
    for first, last in zip(step_start or (), step_end or (), strict=True):
        if last < first:
            raise fault(f"a step from {first:g} to {last:g} s", "a step_end not before its step_start")
    split = word("split").lower()
    if split not in _SPLIT_NAMES:
        raise fault(f"split '{split}'{nearest(split, SPLITS)}", f"one of {', '.join(SPLITS)}, or nothing")
    return VideoRow(
        video_id=word("video_id"),
        path=os.path.abspath(source.parent / os.path.expanduser(video)),
        task=word("task"),
        procedure=word("procedure") or "p" + hashlib.sha256("\n".join(steps).encode()).hexdigest()[:8],
        split=_SPLIT_NAMES[split],
        start=start,
        end=end,
        steps=steps,
        step_start=step_start,
        step_end=step_end,
    )


def _clean(value: str, fault: Any) -> str:
    value = value.strip()
    if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise fault(
            f"{value[:60]!r} holds a character that no text has (NUL or half a surrogate pair)", "plain text"
        )
    return value


def _seconds(value: Any, key: str, fault: Any) -> float:
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < 0:
        raise fault(f"'{key}' is {value!r}", "seconds, a number from 0")
    return seconds


def _video_ids(rows: list[VideoRow]) -> list[str]:
    """The ids given; else the stem, with as many parent folders as tell the paths of one stem apart."""
    ids = [row.video_id for row in rows]
    groups: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        if not row.video_id:
            groups[Path(row.path).stem].append(place)
    given = {video_id for video_id in ids if video_id}
    for stem, places in groups.items():
        paths = sorted({rows[place].path for place in places})
        names = {path: stem for path in paths}
        for depth in range(1, max(len(Path(path).parts) for path in paths) + 1):
            if len(set(names.values())) == len(paths) and not given.intersection(names.values()):
                break
            names = {path: "/".join((*Path(path).parts[1:-1][-depth:], stem)) for path in paths}
        if len(set(names.values())) < len(paths):  # one folder, two suffixes
            names = {path: names[path] + Path(path).suffix for path in paths}
        trims: dict[str, Collection[Any]] = {
            path: {_trim(rows[p]) for p in places if rows[p].path == path} for path in paths
        }
        for place in places:
            row = rows[place]
            ids[place] = names[row.path] + (_trim(row) if len(trims[row.path]) > 1 else "")
    return ids


def _trim(row: VideoRow) -> str:
    if row.start is None and row.end is None:
        return ""
    return f"@{row.start or 0.0:g}-" + ("" if row.end is None else f"{row.end:g}")


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
    table, name = _read_table(path)
    if "relative" not in table:  # somebody's own file of that name
        return Manifest(tuple(_rows(path, list(_read_parquet(path)))), name=folder.name)
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
        tuple(row for each in pairs for row in _objects(each, _read_table(each)[0], Pair)),
        tuple(row for each in matching for row in _objects(each, _read_table(each)[0], MatchRow)),
        name,
    )


def _objects(path: Path, table: dict[str, list[Any]], kind: type) -> Iterator[Any]:
    names = list(kind.__dataclass_fields__)  # type: ignore[attr-defined]
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
    return {name: [getattr(row, name) for row in rows] for name in kind.__dataclass_fields__}  # type: ignore[attr-defined]


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


def _read_table(path: Path) -> tuple[dict[str, list[Any]], str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with open(path, "rb") as file:
            table = pq.ParquetFile(file).read()
    except (OSError, pa.ArrowException) as error:
        raise StepclipError(
            f"{path} cannot be read as Parquet: {error}", "a whole Parquet file", "make it again"
        ) from error
    kept = json.loads((table.schema.metadata or {}).get(b"stepclip.manifest", b"{}"))
    if kept.get("format", FORMAT) > FORMAT:
        raise StepclipError(
            f"{path} was written by a newer StepCLIP (format {kept['format']})", f"format {FORMAT}"
        )
    if not table.num_rows and path.name not in ("pairs.parquet", "matching.parquet"):
        raise StepclipError(f"{path} is empty: it has no rows", "one row per video", _README)
    return {
        name: column.to_pylist() for name, column in zip(table.column_names, table.columns, strict=True)
    }, kept.get("name", "")


def _some(names: list[str], count: int = 5) -> str:
    return ", ".join(names[:count]) + (f", ... ({len(names)} in all)" if len(names) > count else "")

"""A user's own list of videos and scripts: CSV, TSV, JSONL or Parquet; every fault is named by its line."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from .errors import StepclipError, nearest
from .rows import SPLITS, VideoRow, procedure_of

STEP_SEPARATOR = "|"
REQUIRED = ("video", "steps")
OPTIONAL = ("video_id", "task", "procedure", "split", "start", "end", "step_start", "step_end")
FORMAT = 1  # of the Parquet files that Manifest.write makes
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


def read_userfile(source: Path) -> list[VideoRow]:
    """The rows of a .csv, .tsv, .jsonl or .parquet file. Raises StepclipError with the line of the fault."""
    readers = {".csv": _read_csv, ".tsv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    kind = source.suffix.lower()
    if kind not in readers:
        raise StepclipError(
            f"{source} is a '{kind or 'nameless'}' file", f"one of {', '.join(readers)}", _README
        )
    try:
        records = list(readers[kind](source))
    except OSError as error:
        raise StepclipError(
            f"{source} cannot be read: {error.strerror}", "a file that can be read"
        ) from error
    if not records:
        raise StepclipError(f"{source} is empty: it has no rows", "one row per video", _README)
    return _rows(source, records)


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
    table, _ = read_table(source)
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
        procedure=word("procedure") or procedure_of(steps),
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
        trims: dict[str, set[str]] = {
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


def read_table(path: Path) -> tuple[dict[str, list[Any]], str]:
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

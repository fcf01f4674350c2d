"""Users' own features (S3D, InternVideo, DINOv2, I3D, of any dimension) made into a cache and a manifest."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from ..errors import StepclipError, nearest
from ..fingerprint import JSON, SCHEMA, Fingerprint
from ..layout import read_about
from ..manifest import Manifest
from ..texts import TextTable
from ..writer import FeatureWriter
from .arrays import ForeignFault
from .exported import is_export
from .foreign import Foreign
from .foreigntexts import by_kind, read_text_features
from .importreport import ImportReport
from .importrun import ZERO_ROWS, ImportRun
from .labels import LabelNames
from .matching import match
from .recordings import Keys, matrix
from .restoring import restore

__all__ = ["ImportReport", "import_features"]

_PROBES = 64  # videos that are looked at before the first is read
PathLike: TypeAlias = "str | os.PathLike[str]"
EncodeTexts: TypeAlias = Callable[[list[str]], np.ndarray]


def import_features(
    source: PathLike,
    out: PathLike,
    *,
    manifest: Manifest | PathLike | None = None,
    known: Manifest | None = None,
    fps: float | None = None,
    name: str | None = None,
    dtype: str = "float16",
    prefix: str | None = None,
    pattern: str | None = None,
    features_key: str | None = None,
    times_key: str | None = None,
    labels_key: str | None = None,
    test_ids_key: str | None = None,
    transposed: bool = False,
    zero_rows: str = "refuse",
    labels: PathLike | None = None,
    label_names: Sequence[str] | PathLike | None = None,
    background: int | str | Sequence[int | str] | None = None,
    texts: PathLike | None = None,
    encode_texts: EncodeTexts | None = None,
    text_encoder: str | None = None,
    progress: bool = True,
) -> ImportReport:
    """Import the features in `source`, (T, D) floats per video, into the cache folder `out`.

    source: a folder with one .npy, .npz, .pt, .pth, .safetensors or HDF5 file per video, one such file of all
    videos (`prefix`: of those below it), or a folder that `export` wrote, which is restored exactly. pattern:
    which files of the folder, its '*' being the video id ('*_rgb.npy'). A file may name its arrays: features,
    times (or timestamps, timestamps_ms, pts), fps, duration, labels; *_key: what they are called else.
    Times are the file's own, else i / fps. transposed: arrays are (D, T). zero_rows: "refuse" a video with
    all-zero rows, or "drop" the rows. dtype: float16 or float32. name: the fingerprint's encoder.name.

    manifest: the user's own videos and steps, matched by video_id, then by the name of the video file.
    Without one, frame labels become steps, and `test_ids` in the file the split: labels: a folder of
    VIDEO_ID.txt; label_names, background: see LabelNames. known: rows of earlier imports, which are kept.
    texts: a file of text features, see foreigntexts.py; or encode_texts: strings -> (n, D), for all steps and
    paragraphs; text_encoder: what the fingerprint calls it.

    A second import adds what is missing and what changed. A fault of one file is a failure of that video, and
    the rest goes on; no pickle is ever executed. Raises StepclipError when nothing can be imported, when no
    video has times, and for a cache of another fingerprint.
    """
    began = time.monotonic()
    report = ImportReport(os.path.abspath(source), os.path.abspath(out))
    rows = manifest if manifest is None or isinstance(manifest, Manifest) else Manifest.read(manifest)
    if is_export(source):
        shaping = {
            "fps": fps,
            "name": name,
            "prefix": prefix,
            "pattern": pattern,
            "features_key": features_key,
            "times_key": times_key,
            "labels_key": labels_key,
            "test_ids_key": test_ids_key,
            "transposed": transposed or None,
            "labels": labels,
            "texts": texts,
            "encode_texts": encode_texts,
        }
        if useless := [key for key, value in shaping.items() if value is not None]:
            raise StepclipError(
                f"{source} is an exported cache, and {', '.join(useless)} is given",
                "none of it: an export is restored as it was",
            )
        restore(Path(source), report, rows, progress)
    else:
        _check_options(fps, zero_rows, dtype, texts, encode_texts)
        names = LabelNames(label_names, background)
        tables = None if texts is None else read_text_features(texts)  # its faults are told before the rest
        with Foreign(
            source,
            Keys(features_key, times_key, labels_key),
            prefix=prefix,
            pattern=pattern,
            transposed=transposed,
            test_ids_key=test_ids_key,
            labels=labels,
        ) as foreign:
            chosen = {"prefix": foreign.prefix, "pattern": pattern, "features_key": features_key}
            chosen["zero_rows"] = zero_rows if zero_rows != "refuse" else None
            fingerprint = Fingerprint(
                {
                    "source": "import",
                    "encoder.name": name or foreign.name,
                    "sampling.fps": fps or "from the file",
                    "text.encoder": text_encoder or _text_encoder(out, texts, encode_texts),
                    "dtype": dtype,
                    "schema": SCHEMA,
                    # what else decides which numbers of the same files are taken
                    **{f"import.{key}": value for key, value in chosen.items() if value},
                }
            )
            matched = match(foreign.entries, rows)
            dim = _dimension(foreign, fps, Path(out))
            with FeatureWriter(out, fingerprint, dim=dim, dtype=dtype) as writer:
                run = ImportRun(foreign, matched.jobs, writer, report, names, fps, zero_rows)
                run.all(progress)
                report.manifest = Manifest(tuple(run.rows), name=foreign.name) if rows is None else rows
                _add_texts(writer, report, tables, encode_texts)
        report.missing, report.without_row = matched.missing, matched.without_row
        report.ignored = dict(foreign.ignored)
        report.notes += foreign.notes + matched.notes
        report.fingerprint = fingerprint.digest
    if known is not None:
        report.manifest = _joined(known, report.manifest)
    report.seconds = time.monotonic() - began
    report.check()
    return report


def _check_options(
    fps: float | None, zero_rows: str, dtype: str, texts: PathLike | None, encode_texts: EncodeTexts | None
) -> None:
    if fps is not None and not (math.isfinite(fps) and fps > 0):
        raise StepclipError(f"{fps} frames per second", "a number over 0")
    if zero_rows not in ZERO_ROWS:
        raise StepclipError(
            f"zero_rows '{zero_rows}'{nearest(zero_rows, ZERO_ROWS)}", f"one of {', '.join(ZERO_ROWS)}"
        )
    if dtype not in ("float16", "float32"):
        raise StepclipError(f"features as '{dtype}'", "float16 or float32")
    if texts is not None and encode_texts is not None:
        raise StepclipError("both a file of text features and an encoder for them", "one of them")


def _text_encoder(out: PathLike, texts: PathLike | None, encode_texts: EncodeTexts | None) -> JSON:
    """What the text features are called; where none are given, what the cache has already."""
    if texts is not None:
        return Path(texts).stem
    if encode_texts is not None:
        return str(getattr(getattr(encode_texts, "__self__", None), "name", "given"))
    about = read_about(Path(out))
    return "none" if about is None else about.fingerprint.fields.get("text.encoder", "none")


def _dimension(foreign: Foreign, fps: float | None, out: Path) -> int:
    """D of most videos. Raises StepclipError where the files as a whole are not as they should be.

    Some of the videos are looked at: whether one can be read at all, whether they are transposed, whether
    anything says when their frames were.
    """
    entries = foreign.entries
    probes = entries[:: -(-len(entries) // _PROBES)]
    shapes: list[tuple[int, int]] = []
    faults: list[ForeignFault] = []
    timed = fps is not None
    for entry in (*probes, *entries):
        if len(shapes) + len(faults) >= len(probes) and shapes:
            break
        try:
            shapes.append(matrix(foreign.look(entry), foreign.transposed))
            recording = foreign.read(entry, features=False)
            timed = timed or recording.times is not None or recording.fps is not None
        except ForeignFault as fault:
            faults.append(fault)
            timed = timed or fault.reason in ("bad-times", "bad-labels")
    about = read_about(out)
    if not shapes:
        if about is not None:
            return about.dim  # each video is named as a failure
        first = faults[0]
        raise StepclipError(
            f"none of the {len(entries)} videos of {foreign.path} can be read; the first: {first.found}",
            first.expected,
            first.run,
        )
    _check_turn(shapes, foreign, about is not None)
    if not timed:
        raise StepclipError(
            f"nothing in {foreign.path} says when the frames were",
            "times (or timestamps, timestamps_ms, pts) or fps in the files, or the rate of the features",
            "the same with --fps N: features per second (one per 16 frames of 24/s: 1.5)",
        )
    dim, count = Counter(dim for _, dim in shapes).most_common(1)[0]
    return about.dim if about is not None and 2 * count <= len(shapes) else dim


def _check_turn(shapes: Sequence[tuple[int, int]], foreign: Foreign, settled: bool) -> None:
    """Raises StepclipError when the arrays agree about T and not about D, or about neither."""

    def share(side: int) -> float:
        return Counter(shape[side] for shape in shapes).most_common(1)[0][1] / len(shapes)

    frames, dim = share(0), share(1)
    if len(shapes) < 2 or dim > 0.5:
        return
    given = [shape[::-1] if foreign.transposed else shape for shape in shapes[:4]]
    shown = ", ".join(map(str, given))
    if frames > dim:
        raise StepclipError(
            f"the arrays of {foreign.path} look "
            + ("as if they were not (D, T)" if foreign.transposed else "like (D, T)")
            + f": {shown}",
            "(T, D), D being the same in all",
            "the same without --transposed" if foreign.transposed else "the same with --transposed",
        )
    if not settled:
        raise StepclipError(
            f"the arrays of {foreign.path} do not agree about their dimension: {shown}",
            "(T, D), D being the same in all",
            "the same with --features-key, --pattern or --prefix, which choose among arrays and files",
        )


# ---- the manifest and the texts


def _joined(known: Manifest, fresh: Manifest) -> Manifest:
    """The known rows, those that are made anew in their place, and the fresh ones."""
    anew = {row.video_id: row for row in fresh}
    videos = [anew.pop(row.video_id, row) for row in known] + list(anew.values())
    pairs = dict.fromkeys((*known.pairs, *fresh.pairs))
    matching = dict.fromkeys((*known.matching, *fresh.matching))
    return Manifest(tuple(videos), tuple(pairs), tuple(matching), known.name or fresh.name)


def _add_texts(
    writer: FeatureWriter,
    report: ImportReport,
    given: Mapping[str, TextTable] | None,
    encode: EncodeTexts | None,
) -> None:
    """The texts' features that the cache lacks: the user's own, or encoded now."""
    wanted = {
        "step": report.manifest.steps(),
        "paragraph": [text for text in report.manifest.paragraphs() if text],
    }
    tables = by_kind(given, wanted["step"], wanted["paragraph"]) if given else {}
    if "step" in tables:
        tables |= _means(report, tables["step"], tables.get("paragraph"))
    for kind, table in tables.items():
        fresh = writer.missing_text(table.index, kind)
        writer.add_text(fresh, table.features[[table.index[text] for text in fresh]], kind)
        report.texts += len(fresh)
    if encode is not None:
        for kind, texts in wanted.items():
            if fresh := writer.missing_text(texts, kind):
                writer.add_text(fresh, np.asarray(encode(fresh)), kind)
                report.texts += len(fresh)
    report.missing_texts = [
        text for kind, texts in wanted.items() for text in writer.missing_text(texts, kind)
    ]


def _means(report: ImportReport, steps: TextTable, given: TextTable | None) -> dict[str, TextTable]:
    """Paragraphs as the means of their steps, where the texts have no paragraph of several steps at all."""
    rows = {row.paragraph: row.steps for row in report.manifest if row.steps}
    index = {} if given is None else given.index
    whole = [text for text, parts in rows.items() if all(part in steps.index for part in parts)]
    if not whole or any(len(parts) > 1 and text in index for text, parts in rows.items()):
        return {}
    report.notes.append(f"the features of {len(whole)} paragraphs are the means of those of their steps")
    means = [steps.features[[steps.index[part] for part in rows[text]]].mean(0) for text in whole]
    return {"paragraph": TextTable({text: row for row, text in enumerate(whole)}, np.stack(means))}

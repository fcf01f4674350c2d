"""Text features in others' files: `strings` with `features`, or a vector by its sentence."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from ..errors import StepclipError
from ..texts import KINDS, TextTable
from .arrays import ForeignFault, NamedArrays, open_arrays

_EXPECTED = (
    "strings (n,) and features (n, D), or a vector (D,) by its sentence; both also in groups: step, paragraph"
)


def read_text_features(path: str | os.PathLike[str]) -> dict[str, TextTable]:
    """The strings and their features (n, D) float32 by kind: step, paragraph, or "" where it does not say.

    A .npz, .pt, .safetensors or HDF5 file. Raises StepclipError.
    """
    path = Path(os.path.expanduser(path))
    with open_arrays(path) as arrays:
        names = arrays.names
        heads = {name.split("/", 1)[0] for name in names}
        if names and heads <= set(KINDS) and all("/" in name for name in names):
            return {kind: _table(arrays, path, f"{kind}/") for kind in KINDS if kind in heads}
        return {"": _table(arrays, path, "")}


def by_kind(
    tables: Mapping[str, TextTable], steps: Collection[str], paragraphs: Collection[str]
) -> dict[str, TextTable]:
    """Of texts without a kind, those in `paragraphs` are such, those in `steps` and all others steps."""
    if "" not in tables:
        return dict(tables)
    index, features = tables[""].index, tables[""].features
    known_steps, known = set(steps), set(paragraphs)
    kinds = {
        "step": [string for string in index if string in known_steps or string not in known],
        "paragraph": [string for string in index if string in known],
    }
    return {
        kind: TextTable(
            {string: row for row, string in enumerate(strings)}, features[[index[s] for s in strings]]
        )
        for kind, strings in kinds.items()
        if strings
    }


def _table(arrays: NamedArrays, path: Path, head: str) -> TextTable:
    names = {name.removeprefix(head): name for name in arrays.names if name.startswith(head)}
    if {"strings", "features"} <= names.keys():
        given = arrays.read(names["strings"]).reshape(-1)
        if given.dtype.kind == "S":
            given = np.char.decode(given, "utf-8", "replace")
        if given.dtype.kind != "U":
            raise _fault(path, f"the strings are of type {given.dtype}")
        strings, features = given.tolist(), arrays.read(names["features"])
    else:
        strings, rows = list(names), [arrays.read(full).reshape(-1) for full in names.values()]
        if not rows:
            raise _fault(path, "it is empty")
        if len({row.size for row in rows}) > 1:
            shown = ", ".join(f"{name} {arrays.look(full)}" for name, full in list(names.items())[:6])
            raise _fault(path, f"vectors of different lengths: {shown}")
        features = np.stack(rows)
    if (
        features.ndim != 2
        or features.dtype.kind != "f"
        or len(features) != len(strings)
        or 0 in features.shape
    ):
        raise _fault(
            path, f"features of shape {features.shape} and type {features.dtype} for {len(strings)} texts"
        )
    if not np.isfinite(features).all():
        raise _fault(
            path, f"the features of '{strings[int(np.argmin(np.isfinite(features).all(1)))]}' are not finite"
        )
    strings = [string.strip() for string in strings]
    if "" in strings or len(set(strings)) < len(strings):
        raise _fault(path, "a string is empty or there twice")
    return TextTable({string: row for row, string in enumerate(strings)}, features.astype(np.float32))


def _fault(path: Path, found: str) -> StepclipError:
    return ForeignFault("bad-texts", f"{path}: {found}", _EXPECTED)

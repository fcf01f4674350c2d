"""text.h5: the features of every distinct step and paragraph, with the strings."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import StepclipError, nearest
from .files import write_atomically

KINDS = ("step", "paragraph")


@dataclass(frozen=True, eq=False)
class TextTable:
    """The distinct texts of one kind: `features[index[string]]`, float32."""

    index: dict[str, int]
    features: np.ndarray


def read_texts(path: Path, digest: str) -> dict[str, TextTable]:
    """The tables of text.h5 by kind; none when there is no file. Raises StepclipError when it is damaged."""
    if not path.exists():
        return {}
    import h5py

    tables: dict[str, TextTable] = {}
    again = f"remove {path} and extract again: texts are encoded in moments"
    try:
        with h5py.File(path, "r", locking=False) as file:
            other = file.attrs["digest"] != digest
            for kind in KINDS:
                if kind in file:
                    strings = file[kind]["strings"].asstr()[:].tolist()
                    features = file[kind]["features"][:]
                    if file[kind].attrs["crc32"] != text_checksum(strings, features):
                        raise OSError(f"the checksum of its {kind}s is not the one written")
                    tables[kind] = TextTable({string: row for row, string in enumerate(strings)}, features)
    except (
        OSError,
        KeyError,
        RuntimeError,
        AttributeError,
        UnicodeDecodeError,
        TypeError,
        ValueError,
    ) as error:
        raise StepclipError(
            f"{path} is damaged: {error}", "the HDF5 file as it was written", again
        ) from error
    if other:
        raise StepclipError(
            f"{path} was made by another encoder than the cache", "one fingerprint in one cache", again
        )
    return tables


def write_texts(path: Path, account: Mapping[str, str | int], tables: Mapping[str, TextTable]) -> None:
    """Write text.h5 anew, atomically; `account` goes into its attributes."""
    import h5py

    with h5py.File("text", "w", driver="core", backing_store=False) as file:
        file.attrs.update(account)
        for kind, table in tables.items():
            group = file.create_group(kind)
            group.create_dataset("features", data=table.features)
            group.create_dataset("strings", data=list(table.index), dtype=h5py.string_dtype())
            group.attrs["crc32"] = text_checksum(list(table.index), table.features)
        file.flush()
        image = file.id.get_file_image()
    with write_atomically(path) as target:
        target.write(image)


def text_checksum(strings: list[str], features: np.ndarray) -> int:
    """crc32 over the features and the strings."""
    return zlib.crc32(json.dumps(strings).encode(), zlib.crc32(features.tobytes()))


def known_kind(kind: str) -> str:
    """`kind` itself. Raises StepclipError when it is not one of `KINDS`."""
    if kind not in KINDS:
        raise StepclipError(
            f"'{kind}' is no kind of text{nearest(kind, KINDS)}", f"one of {', '.join(KINDS)}"
        )
    return kind

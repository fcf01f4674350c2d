"""text.h5: the features of every distinct step and paragraph, with the strings."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from .errors import StepclipError, nearest
from .files import write_atomically
from .fingerprint import Fingerprint

if TYPE_CHECKING:
    import h5py

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
    again = "stepclip cache repair, then stepclip extract: texts are encoded in moments"
    try:
        image = path.read_bytes()
        if fault := seal_fault(image):
            raise OSError(fault)
        tables, faults = scan_texts(io.BytesIO(image), digest)
    except OSError as error:
        tables, faults = {}, {"": str(error)}
    if OTHER in faults:
        raise StepclipError(f"{path} {faults[OTHER]}", "one fingerprint in one cache", again)
    if faults:
        raise StepclipError(
            f"{path} is damaged: {'; '.join(faults.values())}", "the HDF5 file as it was written", again
        )
    return tables


def scan_texts(file: Path | IO[bytes], digest: str) -> tuple[dict[str, TextTable], dict[str, str]]:
    """The kinds that are whole, and by kind (or "", or OTHER) what is wrong; never raises."""
    import h5py

    tables: dict[str, TextTable] = {}
    faults: dict[str, str] = {}
    try:
        with h5py.File(file, "r", **({"locking": False} if isinstance(file, Path) else {})) as opened:
            for kind in opened:
                try:
                    tables[known_kind(kind)] = _table(opened[kind], kind)
                except StepclipError as error:
                    faults[kind] = error.found
                except _DAMAGED as error:
                    faults[kind] = _first_line(error)
            made = {str(opened.attrs["digest"]), Fingerprint(json.loads(opened.attrs["fingerprint"])).digest}
            if len(made) > 1:
                faults[""] = "its digest does not fit its fingerprint"
            if digest not in made:
                faults[OTHER] = "was made by another encoder than the cache"
    except (*_DAMAGED, StepclipError) as error:
        faults[""] = _first_line(error)
    return tables, faults


OTHER = "other"  # not a kind: the fingerprint is not the cache's
_DAMAGED = (OSError, KeyError, RuntimeError, AttributeError, TypeError, ValueError, MemoryError)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _table(group: h5py.Group, kind: str) -> TextTable:
    strings, features = group["strings"].asstr()[:].tolist(), group["features"][:]
    if group.attrs["crc32"] != text_checksum(strings, features) or len(set(strings)) != len(features):
        raise ValueError(f"the checksum of its {kind}s is not the one written")
    if not np.isfinite(features).all():
        raise ValueError(f"its {kind}s are not finite")
    return TextTable({string: row for row, string in enumerate(strings)}, features)


def write_texts(path: Path, account: Mapping[str, str | int], tables: Mapping[str, TextTable]) -> None:
    """Write text.h5 anew, atomically; `account`, with the fingerprint, goes into its attributes."""
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
        target.write((SEAL + b"%08x\n" % zlib.crc32(image)).ljust(_ROOM, b"\0"))
        target.write(image)


# HDF5 leaves a block before its own to others. It would loop or crash on damaged bytes, so it never sees them
SEAL, _ROOM = b"StepCLIP texts; crc32 of the HDF5 file that follows: ", 512


def seal_fault(image: bytes) -> str:
    """What of the file is not as written, or ""; an older StepCLIP wrote no seal."""
    if image.startswith(b"\x89HDF\r\n\x1a\n"):
        return ""
    whole = image.startswith((SEAL + b"%08x\n" % zlib.crc32(memoryview(image)[_ROOM:])).ljust(_ROOM, b"\0"))
    return "" if whole else "its checksum is not the one written"


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

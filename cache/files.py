"""Atomic writes: a file is either the old one or the whole new one, whatever happens in between."""

from __future__ import annotations

import errno
import json
import os
import secrets
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .errors import StepclipError

if TYPE_CHECKING:
    import numpy as np

try:
    import fcntl
except ImportError:  # Windows: no advisory locks; one writer per folder there
    fcntl = None  # type: ignore[assignment]

TEMPORARY = ".tmp"
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG}


@contextmanager
def write_atomically(
    path: str | os.PathLike[str], mode: str = "wb", exclusive: bool = False
) -> Iterator[IO[Any]]:
    """Open a file that takes the place of `path` only when the block ends without an error.

    It is written beside its target under a hidden name, flushed, fsynced and renamed; on an error it is
    removed and what was at `path` stays. Missing parent folders are made; text is UTF-8 with `\\n`. Raises
    StepclipError when the disk is full, read-only or forbidden, and with `exclusive` FileExistsError when
    `path` is there already.
    """
    target = Path(os.path.realpath(path))  # through a link to the file itself, so that the link stays
    text = "b" not in mode
    aside = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}{TEMPORARY}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        file = open(  # noqa: SIM115 - closed below
            aside, mode.replace("w", "x"), encoding="utf-8" if text else None, newline="" if text else None
        )
    except OSError as error:
        raise _refused(path, error) from error
    held = None
    try:
        with file:
            held = _hold(file)
            yield file
            file.flush()
            os.fsync(file.fileno())
        if exclusive:
            _link(aside, target)
        else:
            os.replace(aside, target)
        sync_folder(target.parent)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno in _DISK or error.filename in (str(aside), str(target)):
            raise _refused(path, error) from error
        raise
    finally:
        aside.unlink(missing_ok=True)
        if held is not None:
            os.close(held)


def write_pieces(file: IO[bytes], pieces: Iterable[bytes | memoryview | np.ndarray]) -> int:
    """Write buffers one after the other, many in one call of the system; the bytes written."""
    views = (memoryview(piece if isinstance(piece, (bytes, memoryview)) else piece.data) for piece in pieces)
    waiting = deque(view.cast("B") for view in views if view.nbytes)
    total = sum(len(piece) for piece in waiting)
    if not hasattr(os, "writev"):  # Windows
        file.writelines(waiting)
        return total
    file.flush()
    while waiting:
        done = os.writev(file.fileno(), list(islice(waiting, 512)))
        while done:
            piece = waiting.popleft()
            if done < len(piece):
                waiting.appendleft(piece[done:])
            done -= min(done, len(piece))
    return total


def abandoned(path: str | os.PathLike[str]) -> bool:
    """Whether a file that was being written aside has no writer any more: the system freed its lock.

    On a disk that several machines share this holds where the file system shares its locks (NFS 4, Lustre
    with flock); a file of the last minute never counts, for its writer may not hold it yet.
    """
    if fcntl is None:
        return False
    try:
        with open(path, "rb") as file:
            if time.time() - os.fstat(file.fileno()).st_mtime < 60:
                return False
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except OSError:
        return False


def _hold(file: IO[Any]) -> int | None:
    """A second handle with a lock on it: it outlives the closing of the file, up to the rename."""
    if fcntl is None:
        return None
    handle = os.open(file.name, os.O_RDONLY)
    with suppress(OSError):  # a file system without locks
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return handle


def write_json(path: str | os.PathLike[str], obj: Any) -> None:
    """Write `obj` as indented JSON, atomically. Raises ValueError on NaN or infinity (JSON has none)."""
    text = json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with write_atomically(path, "w") as file:
        file.write(text)


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file. Raises StepclipError when it is missing, not UTF-8 or not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise StepclipError(
            f"{path} cannot be read: {error.strerror or error}", "a readable JSON file"
        ) from error
    except UnicodeDecodeError as error:
        raise StepclipError(f"{path} is not UTF-8 text (byte {error.start})", "a JSON file") from error
    except json.JSONDecodeError as error:
        raise StepclipError(
            f"{path} is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}",
            "a whole JSON file (this one was cut or edited)",
        ) from error


@contextmanager
def locked(path: str | os.PathLike[str], busy: str = "") -> Iterator[None]:
    """Hold the advisory lock file `path`, made when missing, to change a file that several processes share.

    The system frees the lock when its process dies, so a killed writer blocks nobody. busy: what another
    process does that holds it; StepclipError says so at once, where others wait for their turn.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "ab")  # noqa: SIM115 - closed below
    except OSError as error:
        raise _refused(path, error) from error
    with file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
            except BlockingIOError:
                raise StepclipError(
                    f"{busy} is at work in {Path(path).parent}", "one at a time", "the same again later"
                ) from None
        yield  # closing the file frees the lock


def _link(aside: Path, target: Path) -> None:
    """Rename without ever replacing: a hard link is refused where the name is taken."""
    try:
        os.link(aside, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if target.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        os.replace(aside, target)


def sync_folder(folder: Path) -> None:
    """Make a rename itself survive a power cut; some file systems do not offer it."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


def _refused(path: str | os.PathLike[str], error: OSError) -> StepclipError:
    return StepclipError(
        f"{path} cannot be written: {error.strerror or error}",
        "a folder that can be written, with room on its disk",
        "free some space, or give another --root; what was there before is unchanged",
    )

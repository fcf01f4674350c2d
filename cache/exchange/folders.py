"""A new folder as a whole: written aside under a hidden name, renamed into place, or nothing at all."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import StepclipError
from ..files import TEMPORARY, abandoned, locked, sync_folder

_HELD = ".writing"  # locked in a folder that is being written


@contextmanager
def new_folder(target: Path, check: Callable[[], None]) -> Iterator[Path]:
    """A folder that takes the place of `target` only when the block ends without an error.

    check: raises where `target` is not to be replaced; it is asked before and again at the end, for somebody
    else may have been quicker. Who writes files flushes them; folders and names are flushed here. What was at
    `target` stays on an error. Raises StepclipError when the disk is full, read-only or forbidden.
    """
    check()
    aside = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}{TEMPORARY}")
    try:
        _sweep(target)
        aside.mkdir(parents=True)
        with locked(aside / _HELD):
            yield aside
        for path in (aside, *(path for path in aside.rglob("*") if path.is_dir())):
            sync_folder(path)
        check()
        (aside / _HELD).unlink()
        _put(aside, target)
        sync_folder(target.parent)
    except OSError as error:
        raise StepclipError(
            f"{target} cannot be written: {error.strerror or error}",
            "a folder that can be written, with room on its disk",
            "free some space, or give another folder; what was there before is unchanged",
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def files_in(folder: Path) -> Iterator[Path]:
    """All that lies in a folder and those below it, besides the folders themselves."""
    return (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())


def _put(aside: Path, target: Path) -> None:
    if not target.exists():
        os.rename(aside, target)
        return
    before = aside.with_suffix(".before")
    os.rename(target, before)
    try:
        os.rename(aside, target)
    except OSError:
        os.rename(before, target)
        raise
    shutil.rmtree(before, ignore_errors=True)


def _sweep(target: Path) -> None:
    """Remove what exports to this target left that were killed."""
    ours = re.compile(re.escape(f".{target.name}.") + r"\d+\.[0-9a-f]{8}" + re.escape(TEMPORARY))
    for path in target.parent.iterdir() if target.parent.is_dir() else ():
        if ours.fullmatch(path.name) and abandoned(path / _HELD):
            shutil.rmtree(path, ignore_errors=True)

"""Videos that were sent to be checked: bounded in number and time, gone when the server stops."""

from __future__ import annotations

import re
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from ...cache.errors import StepclipError
from .library import Busy, Unknown


@dataclass
class Kept:
    """An upload: where it lies, what it was called, when it goes."""

    path: Path
    name: str
    bytes: int
    until: float


class Uploads:
    """At most `count` videos, each for `seconds`; how large one may be is the guard's to say.

    They lie in a temporary folder of our own under names of our own; the sender's name is for display.
    """

    def __init__(self, count: int = 8, seconds: float = 1800.0) -> None:
        self.count, self.seconds = count, seconds
        self._folder: Path | None = None  # made for the first one
        self._kept: dict[str, Kept] = {}
        self._coming = 0
        self._lock = threading.Lock()

    async def receive(self, name: str, chunks: AsyncIterator[bytes]) -> tuple[str, Kept]:
        """Write what comes to a file; `Busy` when too many are on their way. Whatever ends it early, nothing
        of it stays."""
        token = secrets.token_urlsafe(18)
        suffix = re.sub(r"[^.a-z0-9]", "", Path(name).suffix.lower())[:6] or ".mp4"
        folder = self._begin()
        path = folder / (token + suffix)
        size = 0
        try:
            with open(path, "xb") as file:
                async for chunk in chunks:
                    file.write(chunk)
                    size += len(chunk)
            if not size:
                raise StepclipError("an empty file", "a video")
            kept = Kept(path, name[:200], size, time.monotonic() + self.seconds)
            with self._lock:
                self._kept[token] = kept
            return token, kept
        except BaseException:  # a client that vanishes raises CancelledError or ClientDisconnect
            path.unlink(missing_ok=True)
            raise
        finally:
            with self._lock:
                self._coming -= 1

    def _begin(self) -> Path:
        with self._lock:
            self._sweep()
            if self._coming >= self.count:
                raise Busy(f"{self._coming} uploads are under way", "a little patience")
            while len(self._kept) + self._coming >= self.count and self._kept:
                self._drop(next(iter(self._kept)))  # the oldest
            self._coming += 1
            if self._folder is None:
                self._folder = Path(tempfile.mkdtemp(prefix="stepclip-uploads-"))
            return self._folder

    def get(self, token: str) -> Kept:
        """`Unknown` when it is not (or no longer) there."""
        with self._lock:
            self._sweep()
            if token not in self._kept:
                raise Unknown("no such upload, or one that was deleted after its time", "a new upload")
            return self._kept[token]

    def drop(self, token: str) -> None:
        self.get(token)
        with self._lock:
            self._drop(token)

    def close(self) -> None:
        """Delete everything."""
        with self._lock:
            self._kept.clear()
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _sweep(self) -> None:
        for token in [t for t, kept in self._kept.items() if kept.until < time.monotonic()]:
            self._drop(token)

    def _drop(self, token: str) -> None:
        kept = self._kept.pop(token, None)
        if kept is not None:
            kept.path.unlink(missing_ok=True)

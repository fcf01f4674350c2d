"""Videos and stills. Opened is the path of a manifest's row or of an upload, never one that was sent."""

from __future__ import annotations

import io
import mimetypes
import threading
from collections import OrderedDict
from pathlib import Path

from fastapi.responses import FileResponse

from ..stills import still
from .library import Turns, Unknown

PLAYED = {"video/mp4", "video/webm", "video/ogg", "video/quicktime", "video/x-m4v", "video/x-matroska"}
STILLS_BYTES = 64 << 20


def media_type(path: str | Path) -> str:
    """The type of a video file by its name; "application/octet-stream" for what is none, so that a browser
    never reads one as a page."""
    kind = mimetypes.guess_type(str(path))[0] or ""
    kind = {"video/quicktime": "video/mp4", "video/x-m4v": "video/mp4"}.get(kind, kind)
    return kind if kind.startswith("video/") else "application/octet-stream"


def playable(path: str | Path) -> bool:
    return Path(path).is_file() and (mimetypes.guess_type(str(path))[0] or "") in PLAYED


def send_file(path: str | Path) -> FileResponse:
    """The file, or the ranges of it that were asked for. `Unknown` where it is not there (any more)."""
    path = Path(path)
    if not path.is_file():
        raise Unknown("the file of this video is not there", "the file that the manifest names")
    return FileResponse(
        path, media_type=media_type(path), content_disposition_type="inline",
        headers={"cache-control": "private, max-age=60"},
    )  # fmt: skip


class Stills:
    """Frames as JPEG, the lately asked ones kept; two are decoded at a time."""

    def __init__(self, kept_bytes: int = STILLS_BYTES) -> None:
        self._kept: OrderedDict[tuple[str, float, int], bytes] = OrderedDict()
        self._size, self._most, self._lock = 0, kept_bytes, threading.Lock()
        self._turns = Turns(at_once=2, waiting=200)

    def still(self, path: str, seconds: float, height: int) -> bytes:
        """The frame shown `seconds` into the file (the last one, beyond its end), `height` pixels high or its
        own height where that is less. DecodeError when the file cannot be read."""
        key = (path, round(seconds, 1), height)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        with self._turns.turn():
            made = _still(*key)
        with self._lock:
            self._size += len(made) - len(self._kept.pop(key, b""))
            self._kept[key] = made
            while self._size > self._most and len(self._kept) > 1:
                self._size -= len(self._kept.popitem(last=False)[1])
        return made


def _still(path: str, seconds: float, height: int) -> bytes:
    from PIL import Image

    image = Image.fromarray(still(path, seconds, height))
    if image.height > height:  # an upright video, whose short side is its width
        image = image.resize((max(1, round(image.width * height / image.height)), height))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=82)
    return out.getvalue()

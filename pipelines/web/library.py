"""What the page serves: a manifest, an index, the texts' encoder; opened once, asked by many threads."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...cache.errors import StepclipError, nearest
from ...cache.manifest import Manifest, VideoRow
from ...evaluate.search import Answer, Filter
from ..checking import Checking, Texts
from ..paths import Layout
from ..searching import load_text_encoder, open_index
from .together import Together

if TYPE_CHECKING:
    from ...evaluate.checking import CheckReport, Comparison

TEXTS = 4096  # sentences whose features are kept


class Unknown(StepclipError):
    """A video that is not among those served."""


class Busy(StepclipError):
    """Too many wait already."""


class Turns:
    """Lets `at_once` callers in at a time; StepclipError `Busy` when `waiting` others wait already."""

    def __init__(self, at_once: int, waiting: int) -> None:
        self._gate, self._most = threading.Semaphore(at_once), at_once + waiting
        self._here, self._lock = 0, threading.Lock()

    @contextmanager
    def turn(self) -> Iterator[None]:
        with self._lock:
            if self._here >= self._most:
                raise Busy("too many requests of this kind are under way", "a little patience")
            self._here += 1
        try:
            with self._gate:
                yield
        finally:
            with self._lock:
                self._here -= 1


class KeptEncoder:
    """An encoder whose texts many threads may ask for: one encodes at a time, the latest are kept."""

    def __init__(self, encoder: Any) -> None:
        self._encoder, self.name = encoder, encoder.name
        self._fields = encoder.fields()
        self._kept: OrderedDict[str, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)  # images and all else: the encoder's own

    def fields(self) -> dict[str, Any]:
        return dict(self._fields)

    def encode_texts(self, texts: list[str]) -> np.ndarray:
        """(n, D) float32, as the encoder's own."""
        with self._lock:  # tokenizers are not made for several threads at once
            new = [text for text in dict.fromkeys(texts) if text not in self._kept]
            if new:
                features = np.asarray(self._encoder.encode_texts(new), dtype=np.float32)
                self._kept.update(zip(new, features, strict=True))
            found = np.stack([self._kept[text] for text in texts])
            for text in texts:
                self._kept.move_to_end(text)
            while len(self._kept) > TEXTS:
                self._kept.popitem(last=False)
        return found


class Library:
    """The videos of a dataset's manifest, and the index of a run over them.

    `folders`: indices to search as one, in place of the run's own; `encoder`: where the encoder's weights are
    now. StepclipError when there is nothing to serve.
    """

    def __init__(
        self,
        layout: Layout,
        dataset: str | None = None,
        run: str | None = None,
        *,
        folders: Sequence[Path] = (),
        encoder: str | None = None,
        device: str = "auto",
    ) -> None:
        self.index, self.paths, self.run = open_index(layout, dataset, run, folders, device=device)
        self._open = lambda: Checking.open(
            layout, self.paths.name, self.run.name, encoder=encoder, device=device
        )
        self._checking: Checking | None = None
        setattr(self.index, "search_vectors", Together(self.index.search_vectors))  # noqa: B010
        self.manifest = Manifest.read(self.paths.manifest)
        self.encoder = KeptEncoder(load_text_encoder(self.paths, encoder, device))
        self.index.check(self.encoder)
        self.indexed = frozenset(self.index.video_ids())
        for video_id in self.indexed:
            self.index.row(video_id)  # makes the index's table of ids, before threads ask for it
            break
        words = [f"{row.video_id}\n{row.task}\n{row.procedure}".lower() for row in self.manifest]
        self._words = "\0".join(words)  # in one piece, so that looking through them is one call
        self._starts = list(accumulate((len(each) + 1 for each in words), initial=0))

    def warm(self) -> None:
        """Ask once for everything, so that the first visitor does not wait for what is compiled or loaded."""
        steps = self.examples(2)
        if not steps or not self.indexed:
            return
        for ask in (
            lambda: self.index.search(steps[0], self.encoder, 1),
            lambda: self.index.search_script(steps, self.encoder, 1),
            lambda: self.index.search_like_video(next(iter(self.indexed)), 1),
        ):
            with suppress(StepclipError):  # a run without texts, an index without a model
                ask()

    def row(self, video_id: str) -> VideoRow:
        """The manifest's row; `Unknown` for an id that is not in it. No path of a caller is ever opened."""
        if video_id not in self.manifest:
            hint = nearest(video_id, [row.video_id for row in self.manifest.videos[:1000]])
            raise Unknown(
                f"no video {video_id!r} here{hint}", f"one of the {len(self.manifest)} that are served"
            )
        return self.manifest[video_id]

    def videos(self, words: str = "", first: int = 0, count: int = 50) -> tuple[list[VideoRow], int]:
        """Videos whose id, task or procedure holds all of `words`, from `first` on; how many there are."""
        asked = sorted(words.lower().replace("\0", " ").split(), key=len)
        found: Sequence[int] = range(len(self.manifest)) if not asked else list(self._holding(asked))
        return [self.manifest.videos[i] for i in found[first : first + count]], len(found)

    def _holding(self, asked: Sequence[str]) -> Iterator[int]:
        """The places of the videos that hold every word; the last of them, the longest, is looked for."""
        at = self._words.find(asked[-1])
        while at >= 0:
            i = bisect_right(self._starts, at) - 1
            start, end = self._starts[i], self._starts[i + 1]
            if all(self._words.find(word, start, end) >= 0 for word in asked[:-1]):
                yield i
            at = self._words.find(asked[-1], end)

    def spans(self, video_id: str) -> list[tuple[float, float] | None]:
        """Where the index puts each step of a video's own script, seconds of the file; None where it is in no
        moment of it, or the video has no place in the index."""
        row = self.row(video_id)
        spans: list[tuple[float, float] | None] = [None] * len(row.steps)
        if video_id not in self.indexed:
            return spans
        p, i = self.index.row(video_id)
        part = self.index.parts[p]
        if tuple(part.cell("script", i)) != row.steps:  # the manifest changed since
            return spans
        trim = float(part.cell("trim", i))
        columns = ("step_at", "step_start", "step_end")
        for k, start, end in zip(*(part.array(name, i) for name in columns), strict=True):
            spans[int(k)] = (float(start) + trim, float(end) + trim)
        return spans

    def duration(self, video_id: str) -> float:
        """Seconds of the (trimmed) video, 0 where it was never decoded."""
        if video_id not in self.indexed:
            return 0.0
        p, i = self.index.row(video_id)
        return float(self.index.parts[p].cell("duration", i))

    def examples(self, count: int = 6) -> list[str]:
        """Sentences to try, spread over those of the manifest."""
        steps = self.manifest.steps()
        return [steps[i * len(steps) // count] for i in range(min(count, len(steps)))]

    # ---- searches; answers whose video has left the manifest are left out

    def search(self, text: str, top: int, by: str, where: Filter) -> list[Answer]:
        return self._served(self.index.search(text, self.encoder, top, by, where))

    def search_script(self, steps: Sequence[str], top: int, where: Filter) -> list[Answer]:
        return self._served(self.index.search_script(steps, self.encoder, top, where))

    def search_moment(self, video_id: str, seconds: float, top: int, where: Filter) -> list[Answer]:
        return self._served(self.index.search_like(self.row(video_id).video_id, seconds, top, where))

    def search_video(self, video_id: str, top: int, where: Filter) -> list[Answer]:
        return self._served(self.index.search_like_video(self.row(video_id).video_id, top, where))

    # ---- checks and comparisons; not for several threads at once

    def check(self, video: str | Path, script: Sequence[str] | None) -> CheckReport:
        """Check a video, an id of the manifest or the file of an upload, against `script` or its own."""
        asked = self._checked_id(video)
        return self._opened().check(asked, script, progress=False)

    def compare(self, a: str | Path, b: str | Path) -> Comparison:
        """Compare two videos, each an id of the manifest or the file of an upload."""
        first, second = self._checked_id(a), self._checked_id(b)
        return self._opened().compare(first, second, progress=False)

    def _opened(self) -> Checking:
        if self._checking is None:
            self._checking = self._open()
        # anew each time: it keeps every sentence that it ever encoded
        self._checking.texts = Texts(self._checking.store, lambda: self.encoder)
        return self._checking

    def _checked_id(self, video: str | Path) -> str:
        """As `Checking` takes it, which opens what is no id as a file: so an id must be a cached one."""
        if isinstance(video, Path):
            return str(video)
        self.row(video)
        if self._opened().row(video) is None:
            raise StepclipError(
                f"{video!r} has no features",
                "a video that was extracted",
                f"stepclip extract --dataset {self.paths.name}",
            )
        return video

    def _served(self, answers: Sequence[Answer]) -> list[Answer]:
        return [answer for answer in answers if answer.video_id in self.manifest]

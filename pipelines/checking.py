"""What `stepclip check` and `stepclip compare` call; also for a notebook or the web page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..cache.errors import StepclipError, nearest
from .paths import DatasetPaths, Layout, RunPaths

if TYPE_CHECKING:
    from ..cache.manifest import Manifest, VideoRow
    from ..cache.store import FeatureStore
    from ..evaluate.checking import Checker, CheckReport, Comparison
    from ..evaluate.embed import Embedded
    from ..train.checkpoint import Checkpoint

FILE = "check.json"


class Texts:
    """Features of texts: those of the cache, and of the rest by its encoder, which is loaded when needed."""

    def __init__(self, store: FeatureStore, load: Callable[[], Any]) -> None:
        self.store, self._load = store, load
        self._encoder: Any = None
        self._new: dict[str, np.ndarray] = {}

    @property
    def encoder(self) -> Any:
        if self._encoder is None:
            self._encoder = self._load()
        return self._encoder

    def has_text(self, string: str, kind: str) -> bool:
        return self.store.has_text(string, kind)

    def text(self, strings: Sequence[str], kind: str = "step") -> np.ndarray:
        """(n, D) float32."""
        lacking = [s for s in dict.fromkeys(strings) if not self.has_text(s, kind) and s not in self._new]
        if lacking:
            from ..evaluate.search.texts import check_encoder

            check_encoder(self.store.fingerprint, self.encoder, self.store.path)
            found = np.asarray(self.encoder.encode_texts(lacking), dtype=np.float32)
            self._new.update(zip(lacking, found, strict=True))
        known = [s for s in strings if s not in self._new]
        features = dict(zip(known, self.store.text(known, kind), strict=True)) if known else {}
        return np.stack([self._new[s] if s in self._new else features[s] for s in strings])


class Checking:
    """A run opened for checks of many recordings. `Checking.open(layout, dataset, run)`."""

    def __init__(
        self,
        paths: DatasetPaths,
        run: RunPaths,
        checkpoint: Checkpoint,
        store: FeatureStore,
        manifest: Manifest,
        encoder: str | None,
        device: str,
    ) -> None:
        self.paths, self.run, self.checkpoint, self.store = paths, run, checkpoint, store
        self.manifest, self.device = manifest, device
        from .searching import load_text_encoder

        self.texts = Texts(store, lambda: load_text_encoder(paths, encoder, device))
        self._checker: Checker | None = None

    @classmethod
    def open(
        cls,
        layout: Layout,
        dataset: str | None = None,
        run: str | None = None,
        *,
        encoder: str | None = None,
        device: str = "auto",
    ) -> Checking:
        """StepclipError when the run and the features do not belong together, or the model knows no texts."""
        from ..cache.manifest import Manifest
        from ..evaluate.evaluation import opened

        paths, chosen = layout.choose_both(dataset, run)
        checkpoint, store = opened(chosen.folder, paths.features)
        return cls(paths, chosen, checkpoint, store, Manifest.read(paths.manifest), encoder, device)

    # ---- the checker

    def checker(self, say: Callable[[str], None] = lambda _: None) -> Checker:
        """The run's checker: kept in check.json, fitted on the training videos where there is none or the
        checkpoint is another one."""
        from ..evaluate.checking import Checker, fit_checker

        if self._checker is not None:
            return self._checker
        path = self.run.folder / FILE
        mine = {"step": self.checkpoint.step, "fingerprint": self.checkpoint.fingerprint.digest}
        if path.is_file():
            kept = Checker.load(path)
            if {key: kept.about.get(key) for key in mine} == mine:
                self._checker = kept
                return kept
        rows = [row for row in self.manifest.without_truth() if row.split == "train"]
        rows = rows or [row for row in self.manifest.without_truth() if row.split == ""]
        made = fit_checker(rows, self.store, self._embed, stage=say)
        made.about.update(mine)
        made.save(path)
        self._checker = made
        return made

    def _embed(self, store: Any, ids: Sequence[str]) -> Embedded:
        """As checks look at videos: by the model; where it has no place for texts, the centred features."""
        from ..evaluate.embed import centred, embed, embed_raw

        if self.checkpoint.model.text:
            return embed(self.checkpoint, store, ids, self.device)
        if store.dim != store.text_dim:
            raise StepclipError(
                f"the run {self.run.name} has no place for texts, nor have its features", "a run that has"
            )
        return centred(embed_raw(store, ids, self.device))

    # ---- videos

    def row(self, video: str) -> VideoRow | None:
        """The row of a cached video, by its id; None for a file. StepclipError for neither."""
        if video in self.manifest and video in self.store:
            return self.manifest[video]
        if not Path(video).is_file():
            raise StepclipError(
                f"{video!r} is no file and no video of {self.paths.name}"
                + nearest(video, self.store.video_ids),
                "a video file, or the id of a video with features",
            )
        return None

    @contextmanager
    def _opened(
        self, videos: Sequence[str], progress: bool
    ) -> Iterator[tuple[Embedded, list[VideoRow | None]]]:
        """Videos embedded, in order: ids of the cache, or files, which are extracted for the moment."""
        from .newvideo import extracted

        rows = [self.row(video) for video in videos]
        files = [Path(video) for video, row in zip(videos, rows, strict=True) if row is None]
        if not files:
            ids = list(dict.fromkeys(videos))
            whole = self._embed(self.store, ids)
            yield whole.take([ids.index(video) for video in videos]), rows
            return
        with extracted(
            self.paths,
            files,
            [()] * len(files),
            self.checkpoint.fingerprint,
            encoder=self.texts.encoder,
            device=self.device,
            progress=progress,
        ) as (fresh, ids):
            made = self._embed(fresh, ids)
            cached = [video for video, row in zip(videos, rows, strict=True) if row is not None]
            if not cached:
                yield made, rows
                return
            yield _joined(made, self._embed(self.store, cached), [row is not None for row in rows]), rows

    def check(
        self,
        video: str,
        script: Sequence[str] | None = None,
        *,
        references: bool = True,
        progress: bool = True,
        say: Callable[[str], None] = lambda _: None,
    ) -> CheckReport:
        """Check `video`, the id of a cached one or a file, against `script` (default: its own, of a cached
        one). `references`: also by other recordings of the cache that show the same steps."""
        from ..evaluate.checking import check
        from ..evaluate.checking.likeness import References, other_sentences, reference_videos

        row = self.row(video)
        if script is None and row is None:
            raise StepclipError("no script to check against", "--script FILE, a step per line")
        steps = tuple(script) if script is not None else row.steps  # type: ignore[union-attr]
        checker = self.checker(say)
        without = [video] if row is not None else []
        shown = reference_videos(steps, list(self.manifest), self.store, without) if references else []
        task = row.task if row is not None else shown[0].task if shown else ""
        others = other_sentences(steps, task, list(self.manifest))
        known = [s for s in others if self.store.has_text(s, "step")]
        say("looking at other recordings of these steps")
        others_seen = None
        if shown and checker.references is not None:
            others_seen = References.take(
                self._embed(self.store, [v.video_id for v in shown]), self.texts, shown
            )
        say("looking at the recording")
        with self._opened([video], progress) as (embedded, _):
            return check(
                embedded,
                self.texts,
                0,
                steps,
                checker,
                known,
                others_seen,
                trim=(row.start or 0.0) if row is not None else 0.0,
                without=without,
                name=video,
            )

    def compare(
        self,
        a: str,
        b: str,
        *,
        progress: bool = True,
        say: Callable[[str], None] = lambda _: None,
    ) -> Comparison:
        """Compare two videos, each the id of a cached one or a file."""
        from ..evaluate.checking import compare

        for video in (a, b):
            self.row(video)  # one that is not there is told before the checker is made
        checker = self.checker(say)
        say("aligning the recordings")
        with self._opened([a, b], progress) as (embedded, rows):
            labels = [self._labels(embedded, i, row) for i, row in enumerate(rows)]
            trims = [(row.start or 0.0) if row is not None else 0.0 for row in rows]
            return compare(
                embedded,
                0,
                1,
                checker.pairs,
                names=(a, b),
                trims=(trims[0], trims[1]),
                labels=(labels[0], labels[1]),
            )

    def _labels(self, embedded: Embedded, i: int, row: VideoRow | None) -> list[str]:
        """The step of each frame by the video's own script; empty where it has none."""
        from ..evaluate.localisation import align_scripts

        if row is None or not all(self.store.has_text(s, "step") for s in row.steps):
            return []
        found = align_scripts(embedded, self.store, np.array([i]), [row.steps])
        return [row.steps[k] if k >= 0 else "" for k in found.labels[0]]


def _joined(fresh: Embedded, cached: Embedded, from_cache: Sequence[bool]) -> Embedded:
    """Both as one, in the order that `from_cache` says."""
    from dataclasses import replace

    import torch

    both = replace(
        fresh,
        video_ids=(*fresh.video_ids, *(f"cached {v}" for v in cached.video_ids)),
        video=torch.cat([fresh.video, cached.video]),
        frames=torch.cat([fresh.frames, cached.frames]),
        times=np.concatenate([fresh.times, cached.times]),
        offsets=np.concatenate([fresh.offsets, cached.offsets[1:] + fresh.offsets[-1]]),
        durations=np.concatenate([fresh.durations, cached.durations]),
    )
    ours, theirs = iter(range(len(fresh))), iter(range(len(fresh), len(both)))
    return both.take([next(theirs) if each else next(ours) for each in from_cache])

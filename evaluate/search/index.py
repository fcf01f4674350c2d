"""An index opened for many queries: sentences, whole scripts, other videos, moments."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from ...cache.errors import StepclipError, nearest
from ...cache.fingerprint import Fingerprint
from .answers import Answer, Filter, Matched, best_of
from .build import open_parts
from .found import aligned_answer, moment_answer, step_answer, step_spans
from .ordered import make_windows, script_order, video_order
from .part import REBUILD, Part
from .texts import TextEncoder, check_encoder
from .vectors import LEVELS

if TYPE_CHECKING:
    from ..embed import Embedded

BY = {"moment": "windows", "video": "videos", "step": "steps"}
CANDIDATES = 1000  # videos that are aligned with a script or a video
PER_STEP = 4  # times CANDIDATES: nearest moments that are looked at for each step of a script
EVERYTHING = Filter()


class SearchIndex:
    """An index, or several that are searched as one. Use `SearchIndex.open(folder, ...)`.

    Every search takes `top` answers, best first, one per video, and a `Filter` of what may answer. Safe to
    call from several threads.
    """

    def __init__(self, folders: Sequence[Path], meta: dict[str, Any], parts: Sequence[Part]) -> None:
        self.folder, self.folders, self.meta, self.parts = folders[0], tuple(folders), meta, tuple(parts)
        self.fingerprint = Fingerprint(meta["fingerprint"])
        self.first = np.cumsum([0, *(len(part) for part in parts)])  # videos, over all parts
        self._model: Any = None
        self._rows: dict[str, tuple[int, int]] | None = None

    @classmethod
    def open(cls, *folders: str | os.PathLike[str], gpu: bool = False) -> SearchIndex:
        """Map the index at `folders` into memory. Several are the shards of one: of the same features and
        checkpoint. With `gpu`, vectors go to the GPUs where faiss-gpu is there. StepclipError when one cannot
        be read or is of another kind."""
        paths = [Path(folder) for folder in folders]
        opened = [open_parts(path, gpu) for path in paths]
        metas = [meta for meta, _ in opened]
        for path, meta in zip(paths, metas, strict=True):
            for key in ("fingerprint", "recipe", "step", "spaces"):
                if meta[key] != metas[0][key]:
                    raise StepclipError(
                        f"{path} and {paths[0]} differ in {key}: {meta[key]} and {metas[0][key]}",
                        "shards of one index: of the same features and the same checkpoint",
                        REBUILD,
                    )
        parts = [part for _, parts in opened for part in parts]
        return cls(paths, metas[0], parts)

    def __len__(self) -> int:
        return int(sum((~part.gone).sum() for part in self.parts))

    def video_ids(self) -> list[str]:
        """The videos that can answer."""
        return [v for part in self.parts for v, out in zip(part.ids(), part.gone, strict=True) if not out]

    def row(self, video_id: str) -> tuple[int, int]:
        """(part, row) of a video; StepclipError when it is not in the index."""
        if self._rows is None:
            self._rows = {
                v: (p, i)
                for p, part in enumerate(self.parts)
                for i, v in enumerate(part.ids())
                if not part.gone[i]
            }
        if video_id not in self._rows:
            raise StepclipError(
                f"no video {video_id!r} in the index{nearest(video_id, self._rows)}",
                f"one of its {len(self)} videos",
                "stepclip index add",
            )
        return self._rows[video_id]

    # ---- texts

    def check(self, encoder: TextEncoder) -> None:
        """StepclipError when the encoder is not the one whose texts the index can be asked with."""
        check_encoder(self.fingerprint, encoder, self.folder)

    def encode(self, encoder: TextEncoder, texts: Sequence[str], level: str) -> torch.Tensor:
        """Unit embeddings (n, E) of texts, in the space of a level or of "ordered"."""
        self.check(encoder)
        features = torch.as_tensor(np.asarray(encoder.encode_texts(list(texts)), dtype=np.float32))
        return self.place(features.reshape(len(texts), -1), level)

    @torch.no_grad()
    def place(self, features: torch.Tensor, level: str) -> torch.Tensor:
        """Unit embeddings (n, E) of the encoder's text features (n, D), where those of a level lie."""
        spaces = self.meta["spaces"]
        space = spaces["windows" if level == "steps" else level]
        if space == "model" and not spaces["texts"]:
            raise StepclipError(
                f"the run {self.meta['recipe']} has no place for texts among its {level}",
                "a search by moment or step, or by a video",
                "--by moment, --video FILE or --like VIDEO@TIME",
            )
        if space == "model" and self.meta["model_embeds_texts"]:
            kind = "paragraph" if level == "videos" else "step"
            features = self.model().embed_texts(features, kind)
        width = self.windows_dim if level == "ordered" else self.parts[0].levels[level].dim
        if features.shape[1] != width:
            raise StepclipError(
                f"a text feature of {features.shape[1]} numbers", f"{width}, as in the index", REBUILD
            )
        return F.normalize(features.float(), dim=-1)

    @property
    def windows_dim(self) -> int:
        return int(self.parts[0].windows.rows.shape[1])

    def model(self) -> Any:
        """The model that the index was built with, from the checkpoint on record."""
        if self._model is None:
            from ...train.checkpoint import load_checkpoint

            if not self.meta["checkpoint"]:
                raise StepclipError(
                    f"the index at {self.folder} does not say where its model is", "a checkpoint", REBUILD
                )
            self._model = load_checkpoint(self.meta["checkpoint"]).model.eval()
        return self._model

    # ---- searches

    def search_vectors(
        self, level: str, queries: np.ndarray, top: int, where: Filter = EVERYTHING
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cosines (Q, k) and rows (Q, k) of the vectors nearest to unit `queries` (Q, E) float32, best first.

        Rows count through the parts in order. k is `top`, or as many as there are.
        """
        if level not in LEVELS:
            raise StepclipError(f"level {level!r}{nearest(level, LEVELS)}", f"one of {', '.join(LEVELS)}")
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if len(self.parts) == 1:
            part = self.parts[0]
            return part.search(level, queries, top, part.allowed(where))
        found, first = [], 0
        for part in self.parts:
            scores, rows = part.search(level, queries, top, part.allowed(where))
            found.append((scores, np.where(rows < 0, rows, rows + first)))
            first += len(part.levels[level])
        return merged(found, top)

    def search(
        self,
        text: str,
        encoder: TextEncoder,
        top: int = 5,
        by: str = "moment",
        where: Filter = EVERYTHING,
    ) -> list[Answer]:
        """The `top` videos for a text. by: "moment", the best second, for a sentence; "step", the best step
        of the videos' own scripts, with its span; "video", the whole video, for a script."""
        return self.search_placed(*self.place_text(text, encoder, by), top, by, where)

    def place_text(
        self, text: str, encoder: TextEncoder, by: str = "moment"
    ) -> tuple[np.ndarray, np.ndarray]:
        """A text's unit embeddings (1, E) where what `search` looks for lies, and where moments lie."""
        if not text.strip():
            raise StepclipError("the text to search for is empty", "a sentence or a whole script")
        if by not in BY:
            raise StepclipError(f"by = {by!r}{nearest(by, BY)}", "'moment', 'step' or 'video'")
        query = self.encode(encoder, [text], BY[by]).numpy()
        if by != "video" or self.meta["spaces"]["videos"] == self.meta["spaces"]["windows"]:
            return query, query
        return query, self.encode(encoder, [text], "windows").numpy()

    def search_placed(
        self,
        query: np.ndarray,
        moment: np.ndarray,
        top: int = 5,
        by: str = "moment",
        where: Filter = EVERYTHING,
    ) -> list[Answer]:
        """`search` for what `place_text` gave."""
        return self._by_vector(BY[by], query, moment, _checked(top), where)

    def search_like(
        self, video_id: str, seconds: float, top: int = 5, where: Filter = EVERYTHING
    ) -> list[Answer]:
        """The `top` other videos that have a moment like that of `video_id` at `seconds` of its file."""
        p, row = self.row(video_id)
        part = self.parts[p]
        times = part.array("times", row) + part.cell("trim", row)
        length = float(part.cell("duration", row)) + part.cell("trim", row)
        if not part.cell("trim", row) - 1 <= seconds <= length + 1:
            raise StepclipError(
                f"{video_id} at {seconds:g} s", f"a moment from {part.cell('trim', row):g} to {length:g} s"
            )
        at = int(part.firsts["windows"][row] + np.abs(times - seconds).argmin())
        query = part.levels["windows"].vectors(np.array([at]))
        return self._by_vector("windows", query, query, _checked(top), _without(where, video_id))

    def search_script(
        self,
        steps: Sequence[str],
        encoder: TextEncoder,
        top: int = 5,
        where: Filter = EVERYTHING,
        candidates: int = CANDIDATES,
    ) -> list[Answer]:
        """The `top` videos that do `steps` in this order, each with the time of every step.

        Recall: up to `candidates` videos by the mean, over the steps, of their best moment for the step (one
        that is not among the nearest moments counts as the last of them). Order: the candidates are aligned
        with the script; see `ordered`.
        """
        steps, moments, script = self.place_script(steps, encoder)
        return self.search_placed_script(steps, moments, script, top, where, candidates)

    def place_script(
        self, steps: Sequence[str], encoder: TextEncoder
    ) -> tuple[list[str], np.ndarray, np.ndarray]:
        """The steps, and their unit embeddings (S, E) where moments and where ordered windows lie."""
        steps = [step.strip() for step in steps if step.strip()]
        if not steps:
            raise StepclipError("the script has no steps", "a sentence per step, in order")
        self.check(encoder)
        features = torch.as_tensor(np.asarray(encoder.encode_texts(steps), dtype=np.float32))
        return steps, self.place(features, "windows").numpy(), self.place(features, "ordered").numpy()

    def search_placed_script(
        self,
        steps: Sequence[str],
        moments: np.ndarray,
        script: np.ndarray,
        top: int = 5,
        where: Filter = EVERYTHING,
        candidates: int = CANDIDATES,
    ) -> list[Answer]:
        """`search_script` for what `place_script` gave."""
        videos, _ = self.recall_script(moments, where, candidates)
        placed, found = torch.from_numpy(script), list[Answer]()
        for part, mine in self._by_part(videos):
            best, fitted = script_order(part.windows, mine, placed, _checked(top))
            for i, row in enumerate(best):
                spans = step_spans(part, int(row), fitted.labels[i], len(steps))
                matched = tuple(
                    Matched(step, start, end, float(cosine))
                    for step, (start, end), cosine in zip(steps, spans, fitted.cosines[i], strict=True)
                )
                found.append(aligned_answer(part, int(row), float(fitted.scores[i]), matched))
        return best_of(found, top)

    def recall_script(
        self, steps: np.ndarray, where: Filter = EVERYTHING, candidates: int = CANDIDATES
    ) -> tuple[np.ndarray, np.ndarray]:
        """Videos (B,), counted through the parts, and scores (B,), best first, for unit `steps` (S, E) where
        the moments lie, by their best moment for each step, whatever the order."""
        videos = sum(
            len(part) if (mask := part.allowed(where)) is None else int(mask.sum()) for part in self.parts
        )
        if videos <= candidates:  # all of them; nothing to choose by
            every = [
                first + (np.arange(len(part)) if mask is None else np.flatnonzero(mask))
                for first, part in zip(self.first, self.parts, strict=False)
                for mask in (part.allowed(where),)
            ]
            chosen = np.concatenate(every) if every else np.zeros(0, np.int64)
            return chosen, np.zeros(len(chosen))
        scores, rows = self.search_vectors("windows", steps, PER_STEP * candidates, where)
        found = rows >= 0  # an approximate index may find fewer
        places, inverse = np.unique(self._owners("windows", rows[found]), return_inverse=True)
        last = np.where(found, scores, np.inf).min(1, initial=1.0)
        best = np.repeat(last[:, None], len(places), 1)
        np.maximum.at(best, (np.nonzero(found)[0], inverse), scores[found])
        mean = best.mean(0)
        order = np.argsort(-mean, kind="stable")[:candidates]
        return places[order], mean[order]

    def search_video(
        self,
        query: Embedded,
        top: int = 5,
        where: Filter = EVERYTHING,
        candidates: int = CANDIDATES,
    ) -> list[Answer]:
        """The `top` videos of the same procedure as a video: `query`, embedded as the index's ordered windows
        are (`embed` with its model). Recall by whole videos, order by DTW of 64 windows each."""
        if len(query) != 1:
            raise StepclipError(f"{len(query)} videos to search with", "one")
        if self.meta["spaces"]["ordered"] != self.meta["spaces"]["videos"]:
            raise StepclipError(
                "an index without a model that puts videos in order",
                "an index of a trained run",
                "stepclip train",
            )
        video = F.normalize(query.video.float().cpu(), dim=-1).numpy()
        mine = make_windows(query.frames.cpu(), query.offsets).rows.float()
        return self._like_windows(video, mine, _checked(top), where, candidates)

    def search_like_video(
        self, video_id: str, top: int = 5, where: Filter = EVERYTHING, candidates: int = CANDIDATES
    ) -> list[Answer]:
        """The same for a video of the index."""
        p, row = self.row(video_id)
        part = self.parts[p]
        rows, _ = part.windows.padded(np.array([row]))
        video = part.levels["videos"].vectors(np.array([row]))
        return self._like_windows(
            video, rows[0].float(), _checked(top), _without(where, video_id), candidates
        )

    # ---- answers

    def _like_windows(
        self, video: np.ndarray, windows: torch.Tensor, top: int, where: Filter, candidates: int
    ) -> list[Answer]:
        _, rows = self.search_vectors("videos", video, candidates, where)
        found = []
        for part, mine in self._by_part(rows[0][rows[0] >= 0]):
            best, scores = video_order(part.windows, mine, windows, top)
            found += [
                aligned_answer(part, int(row), float(score)) for row, score in zip(best, scores, strict=True)
            ]
        return best_of(found, top)

    def _by_part(self, videos: np.ndarray) -> Iterator[tuple[Part, np.ndarray]]:
        """Each part that holds some of `videos` (counted through the parts), and their rows in it, sorted."""
        for p, part in enumerate(self.parts):
            mine = videos[(videos >= self.first[p]) & (videos < self.first[p + 1])] - self.first[p]
            if len(mine):
                yield part, np.sort(mine)

    def _by_vector(
        self, level: str, query: np.ndarray, moment: np.ndarray, top: int, where: Filter
    ) -> list[Answer]:
        """The best videos by one vector of a level; `moment` is the query where moments lie."""
        if level == "videos":
            scores, rows = self.search_vectors(level, query, top, where)
            best = list(zip(rows[0].tolist(), rows[0].tolist(), scores[0].tolist(), strict=True))
        else:
            best = self._one_per_video(level, query, top, where)
        answers = []
        for video, row, score in best:
            if row < 0:  # an approximate index found fewer
                continue
            p = int(np.searchsorted(self.first, video, side="right") - 1)
            part, mine = self.parts[p], int(video - self.first[p])
            if level == "steps":
                at = row - sum(len(other.levels["steps"]) for other in self.parts[:p])
                answers.append(step_answer(part, mine, at, score, moment[0]))
            else:
                answers.append(moment_answer(part, mine, score, moment[0]))
        return answers

    def _one_per_video(
        self, level: str, query: np.ndarray, top: int, where: Filter
    ) -> list[tuple[int, int, float]]:
        """(video, row, score) of the `top` videos by their best vector: ask for more vectors until that many
        videos show up."""
        total = sum(len(part.levels[level]) for part in self.parts)
        wanted = min(total, 64 * top)
        while True:
            scores, rows = self.search_vectors(level, query, wanted, where)
            real = rows[0] >= 0
            owner = self._owners(level, rows[0][real])
            videos, first = np.unique(owner, return_index=True)
            if len(videos) >= top or wanted >= total or rows.shape[1] < wanted:
                best = np.sort(first)[:top]
                return [(int(owner[i]), int(rows[0][i]), float(scores[0][i])) for i in best]
            wanted = min(total, wanted * 4)

    def _owners(self, level: str, rows: np.ndarray) -> np.ndarray:
        """The video of each row, both counted through the parts."""
        starts = np.cumsum([0, *(len(part.levels[level]) for part in self.parts)])
        out = np.zeros(rows.shape, dtype=np.int64)
        for p, part in enumerate(self.parts):
            mine = (rows >= starts[p]) & (rows < starts[p + 1])
            out[mine] = part.owner(level, rows[mine] - starts[p]) + self.first[p]
        return out


def merged(found: Sequence[tuple[np.ndarray, np.ndarray]], top: int) -> tuple[np.ndarray, np.ndarray]:
    """The `top` best of several (scores (Q, k), rows (Q, k)), best first."""
    scores, rows = (np.concatenate([each[i] for each in found], axis=1) for i in (0, 1))
    best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    return np.take_along_axis(scores, best, 1), np.take_along_axis(rows, best, 1)


def _checked(top: int) -> int:
    if top < 1:
        raise StepclipError(f"top = {top}", "1 or more answers")
    return top


def _without(where: Filter, video_id: str) -> Filter:
    return replace(where, without=(*where.without, video_id))


def search(
    index: SearchIndex | str | os.PathLike[str],
    text: str,
    encoder: TextEncoder,
    top: int = 5,
    by: str = "moment",
    where: Filter = EVERYTHING,
) -> list[Answer]:
    """Search an index (folder, or opened once for many queries) for a text; see `SearchIndex.search`."""
    opened = index if isinstance(index, SearchIndex) else SearchIndex.open(index)
    return opened.search(text, encoder, top, by, where)

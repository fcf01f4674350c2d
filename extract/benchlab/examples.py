"""What the embedded encoder learns from: recordings of training people with the words for every frame."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .draw import HAND, draw_regions
from .people import camera, make_person
from .procedures import MAX_STEPS, Task, make_task
from .render import FPS, SIZE, encode, frames, plan, scenes
from .vocabulary import COLOURS, FIXTURES, TOOLS, VERBS, VESSELS

FIRST_SEED = 100_000  # benches of users have smaller seeds
IMAGE = 112
PATCH = 14
EVERY = 3  # frames kept: one in three, 2.7 a second
CONTEXT = 77
THINGS = [(kind, colour) for kind in (*VESSELS, *TOOLS, *FIXTURES) for colour in COLOURS]
REGIONS = len(THINGS) + 2  # each thing, the hand, nothing
IDLE = ("nothing happens", "an idle hand", "the hand rests", "a person waits at the table")


@dataclass(frozen=True)
class Clip:
    """One recording for training: pictures (n, 112, 112, 3) uint8, the step of each (-1 at rest), its task's words."""

    pictures: np.ndarray
    regions: np.ndarray  # (n, 8, 8) uint8: the thing in each patch, see draw_regions
    steps: np.ndarray
    task: Task
    procedure: int


def make_clip(job: tuple[int, int, int, str, str]) -> Clip:
    """Renders one recording, encodes it, decodes it again. Job: bench seed, task, procedure, person, folder."""
    import av
    from PIL import Image

    seed, number, procedure, name, folder = job
    task = make_task(number, seed)
    person = make_person(name, np.random.default_rng([seed, *name.encode()]))
    rng = np.random.default_rng([seed, number, procedure, 1, *name.encode()])
    segments = plan(task, procedure, person, rng, FPS)
    path = Path(folder) / f"{seed}-{number}-{procedure}-{name}.mp4"
    encode(path, frames(task, procedure, person, rng, segments, SIZE, EVERY), SIZE, FPS, person.crf)
    steps = np.concatenate([np.full(s.frames, s.step) for s in segments])[::EVERY]
    width = round(SIZE[0] * IMAGE / SIZE[1])
    left = (width - IMAGE) // 2
    with av.open(str(path)) as container:
        images = [
            f.to_image().resize((width, IMAGE), Image.Resampling.BICUBIC) for f in container.decode(video=0)
        ]
    path.unlink()
    cut = slice(left, left + IMAGE)
    rng = np.random.default_rng([seed, number, procedure, 1, *name.encode()])
    again = scenes(task, procedure, person, rng, plan(task, procedure, person, rng, FPS))
    view = camera(person, (width, IMAGE), (0.0, 0.0))
    maps = [
        draw_regions(scene).transform((width, IMAGE), Image.Transform.AFFINE, view)
        for i, (scene, _, _) in enumerate(again) if i % EVERY == 0
    ]  # fmt: skip
    regions = np.stack([patches(np.asarray(m)[:, cut]) for m in maps])
    return Clip(np.stack([np.asarray(i)[:, cut] for i in images]), regions, steps, task, procedure)


def patches(labels: np.ndarray) -> np.ndarray:
    """The label that fills most of each 14 x 14 patch, 0 where none fills a fifth of it: (112, 112) -> (8, 8)."""
    n = IMAGE // PATCH
    cells = labels.reshape(n, PATCH, n, PATCH).swapaxes(1, 2).reshape(n, n, -1)
    known = [v for v in np.unique(labels) if v]
    if not known:
        return np.zeros((n, n), np.uint8)
    share = np.stack([(cells == v).mean(-1) for v in known])
    return np.where(share.max(0) > 0.2, np.asarray(known, np.uint8)[share.argmax(0)], 0)


def make_clips(
    count: int, folder: Path, *, tasks: Sequence[int], seeds: int, people: str, workers: int
) -> list[Clip]:
    """`count` recordings spread over tasks, procedures, benches and people."""
    jobs = []
    for i in range(count):
        seed = FIRST_SEED + i % seeds
        number = tasks[(i // seeds) % len(tasks)]
        procedure = 1 + (i // seeds // len(tasks) + i) % 5
        jobs.append((seed, number, procedure, f"{people}{i % 997}", str(folder)))
    folder.mkdir(parents=True, exist_ok=True)
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        return list(pool.imap(make_clip, jobs, chunksize=4))


def descriptions(task: Task, rng: np.random.Generator, count: int) -> list[str]:
    """Sentences about a task's things that tell what is there, not what is done."""
    names = [f"{colour} {kind}" for kind, colour in task.things]
    some = [rng.permutation(names)[: int(rng.integers(1, 4))] for _ in range(count)]
    return ["a table with " + " and ".join(f"a {n}" for n in each) for each in some]


class Batches:
    """Draws groups of frames of one recording (hard negatives) with captions, on the device."""

    def __init__(self, clips: Sequence[Clip], tokenizer: Any, device: str, seed: int) -> None:
        import torch

        self.torch, self.clips, self.device = torch, clips, device
        self.rng = np.random.default_rng(seed)
        self.pictures = torch.from_numpy(np.concatenate([c.pictures for c in clips])).to(device)
        self.regions = torch.from_numpy(np.concatenate([self._region_names(c) for c in clips])).to(device)
        self.offset = np.cumsum([0, *(len(c.steps) for c in clips)])
        self.end = tokenizer.eos_token_id
        self.tokens: list[list[int]] = []  # with start and end
        ids: dict[str, int] = {}

        def known(texts: Sequence[str]) -> list[int]:
            new = list(dict.fromkeys(t for t in texts if t not in ids))
            if new:
                self.tokens += tokenizer(new, truncation=True, max_length=CONTEXT).input_ids
                ids.update((t, len(ids)) for t in new)
            return [ids[t] for t in texts]

        self.idle = np.array(known(IDLE))
        self.scene = np.array([known(descriptions(c.task, self.rng, 6)) for c in clips])
        self.steps = np.concatenate([c.steps for c in clips])
        self.script = np.zeros((len(clips), MAX_STEPS + 1, 6), np.int64)  # caption of each step in each form
        self.named = np.full((len(clips), MAX_STEPS + 1, 3), len(THINGS))  # verb, a, b; the last row is rest
        self.named[:, :, 0] = len(VERBS)
        for i, c in enumerate(clips):
            where = [*(THINGS.index(thing) for thing in c.task.things), len(THINGS)]
            for k, (verb, x, y) in enumerate(c.task.scripts[c.procedure - 1]):
                self.script[i, k] = known([c.task.sentence((verb, x, y), form) for form in range(6)])
                self.named[i, k] = VERBS.index(verb), where[x], where[y]
        self.table = self.padded(self.tokens)
        self.comma = tokenizer(",", add_special_tokens=False).input_ids

    def draw(self, groups: int, each: int, plain: float) -> tuple[Any, Any, np.ndarray, Any, Any]:
        """Pictures (groups * each, 3, H, W), regions (n, 8, 8), a caption id each, names (n, 3), tokens of a paragraph per group."""
        g = self.rng.integers(len(self.clips), size=(groups, 1))
        lengths = np.diff(self.offset)[g]
        rows = self.offset[g] + (self.rng.random((groups, each)) * lengths).astype(np.int64)
        seen = self.steps[rows]
        form = np.where(self.rng.random(seen.shape) < 0.6, self.rng.integers(6, size=seen.shape), 0)
        said = np.where(seen < 0, self.rng.choice(self.idle, seen.shape), self.script[g, seen, form])
        told = self.scene[g, self.rng.integers(6, size=seen.shape)]
        texts = np.where(self.rng.random(seen.shape) < plain, told, said).ravel()
        index = self.torch.from_numpy(rows.ravel()).to(self.device)
        names = self.torch.from_numpy(self.named[g, seen].reshape(-1, 3)).to(self.device)
        paragraphs = self.padded([self.joined(i, s) for i, s in zip(g[:, 0], seen, strict=True)])
        return self.pictures[index].permute(0, 3, 1, 2), self.regions[index], texts, names, paragraphs

    @staticmethod
    def _region_names(clip: Clip) -> np.ndarray:
        """Regions as 0..REGIONS-1: a thing, the hand, or nothing (the last)."""
        table = np.full(256, REGIONS - 1)
        table[HAND] = len(THINGS)
        table[1 : 1 + len(clip.task.things)] = [THINGS.index(t) for t in clip.task.things]
        return table[clip.regions].astype(np.int64)

    def joined(self, clip: int, seen: np.ndarray) -> list[int]:
        """Tokens of the paragraph of the steps that are seen."""
        words: list[int] = []
        for s in sorted(set(seen.tolist()) - {-1}) or [0]:
            words += (self.comma if words else []) + self.tokens[self.script[clip, s, 0]][1:-1]
        return [self.tokens[0][0], *words[: CONTEXT - 2], self.end]

    def padded(self, chosen: Sequence[Sequence[int]]) -> Any:
        """Token lists as one tensor (n, longest)."""
        out = np.full((len(chosen), max(map(len, chosen))), self.end)
        for row, tokens in zip(out, chosen, strict=True):
            row[: len(tokens)] = tokens
        return self.torch.from_numpy(out).to(self.device)

"""What the embedded encoder learns from: recordings of training people with the words for every frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .draw import draw_regions
from .fanout import in_processes
from .people import camera, make_person
from .procedures import FIRST_SEED, PROCEDURES, Task, make_task
from .render import FPS, SIZE, encode, frames, plan, scenes
from .vocabulary import COLOURS, FIXTURES, PHRASES, TOOLS, VESSELS

IMAGE = 112
PATCH = 14
EVERY = 3  # frames kept: one in three, 2.7 a second
CONTEXT = 77
FORMS = max(len(phrases) for phrases in PHRASES.values())  # of a sentence
THINGS = [(kind, colour) for kind in (*VESSELS, *TOOLS, *FIXTURES) for colour in COLOURS]
REGIONS = len(THINGS) + 2  # each thing, the hand, nothing
IDLE = ("nothing happens", "an idle hand", "the hand rests", "a person waits at the table")


@dataclass(frozen=True)
class Clip:
    """One recording for training: n frames, what is in them, and the task that has the words for it."""

    pictures: np.ndarray  # (n, 112, 112, 3) uint8 RGB
    regions: np.ndarray  # (n, 8, 8) uint8: the thing in each patch, see draw_regions
    steps: np.ndarray  # (n,) int: the step that a frame is in, -1 at rest
    task: Task
    procedure: int


def make_clip(job: tuple[int, int, int, str, str]) -> Clip:
    """Renders one recording, encodes it, and decodes it again, so that pictures look as they do in a video.

    job: bench seed, task, procedure, person, folder for the file (removed at once).
    """
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
    """(112, 112) to (8, 8): the label that fills most of each patch, 0 where none fills a fifth of it."""
    n = IMAGE // PATCH
    cells = labels.reshape(n, PATCH, n, PATCH).swapaxes(1, 2).reshape(n, n, -1)
    known = [v for v in np.unique(labels) if v]
    if not known:
        return np.zeros((n, n), np.uint8)
    share = np.stack([(cells == v).mean(-1) for v in known])
    return np.where(share.max(0) > 0.2, np.asarray(known, np.uint8)[share.argmax(0)], 0)


def make_clips(
    count: int,
    folder: Path,
    *,
    tasks: Sequence[int],
    seeds: int,
    people: str,
    workers: int,
    progress: bool = True,
) -> list[Clip]:
    """`count` recordings spread over tasks, procedures, `seeds` benches and the people of a split.

    `folder` is for files in passing; `workers` processes render.
    """
    jobs = []
    for i in range(count):
        seed = FIRST_SEED + i % seeds
        number = tasks[(i // seeds) % len(tasks)]
        procedure = 1 + (i // seeds // len(tasks) + i) % PROCEDURES
        jobs.append((seed, number, procedure, f"{people}{i % 997}", str(folder)))
    folder.mkdir(parents=True, exist_ok=True)
    return in_processes(make_clip, jobs, lambda clip: len(clip.steps), workers=workers, progress=progress)


def descriptions(task: Task, rng: np.random.Generator, count: int) -> list[str]:
    """Sentences about a task's things that tell what is there, not what is done."""
    names = [f"{colour} {kind}" for kind, colour in task.things]
    some = [rng.permutation(names)[: int(rng.integers(1, 4))] for _ in range(count)]
    return ["a table with " + " and ".join(f"a {n}" for n in each) for each in some]

"""One recording: a person carries out a script, frame by frame, into an H.264 file; step times are known."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ...cache.errors import StepclipError
from .actions import ACTIONS, apply
from .draw import Pen, draw_scene
from .people import Person, background, camera, light
from .procedures import Task
from .scene import HOME, RGB, Scene, mix

SIZE = (160, 120)
FPS = 8


@dataclass(frozen=True)
class Segment:
    """A stretch of the recording: a step (its index) or rest (-1); times in frames."""

    step: int
    first: int
    frames: int
    occluded: bool


@dataclass(frozen=True)
class Recording:
    """What was recorded: true times in seconds from the first frame, one pair per step of the script."""

    path: Path
    frames: int
    step_start: tuple[float, ...]
    step_end: tuple[float, ...]


def plan(task: Task, procedure: int, person: Person, rng: np.random.Generator, fps: int) -> list[Segment]:
    """Lengths of steps, pauses and idle stretches, as this person would take them, without a gap."""
    script, segments, at = task.scripts[procedure - 1], [], 0

    def add(step: int, seconds: float, occluded: bool = False) -> None:
        nonlocal at
        frames = max(1 if step < 0 else 4, round(seconds * fps))
        segments.append(Segment(step, at, frames, occluded))
        at += frames

    for i, (verb, _, _) in enumerate(script):
        idle = rng.random() < person.idle
        add(-1, float(rng.uniform(1.0, 4.0)) if idle else float(rng.exponential(person.pause)))
        seconds = ACTIONS[verb].seconds * person.speed * float(np.exp(rng.normal(0, 0.3)))
        add(i, seconds, bool(rng.random() < person.occlusion))
    add(-1, float(rng.uniform(0.2, 3.0)))
    return segments


def _wander(scene: Scene, u: float, goal: tuple[float, float]) -> None:
    """An idle hand goes somewhere and comes back without doing anything."""
    w = math.sin(math.pi * u)
    scene.hand = (HOME[0] + (goal[0] - HOME[0]) * w, HOME[1] + (goal[1] - HOME[1]) * w)


def scenes(
    task: Task, procedure: int, person: Person, rng: np.random.Generator, segments: list[Segment]
) -> Iterator[tuple[Scene, Segment, float]]:
    """Every frame's scene, in order, with its segment and the share of it that has passed."""
    scene = task.scene(rng)
    script = task.scripts[procedure - 1]
    for seg in segments:
        goal = (float(rng.uniform(60, 200)), float(rng.uniform(70, 150)))
        for k in range(seg.frames):
            now, u = scene.moment(), (k + 0.5) / seg.frames
            if seg.step >= 0:
                ACTIONS[script[seg.step][0]].play(now, *script[seg.step][1:], u)
            elif seg.frames > 8 and scene.held < 0:
                _wander(now, u, goal)
            yield now, seg, u
        if seg.step >= 0:
            apply(scene, *script[seg.step])


def _occlude(image: Image.Image, u: float, colour: RGB, side: float) -> None:
    """Somebody's back passes before the bench."""
    pen = Pen(image)
    x = 125 + side * 170 * (u - 0.5)
    pen.ellipse([x - 60, 34, x + 60, 300], fill=colour)
    pen.ellipse([x - 21, -8, x + 21, 44], fill=mix(colour, (0, 0, 0), 0.5))


def frames(
    task: Task,
    procedure: int,
    person: Person,
    rng: np.random.Generator,
    segments: list[Segment],
    size: tuple[int, int],
    every: int = 1,
) -> Iterator[np.ndarray]:
    """The recording's pictures, (H, W, 3) uint8 RGB; with `every` n, only each n-th of them."""
    room = background(person, rng)
    lamp = light(person, size)
    curve = (255 * (np.arange(256, dtype=np.float32) / 255) ** person.gamma).astype(np.float32)
    grain = rng.normal(0, person.noise, (size[1] + 32, size[0] + 32, 1)).astype(np.float32)
    shake, passer = np.zeros(2), mix((20, 20, 20), (200, 190, 210), float(rng.random()))
    for i, (scene, seg, u) in enumerate(scenes(task, procedure, person, rng, segments)):
        if i % every:
            continue
        image = draw_scene(room, scene, person.skin, person.sleeve)
        if seg.occluded:
            _occlude(image, u, passer, -1.0 if seg.step % 2 else 1.0)
        shake = 0.8 * shake + rng.normal(0, 0.6 * person.jitter, 2)
        image = image.transform(
            size,
            Image.Transform.AFFINE,
            camera(person, size, (shake[0], shake[1])),
            Image.Resampling.BILINEAR,
        )
        dx, dy = rng.integers(0, 32, 2)
        lit = curve[np.asarray(image)] * lamp + grain[dy : dy + size[1], dx : dx + size[0]]
        yield np.clip(lit, 0, 255).astype(np.uint8)


def encode(path: Path, pictures: Iterator[np.ndarray], size: tuple[int, int], fps: int, crf: int) -> int:
    """Writes H.264 in mp4 with FFmpeg's libx264 as PyAV carries it; one thread, so the bytes repeat.

    `size` (width, height), both even; `pictures` (height, width, 3) uint8 RGB. Written aside as `.part` and
    renamed when whole. Returns the number of frames.
    """
    import av

    count = 0
    part = path.with_name(path.name + ".part")
    with av.open(str(part), "w", format="mp4") as container:
        stream = container.add_stream(
            "libx264", rate=fps, options={"preset": "ultrafast", "crf": str(crf), "g": "50"}
        )
        stream.width, stream.height, stream.pix_fmt = size[0], size[1], "yuv420p"
        stream.thread_count = 1
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            count += 1
        container.mux(stream.encode())
    part.replace(path)
    return count


def record(
    task: Task,
    procedure: int,
    person: Person,
    seed: int,
    path: Path,
    *,
    size: tuple[int, int] = SIZE,
    fps: int = FPS,
) -> Recording:
    """Renders one recording to `path` (an mp4), unless it is there. The same arguments give the same file.

    Raises StepclipError when a recording has another number of frames than its plan.
    """
    name = [*person.name.encode()]
    rng = np.random.default_rng([seed, task.number, procedure, *name])
    segments = plan(task, procedure, person, rng, fps)
    total = sum(s.frames for s in segments)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        count = encode(path, frames(task, procedure, person, rng, segments, size), size, fps, person.crf)
        if count != total:
            path.unlink()
            raise StepclipError(f"{count} frames in {path}", f"{total}, as planned", "report this as a fault")
    steps = [s for s in segments if s.step >= 0]
    return Recording(
        path, total, tuple(s.first / fps for s in steps), tuple((s.first + s.frames) / fps for s in steps)
    )

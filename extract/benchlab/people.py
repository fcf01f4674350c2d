"""Who stands at the bench: everything about a recording that has nothing to do with the procedure."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .draw import DETAIL, PIXELS, Pen, draw_tool, draw_vessel
from .scene import CANVAS, RGB, TABLE_Y, Thing, mix
from .vocabulary import COLOURS, TOOLS, VESSELS

BARE: tuple[RGB, ...] = ((244, 206, 178), (222, 172, 134), (176, 122, 86), (120, 78, 54))
GLOVES: tuple[RGB, ...] = ((110, 160, 220), (235, 235, 240), (150, 110, 190), (60, 64, 72))
SKINS = BARE + GLOVES


@dataclass(frozen=True)
class Person:
    """One person's room, camera and manner. Angles in degrees, times in seconds."""

    name: str
    skin: RGB
    sleeve: RGB
    wall: RGB
    table: RGB
    pattern: int  # 0 plain, 1 tiles, 2 stripes, 3 shelves
    clutter: int  # things in the background that nobody uses
    mirror: bool  # the camera stands so that left and right are exchanged
    zoom: float
    rotation: float
    shear: float
    shift: tuple[float, float]
    gain: tuple[float, float, float]
    gamma: float
    shade: float  # strength of the light's fall-off
    noise: float  # standard deviation, grey levels
    jitter: float  # camera shake, canvas units
    speed: float  # factor on the length of steps
    pause: float  # mean rest between steps
    idle: float  # chance of an idle stretch at each gap
    occlusion: float  # chance that something stands before a step
    crf: int  # H.264 quality, higher is worse


def make_person(name: str, rng: np.random.Generator) -> Person:
    """Draws a person; the same generator state gives the same person."""

    def colour(low: int, high: int) -> RGB:
        return tuple(int(v) for v in rng.integers(low, high, 3))  # type: ignore[return-value]

    return Person(
        name=name,
        skin=SKINS[int(rng.integers(len(SKINS)))],
        sleeve=colour(30, 250),
        wall=colour(90, 245),
        table=colour(60, 220),
        pattern=int(rng.integers(4)),
        clutter=int(rng.integers(1, 6)),
        mirror=bool(rng.random() < 0.5),
        zoom=float(rng.uniform(0.95, 1.2)),
        rotation=float(rng.uniform(-7, 7)),
        shear=float(rng.uniform(-0.12, 0.12)),
        shift=(float(rng.uniform(-9, 9)), float(rng.uniform(-6, 6))),
        gain=tuple(float(v) for v in rng.uniform(0.8, 1.12, 3)),  # type: ignore[arg-type]
        gamma=float(rng.uniform(0.75, 1.3)),
        shade=float(rng.uniform(0.0, 0.45)),
        noise=float(rng.uniform(1, 7)),
        jitter=float(rng.uniform(0, 2.0)),
        speed=float(rng.uniform(0.7, 1.45)),
        pause=float(rng.uniform(0.05, 0.7)),
        idle=float(rng.uniform(0.05, 0.25)),
        occlusion=float(rng.uniform(0.0, 0.16)),
        crf=int(rng.integers(20, 34)),
    )


def background(person: Person, rng: np.random.Generator) -> Image.Image:
    """The room: wall, table, and clutter on a shelf that looks like what is used but is not."""
    w, h = int(CANVAS[0]), int(CANVAS[1])
    image = Image.new("RGB", PIXELS, person.wall)
    d = Pen(image)
    other = mix(
        person.wall, (20, 20, 30) if rng.random() < 0.5 else (255, 255, 255), float(rng.uniform(0.08, 0.35))
    )
    if person.pattern == 1:
        for x in range(0, w, 25):
            for y in range(0, h, 25):
                if (x + y) // 25 % 2:
                    d.rectangle([x, y, x + 25, y + 25], fill=other)
    elif person.pattern == 2:
        for x in range(0, w, 16):
            d.rectangle([x, 0, x + 8, h], fill=other)
    elif person.pattern == 3:
        for y in (30, 62):
            d.rectangle([0, y, w, y + 4], fill=other)
    d.rectangle([0, TABLE_Y, w, h], fill=person.table)
    d.line([(0, TABLE_Y), (w, TABLE_Y)], fill=mix(person.table, (0, 0, 0), 0.4), width=3)
    names = list(COLOURS)
    for _ in range(person.clutter):
        vessel = rng.random() < 0.7
        kind = (VESSELS if vessel else TOOLS)[int(rng.integers(len(VESSELS if vessel else TOOLS)))]
        colour = names[int(rng.integers(len(names)))]
        t = Thing(kind, colour, float(rng.uniform(25, w - 25)), float(rng.choice([62.0, 84.0, 188.0])))
        t.level, t.liquid = float(rng.uniform(0, 0.8)), COLOURS[colour]
        (draw_vessel if vessel else draw_tool)(d, t)
    return image


def camera(person: Person, size: tuple[int, int], shake: tuple[float, float]) -> tuple[float, ...]:
    """Coefficients for Image.transform(AFFINE): where each output pixel lies on the canvas."""
    width, height = size
    scale = 150 * DETAIL / height / person.zoom  # 150 units fill the height at zoom 1
    c, s = math.cos(math.radians(person.rotation)), math.sin(math.radians(person.rotation))
    flip = -1.0 if person.mirror else 1.0
    a, b = flip * scale * c, scale * (-s + person.shear)
    d, e = flip * scale * s, scale * c
    cx = (CANVAS[0] / 2 + person.shift[0] + shake[0]) * DETAIL
    cy = (106 + person.shift[1] + shake[1]) * DETAIL
    return a, b, cx - a * width / 2 - b * height / 2, d, e, cy - d * width / 2 - e * height / 2


def light(person: Person, size: tuple[int, int]) -> np.ndarray:
    """Multiplier for each pixel and channel, (H, W, 3) float32: colour of the light and its fall-off."""
    y, x = np.mgrid[0 : size[1], 0 : size[0]].astype(np.float32)
    fall = 1 - person.shade * np.hypot(x / size[0] - 0.3, y / size[1] - 0.2)
    return fall[..., None] * np.asarray(person.gain, np.float32)

"""Draws a scene with Pillow, at DETAIL pixels a unit; the camera cuts the frame out of it afterwards."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

from PIL import Image, ImageDraw

from .scene import CANVAS, RGB, Scene, Thing, mix

DETAIL = 1.6
PIXELS = (int(CANVAS[0] * DETAIL), int(CANVAS[1] * DETAIL))
Point = tuple[float, float]


class Pen:
    """ImageDraw in canvas units."""

    def __init__(self, image: Image.Image) -> None:
        self._draw = ImageDraw.Draw(image)

    def polygon(self, points: Sequence[Point], fill: RGB, outline: RGB | None = None) -> None:
        self._draw.polygon([(x * DETAIL, y * DETAIL) for x, y in points], fill, outline)

    def line(self, points: Sequence[Point], fill: RGB, width: float = 1) -> None:
        self._draw.line([(x * DETAIL, y * DETAIL) for x, y in points], fill, max(1, round(width * DETAIL)))

    def ellipse(self, box: Sequence[float], fill: RGB | None = None, outline: RGB | None = None) -> None:
        self._draw.ellipse([v * DETAIL for v in box], fill, outline)

    def rectangle(self, box: Sequence[float], fill: RGB, outline: RGB | None = None) -> None:
        self._draw.rectangle([v * DETAIL for v in box], fill, outline)


# Outlines in units around the base's centre, y upwards.
OUTLINES: dict[str, tuple[Point, ...]] = {
    "beaker": ((-14, 0), (-14, 34), (-17, 37), (17, 37), (14, 34), (14, 0)),
    "flask": ((-18, 0), (-5, 26), (-5, 40), (5, 40), (5, 26), (18, 0)),
    "test tube": ((-5, 3), (-5, 42), (5, 42), (5, 3), (2, 0), (-2, 0)),
    "cylinder": ((-12, 0), (-12, 3), (-7, 4), (-7, 50), (7, 50), (7, 4), (12, 3), (12, 0)),
    "bottle": ((-12, 0), (-12, 24), (-5, 32), (-5, 42), (5, 42), (5, 32), (12, 24), (12, 0)),
    "jar": ((-16, 0), (-16, 24), (-12, 28), (12, 28), (16, 24), (16, 0)),
    "bowl": ((-10, 0), (-20, 16), (20, 16), (10, 0)),
    "glass rod": ((-2, 0), (-2, 58), (2, 58), (2, 0)),
    "thermometer": ((-3, 0), (-3, 50), (3, 50), (3, 0)),
    "dropper": ((-1, 0), (-3, 22), (-6, 24), (-5, 38), (5, 38), (6, 24), (3, 22), (1, 0)),
    "spoon": ((-1, 0), (-1, 40), (-6, 42), (-6, 52), (6, 52), (6, 42), (1, 40), (1, 0)),
    "funnel": ((-2, 0), (-2, 16), (-14, 32), (14, 32), (2, 16), (2, 0)),
    "burner": ((-14, 0), (-14, 5), (-4, 7), (-4, 26), (4, 26), (4, 7), (14, 5), (14, 0)),
    "clamp": ((-12, 0), (-12, 4), (-2, 4), (-2, 62), (2, 62), (2, 4), (12, 4), (12, 0)),
    "scale": ((-20, 0), (-18, 12), (-22, 14), (-22, 17), (22, 17), (22, 14), (18, 12), (20, 0)),
}
HEIGHTS = {kind: max(y for _, y in outline) for kind, outline in OUTLINES.items()}
GLASS: RGB = (222, 234, 240)
INK: RGB = (58, 66, 78)
HAND = 255  # label of the hand in `draw_regions`


def placed(t: Thing, points: Sequence[Point]) -> list[Point]:
    """Local points on the canvas, tilted about the middle of the thing."""
    if not t.tilt:
        return [(t.x + x, t.y - y) for x, y in points]
    c, s = math.cos(math.radians(t.tilt)), math.sin(math.radians(t.tilt))
    middle = HEIGHTS[t.kind] / 2
    return [(t.x + x * c - (y - middle) * s, t.y - middle - x * s - (y - middle) * c) for x, y in points]


def _below(outline: Sequence[Point], top: float, bottom: float = 1.0) -> list[Point]:
    """The part of an outline between two heights (the outlines are symmetric and wide at few heights)."""
    heights = sorted({bottom, top, *(y for _, y in outline if bottom < y < top)})
    widths = [_half_width(outline, y) - 1.2 for y in heights]
    left = [(-w, y) for w, y in zip(widths, heights, strict=True)]
    return left + [(w, y) for w, y in zip(reversed(widths), reversed(heights), strict=True)]


def _half_width(outline: Sequence[Point], y: float) -> float:
    right = [p for p in outline if p[0] > 0]
    right.sort(key=lambda p: p[1])
    for (x0, y0), (x1, y1) in itertools.pairwise(right):
        if y0 <= y <= y1:
            return x1 if y1 == y0 else x0 + (x1 - x0) * (y - y0) / (y1 - y0)
    return right[0][0] if y < right[0][1] else right[-1][0]


def draw_vessel(d: Pen, t: Thing) -> None:
    """A vessel and what its state shows: liquid, foam, drops, powder, frost, sticker, shine, lid, steam."""
    outline = OUTLINES[t.kind]
    height = HEIGHTS[t.kind]
    body = mix(GLASS, t.rgb, 0.45)  # tinted glass: a thing is known by its colour whatever it holds
    d.polygon(placed(t, outline), fill=mix(body, (205, 240, 255), 0.6) if t.frost else body)
    if t.level > 0.02:
        top = max(3.0, height * 0.9 * t.level)
        d.polygon(placed(t, _below(outline, top)), fill=mix(t.liquid, (0, 0, 0), 0.12))
        if t.drops:
            d.polygon(placed(t, _below(outline, top, top - 5)), fill=t.drops)
        if t.foam:
            d.polygon(placed(t, _below(outline, top + 3, top - 1)), fill=(250, 250, 250))
    if t.powder > 0.05:
        d.polygon(placed(t, _below(outline, 2 + 6 * t.powder)), fill=(246, 240, 226))
    band = height * 0.72
    d.polygon(placed(t, _below(outline, band + 4, band - 4)), fill=t.rgb)
    edge = (150, 210, 250) if t.frost else mix(t.rgb, (0, 0, 0), 0.45)
    d.line([*placed(t, outline), placed(t, outline)[0]], fill=edge, width=1.8)
    if t.sticker:
        d.polygon(placed(t, [(-8, 7), (-8, 20), (8, 20), (8, 7)]), fill=(255, 255, 250), outline=INK)
        d.line(placed(t, [(-4, 14), (4, 14)]), fill=INK)
    if t.clean:
        d.line(placed(t, [(-3, height * 0.5), (4, height * 0.66)]), fill=(255, 255, 255), width=3)
    if t.lid > 0:
        w = _half_width(outline, height) + 3
        y = height + 30 * (1 - t.lid)
        d.polygon(placed(t, [(-w, y), (-w, y + 7), (w, y + 7), (w, y)]), fill=(70, 74, 84), outline=INK)
    if t.hot:
        for i in (-1, 0, 1):
            x, y = t.x + 7 * i, t.y - height - 6
            d.line([(x, y), (x + 3, y - 6), (x - 3, y - 12), (x + 2, y - 18)], fill=(240, 240, 244), width=2)


def draw_tool(d: Pen, t: Thing) -> None:
    """A rod, thermometer, dropper, spoon or funnel in its colour."""
    outline = placed(t, OUTLINES[t.kind])
    fill = (250, 250, 250) if t.kind == "thermometer" else t.rgb
    d.polygon(outline, fill=fill, outline=INK)
    if t.kind == "thermometer":
        d.polygon(placed(t, [(-1, 2), (-1, 30), (1, 30), (1, 2)]), fill=t.rgb)


def draw_fixture(d: Pen, t: Thing) -> None:
    """A burner, clamp or scale, on or off."""
    d.polygon(placed(t, OUTLINES[t.kind]), fill=(150, 156, 166), outline=INK)
    if t.kind == "burner":
        d.rectangle([t.x - 4, t.y - 18, t.x + 4, t.y - 12], fill=t.rgb)
        if t.on:
            draw_flame(d, t.x, t.y - 26, 0.9)
    elif t.kind == "clamp":
        angle = math.radians(t.turn)
        jaw = 3 if t.on else 9
        for dy in (-jaw, jaw):
            d.line([(t.x, t.y - 50 + dy), (t.x - 16, t.y - 50 + dy)], fill=t.rgb, width=4)
        x, y = t.x + 8, t.y - 50
        dx, dy2 = 7 * math.cos(angle), 7 * math.sin(angle)
        d.line([(x - dx, y - dy2), (x + dx, y + dy2)], fill=t.rgb, width=4)
    else:
        d.rectangle([t.x - 10, t.y - 9, t.x + 10, t.y - 3], fill=(120, 230, 120) if t.on else (40, 48, 44))


def draw_flame(d: Pen, x: float, y: float, size: float) -> None:
    """A flame that stands on (x, y); 30 units high at size 1."""
    for k, fill in ((1.0, (255, 140, 20)), (0.6, (255, 225, 80))):
        w, h = 11 * k * size, 30 * k * size
        d.polygon(
            [(x - w, y), (x - w * 0.6, y - h * 0.5), (x, y - h), (x + w * 0.6, y - h * 0.5), (x + w, y)],
            fill=fill,
        )


def draw_effect(d: Pen, effect: tuple) -> None:
    """One thing of the moment; see the tuples that actions.py appends."""
    what, x, y, *rest = effect
    if what == "flame":
        draw_flame(d, x, y, rest[0])
    elif what == "ice":
        for i in range(-2, 3):
            d.rectangle(
                [x + 11 * i - 5, y - 12 * rest[0], x + 11 * i + 5, y],
                fill=(190, 225, 255),
                outline=(110, 170, 230),
            )
    elif what == "stream":
        d.line([(x, y), (x, rest[0])], fill=rest[1], width=6)
    elif what == "rod":
        d.line([(x, y - 18), (x, y + 34)], fill=rest[0], width=4)
    elif what == "scoop":
        d.line([(x, y - 12), (x, y + 6)], fill=rest[0], width=3)
        d.ellipse([x - 7, y + 2, x + 7, y + 10], fill=(246, 240, 226), outline=rest[0])
    elif what == "swirl":
        w = 9 * math.cos(rest[0] * 40)
        d.line([(x - w, y - 3), (x + w, y)], fill=(255, 255, 255), width=2)
        d.line([(x + w, y + 2), (x - w, y + 5)], fill=(255, 255, 255), width=2)
    elif what == "drops":
        bottom, u, rgb = rest
        for k in range(3):
            yy = y + (bottom - y) * ((u * 5 + k / 3) % 1)
            d.ellipse([x - 3, yy - 4, x + 3, yy + 4], fill=rgb)
    elif what == "powder":
        for k in range(8):
            dx, dy = (k * 37 % 11) - 5, ((k * 53) % 17 + rest[0] * 60) % 22
            d.ellipse([x + dx - 2, y + dy - 2, x + dx + 2, y + dy + 2], fill=(250, 246, 236))
    elif what == "cloth":
        d.polygon(
            [(x - 17, y - 10), (x + 11, y - 13), (x + 16, y + 11), (x - 12, y + 15)],
            fill=(150, 200, 190),
            outline=INK,
        )
    elif what == "sticker":
        d.rectangle([x - 8, y - 7, x + 8, y + 7], fill=(255, 255, 250), outline=INK)
    elif what == "finger":
        d.line([(x, y), (x - 12, y + 14)], fill=(60, 50, 50), width=5)
    elif what == "marker":
        d.ellipse([x - 4, y - 4, x + 4, y + 4], fill=(235, 60, 140))


def draw_hand(d: Pen, at: Point, grip: bool, skin: RGB, sleeve: RGB) -> None:
    """The hand with its finger tips at `at`, the arm coming from the right; `grip`: fingers closed."""
    x, y = at
    d.line([(x + 8, y - 4), (CANVAS[0] + 10, y - 70)], fill=sleeve, width=26)
    d.ellipse([x - 3, y - 14, x + 23, y + 10], fill=skin)
    spread = 3 if grip else 9
    for dy in (-spread, spread):
        d.line([(x + 6, y - 2 + dy), (x - 9, y + dy * 0.8)], fill=skin, width=7)
    d.ellipse([x - 3, y - 14, x + 23, y + 10], outline=mix(skin, (0, 0, 0), 0.35))


DRAWERS: dict[str, Callable[[Pen, Thing], None]] = {
    **dict.fromkeys(("beaker", "flask", "test tube", "cylinder", "bottle", "jar", "bowl"), draw_vessel),
    **dict.fromkeys(("glass rod", "thermometer", "dropper", "spoon", "funnel"), draw_tool),
    **dict.fromkeys(("burner", "clamp", "scale"), draw_fixture),
}


def draw_scene(background: Image.Image, scene: Scene, skin: RGB, sleeve: RGB) -> Image.Image:
    """The scene over a background of the canvas's size. Tools that stand in a vessel are drawn before it."""
    image = background.copy()
    d = Pen(image)
    for t in sorted(scene.things, key=lambda t: (t.rest, t.inside < 0, t.y < t.rest)):
        DRAWERS[t.kind](d, t)
        if t.marker:
            draw_effect(d, ("marker", t.x + 10, t.y + 8))
    for effect in scene.effects:
        draw_effect(d, effect)
    draw_hand(d, scene.hand, scene.grip, skin, sleeve)
    return image


def draw_regions(scene: Scene) -> Image.Image:
    """Which thing is where, as boxes: the canvas (mode L) with 1 + the thing's index, HAND, or 0."""
    image = Image.new("L", PIXELS, 0)
    d = ImageDraw.Draw(image)
    order = sorted(range(len(scene.things)), key=lambda i: (scene.things[i].rest, scene.things[i].y))
    for i in order:
        t = scene.things[i]
        half = max(x for x, _ in OUTLINES[t.kind])
        box = (t.x - half, t.y - HEIGHTS[t.kind], t.x + half, t.y)
        d.rectangle([v * DETAIL for v in box], fill=1 + i)
    x, y = scene.hand
    d.ellipse([v * DETAIL for v in (x - 9, y - 13, x + 21, y + 9)], fill=HAND)
    return image

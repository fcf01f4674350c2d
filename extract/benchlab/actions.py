"""The verbs: when each may be done, and how it looks and what it leaves behind.

`play(scene, a, b, u)` changes a scene to the moment `u` in [0, 1] of the action; `a` and `b` are indices of
things (-1: none). At 1 only its lasting effect remains, so the same function animates a step and applies it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from .scene import HOME, LIFT, SLOTS, Scene, Thing, mix
from .vocabulary import FIXTURES, VESSELS

Play = Callable[[Scene, int, int, float], None]
Ready = Callable[[Scene, int, int], bool]


@dataclass(frozen=True)
class Action:
    """One verb: when it can be done, how it looks, the kinds of thing it takes (no `b_kinds`: one thing),
    and how many seconds it takes at middling speed.
    """

    ready: Ready
    play: Play
    a_kinds: tuple[str, ...]
    b_kinds: tuple[str, ...] = ()
    seconds: float = 1.8


def ease(u: float, start: float = 0.0, end: float = 1.0) -> float:
    """0 before `start`, 1 after `end`, smooth between."""
    v = min(1.0, max(0.0, (u - start) / (end - start)))
    return v * v * (3 - 2 * v)


def there_and_back(u: float, up: float = 0.3, down: float = 0.7) -> float:
    """Rises over [0, up], stays, falls over [down, 1]."""
    return ease(u, 0.0, up) * (1 - ease(u, down, 1.0))


def _between(p: tuple[float, float], q: tuple[float, float], w: float) -> tuple[float, float]:
    return p[0] + (q[0] - p[0]) * w, p[1] + (q[1] - p[1]) * w


def _top(t: Thing) -> tuple[float, float]:
    return t.x, t.y - 26


def _reach(s: Scene, target: tuple[float, float], u: float, arrive: float = 0.2, leave: float = 0.82) -> None:
    """The hand goes from rest to `target`, works there, and comes back."""
    s.hand = _between(HOME, target, there_and_back(u, arrive, leave))
    s.grip = arrive * 0.8 < u < leave + (1 - leave) * 0.2


def _carry(s: Scene, a: int, u: float) -> float:
    """Lift of a thing that may be held already: it returns to where it was when the action ends."""
    w = 1.0 if s.held == a else there_and_back(u, 0.2, 0.82)
    s.things[a].y = s.things[a].rest - LIFT * w
    s.grip = True
    return w


def _free(s: Scene, a: int, b: int) -> bool:
    return s.held < 0 and s.things[a].inside < 0


def _mine(s: Scene, a: int, b: int) -> bool:
    return s.held in (-1, a)


def _open(t: Thing) -> bool:
    return t.lid == 0 and t.kind in VESSELS


def take_up(s: Scene, a: int, b: int, u: float) -> None:
    """The hand comes, and lifts the thing; it is held from now on."""
    t = s.things[a]
    t.y = t.rest - LIFT * ease(u, 0.4, 1.0)
    s.hand = _between(HOME, _top(t), ease(u, 0, 0.4)) if u < 0.4 else _top(t)
    s.grip = u > 0.35
    s.held = a if u >= 1 else s.held


def put_down(s: Scene, a: int, b: int, u: float) -> None:
    """The thing that is held goes down to its place; the hand leaves."""
    t = s.things[a]
    t.y = t.rest - LIFT * (1 - ease(u, 0.0, 0.6))
    s.hand = _top(t) if u < 0.6 else _between(_top(t), HOME, ease(u, 0.6, 1.0))
    s.grip = u < 0.65
    s.held = -1 if u >= 1 else s.held


def pour(s: Scene, a: int, b: int, u: float) -> None:
    """`a` is carried to `b` and tilted; a third of its liquid, or what is left, runs over and mixes."""
    src, dst = s.things[a], s.things[b]
    w, x0 = _carry(s, a, u), src.x
    side = -1.0 if src.x <= dst.x else 1.0
    move, flow = there_and_back(u, 0.35, 0.75), ease(u, 0.35, 0.75)
    src.x = x0 + (dst.x + side * 24 - x0) * move
    src.y += (dst.rest - LIFT - 10 - src.y) * move
    src.tilt = -side * 100 * there_and_back(u, 0.4, 0.75)
    amount = min(0.35, src.level)
    src.level -= amount * flow
    dst.liquid = mix(dst.liquid, src.liquid, 0.55 * flow)
    dst.level = min(0.95, dst.level + amount * flow)
    if 0.36 < u < 0.76:
        s.effects.append(("stream", dst.x + side * 4, src.y - 14, dst.y - 6, src.liquid))
    s.hand = _between(HOME, _top(src), min(1.0, w * 1.5)) if s.held != a else _top(src)


def _with_tool(s: Scene, b: int, u: float, kind: str, rgb: tuple[int, int, int], sway: float) -> None:
    """A loose tool that the hand brings over vessel `b`."""
    t = s.things[b]
    target = (t.x + sway, t.y - 46)
    s.hand = _between(HOME, (target[0] + 3, target[1] - 18), there_and_back(u, 0.2, 0.82))
    s.grip = True
    s.effects.append((kind, s.hand[0] - 3, s.hand[1] + 18, rgb))


def stir(s: Scene, a: int, b: int, u: float) -> None:
    """A rod goes round in the vessel; foam stays."""
    sway = 7 * math.sin(u * 26) if 0.2 < u < 0.82 else 0.0
    if u < 1:
        _with_tool(s, a, u, "rod", (205, 220, 230), sway)
    if 0.3 < u < 0.8:
        s.effects.append(("swirl", s.things[a].x, s.things[a].y - 10, u))
    s.things[a].foam = s.things[a].foam or u > 0.6


def heat(s: Scene, a: int, b: int, u: float) -> None:
    """Held over a flame; hot afterwards, no frost."""
    t = s.things[a]
    w = there_and_back(u, 0.2, 0.85)
    t.y = t.rest - 24 * w
    if 0.15 < u < 0.9:
        s.effects.append(("flame", t.x, t.rest, 0.6 + 0.4 * math.sin(u * 40) ** 2))
    t.hot, t.frost = u > 0.5 or t.hot, t.frost and u < 0.4
    _reach(s, (t.x + 26, t.rest - 6), u, 0.2, 0.85)


def cool(s: Scene, a: int, b: int, u: float) -> None:
    """Ice is heaped around it; frost afterwards, no longer hot."""
    t = s.things[a]
    if 0.2 < u < 0.9:
        s.effects.append(("ice", t.x, t.rest, there_and_back(u, 0.3, 0.8)))
    t.frost, t.hot = u > 0.5 or t.frost, t.hot and u < 0.5
    _reach(s, (t.x + 22, t.y - 14), u, 0.25, 0.8)


def cover(s: Scene, a: int, b: int, u: float) -> None:
    """A lid comes down on it."""
    t = s.things[a]
    t.lid = ease(u, 0.3, 0.65)
    _reach(s, (t.x, t.y - 50 - 40 * (1 - t.lid)), u, 0.2, 0.75)


def uncover(s: Scene, a: int, b: int, u: float) -> None:
    """Its lid goes up and away."""
    t = s.things[a]
    t.lid = 1 - ease(u, 0.35, 0.7)
    _reach(s, (t.x, t.y - 50 - 40 * (1 - t.lid)), u, 0.2, 0.8)


def shake(s: Scene, a: int, b: int, u: float) -> None:
    """Lifted and swung to and fro; foam stays."""
    t = s.things[a]
    w = _carry(s, a, u)
    busy = 0.25 < u < 0.78
    t.tilt = 24 * math.sin(u * 40) if busy else 0.0
    t.foam = t.foam or u > 0.6
    s.hand = _top(t) if s.held == a else _between(HOME, _top(t), min(1.0, w * 1.5))


def insert(s: Scene, a: int, b: int, u: float) -> None:
    """Tool `a` is put into vessel `b` and stays there."""
    t, v = s.things[a], s.things[b]
    over, down = ease(u, 0.25, 0.55), ease(u, 0.55, 0.8)
    lift = 62 * ease(u, 0.1, 0.3) - 50 * down
    t.x, t.y = t.x + (v.x - t.x) * over, t.rest + (v.rest - t.rest) * over - lift
    t.inside = b if u > 0.55 else -1
    t.rest = v.rest if u >= 1 else t.rest
    s.hand = (
        _between(HOME, _top(t), ease(u, 0, 0.2)) if u < 0.8 else _between(_top(t), HOME, ease(u, 0.8, 1.0))
    )
    s.grip = 0.15 < u < 0.85


def pull_out(s: Scene, a: int, b: int, u: float) -> None:
    """Tool `a` comes out of vessel `b` and is laid on the nearest free place."""
    t, v = s.things[a], s.things[b]
    up, away, down = ease(u, 0.2, 0.45), ease(u, 0.45, 0.75), ease(u, 0.75, 0.95)
    x1, y1 = _free_slot(s, v)
    t.x = v.x + (x1 - v.x) * away
    t.y = v.rest + (y1 - v.rest) * away - 12 - 50 * up + 62 * down
    t.inside = b if u < 0.45 else -1
    t.rest = y1 if u >= 1 else v.rest
    s.hand = (
        _between(HOME, _top(t), ease(u, 0, 0.2)) if u < 0.9 else _between(_top(t), HOME, ease(u, 0.9, 1.0))
    )
    s.grip = 0.15 < u < 0.93


def _free_slot(s: Scene, near: Thing) -> tuple[float, float]:
    """The free place on the bench nearest to a thing."""
    taken = [(t.x, t.rest) for t in s.things if t.inside < 0]
    free = [p for p in SLOTS if all(math.dist(p, q) > 20 for q in taken)] or [(near.x + 16, near.rest)]
    return min(free, key=lambda p: math.dist(p, (near.x, near.rest)))


def squeeze(s: Scene, a: int, b: int, u: float) -> None:
    """Dropper `a` lets drops fall into `b`, which leave a layer of their colour."""
    d, v = s.things[a], s.things[b]
    w = there_and_back(u, 0.3, 0.8)
    d.x, d.y = d.x + (v.x - d.x) * w, d.rest + (v.rest - d.rest) * w - 54 * there_and_back(u, 0.2, 0.85)
    if 0.35 < u < 0.75:
        s.effects.append(("drops", v.x, d.y + 4, v.y - 8, u, d.rgb))
    if u > 0.6:
        v.drops = d.rgb
    v.level = min(0.95, v.level + 0.08 * ease(u, 0.4, 0.75))
    s.hand = _between(HOME, _top(d), there_and_back(u, 0.15, 0.9))
    s.grip = True


def scoop(s: Scene, a: int, b: int, u: float) -> None:
    """A spoon brings powder, which stays at the bottom."""
    if u < 1:
        _with_tool(s, a, u, "scoop", (190, 190, 196), 0.0)
    if 0.4 < u < 0.65:
        s.effects.append(("powder", s.things[a].x, s.things[a].y - 40, u))
    s.things[a].powder = min(1.0, s.things[a].powder + 0.5 * ease(u, 0.45, 0.7))


def wipe(s: Scene, a: int, b: int, u: float) -> None:
    """A cloth goes up and down the glass; a shine stays."""
    t = s.things[a]
    y = t.y - 18 + 14 * math.sin(u * 22)
    _reach(s, (t.x + 4, y), u, 0.25, 0.8)
    if 0.1 < u < 0.95:
        s.effects.append(("cloth", s.hand[0], s.hand[1] + 4))
    t.clean = t.clean or u > 0.6


def label(s: Scene, a: int, b: int, u: float) -> None:
    """A sticker is brought and stays."""
    t = s.things[a]
    _reach(s, (t.x + 6, t.y - 14), u, 0.25, 0.8)
    if u < 0.5:
        s.effects.append(("sticker", s.hand[0] - 6, s.hand[1]))
    t.sticker = float(u > 0.5)


def peel(s: Scene, a: int, b: int, u: float) -> None:
    """The sticker is taken away."""
    t = s.things[a]
    _reach(s, (t.x + 6, t.y - 14), u, 0.2, 0.75)
    if 0.5 < u < 0.95:
        s.effects.append(("sticker", s.hand[0] - 6, s.hand[1]))
    t.sticker = float(u < 0.5)


def _switch(to: bool) -> Play:
    def play(s: Scene, a: int, b: int, u: float) -> None:
        t = s.things[a]
        _reach(s, (t.x + 8, t.y - 6), u, 0.2, 0.8)
        if u > 0.5:
            t.on = to

    return play


def _turn(sign: float) -> Play:
    def play(s: Scene, a: int, b: int, u: float) -> None:
        t = s.things[a]
        t.turn += sign * 270 * ease(u, 0.3, 0.75)
        t.on = sign > 0 if u > 0.6 else t.on
        wrist = 6 * math.sin(sign * u * 24)
        _reach(s, (t.x + 16 + wrist, t.y - 32), u, 0.2, 0.85)

    return play


def weigh(s: Scene, a: int, b: int, u: float) -> None:
    """Carried to the scale, whose display lights up and stays lit, and back."""
    t = s.things[a]
    scale = next(o for o in s.things if o.kind == "scale")
    x0, w = t.x, there_and_back(u, 0.4, 0.7)
    t.x = x0 + (scale.x - x0) * w
    t.y = t.rest + (scale.rest - t.rest) * w - 40 * there_and_back(u, 0.2, 0.9) + 22 * ease(w, 0.9, 1.0)
    scale.on = u > 0.45
    s.hand = _between(HOME, _top(t), there_and_back(u, 0.15, 0.9))
    s.grip = True


def point_at(s: Scene, a: int, b: int, u: float) -> None:
    """A finger points; a mark stays, by which the step can be told afterwards."""
    t = s.things[a]
    _reach(s, (t.x + 14, t.y - 44), u, 0.2, 0.85)
    s.grip = False
    if u < 1:
        s.effects.append(("finger", *s.hand))
    t.marker = t.marker or u > 0.6


def push(s: Scene, a: int, b: int, u: float) -> None:
    """Pushed along the table to the nearest free place."""
    t = s.things[a]
    x, y = _free_slot(s, t)
    w = ease(u, 0.35, 0.75)
    t.x, t.y = t.x + (x - t.x) * w, t.rest + (y - t.rest) * w
    t.rest = y if u >= 1 else t.rest
    _reach(s, (t.x + 14, t.y - 12), u, 0.25, 0.85)


def _vessel(check: Callable[[Thing], bool]) -> Ready:
    return lambda s, a, b: s.held < 0 and check(s.things[a])


ACTIONS: dict[str, Action] = {
    "take up": Action(_free, take_up, VESSELS, seconds=1.4),
    "put down": Action(lambda s, a, b: s.held == a, put_down, VESSELS, seconds=1.2),
    "pour": Action(
        lambda s, a, b: (
            a != b
            and _mine(s, a, b)
            and s.things[a].level > 0.3
            and s.things[b].level < 0.7
            and _open(s.things[a])
            and _open(s.things[b])
        ),
        pour,
        VESSELS,
        VESSELS,
        2.4,
    ),
    "stir": Action(_vessel(lambda t: _open(t) and t.level > 0.1), stir, VESSELS, seconds=2.2),
    "heat": Action(_vessel(lambda t: not t.hot and t.level > 0.1), heat, VESSELS, seconds=2.4),
    "cool": Action(_vessel(lambda t: not t.frost), cool, VESSELS, seconds=2.0),
    "cover": Action(_vessel(_open), cover, VESSELS, seconds=1.5),
    "uncover": Action(_vessel(lambda t: t.lid == 1), uncover, VESSELS, seconds=1.5),
    "shake": Action(lambda s, a, b: _mine(s, a, b) and s.things[a].level > 0.1, shake, VESSELS, seconds=2.0),
    "insert": Action(
        lambda s, a, b: _free(s, a, b) and _open(s.things[b]) and all(t.inside != b for t in s.things),
        insert,
        ("glass rod", "thermometer", "funnel"),
        VESSELS,
        1.8,
    ),
    "pull out": Action(
        lambda s, a, b: s.held < 0 and s.things[a].inside == b,
        pull_out,
        ("glass rod", "thermometer", "funnel"),
        VESSELS,
        1.8,
    ),
    "squeeze": Action(lambda s, a, b: s.held < 0 and _open(s.things[b]), squeeze, ("dropper",), VESSELS, 2.0),
    "scoop": Action(_vessel(_open), scoop, VESSELS, seconds=2.0),
    "wipe": Action(_vessel(lambda t: not t.clean), wipe, VESSELS, seconds=1.8),
    "label": Action(_vessel(lambda t: t.sticker == 0), label, VESSELS, seconds=1.6),
    "peel": Action(_vessel(lambda t: t.sticker == 1), peel, VESSELS, seconds=1.6),
    "turn on": Action(_vessel(lambda t: not t.on), _switch(True), ("burner",), seconds=1.3),
    "turn off": Action(_vessel(lambda t: t.on), _switch(False), ("burner",), seconds=1.3),
    "screw": Action(_vessel(lambda t: not t.on), _turn(1.0), ("clamp",), seconds=1.8),
    "unscrew": Action(_vessel(lambda t: t.on), _turn(-1.0), ("clamp",), seconds=1.8),
    "weigh": Action(
        lambda s, a, b: s.held < 0 and any(t.kind == "scale" for t in s.things), weigh, VESSELS, seconds=2.2
    ),
    "point at": Action(_vessel(lambda t: not t.marker), point_at, VESSELS + FIXTURES, seconds=1.2),
    "push": Action(_vessel(lambda t: True), push, VESSELS, seconds=1.5),
}


def apply(scene: Scene, verb: str, a: int, b: int) -> None:
    """Leaves the scene as it is after the action."""
    ACTIONS[verb].play(scene, a, b, 1.0)
    if scene.held < 0:
        scene.hand, scene.grip = HOME, False

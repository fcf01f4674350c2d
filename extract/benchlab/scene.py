"""The state of the bench: the things on it, the hand, and what is visible for a moment."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

from .vocabulary import COLOURS, Name

RGB = tuple[int, int, int]
CANVAS = (250.0, 190.0)  # units; the camera sees about 200 x 150 of them around the middle
TABLE_Y = 78.0  # the far edge of the table
HOME = (232.0, 66.0)  # where the hand rests
LIFT = 36.0  # how high a thing is held
# two rows of four places, the far one first
SLOTS = tuple((x, y) for y, x0 in ((112.0, 72.0), (166.0, 64.0)) for x in (x0, x0 + 38, x0 + 76, x0 + 114))


def mix(a: RGB, b: RGB, share: float) -> RGB:
    """`a` with `share` of `b`, channel by channel."""
    return tuple(round(x + (y - x) * share) for x, y in zip(a, b, strict=True))  # type: ignore[return-value]


@dataclass
class Thing:
    """One thing on the bench. Position is its base's centre in canvas units, `tilt` in degrees."""

    kind: str
    colour: str
    x: float
    y: float
    rest: float = 0.0  # y of the place where it stands
    tilt: float = 0.0
    level: float = 0.0  # share of the vessel that is full
    liquid: RGB = (255, 255, 255)
    lid: float = 0.0  # 1 on the vessel, 0 off; between while it moves
    sticker: float = 0.0
    hot: bool = False
    frost: bool = False
    foam: bool = False
    clean: bool = False
    marker: bool = False
    powder: float = 0.0
    drops: RGB | None = None  # a layer of another colour on top
    on: bool = False
    turn: float = 0.0  # angle of a clamp's knob
    inside: int = -1  # index of the vessel this tool stands in

    @property
    def name(self) -> Name:
        return Name(self.kind, self.colour)

    @property
    def rgb(self) -> RGB:
        return COLOURS[self.colour]


@dataclass
class Scene:
    """All things, what the hand holds (index or -1), and the effects of the moment."""

    things: list[Thing]
    held: int = -1
    hand: tuple[float, float] = HOME
    grip: bool = False
    effects: list[tuple] = field(default_factory=list)  # ("flame", x, y, size) ... drawn by draw.py

    def moment(self) -> Scene:
        """A copy that an animation may change freely."""
        return Scene([copy.copy(t) for t in self.things], self.held, self.hand, self.grip, [])

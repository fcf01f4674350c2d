"""Augmented views of a video for CARL (`methods/carl.md` 1.3): one draw of crop, flip and colour per video.

A view is drawn from the video's id and its own number alone, so it is the same in every run, on every
machine, however the frames are cut into chunks. Differences from CARL's code, on purpose: the crop is made in
the canonical picture (short side resized, centre cropped) and not in the raw frame, in which a wide video
always got the same central crop; and there is no blur, which CARL applies four times over by mistake.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..cache.errors import StepclipError

if TYPE_CHECKING:
    import torch

AREA = (0.8, 1.0)  # share of the picture that is kept
ASPECT = (3 / 4, 4 / 3)
TRIES = 10  # for a box that fits, then the whole picture
FLIP, JITTER, GREY = 0.5, 0.8, 0.2  # probabilities
FACTOR = 0.8  # brightness, contrast and saturation are multiplied by 1 - FACTOR to 1 + FACTOR
HUE = 0.2  # of the colour circle, either way
COLOURS = ("brightness", "contrast", "saturation", "hue")


@dataclass(frozen=True)
class View:
    """What is done to every frame of a video; without arguments, nothing.

    The crop as shares of the canonical square: its width, height, and how much of the room that they leave is
    to the left and above. brightness, contrast, saturation: factors; hue: a turn of the colour circle; order:
    which of these come one after the other, as names of `COLOURS`.
    """

    width: float = 1.0
    height: float = 1.0
    left: float = 0.5
    top: float = 0.5
    flip: bool = False
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    order: tuple[str, ...] = ()
    grey: bool = False

    def apply(
        self, images: np.ndarray, side: int, size: int | None = None, device: str = "cpu"
    ) -> np.ndarray:
        """(T, H, W, 3) uint8 RGB to (T, side, side, 3) uint8, computed on `device`.

        size: the short side to which the encoder resizes before it crops `side` pixels, where that is not
        `side` itself. Each frame is done by itself: chunks do not matter. Raises StepclipError for arrays of
        another kind.
        """
        import torch

        from .encoders.preprocess import Preprocess

        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
            raise StepclipError(f"images of shape {images.shape}, {images.dtype}", "(T, H, W, 3) uint8")
        with torch.inference_mode():
            tensor = torch.from_numpy(np.require(images, requirements=["C", "W"])).to(device)
            square = Preprocess(size or side, side).resize(tensor.permute(0, 3, 1, 2))
            square = self._cropped(square)
            square = square.flip(-1) if self.flip else square
            # one by one on a CPU, where a frame fits into its cache
            parts = [self._coloured(part) for part in (square.split(1) if device == "cpu" else (square,))]
            made: np.ndarray = torch.cat(parts).permute(0, 2, 3, 1).contiguous().cpu().numpy()
            return made

    def box(self, side: int) -> tuple[int, int, int, int]:
        """(left, top, width, height) of the crop in a square of `side` pixels."""
        width, height = max(1, round(self.width * side)), max(1, round(self.height * side))
        return round(self.left * (side - width)), round(self.top * (side - height)), width, height

    def _cropped(self, square: torch.Tensor) -> torch.Tensor:
        import torch.nn.functional as F

        side = square.shape[-1]
        left, top, width, height = self.box(side)
        if (width, height) == (side, side):
            return square
        part = square[..., top : top + height, left : left + width]
        if square.device.type == "cpu":
            return F.interpolate(part, size=(side, side), mode="bilinear", antialias=True)
        from .encoders.preprocess import in_two_passes

        return in_two_passes(part, (side, side), "bilinear")

    def _coloured(self, square: torch.Tensor) -> torch.Tensor:
        for name in self.order:
            square = _CHANGES[name](square, getattr(self, name))
        return _grey(square).expand(-1, 3, -1, -1) if self.grey else square


def draw(video_id: str, view: int, seed: int = 0) -> View:
    """The view of this number (0, 1, ...) of a video: always the same for the same three arguments."""
    digest = hashlib.sha256(f"{seed}/{view}/{video_id}".encode("utf-8", "surrogateescape")).digest()
    random = np.random.default_rng(int.from_bytes(digest[:16], "little"))
    width, height = _box(random)
    left, top = random.random(2).tolist()
    flip = bool(random.random() < FLIP)
    jitter, grey = random.random() < JITTER, bool(random.random() < GREY)
    brightness, contrast, saturation = random.uniform(1 - FACTOR, 1 + FACTOR, 3).tolist()
    hue = float(random.uniform(-HUE, HUE))
    order = tuple(COLOURS[place] for place in random.permutation(len(COLOURS)))
    if not jitter:
        return View(width, height, left, top, flip, grey=grey)
    return View(width, height, left, top, flip, brightness, contrast, saturation, hue, order, grey)


def fields(seed: int = 0) -> dict[str, Any]:
    """For the fingerprint: `views.*`, all that `draw` draws from."""
    return {
        "views.method": "carl",
        "views.area": list(AREA),
        "views.aspect": list(ASPECT),
        "views.flip": FLIP,
        "views.jitter": JITTER,
        "views.factor": FACTOR,
        "views.hue": HUE,
        "views.grey": GREY,
        "views.seed": seed,
    }


def _box(random: np.random.Generator) -> tuple[float, float]:
    """Width and height of a crop, as shares of a square: by area and logarithm of the aspect."""
    for _ in range(TRIES):
        area, aspect = random.uniform(*AREA), np.exp(random.uniform(*np.log(ASPECT)))
        width, height = float(np.sqrt(area * aspect)), float(np.sqrt(area / aspect))
        if width <= 1 and height <= 1:
            return width, height
    return 1.0, 1.0


# ---- colours, on (T, 3, H, W) uint8 and to the digit as Pillow's ImageEnhance and HSV


def _blend(images: torch.Tensor, base: torch.Tensor, factor: float) -> torch.Tensor:
    """`base` where the factor is 0, `images` where it is 1, and beyond; cut to whole numbers."""
    import torch

    start = base.to(torch.float32)
    return (start + (images.to(torch.float32) - start) * factor).clamp_(0, 255).to(torch.uint8)


def _grey(images: torch.Tensor) -> torch.Tensor:
    """(T, 1, H, W) uint8, by ITU-R 601."""
    import torch

    red, green, blue = images.to(torch.int32).unbind(1)
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).to(torch.uint8).unsqueeze(1)


def _brightness(images: torch.Tensor, factor: float) -> torch.Tensor:
    import torch

    return _blend(images, torch.zeros(1, device=images.device), factor)


def _contrast(images: torch.Tensor, factor: float) -> torch.Tensor:
    import torch

    mean = _grey(images).to(torch.float64).mean(dim=(1, 2, 3), keepdim=True)
    return _blend(images, (mean + 0.5).floor(), factor)


def _saturation(images: torch.Tensor, factor: float) -> torch.Tensor:
    return _blend(images, _grey(images), factor)


def _hue(images: torch.Tensor, turn: float) -> torch.Tensor:
    """Hue and saturation in steps of 1/255, as Pillow has them."""
    import torch

    colours = images.to(torch.float32)
    red, green, _ = colours.unbind(1)
    most, least = colours.amax(1), colours.amin(1)
    spread = most - least
    # how far round the circle, in sixths; in double precision where Pillow's C has it
    far = (most.unsqueeze(1) - colours) / spread.clamp(min=1).unsqueeze(1)
    first, second, third = far.unbind(1)
    hue = torch.where(
        red == most,
        third - second,
        torch.where(green == most, 2.0 + first.double() - third, 4.0 + second.double() - first).float(),
    )
    hue = ((hue.double() / 6.0 + 1.0) % 1.0).float()
    circle = (hue.double() * 255.0).to(torch.int32).masked_fill_(spread == 0, 0)
    sixths = ((circle + int(turn * 255)) % 256).to(torch.float32) * 6.0 / 255.0
    strength = ((spread / most.clamp(min=1)).double() * 255.0).floor_().float() / 255.0
    for channel, offset in enumerate((5.0, 3.0, 1.0)):
        place = (sixths + offset) % 6.0
        share = torch.minimum(place, 4.0 - place).clamp_(0, 1)
        colours[:, channel] = (most * (1.0 - strength * share) + 0.5).floor_().clamp_(0, 255)
    return colours.to(torch.uint8)


_CHANGES = {"brightness": _brightness, "contrast": _contrast, "saturation": _saturation, "hue": _hue}

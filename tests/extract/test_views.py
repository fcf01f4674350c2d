"""Augmented views: drawn once per video, each step as Pillow does it, the same whatever the chunks."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from stepclip.cache.errors import StepclipError
from stepclip.extract.encoders.preprocess import Preprocess
from stepclip.extract.views import COLOURS, View, draw, fields


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """(5, 48, 80, 3): gradients with some noise, so that every colour occurs and neighbours are alike."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[0:48, 0:80]
    planes = [127 + 120 * np.sin(x / 9 + k + y / (20 + k)) for k in range(15)]
    images = np.stack(planes, -1).reshape(48, 80, 5, 3).transpose(2, 0, 1, 3)
    return np.clip(images + random.normal(0, 6, images.shape), 0, 255).astype(np.uint8)


def canonical(image: np.ndarray, side: int) -> Image.Image:
    """The middle square of an image (48, 80, 3) whose short side is `side` already."""
    left = round((image.shape[1] - side) / 2)
    return Image.fromarray(image[:, left : left + side])


def off(got: np.ndarray, expected: Image.Image) -> int:
    return int(np.abs(got.astype(int) - np.asarray(expected.convert("RGB"))).max())


# ---- each operation against Pillow


def test_nothing_drawn_is_the_canonical_preprocessing(frames: np.ndarray) -> None:
    import torch

    assert np.array_equal(View().apply(frames, 48)[2], canonical(frames[2], 48))
    for side, size in ((32, None), (64, None), (32, 40)):
        tensor = torch.from_numpy(frames).permute(0, 3, 1, 2)
        expected = Preprocess(size or side, side).resize(tensor).permute(0, 2, 3, 1)
        assert np.array_equal(View().apply(frames, side, size), expected)


def test_crop(frames: np.ndarray) -> None:
    view = View(width=0.875, height=0.9375, left=0.25, top=1.0)
    assert view.box(48) == (2, 3, 42, 45)  # a quarter of the 6 that are left over, and all of the 3
    expected = canonical(frames[0], 48).crop((2, 3, 44, 48)).resize((48, 48), Image.Resampling.BILINEAR)
    assert off(view.apply(frames, 48)[0], expected) <= 1


def test_flip_and_grey(frames: np.ndarray) -> None:
    square = canonical(frames[1], 48)
    flipped = square.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert off(View(flip=True).apply(frames, 48)[1], flipped) == 0
    assert off(View(grey=True).apply(frames, 48)[1], square.convert("L")) == 0


@pytest.mark.parametrize("factor", [0.2, 0.73, 1.0, 1.3, 1.8])
@pytest.mark.parametrize(
    ("name", "enhance"),
    [
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
    ],
)
def test_factors(frames: np.ndarray, name: str, enhance: type, factor: float) -> None:
    view = View(order=(name,), **{name: factor})
    for got, image in zip(view.apply(frames, 48), frames, strict=True):
        assert off(got, enhance(canonical(image, 48)).enhance(factor)) == 0


def turned(image: Image.Image, turn: float) -> Image.Image:
    """As torchvision turns the hue of a Pillow image."""
    hsv = np.array(image.convert("HSV"))
    hsv[..., 0] = (hsv[..., 0].astype(int) + int(turn * 255)) % 256
    return Image.fromarray(hsv, "HSV").convert("RGB")


@pytest.mark.parametrize("turn", [-0.2, -0.031, 0.0, 0.1, 0.2])
def test_hue(frames: np.ndarray, turn: float) -> None:
    got = View(hue=turn, order=("hue",)).apply(frames, 48)[3]
    assert off(got, turned(canonical(frames[3], 48), turn)) <= 1


def test_all_in_the_order_that_was_drawn(frames: np.ndarray) -> None:
    kwargs = {"brightness": 1.4, "contrast": 0.5, "saturation": 1.7, "hue": 0.15}
    for order in (COLOURS, COLOURS[::-1], ("hue", "contrast", "brightness", "saturation")):
        image = canonical(frames[4], 48)
        for name in order:
            if name == "hue":
                image = turned(image, kwargs["hue"])
            else:
                kind = {"saturation": "Color"}.get(name, name.capitalize())
                image = getattr(ImageEnhance, kind)(image).enhance(kwargs[name])
        got = View(**kwargs, order=order).apply(frames, 48)[4]
        assert np.abs(got.astype(int) - np.asarray(image)).mean() < 0.05


# ---- draws

WIDTH = 0.9437500751260148  # of the first draw


def test_chunks_do_not_matter(frames: np.ndarray) -> None:
    for view in range(4):
        one = draw("v", view)
        whole = one.apply(frames, 32)
        assert whole.shape == (5, 32, 32, 3) and whole.dtype == np.uint8
        parts = [one.apply(frames[:1], 32), one.apply(frames[1:4], 32), one.apply(frames[4:], 32)]
        assert np.array_equal(np.concatenate(parts), whole)


def test_a_draw_is_the_same_in_another_process() -> None:
    code = "from stepclip.extract.views import draw; print(draw('ü/1.3', 2, seed=7))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == str(draw("ü/1.3", 2, seed=7))
    assert len({draw("a", 0), draw("a", 1), draw("b", 0), draw("a", 0, seed=1)}) == 4
    # what is in caches that exist: a change here needs another name in `fields`
    assert draw("a", 0).width == pytest.approx(WIDTH, abs=1e-12)


def test_draws_are_distributed_as_said() -> None:
    views = [draw(str(k), 0) for k in range(3000)]
    assert 0.47 < np.mean([view.flip for view in views]) < 0.53
    assert 0.77 < np.mean([bool(view.order) for view in views]) < 0.83
    assert 0.17 < np.mean([view.grey for view in views]) < 0.23
    areas = [view.width * view.height for view in views]
    assert min(areas) >= 0.8 - 1e-9 and max(areas) <= 1 + 1e-9 and 0.85 < np.mean(areas) < 0.92
    assert all(view.width <= 1 and view.height <= 1 for view in views)
    jittered = [view for view in views if view.order]
    assert all(sorted(view.order) == sorted(COLOURS) for view in jittered)
    for name in ("brightness", "contrast", "saturation"):
        values = [getattr(view, name) for view in jittered]
        assert 0.2 <= min(values) < 0.25 and 1.75 < max(values) <= 1.8
    hues = [view.hue for view in jittered]
    assert -0.2 <= min(hues) < -0.19 and 0.19 < max(hues) <= 0.2
    assert len({view.order for view in jittered}) == 24
    assert all(View(brightness=view.brightness) == View() for view in views if not view.order)


def test_fields_name_all_that_is_drawn_from() -> None:
    assert fields()["views.method"] == "carl" and fields(3)["views.seed"] == 3
    assert all(key.startswith("views.") for key in fields())
    assert fields() == fields(0) != fields(1)


@pytest.mark.parametrize(
    "wrong", [np.zeros((2, 8, 8)), np.zeros((2, 8, 8, 3)), np.zeros((8, 8, 3), np.uint8)]
)
def test_other_arrays_are_refused(wrong: np.ndarray) -> None:
    with pytest.raises(StepclipError, match="uint8"):
        View().apply(wrong, 8)


def test_the_module_is_light() -> None:
    code = "import sys, stepclip.extract.views; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"

"""Sizes of resized and cropped images, in one place: decoding and encoding must agree to the pixel."""

from __future__ import annotations


def short_side(height: int, width: int, size: int) -> tuple[int, int]:
    """(height, width) with the short side at `size`; the long side cut to whole pixels, as OpenAI's CLIP."""
    if height <= width:
        return size, max(size, int(size * width / height))
    return max(size, int(size * height / width)), size


def centre(length: int, size: int) -> int:
    """Where a centre crop of `size` starts; halves round to even, as in OpenAI's preprocessing."""
    return round((length - size) / 2)

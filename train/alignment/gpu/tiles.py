"""How problems are dealt out to the programs of a kernel.

A program takes tiles of P problems by W places, a place a row or a column of the matrix. There are only as
many programs as the device runs at once: each goes through many tiles and keeps what the way back needs in a
scratch of its own, so memory does not grow with the batch and that of small problems stays in the cache.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from ....cache.errors import StepclipError

#: places of a strip at most, and of a tile at least
STRIP, WARP = 32, 32
#: scratch of all programs together
SCRATCH_BYTES = 512 << 20


class Tiles(NamedTuple):
    """`problems` P and `width` W of a tile, `warps` of a program, `strips` of W places that a side takes,
    `depth` steps that a strip may take; `number` of tiles, for `programs`."""

    problems: int
    width: int
    warps: int
    strips: int
    depth: int
    number: int
    programs: int

    def scratch(self, like: Tensor, dtype: torch.dtype, planes: int = 1) -> Tensor:
        """Room for `planes` numbers per place and step, for each program."""
        size = self.programs * self.strips * self.depth * self.problems * self.width * planes
        return torch.empty(size, dtype=dtype, device=like.device)

    def buffers(self, like: Tensor, dtype: torch.dtype) -> Tensor:
        """Two per program, a number per step and problem: what one strip hands to the next."""
        return torch.empty(2 * self.programs * self.depth * self.problems, dtype=dtype, device=like.device)


def in_strips(matrix: Tensor, across: int, along: int, place_bytes: int) -> Tiles:
    """Tiles of one warp: the side `across` in strips of up to 32 places, small problems side by side.
    `place_bytes`: of scratch, per place and step."""
    width = min(STRIP, max(8, triton.next_power_of_2(across)))
    return _tiles(matrix, width, 1, triton.cdiv(across, width), along + width, place_bytes)


def whole(matrix: Tensor, across: int, along: int, place_bytes: int) -> Tiles:
    """Tiles as wide as the side `across`: 32 places at least, and four for each thread of a large one."""
    width = max(8, triton.next_power_of_2(across))
    return _tiles(matrix, width, min(8, max(1, width // (4 * WARP))), 1, along, place_bytes)


def _tiles(matrix: Tensor, width: int, warps: int, strips: int, depth: int, place_bytes: int) -> Tiles:
    per_tile = max(1, WARP // width)
    number = triton.cdiv(matrix.shape[0] * matrix.shape[1], per_tile)
    room = SCRATCH_BYTES // max(1, strips * depth * per_tile * width * place_bytes)
    programs = max(1, min(number, room, _at_once(matrix.device, warps)))
    return Tiles(per_tile, width, warps, strips, depth, number, programs)


def _at_once(device: torch.device, warps: int) -> int:
    """Programs that work at the same time: 16 warps for each multiprocessor, what the registers allow."""
    return _multiprocessors(device.index or 0) * max(1, 16 // warps) if device.type == "cuda" else 2


@cache
def _multiprocessors(device: int) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def check_device(matrix: Tensor) -> None:
    """StepclipError: not on a GPU (Triton's interpreter, for tests, takes any tensor)."""
    if matrix.device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise StepclipError(f"backend 'triton' for a tensor on {matrix.device}", "backend='auto' or 'torch'")


def on_device_of(matrix: Tensor) -> AbstractContextManager:
    """Triton launches on the current device."""
    return torch.cuda.device(matrix.device) if matrix.device.type == "cuda" else nullcontext()

"""Fixtures for every room: the project's root, the reference data beside it, small rendered videos."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

# test processes run beside each other: a second thread in each waits for the first one of the other, spinning
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach for a network
os.environ.setdefault("MPLBACKEND", "Agg")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def project_root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def released(project_root: Path) -> Callable[[str], ModuleType]:
    """`released(name)`: benchmarks/<name>_literal.py, a method's released losses with their loops."""

    def load(name: str) -> ModuleType:
        sys.path.insert(0, str(project_root / "benchmarks"))
        try:
            return import_module(f"{name}_literal")
        finally:
            sys.path.remove(str(project_root / "benchmarks"))

    return load


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The reference data beside the project; the test is skipped where it is absent."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the reference data is not on this machine ({folder})")
    return folder


@pytest.fixture(scope="session")
def make_mp4() -> Callable[..., Path]:
    """`make_mp4(path, seconds=2.0, fps=8, size=(64, 48), shade=0)`: H.264, frames change over time."""

    def make(
        path: Path, seconds: float = 2.0, fps: int = 8, size: tuple[int, int] = (64, 48), shade: int = 0
    ) -> Path:
        import av
        import numpy as np

        path.parent.mkdir(parents=True, exist_ok=True)
        width, height = size
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=fps)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for n in range(max(1, round(seconds * fps))):
                image = np.full((height, width, 3), (shade * 37) % 200, np.uint8)
                place = (n * 3 + shade * 7) % (width - 12)
                image[height // 3 : height // 3 + 12, place : place + 12] = (240, (n * 20) % 256, 30)
                for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                    container.mux(packet)
            for packet in stream.encode():
                container.mux(packet)
        return path

    return make


@pytest.fixture(scope="session")
def make_audio() -> Callable[..., Path]:
    """`make_audio(path, seconds=1.0)`: an mp4 with a sound track and no picture."""

    def make(path: Path, seconds: float = 1.0) -> Path:
        import av
        import numpy as np

        path.parent.mkdir(parents=True, exist_ok=True)
        rate, size = 16000, 1024
        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac", rate=rate)
            stream.layout = "mono"
            for n in range(max(1, round(seconds * rate / size))):
                samples = (0.2 * np.sin(np.arange(size) / 8 + n)).astype(np.float32)[None]
                frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
                frame.sample_rate, frame.pts = rate, n * size
                for packet in stream.encode(frame):
                    container.mux(packet)
            for packet in stream.encode():
                container.mux(packet)
        return path

    return make

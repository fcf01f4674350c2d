"""Whether an upload is a video of bounded size: asked in a process of its own, which may crash or hang."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from ...cache.errors import StepclipError

SECONDS, MEMORY = 20, 4 << 30  # what a look at the head of a file may cost
MOST_PIXELS = 8192 * 4320


def probe(path: Path, most_seconds: float) -> float:
    """Seconds that the file says it lasts, 0 where it does not say. StepclipError when it holds no video, one
    that is longer than `most_seconds`, or of huge frames."""
    wanted = "a video file"
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__, str(path)],
            capture_output=True, timeout=2 * SECONDS, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        said = json.loads(done.stdout)
        duration, pixels = float(said["duration"]), int(said["pixels"])
    except (subprocess.TimeoutExpired, ValueError, KeyError):
        raise StepclipError("what was sent is no video that can be read", wanted) from None
    if not pixels:
        raise StepclipError("what was sent has no picture", wanted)
    if duration > most_seconds:
        raise StepclipError(f"a video of {duration / 60:.1f} minutes", f"at most {most_seconds / 60:g}")
    if pixels > MOST_PIXELS:
        raise StepclipError(f"frames of {pixels / 1e6:.0f} megapixels", f"at most {MOST_PIXELS / 1e6:.0f}")
    return max(0.0, duration)


def look(path: str) -> dict[str, float]:
    """The duration and the pixels of a frame, from the head of the file."""
    import av

    with suppress(ImportError, ValueError, OSError):  # not on Windows
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with av.open(path) as container:
        stream = next(iter(container.streams.video), None)
        if stream is None:
            return {"duration": 0.0, "pixels": 0}
        seconds = [(container.duration or 0) / av.time_base]
        if stream.duration and stream.time_base:
            seconds.append(float(stream.duration * stream.time_base))
        return {"duration": max(seconds), "pixels": stream.width * stream.height}


if __name__ == "__main__":
    print(json.dumps(look(sys.argv[1])))

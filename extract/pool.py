"""Decoding in child processes: a video that hangs or kills its decoder costs that video and nothing else.

Each child decodes one video at a time and sends it in chunks. It may send one only when the parent has said
`go`, so that memory stays bounded and the clock of a video does not run while the encoder is what is waited
for.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np

from ..cache.errors import StepclipError
from .decoders.base import DecodeError, End, Sampling
from .geometry import centre

CHUNK_FRAMES = 32
CHUNK_BYTES = 16 * 2**20
CHECK = 0.5  # seconds between two looks at the clocks


@dataclass(frozen=True)
class Job:
    """A video to decode; `index` is the caller's."""

    index: int
    path: str
    start: float | None = None
    end: float | None = None


@dataclass(frozen=True)
class Plan:
    """How all videos are decoded. size: as in `Decoder.stream`; square: keep the middle square only; threads:
    of each process, 0 for as many as there are cores.
    """

    decoder: str
    sampling: Sampling
    size: int | None = None
    square: bool = False
    threads: int = 0


@dataclass(frozen=True)
class Chunk:
    """Some frames of a video, in order: times (n,) and images (n, H, W, 3)."""

    index: int
    times: np.ndarray
    images: np.ndarray


@dataclass(frozen=True)
class Done:
    """All chunks of the video have been given."""

    index: int
    end: End


@dataclass(frozen=True)
class Failed:
    """The video cannot be decoded; chunks given before are not to be used."""

    index: int
    reason: str
    detail: str


Event = Chunk | Done | Failed


def usable_cores() -> int:
    """The processor cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


class DecodePool:
    """Decodes `jobs` in `workers` children and iterates over events, in the order in which they come.

    timeout: seconds of decoding that a video may take. Raises StepclipError where children cannot start at
    all. A context manager: leaving it ends the children.
    """

    def __init__(self, jobs: Sequence[Job], plan: Plan, *, workers: int, timeout: float = 600.0) -> None:
        self.plan, self.timeout = plan, timeout
        self._jobs = deque(jobs)
        self._left = len(jobs)
        self._context = multiprocessing.get_context("spawn")
        self._events: queue.Queue[Event | BaseException | None] = queue.Queue(maxsize=2 * workers + 2)
        self._stopping = threading.Event()
        self._children: list[_Child] = []
        self._workers = max(1, min(workers, len(jobs)))
        self._thread = threading.Thread(target=self._run, name="decode-pool", daemon=True)
        self.decoding, self.decoded = 0.0, 0  # seconds that all children spent on it; frames

    def __enter__(self) -> DecodePool:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def __iter__(self) -> Iterator[Event]:
        while (event := self._events.get()) is not None:
            if isinstance(event, BaseException):
                raise event
            yield event

    @property
    def room(self) -> int:
        """How many events may wait to be taken before the decoders have to."""
        return self._events.maxsize

    @property
    def waiting(self) -> int:
        """Events that are decoded and not yet taken."""
        return self._events.qsize()

    def _run(self) -> None:
        try:
            self._children = [_Child(self._context, self.plan) for _ in range(self._workers)]
            while self._left and not self._stopping.is_set():
                self._turn()
            self._put(None)
        except BaseException as error:
            self._put(error)
        finally:
            for child in self._children:
                child.kill()

    def _turn(self) -> None:
        """Take what the children sent, then look at the clocks of those that sent nothing."""
        ready = set(wait([child.connection for child in self._children], CHECK))
        for place, child in enumerate(self._children):
            if child.connection in ready:
                self._listen(place, child)
            elif child.spent() > self.timeout and not child.connection.poll():
                self._lose(place, child, "timeout", f"decoding took more than {self.timeout:g} s")

    def _listen(self, place: int, child: _Child) -> None:
        try:
            event = child.receive()
        except (EOFError, OSError):
            code = child.exit_code()
            if not child.started:
                raise StepclipError(
                    f"a decoding process ended before it started (exit code {code})",
                    "a main script that a child may import (its work under `if __name__ == '__main__':`)",
                ) from None
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            self._lose(place, child, "decoder-crashed", f"the decoding process died ({how})")
            return
        if isinstance(event, StepclipError):
            raise event
        if isinstance(event, Chunk):
            self.decoding += child.spent_on_chunk
            self.decoded += len(event.times)
            self._put(event)
            child.go()
            return
        if event is not None:
            self._left -= 1
            self._put(event)
        if self._jobs:
            child.give(self._jobs.popleft())

    def _lose(self, place: int, child: _Child, reason: str, detail: str) -> None:
        """A child that died or hangs: its video fails, another child takes its place."""
        child.kill()
        if child.job is not None:
            self._left -= 1
            self._put(Failed(child.job.index, reason, detail))
        self._children[place] = _Child(self._context, self.plan)

    def _put(self, event: Event | BaseException | None) -> None:
        while not self._stopping.is_set():
            try:
                self._events.put(event, timeout=CHECK)
                return
            except queue.Full:
                continue


class _Child:
    """One child process and what the parent knows of it."""

    def __init__(self, context: Any, plan: Plan) -> None:
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_decode_videos, args=(theirs, plan), daemon=True)
        self.process.start()
        theirs.close()  # else its death would not be seen as the end of the pipe
        self.started = False
        self.job: Job | None = None
        self._before, self._since, self.spent_on_chunk = 0.0, 0.0, 0.0

    def give(self, job: Job) -> None:
        self.job, self._before, self._since = job, 0.0, time.monotonic()
        self._send(job)

    def go(self) -> None:
        self._since = time.monotonic()
        self._send("go")

    def spent(self) -> float:
        """Seconds of decoding that its video has taken: those it told of, and those since it may send."""
        return self._before + time.monotonic() - self._since if self.job is not None else 0.0

    def receive(self) -> Event | StepclipError | None:
        """The next message; None: the child is ready for a first video."""
        kind, *rest = self.connection.recv()
        self.started = True
        if kind == "ready":
            return None
        if kind == "unusable":
            error: StepclipError = rest[0]
            return error
        assert self.job is not None
        index = self.job.index
        if kind == "chunk":
            times, shape, spent = rest
            self.spent_on_chunk, self._before = spent - self._before, spent
            images = np.frombuffer(self.connection.recv_bytes(), np.uint8).reshape(shape)
            return Chunk(index, times, images)
        self.job = None
        return Done(index, rest[0]) if kind == "done" else Failed(index, rest[0], rest[1])

    def exit_code(self) -> int:
        self.process.join(5)
        return self.process.exitcode or 0

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()

    def _send(self, message: object) -> None:
        with suppress(OSError):  # it has died: its end of the pipe tells so at the next look
            self.connection.send(message)


def _decode_videos(connection: Connection, plan: Plan) -> None:
    """A child: decode one video after the other, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends its children
    from .decoders import get_decoder

    try:
        decoder = get_decoder(plan.decoder)
        decoder.threads = plan.threads
    except StepclipError as error:
        connection.send(("unusable", error))
        return
    connection.send(("ready",))
    while True:
        try:
            while (job := connection.recv()) == "go":
                pass  # of the last chunk of the video before
        except (EOFError, OSError):
            return
        try:
            connection.send(("done", _send_chunks(connection, plan, decoder, job)))
        except DecodeError as error:
            connection.send(("failed", error.reason, str(error)))
        except (EOFError, BrokenPipeError, ConnectionError):
            return
        except MemoryError:
            connection.send(("failed", "out-of-memory", f"{job.path}: its frames do not fit into the memory"))
        except Exception as error:  # a fault of a decoder that nobody foresaw is the video's, not the run's
            connection.send(("failed", "decoder-error", f"{job.path}: {type(error).__name__}: {error}"))


def _send_chunks(connection: Connection, plan: Plan, decoder: Any, job: Job) -> End:
    times: list[float] = []
    images: list[np.ndarray] = []
    began, waited = time.monotonic(), 0.0
    first = True

    def send() -> None:
        nonlocal first, waited
        stacked = np.stack(images)
        since = time.monotonic()
        if not first:  # the first chunk of a video needs no `go`
            connection.recv()
        first = False
        decoding = since - began - waited
        connection.send(("chunk", np.asarray(times, np.float64), stacked.shape, decoding))
        connection.send_bytes(stacked.data.cast("B"))
        waited += time.monotonic() - since
        times.clear()
        images.clear()

    finish = None
    for item in decoder.stream(job.path, plan.sampling, job.start, job.end, plan.size):
        if isinstance(item, End):
            finish = item
            break
        shown, image = item
        images.append(middle_square(image) if plan.square and min(image.shape[:2]) == plan.size else image)
        times.append(shown)
        # the first one is short, so that an idle encoder has something to do
        if (
            len(images) == (CHUNK_FRAMES // 2 if first else CHUNK_FRAMES)
            or images[0].nbytes * len(images) >= CHUNK_BYTES
        ):
            send()
    if finish is None:
        raise DecodeError("decoder-error", f"{job.path}: the decoder gave no end", "an End as the last item")
    if images:
        send()
    return finish


def middle_square(image: np.ndarray) -> np.ndarray:
    """The centre crop (S, S, 3) of an image (H, W, 3) with short side S, where the encoder would crop too."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = centre(height, side), centre(width, side)
    return image[top : top + side, left : left + side]

"""The API, and the videos themselves. What is slow or computes runs in threads, a few at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote

from fastapi import APIRouter, Depends, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, PlainTextResponse, Response

from ...cache.errors import StepclipError
from ...cache.manifest import VideoRow
from ...evaluate.search import Answer, Filter
from ..scripts import parse_script
from . import schemas as wire
from .library import Library, Turns
from .media import Stills, playable, send_file
from .probe import probe
from .uploads import Uploads

api = APIRouter(prefix="/api", responses=wire.PROBLEMS)
media = APIRouter(prefix="/media", responses=wire.PROBLEMS)


class Served:
    """What the routes share, at `app.state.served`."""

    def __init__(
        self, library: Library, uploads: Uploads | None, most_upload: int, most_minutes: float
    ) -> None:
        self.library, self.uploads = library, uploads
        self.most_upload, self.most_minutes = most_upload, most_minutes
        self.stills = Stills()
        self.searches = Turns(at_once=64, waiting=1000)  # they are answered together, see together.py
        self.checks = Turns(at_once=1, waiting=8)

    def need_uploads(self) -> Uploads:
        if self.uploads is None:
            raise StepclipError("uploads are off here", "a video of the manifest")
        return self.uploads

    def which(self, asked: wire.Which) -> str | Path:
        """An id, or the file of an upload."""
        if (asked.video is None) == (asked.upload is None):
            raise StepclipError("a video and an upload, or neither", "one of them")
        return asked.video if asked.video is not None else self.need_uploads().get(str(asked.upload)).path


def _served(request: Request) -> Served:
    served: Served = request.app.state.served
    return served


Here = Annotated[Served, Depends(_served)]
Id = Annotated[str, Query(alias="id", min_length=1, max_length=1000, description="A video of the manifest.")]
Top = Annotated[int, Query(ge=1, le=wire.MOST_ANSWERS)]
Word = Annotated[str | None, Query(max_length=1000)]
Seconds = Annotated[float | None, Query(ge=0, allow_inf_nan=False)]


def _where(
    task: Word = None,
    procedure: Word = None,
    split: Word = None,
    min_seconds: Seconds = None,
    max_seconds: Seconds = None,
) -> Filter:
    return Filter(task or None, split or None, procedure or None, min_seconds, max_seconds)


Allowed = Annotated[Filter, Depends(_where)]


@api.get("/about")
def about(here: Here) -> wire.About:
    """What is served."""
    from ... import __version__

    library = here.library
    rows = library.manifest.videos
    return wire.About(
        dataset=library.paths.name,
        run=library.run.name,
        version=__version__,
        videos=len(rows),
        indexed=len(library.indexed),
        procedures=len({row.procedure for row in rows}),
        tasks=sorted({row.task for row in rows if row.task}, key=_natural)[:500],
        splits=sorted({row.split for row in rows if row.split}),
        examples=library.examples(),
        most_upload=here.most_upload if here.uploads else 0,
        most_minutes=here.most_minutes,
    )


@api.get("/videos")
def videos(
    here: Here,
    q: Annotated[str, Query(max_length=1000, description="Words of the id, task or procedure.")] = "",
    first: Annotated[int, Query(ge=0, le=10**9)] = 0,
    count: Annotated[int, Query(ge=1, le=500)] = 50,
) -> wire.Videos:
    """The videos of the manifest."""
    rows, total = here.library.videos(q, first, count)
    return wire.Videos(videos=[wire.Brief(**_brief(here, row)) for row in rows], count=total)


@api.get("/video")
def video(here: Here, video_id: Id) -> wire.Video:
    """One video: its script, where each step is, and the true times where the manifest has them."""
    row = here.library.row(video_id)
    trim = row.start or 0.0
    spans = here.library.spans(video_id)
    script = [
        wire.Step(step=step) if span is None else wire.Step(step=step, start=span[0], end=span[1])
        for step, span in zip(row.steps, spans, strict=True)
    ]
    truth = None
    if row.step_start is not None and row.step_end is not None:
        truth = [
            wire.Step(step=step, start=trim + start, end=trim + end) if end > start else wire.Step(step=step)
            for step, start, end in zip(row.steps, row.step_start, row.step_end, strict=True)
        ]
    return wire.Video(
        **_brief(here, row), duration=here.library.duration(video_id), trim=trim, script=script, truth=truth,
        playable=playable(row.path),
    )  # fmt: skip


@api.get("/search")
def search(
    here: Here,
    where: Allowed,
    q: Annotated[str, Query(min_length=1, max_length=2000, description="What happens.")],
    by: Annotated[
        str, Query(pattern="^(moment|step|video)$", description="moment, step (of their scripts) or video.")
    ] = "moment",
    top: Top = 12,
) -> wire.Answers:
    """Videos in which a sentence is shown, and when."""
    started = time.perf_counter()
    with here.searches.turn():
        return _answers(here.library.search(q, top, by, where), started)


@api.post("/search/script")
def search_script(here: Here, query: wire.ScriptQuery) -> wire.Answers:
    """Videos that do the steps of a script in its order, and when each is done."""
    started = time.perf_counter()
    steps = read_steps(query.script)
    where = Filter(
        query.task or None, query.split or None, query.procedure or None, query.min_seconds, query.max_seconds
    )
    with here.searches.turn():
        return _answers(here.library.search_script(steps, query.top, where), started)


@api.get("/search/moment")
def search_moment(
    here: Here,
    where: Allowed,
    video_id: Id,
    at: Annotated[float, Query(ge=0, le=1e6, allow_inf_nan=False, description="Seconds of its file.")],
    top: Top = 12,
) -> wire.Answers:
    """Videos with a moment like this one."""
    started = time.perf_counter()
    with here.searches.turn():
        return _answers(here.library.search_moment(video_id, at, top, where), started)


@api.get("/search/video")
def search_video(here: Here, where: Allowed, video_id: Id, top: Top = 12) -> wire.Answers:
    """Other recordings of the same procedure."""
    started = time.perf_counter()
    with here.searches.turn():
        return _answers(here.library.search_video(video_id, top, where), started)


@api.post("/check")
def check(here: Here, query: wire.CheckQuery) -> wire.Checked:
    """Check a recording against a script: what is done and when, missing, out of order, extra.

    The first check of a run learns from its training videos how sure to be, which takes a while."""
    steps = read_steps(query.script) if query.script.strip() else None
    video = here.which(query)
    with here.checks.turn(), _named(video):
        return wire.Checked.model_validate(here.library.check(video, steps), from_attributes=True)


@api.post("/compare")
def compare(here: Here, query: wire.CompareQuery) -> wire.Compared:
    """Compare two recordings: the same procedure or not, where they part, which moments belong together."""
    a, b = here.which(query.a), here.which(query.b)
    with here.checks.turn(), _named(a, b):
        return wire.Compared.model_validate(here.library.compare(a, b), from_attributes=True)


@api.post(
    "/uploads",
    status_code=201,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def upload(
    here: Here,
    request: Request,
    name: Annotated[str, Query(max_length=1000, description="What it is called.")] = "video.mp4",
) -> wire.Upload:
    """Send a video, as the body. It is kept for a while, for checks and comparisons."""
    uploads = here.need_uploads()
    token, kept = await uploads.receive(unquote(name), request.stream())
    try:
        duration = await run_in_threadpool(probe, kept.path, 60 * here.most_minutes)
    except BaseException:
        uploads.drop(token)
        raise
    return wire.Upload(
        upload=token, name=kept.name, bytes=kept.bytes, duration=duration, seconds_kept=uploads.seconds
    )


@api.delete("/uploads", status_code=204, response_class=Response)
def delete_upload(here: Here, upload: Annotated[str, Query(max_length=100)]) -> None:
    """Delete one that was sent."""
    here.need_uploads().drop(upload)


def _file(kind: str) -> dict[int | str, Any]:
    binary = {"schema": {"type": "string", "format": "binary"}}
    return {200: {"description": "The file.", "content": {kind: binary}}}


_VIDEO = {
    **_file("video/*"),
    206: {"description": "A part of it.", "content": {"video/*": {}, "multipart/byteranges": {}}},
    416: {"description": "A range outside of it.", "content": {"text/plain": {}}},
}


@media.head("/video", include_in_schema=False)
@media.get("/video", response_class=FileResponse, responses=_VIDEO)
def video_file(here: Here, video_id: Id) -> FileResponse:
    """The file of a video, or the ranges of it that are asked for."""
    return send_file(here.library.row(video_id).path)


@media.head("/upload", include_in_schema=False)
@media.get("/upload", response_class=FileResponse, responses=_VIDEO)
def upload_file(here: Here, upload: Annotated[str, Query(max_length=100)]) -> FileResponse:
    """The file of an upload, likewise."""
    return send_file(here.need_uploads().get(upload).path)


@media.get("/still", response_class=Response, responses=_file("image/jpeg"))
def still(
    here: Here,
    video_id: Id,
    at: Annotated[float, Query(ge=0, le=1e6, allow_inf_nan=False, description="Seconds of the file.")] = 0.0,
    height: Annotated[int, Query(ge=16, le=1080)] = 180,
) -> Response:
    """The frame of a video at a moment, as JPEG."""
    path = here.library.row(video_id).path
    if not Path(path).is_file():
        send_file(path)  # says what is wrong
    image = here.stills.still(path, at, height)
    return Response(image, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})


plain = APIRouter()


@plain.get("/health")
def health(here: Here) -> wire.Health:
    """Whether it answers, and over how many videos."""
    return wire.Health(status="ok", videos=len(here.library.indexed))


@plain.get("/metrics", response_class=PlainTextResponse)
def metrics(request: Request) -> PlainTextResponse:
    """Counters, as Prometheus reads them."""
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

    return PlainTextResponse(
        generate_latest(request.app.state.metrics.registry), media_type=CONTENT_TYPE_LATEST
    )


def read_steps(script: str) -> tuple[str, ...]:
    """The steps of a script that was sent; StepclipError when there are none, or too many."""
    steps = parse_script(script)
    if len(steps) > wire.MOST_STEPS:
        raise StepclipError(f"a script of {len(steps)} steps", f"at most {wire.MOST_STEPS}")
    return steps


@contextmanager
def _named(*videos: str | Path) -> Iterator[None]:
    """Errors of what is done inside, without the paths of uploads."""
    try:
        yield
    except StepclipError as error:
        found = error.found
        for video in videos:
            if isinstance(video, Path):
                found = found.replace(str(video), "the upload").replace(str(video.resolve()), "the upload")
        if found == error.found:
            raise
        raise StepclipError(found, error.expected) from error


def _brief(here: Served, row: VideoRow) -> dict[str, Any]:
    return {
        "video_id": row.video_id, "task": row.task, "procedure": row.procedure, "split": row.split,
        "steps": len(row.steps), "indexed": row.video_id in here.library.indexed,
    }  # fmt: skip


def _answers(answers: list[Answer], started: float) -> wire.Answers:
    # without the path: where files lie on the server is nobody's business
    found = [wire.Found(**{k: v for k, v in answer.to_dict().items() if k != "path"}) for answer in answers]
    return wire.Answers(answers=found, milliseconds=1000 * (time.perf_counter() - started))


def _natural(text: str) -> tuple[int, str]:
    return (int(text), "") if text.isdecimal() else (1 << 60, text)

"""The app: routes, the page's files, errors as JSON; and the server that runs it."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from fastapi.staticfiles import StaticFiles

from ...cache.errors import StepclipError
from .guard import Guard, Metrics
from .library import Busy, Library, Unknown
from .routes import Served, api, media, plain
from .uploads import Uploads

FILES = Path(__file__).parent
LOOPBACK = ("localhost", "127.0.0.1", "::1", "[::1]")
MOST_UPLOAD = 512 << 20


def create_app(
    library: Library,
    *,
    most_upload: int = MOST_UPLOAD,
    most_minutes: float = 60.0,
    upload_seconds: float = 600.0,
    hosts: Sequence[str] = LOOPBACK,
) -> FastAPI:
    """The page over `library`. most_upload: bytes of an upload, 0 for none; most_minutes: its length;
    upload_seconds: how long one may take to arrive; hosts: names under which it answers ("*": any), which
    keeps other sites' scripts out."""
    from ... import __version__

    uploads = Uploads() if most_upload else None
    metrics = Metrics()
    metrics.videos.set(len(library.indexed))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        if uploads is not None:
            uploads.close()

    app = FastAPI(
        title="StepCLIP",
        version=__version__,
        description="Search step-by-step videos, check them against their scripts, compare them.",
        openapi_url="/api/openapi.json",
        docs_url=None,  # both load their scripts from elsewhere; /docs is ours
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.served = Served(library, uploads, most_upload, most_minutes)
    app.state.metrics = metrics
    for router in (api, media, plain):
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=FILES / "static"), name="static")
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    app.add_middleware(
        Guard, metrics=metrics, upload_bytes=max(1, most_upload), upload_seconds=upload_seconds
    )
    app.add_exception_handler(StepclipError, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(FILES / "static" / "index.html", headers={"cache-control": "no-cache"})

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return HTMLResponse(_docs(app.openapi()))

    return app


def _problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, StepclipError)
    status = 404 if isinstance(error, Unknown) else 503 if isinstance(error, Busy) else 422
    said = {"detail": error.found, "expected": error.expected, "run": error.run}
    return JSONResponse(said, status, {"retry-after": "5"} if status == 503 else None)


def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first.get("loc", ()) if part not in ("query", "body"))
    found = f"{where}: {first.get('msg', '')}" if where else str(first.get("msg", ""))
    return JSONResponse({"detail": found, "expected": "see /docs", "run": ""}, 422)


def _docs(schema: dict[str, Any]) -> str:
    from jinja2 import Environment, FileSystemLoader, select_autoescape

    environment = Environment(
        loader=FileSystemLoader(FILES / "templates"), autoescape=select_autoescape(default=True)
    )
    return environment.get_template("api.html.j2").render(schema=schema)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; StepclipError when it cannot be had."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=512)
    except (OSError, OverflowError) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise StepclipError(
            f"cannot listen at {host}, port {port}: {said}", "a free port of this machine",
            "stepclip serve --port 0, for any free one",
        ) from error  # fmt: skip


def run(app: FastAPI, sock: socket.socket) -> None:
    """Answer until Ctrl-C or a termination signal; requests under way get some seconds to end."""
    import uvicorn

    config = uvicorn.Config(
        app, log_level="warning", access_log=False, limit_concurrency=1024, timeout_keep_alive=10,
        timeout_graceful_shutdown=5, server_header=False,
    )  # fmt: skip
    uvicorn.Server(config).run(sockets=[sock])

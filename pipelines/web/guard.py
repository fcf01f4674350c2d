"""What every request passes: its size, its time, where it comes from; headers of the answer; the counters."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.requests import ClientDisconnect

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

JSON_BYTES = 1 << 20
JSON_SECONDS = 30.0
UPLOAD = "/api/uploads"
CONTENT_SECURITY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", CONTENT_SECURITY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
]

NO_CACHE = (b"cache-control", b"no-cache")


class Metrics:
    """Counters of one app, in Prometheus's names."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        make: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter(
            "stepclip_requests", "Requests answered.", ["method", "route", "status"], **make
        )
        self.seconds = Histogram(
            "stepclip_request_seconds", "From the request's head to the end of its answer.", ["route"],
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2.5, 10, 60), **make,
        )  # fmt: skip
        self.running = Gauge("stepclip_requests_in_progress", "Requests being answered.", **make)
        self.received = Counter("stepclip_received_bytes", "Bytes of request bodies.", **make)
        self.videos = Gauge("stepclip_videos", "Videos in the index.", **make)


class Guard:
    """The outermost layer around `app`; `upload_bytes` and `upload_seconds` bound the body of an upload."""

    def __init__(self, app: App, metrics: Metrics, upload_bytes: int, upload_seconds: float) -> None:
        self.app, self.metrics = app, metrics
        self.upload = (upload_bytes, upload_seconds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 499  # the client left before an answer
        headers = dict(scope["headers"])

        async def answer(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = list(message.get("headers", []))
                fresh = [] if any(name == b"cache-control" for name, _ in given) else [NO_CACHE]
                message["headers"] = [*given, *HEADERS, *fresh]
            await send(message)

        most, seconds = self.upload if scope["path"] == UPLOAD else (JSON_BYTES, JSON_SECONDS)
        self.metrics.running.inc()
        try:
            refused = _refused(scope, headers, most)
            app: App = refused or self.app
            await app(scope, self._bounded(receive, most, seconds), answer)
        except ClientDisconnect:
            pass  # in the middle of its body: nobody is left to be answered
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.running.dec()
            self.metrics.requests.labels(scope["method"] if route != "other" else "-", route, status).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - started)

    def _bounded(self, receive: Receive, most: int, seconds: float) -> Receive:
        """`receive`, until the body has `most` bytes or took `seconds`; then an HTTPException."""
        size, end, whole = 0, time.monotonic() + seconds, False

        async def bounded() -> MutableMapping[str, Any]:
            nonlocal size, whole
            if whole:  # what comes now is only the client's leaving
                return await receive()
            try:
                async with asyncio.timeout(max(0.0, end - time.monotonic())):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"the body took more than {seconds:g} s") from None
            if message["type"] == "http.request":
                size += len(message.get("body", b""))
                self.metrics.received.inc(len(message.get("body", b"")))
                whole = not message.get("more_body", False)
                if size > most:
                    raise HTTPException(413, f"more than {most} bytes")
            return message

        return bounded


def _refused(scope: Scope, headers: dict[bytes, bytes], most: int) -> JSONResponse | None:
    """The answer to a request that is refused by its head."""
    close = {"connection": "close"}  # its body is not read
    if scope["method"] not in ("GET", "HEAD"):
        origin, host = (
            headers.get(b"origin", b"").decode("latin-1"),
            headers.get(b"host", b"").decode("latin-1"),
        )
        cross = headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin")
        if cross or (origin and urlsplit(origin).netloc.lower() != host.lower()):
            return JSONResponse({"detail": "sent by a page of another site"}, 403, close)
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length) > most:
        return JSONResponse({"detail": f"more than {most} bytes"}, 413, close)
    return None

"""Gives every request an id, logs it, and observes its latency."""

from __future__ import annotations

import logging
import re
import time
import uuid

from prometheus_client import Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from autoslim.core import logs

_log = logging.getLogger(__name__)

# What a client may choose as X-Request-Id; it goes into the log.
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class AccessLog:
    """`latency` has the labels method, route and status; in seconds to the first byte of the response."""

    def __init__(self, app: ASGIApp, *, latency: Histogram) -> None:
        self._app, self._latency = app, latency

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        token, job = logs.request_id.set(request_id), logs.job_id.set(None)
        started, status, seconds = time.perf_counter(), 500, None

        async def send_timed(message: Message) -> None:
            nonlocal status, seconds
            if message["type"] == "http.response.start":
                status, seconds = message["status"], time.perf_counter() - started
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_timed)
        finally:
            # Without a response the request took until now.
            self._record(scope, status, time.perf_counter() - started if seconds is None else seconds)
            logs.request_id.reset(token)
            logs.job_id.reset(job)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        # The template and not the path: every label value is a series that Prometheus keeps.
        route = getattr(scope.get("route"), "path_format", "unknown")
        self._latency.labels(scope["method"] if route != "unknown" else "any", route, str(status)).observe(seconds)
        path = scope["path"][:300]
        extra = {"method": scope["method"][:16], "path": path, "status": status, "ms": round(seconds * 1000, 1)}
        extra |= {"tenant": scope["state"].get("tenant"), "job_id": scope.get("path_params", {}).get("job_id")}
        _log.info("request", extra={name: value for name, value in extra.items() if value is not None})

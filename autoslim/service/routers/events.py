"""What happens to a job: a page of it, or a stream that goes on."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from starlette.types import Receive, Scope, Send

from autoslim.service.app_state import AppState
from autoslim.service.auth import Reader, Shared
from autoslim.service.problems import ProblemError, documented
from autoslim.service.routers.dependencies import ReadJob
from autoslim.service.schemas import EventPage, event_view
from autoslim.store import QueuedJob

router = APIRouter(tags=["events"])

_LARGEST = 2**53
_HEADERS = {"X-Accel-Buffering": "no", "Cache-Control": "no-store"}
_STREAM = {
    "description": "A page of events, or with `Accept: text/event-stream` all of them and those to come, up to the one that ends the job.",
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
}


@router.get(
    "/v1/jobs/{job_id:job}/events",
    response_model=EventPage,
    responses={
        200: _STREAM,
        204: {"description": "The job has ended, and this client has seen all of it."},
        **documented(404, 422, 503),
    },
)
async def events(
    request: Request,
    identity: Reader,
    job: ReadJob,
    shared: Shared,
    after: Annotated[int, Query(ge=0, le=_LARGEST, description="The last one that was seen.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID", max_length=32)] = None,
) -> Response:
    """Events have numbers that rise. A stream goes on after `Last-Event-ID`, which browsers send by themselves, or after `after`."""
    if "text/event-stream" in request.headers.get("accept", ""):
        return await _stream(shared, job, _seen(last_event_id, after))
    found = await shared.run(shared.queue.events, job.id, after=after, limit=limit)
    page = EventPage(events=[event_view(event) for event in found], next_after=found[-1].seq if found else after)
    return Response(page.model_dump_json(), media_type="application/json")


def _seen(last_event_id: str | None, after: int) -> int:
    # A client's own business, but never an error: the worst is that it sees an event twice.
    if last_event_id is not None and last_event_id.isascii() and last_event_id.isdecimal():
        return max(after, min(int(last_event_id), _LARGEST))
    return after


async def _stream(shared: AppState, job: QueuedJob, after: int) -> Response:
    if job.state.ended and not await shared.run(shared.queue.events, job.id, after=after, limit=1):
        # A browser asks again after every end; this tells it not to.
        return Response(status_code=204)
    if not shared.hub.take_place():
        detail = f"{shared.hub.open} event streams are open, the most there may be; ask for pages with `after`"
        raise ProblemError(503, "too-many-streams", detail, headers={"Retry-After": "10"})
    return _Stream(shared, job.id, after)


class _Stream(EventSourceResponse):
    """Has a place among the streams, and gives it back whatever becomes of the client."""

    def __init__(self, shared: AppState, job_id: str, after: int) -> None:
        super().__init__(_lines(shared, job_id, after), headers=_HEADERS)
        self._hub = shared.hub

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._hub.leave()


async def _lines(shared: AppState, job_id: str, after: int) -> AsyncIterator[bytes]:
    # The first byte tells the client that it is connected.
    yield KEEPALIVE_COMMENT
    async for event in shared.hub.follow(job_id, after=after):
        if event is None:
            yield KEEPALIVE_COMMENT
        else:
            yield format_sse_event(id=str(event.seq), event=event.type, data_str=json.dumps({"at": event.at, **event.data}))

"""A job's events: a page of them, or a stream of server-sent events."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from starlette.types import Receive, Scope, Send

from autoslim.service.app_state import AppState, State
from autoslim.service.auth import Identity, Reader, remains_authenticated
from autoslim.service.problems import ProblemError, problem_responses
from autoslim.service.routers.dependencies import ReadableJob
from autoslim.service.schemas import EventPage, event_response
from autoslim.store import QueuedJob

router = APIRouter(tags=["events"])

# The largest integer that JavaScript represents exactly.
_MAX_SEQ = 2**53
# A key that is revoked or expires while a stream is open ends the stream by its next event or keep-alive after this time.
_CHECK_SECONDS = 10.0
# A proxy (nginx) must pass events on as they come.
_HEADERS = {"X-Accel-Buffering": "no", "Cache-Control": "no-store"}
_STREAM = {
    "description": "A page of events; with `Accept: text/event-stream` a stream up to the event that ends the job.",
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
}


@router.get(
    "/v1/jobs/{job_id:job}/events",
    response_model=EventPage,
    responses={
        200: _STREAM,
        204: {"description": "The job has ended and the client has all its events."},
        **problem_responses(404, 422, 503),
    },
)
async def events(
    request: Request,
    identity: Reader,
    job: ReadableJob,
    state: State,
    after: Annotated[int, Query(ge=0, le=_MAX_SEQ, description="The `seq` of the last event that the client has.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID", max_length=32)] = None,
) -> Response:
    """Events with a `seq` above `after`. A stream resumes after `Last-Event-ID`, which browsers send when they reconnect."""
    if "text/event-stream" in request.headers.get("accept", ""):
        return await _stream(state, identity, job, _resume_after(last_event_id, after))
    found = await state.run_sync(state.queue.events, job.id, after=after, limit=limit)
    page = EventPage(
        events=[event_response(event, state.public_text) for event in found], next_after=found[-1].seq if found else after
    )
    return Response(page.model_dump_json(), media_type="application/json")


def _resume_after(last_event_id: str | None, after: int) -> int:
    # An invalid id is ignored: at worst the client receives an event twice.
    if last_event_id is not None and last_event_id.isascii() and last_event_id.isdecimal():
        return max(after, min(int(last_event_id), _MAX_SEQ))
    return after


async def _stream(state: AppState, identity: Identity, job: QueuedJob, after: int) -> Response:
    if job.state.ended and not await state.run_sync(state.queue.events, job.id, after=after, limit=1):
        # An EventSource reconnects after every end of a stream; 204 tells it to stop.
        return Response(status_code=204)
    if not state.events.try_acquire():
        detail = f"{state.events.open_streams} event streams are open, the maximum; read pages with `after` instead"
        raise ProblemError(503, "too-many-streams", detail, headers={"Retry-After": "10"})
    return _EventStream(state, identity, job.id, after)


class _EventStream(EventSourceResponse):
    """Releases its stream when the response ends, also when the client disconnects."""

    def __init__(self, state: AppState, identity: Identity, job_id: str, after: int) -> None:
        super().__init__(_lines(state, identity, job_id, after), headers=_HEADERS)
        self._broadcaster = state.events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._broadcaster.release()


async def _lines(state: AppState, identity: Identity, job_id: str, after: int) -> AsyncIterator[bytes]:
    # Sends the headers at once: the client knows that it is connected before there is an event.
    yield KEEPALIVE_COMMENT
    checked = time.monotonic()
    async for event in state.events.follow(job_id, after=after):
        if time.monotonic() - checked >= _CHECK_SECONDS:
            # The client reconnects, and is refused then.
            if not await remains_authenticated(state, identity):
                return
            checked = time.monotonic()
        if event is None:
            yield KEEPALIVE_COMMENT
        else:
            data = {"at": event.at, **state.public_text.within(event.data)}
            yield format_sse_event(id=str(event.seq), event=event.type, data_str=json.dumps(data))

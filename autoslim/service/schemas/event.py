"""A job's events as the API shows them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from autoslim.service.public_text import PublicText
from autoslim.store import Event


class EventResponse(BaseModel):
    """`seq` increases over the events of all jobs; `at` is RFC 3339 in UTC; `data` has the `attempt` that wrote it, where one did."""

    seq: int
    at: str
    type: str
    data: dict[str, Any]


class EventPage(BaseModel):
    """`next_after` is the `after` of the next page."""

    events: list[EventResponse]
    next_after: int


def event_response(event: Event, public: PublicText) -> EventResponse:
    return EventResponse(seq=event.seq, at=event.at, type=event.type, data=public.within(event.data))

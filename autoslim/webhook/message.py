"""`Message`: one notification, and its headers by Standard Webhooks, with HMAC-SHA256."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import hashlib
import hmac
import json
from typing import Any

from autoslim.core.record import Record


@dataclasses.dataclass(frozen=True, kw_only=True)
class Message(Record):
    """`id` is the same in every try, so that a receiver can tell a repetition. `body` is JSON, and signed as it is.

    `at` are seconds since 1970, `tries` counts the deliveries that failed.
    """

    id: str
    url: str
    body: str
    at: float
    tries: int = 0

    @property
    def type(self) -> str:
        return str(json.loads(self.body)["type"])


def make_message(url: str, type: str, data: dict[str, Any], *, identity: str, at: float) -> Message:
    """Messages of the same `identity` have the same id; `at` are seconds since 1970."""
    when = datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    body = json.dumps({"type": type, "timestamp": when, "data": data}, sort_keys=True)
    return Message(id=f"msg_{hashlib.sha256(identity.encode()).hexdigest()[:32]}", url=url, body=body, at=at)


def signed_headers(message: Message, secret: bytes, *, now: float) -> dict[str, str]:
    """`now` is the time of this try in seconds since 1970: receivers refuse old ones, which may be replayed."""
    moment = str(int(now))
    signed = f"{message.id}.{moment}.{message.body}".encode()
    signature = base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()
    return {"webhook-id": message.id, "webhook-timestamp": moment, "webhook-signature": f"v1,{signature}"}

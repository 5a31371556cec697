"""Structured logs: a line of JSON each, with the ids of the request and the job, and no secret in it."""

from __future__ import annotations

import contextvars
import datetime
import json
import logging
import re
import sys
from typing import Any, TextIO

from autoslim.store import hide_password

request_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("request_id", default=None)
job_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("job_id", default=None)

_KEY = re.compile(r"(autoslim_[0-9a-f]{1,16}_)[A-Za-z0-9_-]+")
_BEARER = re.compile(r"(bearer\s+)[^\s'\",]+", re.IGNORECASE)
_OWN = set(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}


def redact(text: str) -> str:
    """`text` without keys, bearer tokens and passwords of addresses."""
    return hide_password(_BEARER.sub(r"\1***", _KEY.sub(r"\1***", text)))


class JsonFormatter(logging.Formatter):
    """What is given as `extra` becomes a field."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {"request_id": request_id.get(), "job_id": job_id.get()}
        line |= {name: value for name, value in record.__dict__.items() if name not in _OWN}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        kept = {name: value for name, value in line.items() if value is not None}
        # Strings are redacted one by one: a secret may hold characters that JSON escapes.
        return json.dumps(
            {name: redact(value) if isinstance(value, str) else value for name, value in kept.items()}, default=_text
        )


def _text(value: object) -> str:
    return redact(str(value))


def log_json(stream: TextIO | None = None, *, level: int = logging.INFO) -> None:
    """Makes the process log like this and in no other way."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in ("autoslim", "workers", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(level)

"""Structured logs: one line of JSON for each record, with the ids of request, job and trial, and without secrets."""

from __future__ import annotations

import contextvars
import datetime
import json
import logging
import re
import sys
from typing import Any, Protocol, TextIO

from autoslim.core.urls import hide_password

request_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("request_id", default=None)
job_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("job_id", default=None)

_process: dict[str, Any] = {}

_KEY = re.compile(r"(autoslim_[0-9a-f]{1,16}_)[A-Za-z0-9_-]+")
_BEARER = re.compile(r"(bearer\s+)[^\s'\",]+", re.IGNORECASE)
_OWN = set(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}


def redact(text: str) -> str:
    """`text` with API keys, bearer tokens and passwords in URLs replaced by `***`."""
    return hide_password(_BEARER.sub(r"\1***", _KEY.sub(r"\1***", text)))


def bind(**fields: Any) -> None:
    """Adds `fields` to every later line of this process, in all threads; None removes a field."""
    _process.update(fields)


class JsonFormatter(logging.Formatter):
    """Formats a record as JSON; entries of `extra` become fields."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= _process
        line |= {name: found for name, kept in (("request_id", request_id), ("job_id", job_id)) if (found := kept.get())}
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


class Stream(Protocol):
    def write(self, text: str, /) -> object: ...
    def flush(self) -> object: ...


def json_handler(stream: Stream) -> logging.Handler:
    handler: logging.Handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    return handler


def log_json(stream: TextIO | None = None, *, level: int = logging.INFO) -> None:
    """Makes the process log JSON only, to `stream` or stderr."""
    handler = json_handler(stream or sys.stderr)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in ("autoslim", "workers", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(level)

"""When a request is sent again, and after how long. No answer is waited for without an end."""

from __future__ import annotations

import random

import httpx

from autoslim.client.errors import ServiceError, UnreachableError

TIMEOUT = httpx.Timeout(30.0, connect=5.0, pool=30.0)
"""Seconds. Reading counts from one byte to the next, so that a large file may take longer."""

AGAIN = frozenset({429, 502, 503, 504})
"""Answers that say nothing about the request itself."""

UNREACHABLE = "unreachable"

_FIRST, _LONGEST = 0.5, 30.0


class Attempts:
    """The tries of one call. `after` says how long to wait before the next one, or raises what is to be raised."""

    def __init__(self, most: int = 4) -> None:
        self._left, self._pause = most, _FIRST

    def after(self, error: httpx.TransportError | ServiceError, *, asked: float | None = None) -> float:
        """`asked` is the service's Retry-After. A pause varies by half, so that many clients do not come back at once."""
        self._left -= 1
        told = unreachable(error) if isinstance(error, httpx.TransportError) else error
        if self._left <= 0 or not (told.status in AGAIN or told.code == UNREACHABLE):
            raise told from (error if told is not error else None)
        pause, self._pause = self._pause, min(2 * self._pause, _LONGEST)
        pause *= 0.5 + random.random()  # noqa: S311 - no secret
        return min(max(pause, asked or 0.0), _LONGEST)


def retry_after(response: httpx.Response) -> float | None:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isdigit() else None


def unreachable(error: httpx.TransportError) -> UnreachableError:
    """In words; the address is in the request that the error belongs to."""
    where = f"{error.request.url.scheme}://{error.request.url.netloc.decode()}" if _has_request(error) else "the service"
    kind = "did not answer in time" if isinstance(error, httpx.TimeoutException) else "cannot be reached"
    reason = str(error).strip()
    return UnreachableError(
        f"{where} {kind}{f': {reason}' if reason else ''}. Is it running (autoslim serve), and is AUTOSLIM_URL right?",
        code=UNREACHABLE,
    )


def _has_request(error: httpx.TransportError) -> bool:
    try:
        return error.request is not None
    except RuntimeError:
        return False

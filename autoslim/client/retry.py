"""Which requests are repeated, and after how long. Every wait has an end."""

from __future__ import annotations

import random

import httpx

from autoslim.client.errors import ServiceError, UnreachableError

# Seconds. Reading is timed from one byte to the next, so that a large file may take longer than this.
TIMEOUT = httpx.Timeout(30.0, connect=5.0, pool=30.0)

RETRYABLE_STATUSES = frozenset({429, 502, 503, 504})
"""Responses that say nothing about the request itself: a busy service, or a gateway without one."""

UNREACHABLE = "unreachable"
"""The `code` of an error without a response."""

# Seconds. The delay doubles from the first to the maximum: a restart of the service is over within a few tries.
_FIRST_DELAY, _MAX_DELAY = 0.5, 30.0


class Backoff:
    """Counts the tries of one call. A pause doubles with every try and varies by half.

    `in_doubt` says what a try may have done that got no response; the error of the last try says it where there was one.
    """

    def __init__(self, max_tries: int = 4, *, in_doubt: str | None = None) -> None:
        self._tries_left, self._delay = max_tries, _FIRST_DELAY
        self._in_doubt, self._sent = in_doubt, False

    def next_delay(self, error: httpx.TransportError | ServiceError, *, retry_after: float | None = None) -> float:
        """Seconds to wait before the next try, at least `retry_after` but never above 30.

        Raises:
            ServiceError: `error`, where no try is left or another one would not help.
        """
        self._tries_left -= 1
        # One try that may have arrived is enough, whatever became of the later ones.
        self._sent = self._sent or _may_have_arrived(error)
        in_doubt = self._in_doubt if self._sent else None
        reported = unreachable_error(error, in_doubt=in_doubt) if isinstance(error, httpx.TransportError) else error
        if self._tries_left <= 0 or not (reported.status in RETRYABLE_STATUSES or reported.code == UNREACHABLE):
            raise reported from (error if reported is not error else None)
        delay, self._delay = self._delay, min(2 * self._delay, _MAX_DELAY)
        # Jitter: clients that lost the service at the same time must not return at the same time.
        delay *= 0.5 + random.random()  # noqa: S311 - no secret
        return min(max(delay, retry_after or 0.0), _MAX_DELAY)


def retry_after(response: httpx.Response) -> float | None:
    """The Retry-After field in seconds; None where it is missing or a date."""
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isdigit() else None


def _may_have_arrived(error: httpx.TransportError | ServiceError) -> bool:
    if isinstance(error, ServiceError):
        # Behind a gateway that has lost its service, or waited for it for too long.
        return error.status in (502, 504)
    return not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)


def unreachable_error(error: httpx.TransportError, *, in_doubt: str | None = None) -> UnreachableError:
    """The transport's error with the address of the service, and what to check; with `in_doubt` what the request may have done."""
    where = f"{error.request.url.scheme}://{error.request.url.netloc.decode()}" if _has_request(error) else "the service"
    kind = "did not answer in time" if isinstance(error, httpx.TimeoutException) else "cannot be reached"
    reason = str(error).strip().rstrip(".")
    advice = in_doubt or "Is it running (autoslim serve), and is AUTOSLIM_URL right?"
    return UnreachableError(f"{where} {kind}{f': {reason}' if reason else ''}. {advice}", code=UNREACHABLE)


def _has_request(error: httpx.TransportError) -> bool:
    try:
        return error.request is not None
    except RuntimeError:
        return False

"""`WebhookRelay`: notifies the webhooks of the service's jobs, from the events that the queue has of them.

The supervisor runs it, and not the drivers: jobs also end without one, a driver may be killed, and the secret stays with one process. Its
outbox has the number of the last event that was read, so that none is missed and none is read twice.
"""

from __future__ import annotations

import datetime
import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from autoslim.errors import NotFoundError, UnavailableError
from autoslim.store import Event, Queue, QueuedJob, QueueState
from autoslim.webhook.addresses import AllowedHosts
from autoslim.webhook.message import Message, make_message
from autoslim.webhook.outbox import Outbox
from workers.progress.webhook import BEST, CANCELLED, FAILED, SUCCEEDED, ended

_log = logging.getLogger(__name__)

_READ_SECONDS = 2.0
"""Between two looks at the events."""
_LAST_SECONDS = 5.0
"""For the last tries when the supervisor ends; what is left waits for the next one."""

_TYPES = {QueueState.SUCCEEDED: SUCCEEDED, QueueState.FAILED: FAILED, QueueState.CANCELLED: CANCELLED}


class WebhookRelay:
    """A thread, for as long as its context. `public` hides the operator's paths and addresses from a tenant's message."""

    def __init__(
        self,
        queue: Queue,
        root: Path,
        secret: bytes,
        *,
        allowed: AllowedHosts,
        public: Callable[[Any], Any],
        every: float = _READ_SECONDS,
    ) -> None:
        self._queue, self._allowed, self._public, self._every = queue, allowed, public, every
        self._outbox = Outbox(root / "webhooks.json", secret, allowed=allowed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="autoslim-webhook-relay", daemon=True)

    def __enter__(self) -> WebhookRelay:
        self._outbox.start()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(_LAST_SECONDS)
        if (undelivered := self._outbox.close(_LAST_SECONDS)) is not None:
            _log.warning("%s; the next supervisor goes on", undelivered)

    def _run(self) -> None:
        down = False
        while True:
            # Read before the events: those of jobs that ended before the stop are then sent.
            last = self._stop.is_set()
            try:
                self._read()
                down = False
            except UnavailableError as error:
                if not down:
                    _log.warning("webhooks wait: %s", error)
                down = True
            if last:
                return
            self._stop.wait(self._every)

    def _read(self) -> None:
        while page := self._queue.events(after=self._outbox.cursor):
            messages = [message for event in page if (message := self._message(event)) is not None]
            self._outbox.put(messages, cursor=page[-1].seq)

    def _message(self, event: Event) -> Message | None:
        """None for an event that nobody is told of."""
        state = QueueState(event.data["state"]) if event.type == "state" else None
        if event.type != "best" and state not in _TYPES:
            return None
        try:
            job = self._queue.get(event.job_id)
        except NotFoundError:
            # It was purged meanwhile.
            return None
        url = json.loads(job.spec).get("webhook")
        if url is None:
            return None
        if (problem := self._allowed.problem_with(url)) is not None:
            _log.warning("no notification: the webhook %s", problem, extra={"job_id": job.id})
            return None
        type, data = (BEST, {"job": job.id, **event.data}) if state is None else (_TYPES[state], self._ended(job, event))
        return make_message(
            url, type, data, identity=f"{job.id}.{event.seq}", at=datetime.datetime.fromisoformat(event.at).timestamp()
        )

    def _ended(self, job: QueuedJob, event: Event) -> dict[str, Any]:
        result = json.loads(job.result) if job.result else {}
        failure = event.data.get("failure")
        told = {name: result[name] for name in ("models", "missing", "trials") if name in result}
        error = None if failure is None else f"{failure['failure_class']}: {failure['message']}"
        return ended(job.id, str(event.data["state"]), **told, error=self._public(error))

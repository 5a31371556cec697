"""`Client`: the service from Python. `asynchronous.py` has the same for asyncio."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import httpx

from autoslim.client import calls, pull, retry, stream
from autoslim.client.address import find_address
from autoslim.client.base import LOG_PAUSE, BaseJob, connection, model_folder, of_one_budget
from autoslim.client.calls import Call
from autoslim.client.download import Download
from autoslim.client.errors import JobEndedError, NotFoundError, ServiceError, WaitTimeoutError
from autoslim.client.replies import Artifact, Event, JobReply, Result, Trial
from autoslim.client.retry import Attempts

if TYPE_CHECKING:
    from torch import nn

    from autoslim.config import JobSpec

T = TypeVar("T")


class Client:
    """The service at `url`; without arguments, where AUTOSLIM_URL, AUTOSLIM_KEY or the configuration file say.

    Everything raises the classes of `autoslim.client.errors`. Requests are sent again where the network or the service was away for a
    moment; a job is never submitted twice by that.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        timeout: httpx.Timeout | float = retry.TIMEOUT,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.address = find_address(url, key)
        self._http = httpx.Client(**connection(self.address, timeout), transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def submit(self, spec: JobSpec | str | Path | None = None, *, idempotency_key: str | None = None, **fields: Any) -> Job:
        """Queues a job: a JobSpec, a YAML file, or keyword arguments named like the file's fields, which also override it."""
        return Job(self, self.call(calls.submit(calls.as_sent(calls.spec_of(spec, fields)), idempotency_key)))

    def plan(self, spec: JobSpec | str | Path | None = None, **fields: Any) -> dict[str, Any]:
        """What a job could reach and would cost; nothing is queued."""
        return self.call(calls.plan(calls.as_sent(calls.spec_of(spec, fields))))

    def jobs(self, *, state: str | Sequence[str] = (), label: str | None = None, page_size: int = 50) -> Iterator[Job]:
        """Newest first, fetched as they are asked for."""
        states, token = [state] if isinstance(state, str) else list(state), None
        while True:
            page = self.call(calls.jobs(states=states, label=label, page_size=page_size, page_token=token))
            yield from (Job(self, reply) for reply in page.jobs)
            token = page.next_page_token
            if not token:
                return

    def job(self, job_id: str) -> Job:
        return Job(self, self.call(calls.job(job_id)))

    def capabilities(self) -> dict[str, Any]:
        """The models, methods, spaces, data sets and limits that the service has."""
        return self.call(calls.capabilities())

    def ready(self) -> dict[str, Any]:
        """Which of the service's own services answer."""
        return self.call(calls.ready())

    def call(self, call: Call[T]) -> T:
        """Sends one request, again where that can help."""
        attempts = Attempts()
        while True:
            try:
                response = self._http.send(call.request(self._http))
                try:
                    return call.result(response)
                except ServiceError as error:
                    pause = attempts.after(error, asked=retry.retry_after(response))
            except httpx.TransportError as error:
                pause = attempts.after(error)
            time.sleep(pause)

    def events(self, job_id: str, *, after: int = 0, patience: int = stream.PATIENCE) -> Iterator[Event]:
        """What happens to a job until it ends. A lost connection is taken up again where it broke off."""
        feed = stream.Feed(job_id, after=after, patience=patience)
        while not feed.ended:
            try:
                with self._stream(feed.call(), read=stream.READ_TIMEOUT) as response:
                    for line in response.iter_lines():
                        if (event := feed.feed(line)) is not None:
                            yield event
                if feed.ended or self.call(calls.job(job_id)).ended:
                    return
                pause = feed.lost(None)
            except (httpx.TransportError, ServiceError) as error:
                pause = feed.lost(error)
            time.sleep(pause)

    def download(self, download: Download) -> None:
        """Fetches one file, and goes on where a lost connection broke off."""
        while True:
            try:
                with self._stream(download.call()) as response:
                    download.begin(response)
                    for chunk in response.iter_raw():
                        download.write(chunk)
                download.end()
                return
            except (httpx.TransportError, ServiceError) as error:
                pause = download.lost(error)
            finally:
                download.close()
            time.sleep(pause)

    @contextlib.contextmanager
    def _stream(self, call: Call[None], *, read: float | None = None) -> Iterator[httpx.Response]:
        """An answer that is read piece by piece; raises before the first piece when it is no success."""
        request = call.request(self._http)
        if read is not None:
            request.extensions["timeout"] = {**request.extensions["timeout"], "read": read}
        response = self._http.send(request, stream=True)
        try:
            if not response.is_success:
                response.read()
            call.result(response)
            yield response
        finally:
            response.close()


class Job(BaseJob):
    """A job of the service, as it stood when it was last looked at (`info`)."""

    def __init__(self, client: Client, info: JobReply) -> None:
        super().__init__(info)
        self._client = client

    def refresh(self) -> Self:
        self.info = self._client.call(calls.job(self.id))
        return self

    def wait(self, timeout: float | None = None) -> Self:
        """Until the job ends, however; raises WaitTimeoutError after `timeout` seconds, and the job goes on."""
        deadline = None if timeout is None else time.monotonic() + timeout
        etag: str | None = None
        while not self.info.ended:
            seen = self._client.call(calls.glance(self.id, etag))
            self.info, etag = seen.job or self.info, seen.etag or etag
            if self.info.ended:
                break
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise WaitTimeoutError(f"job {self.id} has not ended within {timeout:g} s (it is {self.state}); it goes on")
            time.sleep(seen.pause if left is None else min(seen.pause, left))
        return self

    def result(self, timeout: float | None = None) -> Result:
        """Waits for the job's models; raises JobEndedError when it ends without."""
        self.wait(timeout)
        if self.info.state != "SUCCEEDED" or self.info.result is None:
            raise JobEndedError(self.info)
        return self.info.result

    def events(self, *, after: int = 0) -> Iterator[Event]:
        """From the first one on, or behind number `after`, until the job ends."""
        return self._client.events(self.id, after=after)

    def trials(self) -> list[Trial]:
        """All trials in number order, running ones too."""
        found, token = list[Trial](), None
        while True:
            page = self._client.call(calls.trials(self.id, token))
            found, token = [*found, *page.trials], page.next_page_token
            if not token:
                return found

    def front(self) -> dict[str, Any]:
        """The trials that no other beats."""
        return self._client.call(calls.front(self.id))

    def logs(self, *, attempt: int | None = None, follow: bool = False, as_json: bool = False) -> Iterator[str]:
        """The log of the last attempt, or of `attempt`, in pieces; with `follow` until the job ends.

        With `as_json` its events and messages, one JSON object a line.
        """
        at, tail = 0, b""
        while True:
            ended = self.info.ended
            try:
                part = self._client.call(calls.logs(self.id, attempt=attempt, start=at, as_json=as_json))
            except NotFoundError:
                if ended or not follow:
                    raise
                # It has not begun.
                part = calls.LogPart(data=b"", end=at)
            at = part.end
            # A character may be cut in two where a part ends.
            text, tail = calls.decode(tail + part.data, last=not part.data and (ended or not follow))
            if text:
                yield text
            if part.data:
                continue
            if ended or not follow:
                return
            self.refresh()
            time.sleep(0 if self.info.ended else LOG_PAUSE)

    def cancel(self) -> Self:
        """Asks the job to stop; what is finished is kept. Asking again changes nothing."""
        self.info = self._client.call(calls.cancel(self.id))
        return self

    def purge(self) -> None:
        """Deletes an ended job with all its files."""
        self._client.call(calls.purge(self.id))

    def artifacts(self) -> tuple[Artifact, ...]:
        return self._client.call(calls.artifacts(self.id)).artifacts

    def pull(
        self,
        folder: str | Path,
        *,
        budget: str | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Path:
        """The job's files, or one model's; nothing lies in `folder` before all of it has come and was checked."""
        fetch = pull.Pull(self.id, self.artifacts(), Path(folder), budget=budget, progress=progress)
        if not fetch.begin():
            return fetch.folder
        for download in fetch.downloads():
            self._client.download(download)
        return fetch.settle()

    def load(self, budget: str | None = None) -> nn.Module:
        """A plain nn.Module in eval mode; `budget` may be left out where there is only one. Its files are kept in the cache."""
        from autoslim.export.artifact import load

        budget = of_one_budget(self.id, budget, pull.labels(self.artifacts()))
        return load(self.pull(model_folder(self.id, budget), budget=budget))

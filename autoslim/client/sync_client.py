"""The service's clients. `sync_client.py` is made from `async_client.py`; change that one and run `make client`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import httpx

from autoslim.client import calls, stream
from autoslim.client.address import find_address
from autoslim.client.base import LOG_POLL_SECONDS, BaseJob, cache_folder, httpx_options, only_budget
from autoslim.client.calls import Call
from autoslim.client.download import Download
from autoslim.client.errors import JobEndedError, NotFoundError, ServiceError, WaitTimeoutError
from autoslim.client.log import LogReader
from autoslim.client.pull import Pull, budget_labels
from autoslim.client.replies import Artifact, Event, JobReply, Result, Trial
from autoslim.client.retry import TIMEOUT, Backoff, retry_after

if TYPE_CHECKING:
    from torch import nn

    from autoslim.config import JobSpec

T = TypeVar("T")


class Client:
    """The service at `url`, with an API key; by default from AUTOSLIM_URL and AUTOSLIM_KEY, or from the configuration file.

    Use it as a context manager, or call `close`. Requests are repeated while the network or the service is down for a moment, without
    submitting a job twice; `timeout` is in seconds. All methods raise subclasses of `ServiceError`.

    Raises:
        RequestError: for an address that is not valid, or a key that would be sent unencrypted.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        timeout: httpx.Timeout | float = TIMEOUT,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.address = find_address(url, key)
        self._http = httpx.Client(**httpx_options(self.address, timeout), transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def submit(self, spec: JobSpec | str | Path | None = None, *, idempotency_key: str | None = None, **fields: Any) -> Job:
        """Queues a job; `spec` is a `JobSpec` or the path of a YAML file, and `fields` of the spec override it.

        The same `idempotency_key` with the same spec gives the same job, also from another process; by default every call has a new one.
        The service answers within seconds. A job whose plan takes longer is queued without it, and fails where the plan shows that it
        cannot be done.

        Raises:
            InvalidSpecError: with all fields that are wrong; `InfeasibleBudgetError` for a budget that no method meets.
            UnreachableError: without a response. The message has the idempotency key with which the call may be repeated: the job may have
                been queued all the same.
        """
        spec = calls.resolve_local_files(calls.build_spec(spec, fields))
        return Job(self, self.call(calls.submit(spec, idempotency_key)))

    def plan(self, spec: JobSpec | str | Path | None = None, **fields: Any) -> dict[str, Any]:
        """What is feasible for a spec and how much work it takes, as `POST /v1/plans` answers; nothing is queued."""
        return self.call(calls.plan(calls.resolve_local_files(calls.build_spec(spec, fields))))

    def jobs(self, *, state: str | Sequence[str] = (), label: str | None = None, page_size: int = 50) -> Iterator[Job]:
        """All jobs, newest first; pages are fetched while the iterator runs. `label` is the `name` of the jobs."""
        states, token = [state] if isinstance(state, str) else list(state), None
        while True:
            page = self.call(calls.jobs(states=states, label=label, page_size=page_size, page_token=token))
            for reply in page.jobs:
                yield Job(self, reply)
            token = page.next_page_token
            if not token:
                return

    def job(self, job_id: str) -> Job:
        """Raises NotFoundError for an unknown job, and for another tenant's."""
        return Job(self, self.call(calls.job(job_id)))

    def capabilities(self) -> dict[str, Any]:
        """The models, methods, spaces, data sets and limits of the service."""
        return self.call(calls.capabilities())

    def ready(self) -> dict[str, Any]:
        """Whether the service and the services that it depends on can be reached."""
        return self.call(calls.ready())

    def call(self, call: Call[T]) -> T:
        """Sends one request, and repeats it where that can help."""
        backoff = Backoff(in_doubt=call.in_doubt)
        while True:
            try:
                response = self._http.send(call.request(self._http))
                try:
                    return call.result(response)
                except ServiceError as error:
                    delay = backoff.next_delay(error, retry_after=retry_after(response))
            except httpx.TransportError as error:
                delay = backoff.next_delay(error)
            time.sleep(delay)

    def events(self, job_id: str, *, after: int = 0, max_tries: int = stream.MAX_TRIES) -> Iterator[Event]:
        """The events with a `seq` above `after`, until the job ends. A lost connection is resumed without losing an event.

        Raises:
            UnreachableError: after `max_tries` tries in a row without an event.
        """
        source = stream.EventSource(job_id, after=after, max_tries=max_tries)
        while not source.ended:
            try:
                with self._stream(source.call(), read_timeout=stream.READ_TIMEOUT) as response:
                    for text in response.iter_text():
                        for event in source.feed(text):
                            yield event
                # A service that shuts down ends its streams although the job continues.
                if source.ended or (self.call(calls.job(job_id))).ended:
                    return
                delay = source.reconnect_delay(None)
            except (httpx.TransportError, ServiceError) as error:
                delay = source.reconnect_delay(error)
            time.sleep(delay)

    def download(self, download: Download) -> None:
        """Fetches one file, and resumes where a lost connection broke off."""
        while True:
            try:
                with self._stream(download.call()) as response:
                    download.start(response)
                    for chunk in response.iter_raw():
                        download.write(chunk)
                download.finish()
                return
            except (httpx.TransportError, ServiceError) as error:
                delay = download.retry_delay(error)
            finally:
                download.close()
            time.sleep(delay)

    @contextlib.contextmanager
    def _stream(self, call: Call[None], *, read_timeout: float | None = None) -> Iterator[httpx.Response]:
        """A response whose body is not read yet. Raises ServiceError for any status but success; `read_timeout` is in seconds."""
        request = call.request(self._http)
        if read_timeout is not None:
            request.extensions["timeout"] = {**request.extensions["timeout"], "read": read_timeout}
        response = self._http.send(request, stream=True)
        try:
            if not response.is_success:
                # The problem is in the body.
                response.read()
            call.result(response)
            yield response
        finally:
            response.close()


class Job(BaseJob):
    """A job of the service. `info` is its state at the last request; `refresh` updates it."""

    def __init__(self, client: Client, info: JobReply) -> None:
        super().__init__(info)
        self._client = client

    def refresh(self) -> Self:
        self.info = self._client.call(calls.job(self.id))
        return self

    def wait(self, timeout: float | None = None) -> Self:
        """Waits until the job has ended, in whatever state. Raises WaitTimeoutError after `timeout` seconds; the job continues."""
        deadline = None if timeout is None else monotonic() + timeout
        etag: str | None = None
        while not self.info.ended:
            found = self._client.call(calls.poll(self.id, etag))
            self.info, etag = found.job or self.info, found.etag or etag
            if self.info.ended:
                break
            left = None if deadline is None else deadline - monotonic()
            if left is not None and left <= 0:
                raise WaitTimeoutError(f"job {self.id} has not ended within {timeout:g} s (it is {self.state}); it continues")
            time.sleep(found.delay if left is None else min(found.delay, left))
        return self

    def result(self, timeout: float | None = None) -> Result:
        """Waits for the job and returns its models.

        Raises:
            JobEndedError: when the job failed or was cancelled.
            WaitTimeoutError: after `timeout` seconds; the job continues.
        """
        self.wait(timeout)
        if self.info.state != "SUCCEEDED" or self.info.result is None:
            raise JobEndedError(self.info)
        return self.info.result

    def events(self, *, after: int = 0) -> Iterator[Event]:
        """The events with a `seq` above `after`, until the job ends."""
        return self._client.events(self.id, after=after)

    def trials(self) -> list[Trial]:
        """All trials by number, running ones included."""
        found, token = list[Trial](), None
        while True:
            page = self._client.call(calls.trials(self.id, token))
            found, token = [*found, *page.trials], page.next_page_token
            if not token:
                return found

    def front(self) -> dict[str, Any]:
        """The Pareto front, as `GET /v1/jobs/{id}/front` answers."""
        return self._client.call(calls.front(self.id))

    def logs(self, *, attempt: int | None = None, follow: bool = False, as_json: bool = False) -> Iterator[str]:
        """The log of an attempt, by default the last one, in chunks; `follow` continues until the job ends.

        `as_json` gives events and messages instead, one JSON object per line.

        Raises:
            NotFoundError: when there is no log, unless `follow` waits for it.
        """
        reader = LogReader(self.id, attempt=attempt, as_json=as_json)
        while True:
            # Read before the log: what is written after a job's end is in the chunk that follows.
            last = self.info.ended or not follow
            try:
                chunk = self._client.call(reader.call())
            except NotFoundError:
                if last:
                    raise
                # The job has not started.
                chunk = calls.LogChunk(data=b"", end=0)
            if text := reader.text_of(chunk, last=last and not chunk.data):
                yield text
            if chunk.data:
                continue
            if last:
                return
            self.refresh()
            time.sleep(0 if self.info.ended else LOG_POLL_SECONDS)

    def cancel(self) -> Self:
        """Requests cancellation; finished trials are kept. Cancelling again changes nothing."""
        self.info = self._client.call(calls.cancel(self.id))
        return self

    def purge(self) -> None:
        """Deletes an ended job with all its files. Raises ConflictError while it runs."""
        self._client.call(calls.purge(self.id))

    def artifacts(self) -> tuple[Artifact, ...]:
        return (self._client.call(calls.artifacts(self.id))).artifacts

    def pull(
        self,
        folder: str | Path,
        *,
        budget: str | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Path:
        """Downloads the job's files, or one budget's model, into `folder`, which appears when it is complete and checked.

        `progress` is called with the bytes that have arrived and the total.

        Raises:
            PullError: for files that are damaged or unsafe, a folder with other content, or a full disk.
        """
        pull = Pull(self.id, self.artifacts(), Path(folder), budget=budget, progress=progress)
        if not pull.prepare():
            return pull.folder
        for download in pull.pending():
            self._client.download(download)
        return pull.commit()

    def load(self, budget: str | None = None) -> nn.Module:
        """A slimmed model in eval mode, cached on disk. `budget` is its label, which may be left out where there is only one.

        Raises:
            RequestError: when the job has several models and no `budget` is given.
        """
        from autoslim.export.artifact import load

        budget = only_budget(self.id, budget, budget_labels(self.artifacts()))
        return load(self.pull(cache_folder(self.id, budget), budget=budget))

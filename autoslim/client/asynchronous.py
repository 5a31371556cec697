"""`AsyncClient`: `Client` for asyncio. Requests, answers, retries and files are the same code; only the waiting is another."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
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


class AsyncClient:
    """As `Client`, with `await` and `async for`."""

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        timeout: httpx.Timeout | float = retry.TIMEOUT,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.address = find_address(url, key)
        self._http = httpx.AsyncClient(**connection(self.address, timeout), transport=transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def submit(
        self, spec: JobSpec | str | Path | None = None, *, idempotency_key: str | None = None, **fields: Any
    ) -> AsyncJob:
        """Queues a job: a JobSpec, a YAML file, or keyword arguments named like the file's fields, which also override it."""
        return AsyncJob(self, await self.call(calls.submit(calls.as_sent(calls.spec_of(spec, fields)), idempotency_key)))

    async def plan(self, spec: JobSpec | str | Path | None = None, **fields: Any) -> dict[str, Any]:
        """What a job could reach and would cost; nothing is queued."""
        return await self.call(calls.plan(calls.as_sent(calls.spec_of(spec, fields))))

    async def jobs(
        self, *, state: str | Sequence[str] = (), label: str | None = None, page_size: int = 50
    ) -> AsyncIterator[AsyncJob]:
        """Newest first, fetched as they are asked for."""
        states, token = [state] if isinstance(state, str) else list(state), None
        while True:
            page = await self.call(calls.jobs(states=states, label=label, page_size=page_size, page_token=token))
            for reply in page.jobs:
                yield AsyncJob(self, reply)
            token = page.next_page_token
            if not token:
                return

    async def job(self, job_id: str) -> AsyncJob:
        return AsyncJob(self, await self.call(calls.job(job_id)))

    async def capabilities(self) -> dict[str, Any]:
        """The models, methods, spaces, data sets and limits that the service has."""
        return await self.call(calls.capabilities())

    async def ready(self) -> dict[str, Any]:
        """Which of the service's own services answer."""
        return await self.call(calls.ready())

    async def call(self, call: Call[T]) -> T:
        """Sends one request, again where that can help."""
        attempts = Attempts()
        while True:
            try:
                response = await self._http.send(call.request(self._http))
                try:
                    return call.result(response)
                except ServiceError as error:
                    pause = attempts.after(error, asked=retry.retry_after(response))
            except httpx.TransportError as error:
                pause = attempts.after(error)
            await asyncio.sleep(pause)

    async def events(self, job_id: str, *, after: int = 0, patience: int = stream.PATIENCE) -> AsyncIterator[Event]:
        """What happens to a job until it ends. A lost connection is taken up again where it broke off."""
        feed = stream.Feed(job_id, after=after, patience=patience)
        while not feed.ended:
            try:
                async with self._stream(feed.call(), read=stream.READ_TIMEOUT) as response:
                    async for line in response.aiter_lines():
                        if (event := feed.feed(line)) is not None:
                            yield event
                if feed.ended or (await self.call(calls.job(job_id))).ended:
                    return
                pause = feed.lost(None)
            except (httpx.TransportError, ServiceError) as error:
                pause = feed.lost(error)
            await asyncio.sleep(pause)

    async def download(self, download: Download) -> None:
        """Fetches one file, and goes on where a lost connection broke off."""
        while True:
            try:
                async with self._stream(download.call()) as response:
                    download.begin(response)
                    async for chunk in response.aiter_raw():
                        download.write(chunk)
                download.end()
                return
            except (httpx.TransportError, ServiceError) as error:
                pause = download.lost(error)
            finally:
                download.close()
            await asyncio.sleep(pause)

    @contextlib.asynccontextmanager
    async def _stream(self, call: Call[None], *, read: float | None = None) -> AsyncIterator[httpx.Response]:
        """An answer that is read piece by piece; raises before the first piece when it is no success."""
        request = call.request(self._http)
        if read is not None:
            request.extensions["timeout"] = {**request.extensions["timeout"], "read": read}
        response = await self._http.send(request, stream=True)
        try:
            if not response.is_success:
                await response.aread()
            call.result(response)
            yield response
        finally:
            await response.aclose()


class AsyncJob(BaseJob):
    """A job of the service, as it stood when it was last looked at (`info`)."""

    def __init__(self, client: AsyncClient, info: JobReply) -> None:
        super().__init__(info)
        self._client = client

    async def refresh(self) -> Self:
        self.info = await self._client.call(calls.job(self.id))
        return self

    async def wait(self, timeout: float | None = None) -> Self:
        """Until the job ends, however; raises WaitTimeoutError after `timeout` seconds, and the job goes on."""
        deadline = None if timeout is None else time.monotonic() + timeout
        etag: str | None = None
        while not self.info.ended:
            seen = await self._client.call(calls.glance(self.id, etag))
            self.info, etag = seen.job or self.info, seen.etag or etag
            if self.info.ended:
                break
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise WaitTimeoutError(f"job {self.id} has not ended within {timeout:g} s (it is {self.state}); it goes on")
            await asyncio.sleep(seen.pause if left is None else min(seen.pause, left))
        return self

    async def result(self, timeout: float | None = None) -> Result:
        """Waits for the job's models; raises JobEndedError when it ends without."""
        await self.wait(timeout)
        if self.info.state != "SUCCEEDED" or self.info.result is None:
            raise JobEndedError(self.info)
        return self.info.result

    def events(self, *, after: int = 0) -> AsyncIterator[Event]:
        """From the first one on, or behind number `after`, until the job ends."""
        return self._client.events(self.id, after=after)

    async def trials(self) -> list[Trial]:
        """All trials in number order, running ones too."""
        found, token = list[Trial](), None
        while True:
            page = await self._client.call(calls.trials(self.id, token))
            found, token = [*found, *page.trials], page.next_page_token
            if not token:
                return found

    async def front(self) -> dict[str, Any]:
        """The trials that no other beats."""
        return await self._client.call(calls.front(self.id))

    async def logs(self, *, attempt: int | None = None, follow: bool = False, as_json: bool = False) -> AsyncIterator[str]:
        """The log of the last attempt, or of `attempt`, in pieces; with `follow` until the job ends.

        With `as_json` its events and messages, one JSON object a line.
        """
        at, tail = 0, b""
        while True:
            ended = self.info.ended
            try:
                part = await self._client.call(calls.logs(self.id, attempt=attempt, start=at, as_json=as_json))
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
            await self.refresh()
            await asyncio.sleep(0 if self.info.ended else LOG_PAUSE)

    async def cancel(self) -> Self:
        """Asks the job to stop; what is finished is kept. Asking again changes nothing."""
        self.info = await self._client.call(calls.cancel(self.id))
        return self

    async def purge(self) -> None:
        """Deletes an ended job with all its files."""
        await self._client.call(calls.purge(self.id))

    async def artifacts(self) -> tuple[Artifact, ...]:
        return (await self._client.call(calls.artifacts(self.id))).artifacts

    async def pull(
        self,
        folder: str | Path,
        *,
        budget: str | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Path:
        """The job's files, or one model's; nothing lies in `folder` before all of it has come and was checked."""
        fetch = pull.Pull(self.id, await self.artifacts(), Path(folder), budget=budget, progress=progress)
        if not fetch.begin():
            return fetch.folder
        for download in fetch.downloads():
            await self._client.download(download)
        return fetch.settle()

    async def load(self, budget: str | None = None) -> nn.Module:
        """A plain nn.Module in eval mode; `budget` may be left out where there is only one. Its files are kept in the cache."""
        from autoslim.export.artifact import load

        budget = of_one_budget(self.id, budget, pull.labels(await self.artifacts()))
        return load(await self.pull(model_folder(self.id, budget), budget=budget))

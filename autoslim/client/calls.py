"""Every request as a value, with the function that reads its response. Does no input or output, so that both clients share it."""

from __future__ import annotations

import dataclasses
import json
import os
import urllib.parse
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import httpx
import pydantic

from autoslim.client.errors import UnexpectedReplyError
from autoslim.client.problem import error_from_response
from autoslim.client.replies import ArtifactList, EventPage, JobPage, JobReply, Reply, TrialPage
from autoslim.config import JobSpec, parse_yaml, read_mapping, read_plain, read_text

T = TypeVar("T")
R = TypeVar("R", bound=Reply)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Call(Generic[T]):
    """A request; `read` parses a 2xx or 304 response.

    Every call may be repeated: one that changes something has an idempotency key, or leads to the same state. `in_doubt` says what may
    have happened where no response to it has arrived.
    """

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    query: Sequence[tuple[str, str]] = ()
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    body: bytes | None = None
    in_doubt: str | None = None

    def request(self, client: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        headers = {"Accept": "application/json", **self.headers}
        if self.body is not None:
            headers["Content-Type"] = "application/json"
        return client.build_request(self.method, self.path, params=list(self.query) or None, headers=headers, content=self.body)

    def result(self, response: httpx.Response) -> T:
        """Raises ServiceError for any other status."""
        if response.is_success or response.status_code == httpx.codes.NOT_MODIFIED:
            return self.read(response)
        raise error_from_response(response)


def build_spec(given: JobSpec | str | os.PathLike[str] | None, fields: Mapping[str, Any]) -> JobSpec:
    """A spec from a `JobSpec`, a YAML file or keyword arguments; `fields` override the first two.

    Raises:
        SpecError: naming the field, and in a file the line.
    """
    if given is None:
        return read_mapping(fields)
    if isinstance(given, JobSpec):
        return read_mapping({**given.model_dump(mode="json", exclude_unset=True), **fields}) if fields else given
    return parse_yaml(read_text(Path(given)), source=os.fspath(given), changes=fields)


def resolve_local_files(spec: JobSpec) -> JobSpec:
    """Makes the names of local files independent of the current folder.

    A search space is sent with its content. A path that begins with a dot becomes absolute; the service looks for every other one under
    its roots.

    Raises:
        SpecError: for a search space that cannot be read.
    """
    changes: dict[str, Any] = {}
    for field in ("model", "data", "probe", "weights"):
        value = getattr(spec, field)
        found = tuple(map(_resolved, value)) if isinstance(value, tuple) else value and _resolved(value)
        if found != value:
            changes[field] = found
    if isinstance(spec.space, str) and ("/" in spec.space or spec.space.endswith((".yaml", ".yml"))):
        changes["space"] = read_plain(Path(spec.space))
    return read_mapping({**spec.model_dump(mode="json", exclude_unset=True), **changes}) if changes else spec


def _resolved(text: str) -> str:
    return str(Path(text).resolve()) if text.startswith(("./", "../")) or text in (".", "..") else text


def submit(spec: JobSpec, idempotency_key: str | None) -> Call[JobReply]:
    """Has a new idempotency key by default, so that a repeated request does not queue two jobs."""
    key = idempotency_key or str(uuid.uuid4())
    found = f"autoslim jobs --name {spec.name}" if spec.name else "autoslim jobs"
    in_doubt = (
        f"The job may have been queued: `{found}` lists it. Submitting the same again with the idempotency key {key!r} is safe: it gives "
        "that job, or queues it once"
    )
    return Call(
        method="POST",
        path="/v1/jobs",
        read=_parse_as(JobReply),
        headers={"Idempotency-Key": key},
        body=_body(spec),
        in_doubt=in_doubt,
    )


def plan(spec: JobSpec) -> Call[dict[str, Any]]:
    return Call(method="POST", path="/v1/plans", read=_json, body=_body(spec))


def jobs(*, states: Sequence[str], label: str | None, page_size: int, page_token: str | None) -> Call[JobPage]:
    query: list[tuple[str, str]] = [("state", state) for state in states] + [("page_size", str(page_size))]
    query += [(name, value) for name, value in (("label", label), ("page_token", page_token)) if value is not None]
    return Call(method="GET", path="/v1/jobs", read=_parse_as(JobPage), query=query)


def job(job_id: str) -> Call[JobReply]:
    return Call(method="GET", path=_job(job_id), read=_parse_as(JobReply))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PollResult:
    """`job` is None where it has not changed since `etag`; `delay` are the seconds until the next poll."""

    job: JobReply | None
    etag: str | None
    delay: float


def poll(job_id: str, etag: str | None) -> Call[PollResult]:
    """A job, if it has changed since `etag`."""
    return Call(method="GET", path=_job(job_id), read=_poll_result, headers={} if etag is None else {"If-None-Match": etag})


def cancel(job_id: str) -> Call[JobReply]:
    return Call(method="POST", path=f"{_job(job_id)}:cancel", read=_parse_as(JobReply))


def purge(job_id: str) -> Call[None]:
    return Call(method="DELETE", path=_job(job_id), read=lambda response: None)


def events(job_id: str, *, after: int, limit: int) -> Call[EventPage]:
    query = [("after", str(after)), ("limit", str(limit))]
    return Call(method="GET", path=f"{_job(job_id)}/events", read=_parse_as(EventPage), query=query)


def trials(job_id: str, page_token: str | None) -> Call[TrialPage]:
    query = [("page_size", "1000")] + ([] if page_token is None else [("page_token", page_token)])
    return Call(method="GET", path=f"{_job(job_id)}/trials", read=_parse_as(TrialPage), query=query)


def front(job_id: str) -> Call[dict[str, Any]]:
    return Call(method="GET", path=f"{_job(job_id)}/front", read=_json)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogChunk:
    """`end` is the start of the next chunk, in bytes."""

    data: bytes
    end: int


def logs(job_id: str, *, attempt: int | None, start: int, as_json: bool = False) -> Call[LogChunk]:
    """A job's log from byte `start`; empty where there is no more yet."""
    query = [] if attempt is None else [("attempt", str(attempt))]
    query += [("format", "jsonl")] if as_json else []
    headers = {"Accept": "application/x-ndjson" if as_json else "text/plain", "Range": f"bytes={start}-"}
    return _LogCall(
        method="GET", path=f"{_job(job_id)}/logs", read=lambda r: _log_chunk(r, start), query=query, headers=headers, start=start
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _LogCall(Call[LogChunk]):
    start: int

    def result(self, response: httpx.Response) -> LogChunk:
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            return LogChunk(data=b"", end=self.start)
        return super().result(response)


def artifacts(job_id: str) -> Call[ArtifactList]:
    return Call(method="GET", path=f"{_job(job_id)}/artifacts", read=_parse_as(ArtifactList))


def artifact_path(job_id: str, name: str) -> str:
    return f"{_job(job_id)}/artifacts/{urllib.parse.quote(name)}"


def capabilities() -> Call[dict[str, Any]]:
    return Call(method="GET", path="/v1/capabilities", read=_json)


def ready() -> Call[dict[str, Any]]:
    return Call(method="GET", path="/readyz", read=_json)


def _job(job_id: str) -> str:
    return f"/v1/jobs/{urllib.parse.quote(job_id, safe='')}"


def _body(spec: JobSpec) -> bytes:
    # Defaults are left to the service, whose version may have others.
    return spec.model_dump_json(exclude_unset=True).encode()


def _json(response: httpx.Response) -> dict[str, Any]:
    try:
        found = response.json()
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UnexpectedReplyError(
            f"{response.url} answered with something that is not JSON", status=response.status_code
        ) from error
    if not isinstance(found, dict):
        raise UnexpectedReplyError(f"{response.url} answered with JSON that is not an object", status=response.status_code)
    return found


def _parse_as(kind: type[R]) -> Callable[[httpx.Response], R]:
    def read(response: httpx.Response) -> R:
        found = _json(response)
        try:
            return kind.model_validate(found)
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise UnexpectedReplyError(
                f"{response.url} answered with a {kind.__name__} whose {where} is not right: {first['msg']}",
                status=response.status_code,
            ) from error

    return read


def _poll_result(response: httpx.Response) -> PollResult:
    retry_after = response.headers.get("Retry-After", "")
    unchanged = response.status_code == httpx.codes.NOT_MODIFIED
    return PollResult(
        job=None if unchanged else _parse_as(JobReply)(response),
        etag=response.headers.get("ETag"),
        # Bounded: a service must neither be flooded nor stop the polling.
        delay=min(max(float(retry_after), 0.2), 30.0) if retry_after.isdigit() else 2.0,
    )


def _log_chunk(response: httpx.Response, start: int) -> LogChunk:
    data = response.content
    if response.status_code != httpx.codes.PARTIAL_CONTENT:
        # The whole log, from a proxy that ignores ranges.
        data = data[start:]
    return LogChunk(data=data, end=start + len(data))

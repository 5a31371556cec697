"""A job's log, read in chunks. Does no input or output."""

from __future__ import annotations

import codecs

from autoslim.client import calls
from autoslim.client.calls import Call, LogChunk


class LogReader:
    """Send `call`, and give its result to `text_of`; again while more is expected."""

    def __init__(self, job_id: str, *, attempt: int | None, as_json: bool) -> None:
        self._job_id, self._attempt, self._as_json = job_id, attempt, as_json
        self._at = 0
        # A chunk may end within a character; the decoder keeps its first bytes.
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def call(self) -> Call[LogChunk]:
        """The request for what follows the last chunk."""
        return calls.logs(self._job_id, attempt=self._attempt, start=self._at, as_json=self._as_json)

    def text_of(self, chunk: LogChunk, *, last: bool) -> str:
        """The complete characters up to the end of the chunk; with `last` an incomplete one becomes U+FFFD."""
        self._at = chunk.end
        return self._decoder.decode(chunk.data, final=last)

"""`Placement`: where a job runs and writes, which is the operator's to say and never a spec's."""

from __future__ import annotations

import dataclasses

from autoslim.core.job import Resources


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placement:
    """`output` is the job's folder. None means what it means in `SearchJob`."""

    output: str
    resources: Resources | None = None
    concurrency: int | None = None
    address: str | None = None
    storage: str | None = None
    tracking_uri: str | None = None

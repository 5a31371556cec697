"""`DatasetReference`: by what another process, perhaps on another node, finds a prepared data set."""

from __future__ import annotations

import dataclasses

from autoslim.core.job import DatasetSpec
from autoslim.core.record import Record


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetReference(Record):
    """`path` is the folder of the prepared data set on the node that has written this. Where there is a `spec`, its source is the URI of an
    object store: a node that has no folder of that name in the user's cache prepares one, with `seed`. The name holds the digest of the
    source. Where there is an `output_uri`, the set is kept in a search's output there, and `path` is its name in it (`Mirror.name`).
    """

    path: str
    spec: DatasetSpec | None = None
    seed: int = 0
    output_uri: str = ""

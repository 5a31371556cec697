"""`DatasetReference`: by what another process, perhaps on another node, finds a prepared data set."""

from __future__ import annotations

import dataclasses

from autoslim.core.job import DatasetSpec
from autoslim.core.record import Record


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetReference(Record):
    """`path` is the folder of the prepared data set, where all nodes see it. Where there is a `spec`, its source is the URI of an object
    store, and `path` is a name, which holds the digest of the source: a node that has no such folder in the user's cache prepares one, with
    `seed`. Where there is an `output_uri`, the set is kept in a search's output there, and `path` is its name in it (`Mirror.name`).
    """

    path: str
    spec: DatasetSpec | None = None
    seed: int = 0
    output_uri: str = ""

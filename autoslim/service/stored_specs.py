"""What responses say of a job's stored spec: read once for each text, not for each read of the job."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import threading
from typing import TYPE_CHECKING

from autoslim.config import read_json

if TYPE_CHECKING:
    from autoslim.core.score import Score

_KEPT = 4096
"""Entries: the jobs of a few thousand pages. An entry takes some hundred bytes."""


@dataclasses.dataclass(frozen=True)
class SpecFacts:
    """`score` is what the job's trials are compared by, `most_trials` the number of trials that it may have."""

    score: Score
    most_trials: int


class StoredSpecs:
    """Facts of specs by their text. A spec is checked when it is submitted and never changes; reading all of it anew takes milliseconds,
    which a page of fifty jobs would spend fifty times. Used by several threads."""

    def __init__(self) -> None:
        self._facts: collections.OrderedDict[bytes, SpecFacts] = collections.OrderedDict()
        self._lock = threading.Lock()

    def facts(self, text: str) -> SpecFacts:
        # The digest stands for the text, which may have a mebibyte.
        key = hashlib.sha256(text.encode()).digest()
        with self._lock:
            if (found := self._facts.get(key)) is not None:
                self._facts.move_to_end(key)
                return found
        spec = read_json(text)
        found = SpecFacts(spec.dataset_spec.score, spec.most_trials)
        with self._lock:
            self._facts[key] = found
            if len(self._facts) > _KEPT:
                self._facts.popitem(last=False)
        return found

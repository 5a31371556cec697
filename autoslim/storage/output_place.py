"""`OutputPlace`: where a user wants the output to be, a folder of this machine or a URI."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Self

from autoslim.errors import RequestError
from autoslim.storage.mirror import Mirror
from autoslim.storage.uri import is_uri


@dataclasses.dataclass(frozen=True)
class OutputPlace:
    """`folder` is the output folder, absolute; with a `uri` the one that this machine works in, and the output is there."""

    folder: Path
    uri: str | None = None

    @classmethod
    def parse(cls, text: str | os.PathLike[str]) -> Self:
        """Raises StorageError for a URI that is not allowed."""
        written = os.fspath(text)
        if not is_uri(written):
            return cls(Path(written).absolute())
        mirror = Mirror.of(written)
        return cls(mirror.root, mirror.address)


def local_folder(text: str | os.PathLike[str], what: str) -> Path:
    """For what is written to folders of this machine alone. Raises RequestError for a URI; `what` names the flag."""
    if is_uri(os.fspath(text)):
        raise RequestError(f"{what} is {os.fspath(text)!r}; allowed: a folder of this machine")
    return Path(text)

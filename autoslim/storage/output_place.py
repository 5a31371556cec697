"""`OutputPlace`: where a user wants the output to be, a folder of this machine or a URI."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Self

from autoslim.errors import RequestError, StorageError
from autoslim.storage.mirror import Mirror
from autoslim.storage.uri import WRITTEN_FORMS, Scheme, is_uri


@dataclasses.dataclass(frozen=True)
class OutputPlace:
    """`folder` is the output folder, absolute; with a `uri` the one that this machine works in, and the output is there."""

    folder: Path
    uri: str | None = None

    @classmethod
    def parse(cls, text: str | os.PathLike[str]) -> Self:
        """Raises StorageError for a URI that is not allowed, and for one of the Hugging Face hub: each file there would be a commit, of
        which a search has thousands."""
        written = os.fspath(text)
        if not is_uri(written):
            return cls(Path(written).absolute())
        mirror = Mirror.of(written)
        if mirror.uri is not None and mirror.uri.scheme is Scheme.HUGGING_FACE:
            raise StorageError(
                f"the output is {mirror.uri}, where each file is a commit; allowed: a folder of this machine, {WRITTEN_FORMS}; "
                "`autoslim push` puts a finished model there"
            )
        return cls(mirror.root, mirror.address)


def local_folder(text: str | os.PathLike[str], what: str) -> Path:
    """For what is written to folders of this machine alone. Raises RequestError for a URI; `what` names the flag."""
    if is_uri(os.fspath(text)):
        raise RequestError(f"{what} is {os.fspath(text)!r}; allowed: a folder of this machine")
    return Path(text)

"""`FullDisk`: which disk is full, for the driver, which sends trials to other nodes, and for people."""

from __future__ import annotations

import dataclasses
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from autoslim.core.causes import cause_chain
from autoslim.core.files import disk_full_error, is_disk_full
from autoslim.core.user_cache import cache_folder
from autoslim.errors import DiskFullError
from autoslim.storage.mirror import Mirror
from autoslim.storage.uri import Scheme

_SENTENCE = re.compile(
    r"the disk is full at (?P<folder>[^\n]+?)(?: on node (?P<host>\S+) \((?P<node>[0-9a-f]+)\))?; free some space"
)
"""Of `FullDisk.error`. Ray passes the error of a trial on as text."""


@dataclasses.dataclass(frozen=True)
class FullDisk:
    """`folder` lies on the disk. Where that is one of a single node, `host` is the node's name and `node` Ray's id of it, in hexadecimal
    digits; both are empty where the output is on the disk, which stops the search wherever its trials run."""

    folder: str
    host: str = ""
    node: str = ""

    @classmethod
    def of(cls, error: BaseException, output: Path, mirror: Mirror, *, host: str, node: str) -> Self:
        """The one that an error on this node speaks of. `output` is the output folder as this node has it."""
        own = [output, cache_folder(), Path(tempfile.gettempdir())]
        shared = output if mirror.uri is None else Path(mirror.uri.path) if mirror.uri.scheme is Scheme.FILE else None
        # Where the error names no file, as one of writing to an open one does not.
        least = min(own if shared is None else [shared, *own], key=lambda folder: shutil.disk_usage(_existing(folder)).free)
        folder = next(_written(error), least)
        if shared is not None and _existing(folder).stat().st_dev == _existing(shared).stat().st_dev:
            return cls(str(folder))
        return cls(str(folder), host, node)

    @classmethod
    def read(cls, text: str) -> Self | None:
        """The one that the last such error in a traceback speaks of; None where there is none."""
        found = [cls(one["folder"], one["host"] or "", one["node"] or "") for one in _SENTENCE.finditer(text)]
        return found[-1] if found else None

    def __str__(self) -> str:
        return f"{self.folder} on node {self.host} ({self.node})" if self.node else self.folder

    def error(self) -> DiskFullError:
        return disk_full_error(str(self), "continue with --resume")


def _written(error: BaseException) -> Iterator[Path]:
    """The folders of the files that could not be written."""
    for link in cause_chain(error, contexts=True):
        if isinstance(link, OSError) and is_disk_full(link) and isinstance(link.filename, str):
            yield Path(link.filename).absolute().parent


def _existing(folder: Path) -> Path:
    return next(parent for parent in (folder, *folder.parents) if parent.exists())

"""`RewrittenFile`: a file that is written once more from its beginning, of which what is there already stays."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

from autoslim.core.positioned_io import write_at


class RewrittenFile(io.RawIOBase):
    """Writes only what differs from the file's content, and cuts off what follows when it is closed. Where nothing is there, it writes all.

    Who writes the same once more may read what is there from the file meanwhile.
    """

    def __init__(self, path: Path) -> None:
        """Raises OSError where the file cannot be read and written."""
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        self._at, self._kept = 0, False

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        if not self._kept:
            if os.pread(self._file, len(view), self._at) != view:
                write_at(self._file, view, self._at)
            self._at += len(view)
        return len(view)

    def keep(self) -> None:
        """The writer is interrupted: the file stays as it is, for the next one."""
        self._kept = True

    def close(self) -> None:
        if not self.closed:
            try:
                if not self._kept:
                    os.ftruncate(self._file, self._at)
            finally:
                os.close(self._file)
                super().close()

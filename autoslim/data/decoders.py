"""`decode_elsewhere`: images of a prepared data set, decoded by a process of its own (`decoder_process`).

Processes, since Python runs one thread at a time, and a trial's own thread has a GPU to keep busy. They are started as they are needed,
serve all loaders of this process, and end with it. Pixels come back in a file in memory, which takes no part of a container's /dev/shm.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoslim.core.child_process import start_child
from autoslim.core.positioned_io import read_at
from autoslim.data.table import Indices

_MODULE = "autoslim.data.decoder_process"

_log = logging.getLogger(__name__)


class _Decoder:
    def __init__(self) -> None:
        self._memory = os.memfd_create("autoslim-pixels")
        self.process, self._connection = start_child(_MODULE, self._memory)

    def images(self, file: Path, size: tuple[int, int], indices: Indices) -> NDArray[np.uint8]:
        """Raises EOFError or OSError where the process has ended, and the error that it has sent."""
        pixels = np.empty((len(indices), *size, 3), np.uint8)
        self._connection.send((file, size, indices))
        error: Exception | None = self._connection.recv()
        if error is not None:
            raise error
        if read_at(self._memory, pixels.reshape(-1).data, 0) != pixels.nbytes:
            raise EOFError(f"less than the {pixels.nbytes} bytes of a batch")
        return pixels

    def close(self) -> int:
        """Ends the process; returns its exit code."""
        self._connection.close()
        self.process.kill()
        self.process.communicate()
        os.close(self._memory)
        return self.process.returncode


_idle: list[_Decoder] = []
_lock = threading.Lock()


def decode_elsewhere(file: Path, size: tuple[int, int], indices: Indices) -> NDArray[np.uint8] | None:
    """The images at `indices` of the `EncodedFile` at `file`, in the storage size `size` (H, W): uint8 RGB (N, H, W, 3). None, after a
    warning, where the process was ended from outside; the next images get a new one.

    As many processes decode as threads call this at the same time.
    """
    with _lock:
        decoder = _idle.pop() if _idle else None
    decoder = decoder or _Decoder()
    try:
        images = decoder.images(file, size, indices)
    except (EOFError, OSError) as error:
        _log.warning(
            "a process that decodes images has ended with exit code %d (%s); another one is started", decoder.close(), error
        )
        return None
    except BaseException:
        decoder.close()
        raise
    with _lock:
        _idle.append(decoder)
    return images


def close_decoders() -> None:
    """Ends those that are idle; the next images would start new ones."""
    while _idle:
        _idle.pop().close()


atexit.register(close_decoders)

"""A process that decodes images: `python -m autoslim.data.decoder_process CONNECTION MEMORY`, started by `decoders`.

CONNECTION is the descriptor of its end of a pipe, MEMORY that of the file in memory for the pixels. It takes a batch at a time and ends
when the pipe is closed, so that it does not outlive a trial that is killed. It imports neither Ray nor PyTorch.
"""

from __future__ import annotations

import functools
import signal
import sys
import traceback
from multiprocessing.connection import Connection

from autoslim.core.positioned_io import write_at
from autoslim.data.cache import EncodedFile
from autoslim.data.dataset import decoded
from autoslim.errors import AutoslimError


def main() -> None:
    # A Ctrl-C in the terminal, or a SIGTERM to all processes of a node, is for the trial, which ends this process.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    connection, memory = Connection(int(sys.argv[1])), int(sys.argv[2])
    # A trial reads the three splits of one data set.
    opened = functools.lru_cache(maxsize=4)(EncodedFile)
    try:
        while True:
            path, size, indices = connection.recv()
            try:
                write_at(memory, decoded(opened(path), size, indices).reshape(-1).data, 0)
            except AutoslimError as error:
                connection.send(error)
            except Exception as error:  # noqa: BLE001 - the trial raises what it is sent
                connection.send(RuntimeError("in a process that decodes images:\n" + "".join(traceback.format_exception(error))))
            else:
                connection.send(None)
    except (EOFError, ConnectionError):
        # The trial has ended, or wants no more images.
        return


if __name__ == "__main__":
    main()

"""A process that looks at files: `python -m autoslim.data.stamp_process CONNECTION`, started by `file_stamps`.

CONNECTION is the descriptor of its end of a pipe. It takes a list of paths at a time, and ends when the pipe is closed.
"""

from __future__ import annotations

import array
import signal
import sys
from multiprocessing.connection import Connection

from autoslim.data.file_stamps import NUMBERS, stamp_of


def main() -> None:
    # A Ctrl-C in the terminal, or a SIGTERM to all processes of a node, is for the search, which ends this process.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    connection = Connection(int(sys.argv[1]))
    try:
        while True:
            stamps = array.array(NUMBERS)
            for path in connection.recv():
                stamps.extend(stamp_of(path))
            connection.send_bytes(stamps)
    except (EOFError, ConnectionError):
        # All files have been looked at, or nobody asks any more.
        return


if __name__ == "__main__":
    main()

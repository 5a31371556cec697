"""A terminal for tests: runs a program on a pseudo-terminal and keeps what a person would see there."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import threading
from collections.abc import Sequence

_CONTROL = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|\x1b[78=>]")


class Screen:
    """Lines and cursor of a terminal with `width` columns, without an end above; knows the controls that rich's displays use."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._rows: list[list[str]] = [[]]
        self._styles: list[list[str]] = [[]]
        self._style = ""
        self._row = self._column = 0

    def feed(self, text: str) -> None:
        place = 0
        while place < len(text):
            control = _CONTROL.match(text, place)
            if control is not None:
                self._control(*control.groups())
                place = control.end()
            else:
                self._put(text[place])
                place += 1

    @property
    def lines(self) -> list[str]:
        return ["".join(row).rstrip() for row in self._rows]

    @property
    def painted(self) -> list[str]:
        """The lines with their colours, each character behind the controls that hold for it."""
        return [
            "".join(f"\x1b[0m{style}{character}" for style, character in zip(styles, row, strict=True)) + "\x1b[0m"
            for styles, row in zip(self._styles, self._rows, strict=True)
        ]

    def _control(self, arguments: str | None, name: str | None) -> None:
        if name == "m":
            self._style = "" if arguments in ("", "0") else f"{self._style}\x1b[{arguments}m"
        elif name == "A":
            self._row = max(0, self._row - int(arguments or 1))
        elif name == "K":
            # rich erases whole lines only.
            assert arguments == "2", arguments
            self._rows[self._row], self._styles[self._row] = [], []
        else:
            assert name in ("h", "l", None), (arguments, name)

    def _put(self, character: str) -> None:
        if character == "\r":
            self._column = 0
        elif character == "\n":
            self._down()
        else:
            if self._column == self._width:
                self._down()
                self._column = 0
            row, styles = self._rows[self._row], self._styles[self._row]
            row.extend(" " * (self._column + 1 - len(row)))
            styles.extend("" for _ in range(self._column + 1 - len(styles)))
            row[self._column], styles[self._column] = character, self._style
            self._column += 1

    def _down(self) -> None:
        self._row += 1
        if self._row == len(self._rows):
            self._rows.append([])
            self._styles.append([])


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a program leaves: on the terminal, as it was written there (`raw`), and on the pipe that was its stdout."""

    code: int
    lines: list[str]
    raw: str
    stdout: str


def run_on_terminal(
    command: Sequence[str], *, columns: int, rows: int = 24, piped_stdout: bool = False, seconds: float = 60.0, **environment: str
) -> Seen:
    """Runs `command` with stdin, stderr and, unless it is piped, stdout on a terminal of this size."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES", "FORCE_COLOR")}
    process = subprocess.Popen(
        command,
        stdin=slave,
        stdout=subprocess.PIPE if piped_stdout else slave,
        stderr=slave,
        env={**kept, "TERM": "xterm-256color", **environment},
        start_new_session=True,
    )
    os.close(slave)
    chunks: list[bytes] = []
    reader = threading.Thread(target=_read_all, args=(master, chunks))
    reader.start()
    stdout, _ = process.communicate(timeout=seconds)
    code = process.returncode
    reader.join(timeout=seconds)
    os.close(master)
    raw, screen = b"".join(chunks).decode(), Screen(columns)
    screen.feed(raw)
    return Seen(code, screen.lines, raw, (stdout or b"").decode())


def _read_all(master: int, chunks: list[bytes]) -> None:
    while True:
        try:
            chunk = os.read(master, 65536)
        except OSError:
            # Linux says so when the last process has closed the other end.
            return
        if not chunk:
            return
        chunks.append(chunk)

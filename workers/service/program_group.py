"""`ProgramGroup`: programs that need each other are started in order, watched, started again when they exit, and stopped in reverse."""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from filelock import FileLock

from workers.service.revivals import Revivals

# Each look asks every program.
_POLL_SECONDS = 5.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Member:
    """A program of a group. `title` is its name for people.

    `start` returns when the program answers, or raises RuntimeError. `stop` also ends what a program that has exited left behind; it does
    nothing where there is nothing to end. `needs` names the member that it cannot start without; `ends_with_it`: nor live without it.
    """

    name: str
    title: str
    start: Callable[[], object]
    is_alive: Callable[[], bool]
    stop: Callable[[], None]
    needs: str | None = None
    ends_with_it: bool = False


class ProgramGroup:
    """`members` in the order in which they start: each comes after the one that it needs.

    One process starts the group and watches it, until any process stops it or starts it anew. `folder` has what these processes share:
    the file `wanted`, with the token of the process that has started the group last, and a lock. `logs` is a folder to tell people of.
    """

    def __init__(self, folder: Path, members: Iterable[Member], *, logs: Path, say: Callable[[str], None] = print) -> None:
        self._folder, self._logs, self._say = folder, logs, say
        self._members: dict[str, Member] = {}
        for member in members:
            assert member.name not in self._members
            assert member.needs is None or member.needs in self._members
            self._members[member.name] = member
        self._token = secrets.token_hex(8)

    def running(self) -> list[str]:
        """The names of the members that are alive, in the order in which they stop."""
        return [member.name for member in self._backwards() if member.is_alive()]

    @property
    def wanted(self) -> bool:
        """Whether nobody has stopped the group since this process claimed it."""
        return self._wanted.exists() and not self.replaced

    @property
    def replaced(self) -> bool:
        """Whether another process has claimed the group since this one did."""
        return self._wanted.exists() and self._wanted.read_text() != self._token

    def refuse_second_start(self) -> None:
        """Raises RuntimeError where a member is alive."""
        if running := self.running():
            raise RuntimeError(f"this installation runs already ({', '.join(running)}); stop it first")

    def claim(self) -> None:
        """Makes this process the one that wants the group to run. It comes before `start`."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._wanted.write_text(self._token)

    def start(self, *, first: str | None = None, last: str | None = None) -> None:
        """Starts one member after the other, each when the one before it answers: all, or those from `first` to `last`.

        Raises:
            RuntimeError: of the member that does not start.
        """
        names = list(self._members)
        begin = 0 if first is None else names.index(first)
        end = len(names) if last is None else names.index(last) + 1
        for name in names[begin:end]:
            self._start(self._members[name])

    def watch(self, *, poll_seconds: float = _POLL_SECONDS) -> None:
        """Starts members again that have exited, as `Revivals` says; returns when another process has stopped or claimed the group.

        It says which one exits, and goes on where one does not start.
        """
        revivals = Revivals({member.name: member.needs for member in self._members.values()})
        while self.wanted:
            name = revivals.due(self.running(), time.monotonic())
            if name is None:
                time.sleep(poll_seconds)
            elif self.wanted:
                # Asked once more, because a `stop` from elsewhere says so before it ends the first program.
                self._say(f"{name} has exited and is started again; its log is in {self._logs}")
                try:
                    self.revive(name)
                except RuntimeError as error:
                    self._say(f"{name} could not be started again: {error}")

    def revive(self, name: str) -> None:
        """Starts a member again that has exited, and those that cannot live without it. First it ends what is left of them.

        Raises:
            RuntimeError: as `start` does.
        """
        names = [name]
        for member in self._members.values():
            if member.ends_with_it and member.needs in names:
                names.append(member.name)
        for each in reversed(names):
            self._members[each].stop()
        for each in names:
            self._start(self._members[each])

    def stop(self) -> None:
        """In reverse order, so that nothing loses what it needs before it has ended."""
        # Before anything ends: the process that watches must not start it again.
        self._wanted.unlink(missing_ok=True)
        # That process may stop the group, too, as soon as it sees it; the second of both finds nothing that runs.
        with FileLock(self._folder / "stop.lock"):
            for member in self._backwards():
                member.stop()

    @property
    def _wanted(self) -> Path:
        return self._folder / "wanted"

    def _backwards(self) -> list[Member]:
        return [*reversed(self._members.values())]

    def _start(self, member: Member) -> None:
        self._say(f"{member.title} ...")
        member.start()

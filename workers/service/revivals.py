"""`Revivals`: which program of an installation is to be started again, and when."""

from __future__ import annotations

from collections.abc import Collection, Mapping

# Seconds until a program that exits again and again is started once more: doubled each time, up to the last.
_FIRST_PAUSE, _LAST_PAUSE = 5.0, 300.0
# A program that has run for this long is well: its next exit counts as the first.
_WELL_SECONDS = 600.0


class Revivals:
    """The first exit of a program is followed by its start at once.

    `needs` has what each program cannot start without, in the order in which they start.
    """

    def __init__(self, needs: Mapping[str, str | None]) -> None:
        self._needs = needs
        # When each was started again, and the pause that follows.
        self._started: dict[str, tuple[float, float]] = {}

    def due(self, running: Collection[str], now: float) -> str | None:
        """The program to start now; one at a time, since others may come back with it. `now` is in seconds."""
        for name, needed in self._needs.items():
            if name not in running and (needed is None or needed in running) and self._has_paused(name, now):
                return name
        return None

    def _has_paused(self, name: str, now: float) -> bool:
        at, pause = self._started.get(name, (float("-inf"), 0.0))
        if now - at < pause:
            return False
        well = now - at > max(_WELL_SECONDS, pause)
        self._started[name] = (now, _FIRST_PAUSE if well else min(2 * pause, _LAST_PAUSE))
        return True

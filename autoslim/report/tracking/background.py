"""`BackgroundSync`: keeps MLflow up to date during a search, without delaying it."""

from __future__ import annotations

import logging
import threading
import time

from autoslim.errors import AutoslimError
from autoslim.report.tracking.mlflow_sync import MlflowSync

_REST = 10.0
"""The pause before the next sync, in multiples of the time that the last one took: MLflow gets a tenth of the driver's time at most."""

_log = logging.getLogger(__name__)


class BackgroundSync:
    """Syncs every `every` seconds; while MLflow is down less and less often, down to every `longest` seconds.

    A bug ends the thread with its traceback on stderr, as in any thread; `close` then returns False.
    """

    def __init__(self, sync: MlflowSync, *, every: float = 3.0, longest: float = 60.0) -> None:
        self._sync = sync
        self._every = every
        self._longest = longest
        self._stop = threading.Event()
        self._behind = False
        self._complete = False
        # A daemon: a server that hangs must not keep a finished search from ending.
        self._thread = threading.Thread(target=self._run, name="autoslim-mlflow-sync", daemon=True)

    def start(self) -> BackgroundSync:
        self._thread.start()
        return self

    def close(self, timeout: float) -> bool:
        """Syncs once more, waiting for at most `timeout` seconds; whether everything in the store is logged."""
        self._stop.set()
        self._thread.join(timeout)
        if self._thread.is_alive() and not self._behind:
            self._warn(f"MLflow at {self._sync.uri} is slow")
        return self._complete and not self._thread.is_alive()

    def _run(self) -> None:
        delay = self._every
        while True:
            # Read before the sync reads the store: what was stored before `close` is then in it.
            last = self._stop.is_set()
            began = time.monotonic()
            try:
                self._sync.sync()
            except AutoslimError as error:
                if not self._behind:
                    self._warn(str(error))
                self._behind = True
                delay = min(2 * delay, self._longest)
            else:
                if self._behind:
                    _log.info("MLflow at %s can be used again; everything is logged", self._sync.uri)
                self._behind, delay, self._complete = False, self._every, last
            if last:
                return
            # The sync computes in the process of the search.
            self._stop.wait(max(delay, _REST * (time.monotonic() - began)))

    def _warn(self, reason: str) -> None:
        _log.warning(
            "%s; what could not be logged is kept in the store and logged later by `autoslim sync %s`",
            reason,
            self._sync.output,
        )

"""`DrainWatch`: whether this worker has to leave its node, because Ray drains it, or because SIGTERM was sent to this process."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Collection, Iterator
from types import FrameType

import ray
from ray.exceptions import RayError

from workers.search.nodes import draining_nodes

_log = logging.getLogger(__name__)

_LOOK_EVERY = 2.0
"""Seconds between two looks at Ray's table of draining nodes. A cloud gives notice of 30 seconds to two minutes."""


class DrainWatch:
    """Called, it says whether the worker has to leave; `start` begins to watch the node `node_id`, by default this worker's."""

    def __init__(
        self,
        node_id: str | None = None,
        *,
        draining: Callable[[], Collection[str]] = draining_nodes,
        every: float = _LOOK_EVERY,
    ) -> None:
        self.node_id = ray.get_runtime_context().get_node_id() if node_id is None else node_id
        self._draining, self._every = draining, every
        self._leaves, self._stopped = threading.Event(), threading.Event()
        self.reason = ""

    def __call__(self) -> bool:
        return self._leaves.is_set()

    def start(self) -> DrainWatch:
        threading.Thread(target=self._watch, name="autoslim-drain-watch", daemon=True).start()
        return self

    def stop(self) -> None:
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(self._every):
            try:
                draining = self.node_id in self._draining()
            except RayError as error:
                # The head restarts, or is gone: Ray itself decides what becomes of this worker.
                _log.warning("cannot ask Ray which nodes drain: %s", error)
                continue
            if draining:
                self._leave("its node drains")
                return

    def _leave(self, reason: str) -> None:
        self.reason = reason
        self._leaves.set()
        _log.warning("the worker has to leave: %s", reason)

    @contextlib.contextmanager
    def taking_sigterm(self) -> Iterator[None]:
        """Inside, the first SIGTERM asks the trial to leave, with a checkpoint, instead of ending the process at once; a second one does.

        Only in the main thread, in which Ray runs an actor's methods, can a handler be set; elsewhere nothing changes.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        # Ray's handler, which ends the process.
        before = signal.getsignal(signal.SIGTERM)

        def leave(number: int, frame: FrameType | None) -> None:
            signal.signal(signal.SIGTERM, before)
            self._leave("SIGTERM was sent to its process")

        signal.signal(signal.SIGTERM, leave)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

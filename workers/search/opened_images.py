"""`opened_images`: opens a search's images on this node, and says meanwhile how far their preparation is."""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator
from concurrent.futures import Future, wait

import ray

from autoslim.core.activity import idle_seconds
from autoslim.data import PreparedDataset, open_reference

_log = logging.getLogger(__name__)

_FIRST_SECONDS, _SECONDS = 10.0, 60.0
"""Until the first line, since most nodes have the images, and between lines: many nodes may prepare them at a time."""


def opened_images(reference: str) -> Generator[str, None, PreparedDataset]:
    """The data set that `reference` names. A node that has none yet brings it or prepares it, which may take hours; each line says what
    this node does, for who would take it for a cluster without room. There is none while it gives no sign of life.

    Raises:
        AutoslimError: as `open_reference`.
    """
    opened: Future[PreparedDataset] = Future()
    said = ["its images are brought here"]

    def tell(line: str) -> None:
        _log.info(line)
        said.append(line)

    def run() -> None:
        try:
            opened.set_result(open_reference(reference, tell=tell))
        except BaseException as error:  # noqa: BLE001 - raised to who asks for the result
            opened.set_exception(error)

    # Not a pool's, which would be waited for where the trial is stopped meanwhile.
    threading.Thread(target=run, name="autoslim-opened-images", daemon=True).start()
    seconds = _FIRST_SECONDS
    while not wait([opened], timeout=seconds).done:
        if idle_seconds() >= seconds:
            # What hangs is ended by who watches this process (`StallWatch`), for whom a line is the end of one piece of work.
            continue
        seconds = _SECONDS
        yield f"node {ray.util.get_node_ip_address()}: {said[-1]}"
    return opened.result()

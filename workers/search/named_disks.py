"""`named_full_disks`: an error of a full disk names the folder and the node, on which its reader is not."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import ray

from autoslim.core.files import is_disk_full
from autoslim.storage.mirror import Mirror
from workers.search.full_disk import FullDisk


@contextlib.contextmanager
def named_full_disks(output: Path, mirror: Mirror) -> Iterator[None]:
    """In a worker of a search whose output folder is `output` on this node.

    Raises:
        DiskFullError: for any error of the block that says that a disk is full.
    """
    try:
        yield
    except Exception as error:
        if not is_disk_full(error) or FullDisk.read(str(error)) is not None:
            raise
        node = ray.get_runtime_context().get_node_id()
        raise FullDisk.of(error, output, mirror, host=socket.gethostname(), node=node).error() from error

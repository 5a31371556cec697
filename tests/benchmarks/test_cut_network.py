"""A network that is cut loses what is sent into it, in both directions, and goes on afterwards."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from faults.case import MissingError
from faults.network import Link, namespace
from faults.service import until

_SERVER = """
import socket, sys
with socket.create_server((sys.argv[1], 7000)) as server:
    print("listens", flush=True)
    while True:
        server.accept()[0].close()
"""
_CLIENT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5).close()"


@pytest.fixture
def link() -> Iterator[Link]:
    with contextlib.ExitStack() as stack:
        try:
            link = Link(stack.enter_context(namespace()), 9)
            link.make()
        except MissingError as error:
            pytest.skip(str(error))
        yield link


def reached(address: str) -> bool:
    """Only an answer that does not come counts as none."""
    with contextlib.suppress(TimeoutError):
        socket.create_connection((address, 7000), timeout=1).close()
        return True
    return False


def back(address: str) -> bool | None:
    with contextlib.suppress(OSError):
        return reached(address) or None
    return None


def inside(link: Link, code: str, *words: str) -> list[str]:
    return ["ip", "netns", "exec", link.name, sys.executable, "-c", code, *words]


def test_packets_are_lost_both_ways_while_it_is_cut_and_nothing_is_refused(link: Link) -> None:
    with (
        socket.create_server((link.here, 0)) as here,
        subprocess.Popen(inside(link, _SERVER, link.there), stdout=subprocess.PIPE) as there,
    ):
        try:
            assert there.stdout is not None and there.stdout.readline() == b"listens\n"

            def answers() -> subprocess.CompletedProcess[str]:
                words = (link.here, str(here.getsockname()[1]))
                return subprocess.run(inside(link, _CLIENT, *words), capture_output=True, text=True)

            assert reached(link.there) and answers().returncode == 0
            link.cut()
            assert not reached(link.there)
            assert answers().stderr.strip().endswith(("timed out", "No route to host"))
            link.mend()
            # The kernel may keep for a moment that the neighbour has not answered.
            assert until(lambda: back(link.there), "an answer after the cut", seconds=30.0) and answers().returncode == 0
        finally:
            there.kill()

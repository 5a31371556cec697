"""A network of pods on this machine: a namespace with a bridge, and for each pod a namespace of its own on it. It needs root and `ip`."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

_NEEDED = ("ip", "unshare", "nsenter", "chroot", "setpriv")
_NAMESPACES = ("--mount", "--pid", "--uts", "--ipc")
_SUBNET = "10.215.0"


def skip_without_namespaces() -> None:
    """Skips the test, with what is missing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("namespaces of pods need Linux and root")
    if missing := [name for name in _NEEDED if shutil.which(name) is None]:
        pytest.skip(f"the commands {', '.join(missing)} are not installed (Debian: iproute2, util-linux)")
    done = subprocess.run(["unshare", "--net", *_NAMESPACES, "--fork", "true"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this machine makes no namespaces: {done.stderr.strip()}")


class PodNetwork:
    """Pods reach one another by their addresses, this machine reaches the pods, and nothing reaches any further."""

    def __init__(self) -> None:
        self._name = f"asp{os.getpid()}"
        self._count = 1

    @contextlib.contextmanager
    def running(self) -> Iterator[PodNetwork]:
        try:
            self._make()
            yield self
        finally:
            # With a namespace go its interfaces and their other ends.
            for number in range(self._count, 0, -1):
                subprocess.run(["ip", "netns", "delete", self._namespace(number)], capture_output=True)

    def _make(self) -> None:
        bridge = self._namespace(1)
        _ip("netns", "add", bridge)
        _ip("-netns", bridge, "link", "add", "name", "bridge", "type", "bridge")
        _ip("-netns", bridge, "link", "set", "bridge", "up")
        # This machine's end, through which the test is kubelet and user. Nothing is forwarded.
        _ip("link", "add", "name", self._name, "type", "veth", "peer", "name", "machine", "netns", bridge)
        _ip("address", "add", f"{_SUBNET}.1/24", "dev", self._name)
        _ip("link", "set", self._name, "up")
        _ip("-netns", bridge, "link", "set", "machine", "master", "bridge", "up")

    def add(self) -> tuple[str, str]:
        """The name of a new pod's namespace, and its address."""
        self._count += 1
        bridge, namespace, address = self._namespace(1), self._namespace(self._count), f"{_SUBNET}.{self._count}"
        _ip("netns", "add", namespace)
        port = f"pod{self._count}"
        _ip("-netns", bridge, "link", "add", "name", port, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        _ip("-netns", bridge, "link", "set", port, "master", "bridge", "up")
        _ip("-netns", namespace, "address", "add", f"{address}/24", "dev", "eth0")
        for interface in ("lo", "eth0"):
            _ip("-netns", namespace, "link", "set", interface, "up")
        # It leads nowhere, but Ray finds a node's own address by a route to an address of the Internet.
        _ip("-netns", namespace, "route", "add", "default", "dev", "eth0")
        return namespace, address

    def _namespace(self, number: int) -> str:
        """The first one is the bridge's."""
        return f"{self._name}-{number}"


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    assert done.returncode == 0, f"`ip {' '.join(words)}`: {done.stderr.strip()}"

"""`Pod`: the command of a pod's container as a process of this machine, with the container's user, rights, environment, files and network.

Kubelet's part is written down here; what is run comes from the manifest. In place of an image it has this machine's programs and the Python
environment of the test. Limits of CPU and memory are not set.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil
from helpers.manifests import ROOT
from loopback.postgres import find_binaries

_SYSTEM = ("usr", "etc", "dev", "sys", "opt", "bin", "sbin", "lib", "lib64")
_RIGHTS = ("--no-new-privs", "--bounding-set=-all", "--inh-caps=-all")
_IN_FOLDER = ("sh", "-c", 'cd "$0" && exec "$@"')
_USERS = "root:x:0:0::/root:/bin/sh\npostgres:x:999:999::/home/pod:/bin/sh\nautoslim:x:10001:10001::/home/pod:/bin/sh\n"
# Nobody answers there, and that at once: who asks for the IPv6 address of a name in `hosts` need not wait.
_RESOLVER = "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n"
HOME = "/home/pod"


@dataclasses.dataclass(frozen=True)
class Volume:
    """A folder of this machine at `path` in the container."""

    folder: Path
    path: str
    read_only: bool


@dataclasses.dataclass
class Pod:
    """`spec` is the pod's, of one container. `command` stands for the image's own where the manifest has none.

    `namespace` is of the network, `address` its address there; `folder` is the pod's own on this machine.
    """

    name: str
    spec: Mapping[str, Any]
    command: Sequence[str]
    environment: Mapping[str, str]
    volumes: Sequence[Volume]
    namespace: str
    address: str
    folder: Path
    _process: subprocess.Popen[bytes] | None = None

    @property
    def container(self) -> Mapping[str, Any]:
        (container,) = self.spec["containers"]
        return container

    @property
    def _variables(self) -> dict[str, str]:
        programs = [str(Path(sys.executable).parent), str(find_binaries()), "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        # The checkout in place of the installed package.
        return {"PATH": ":".join(programs), "HOME": HOME, "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT), **self.environment}

    def start(self, hosts: Mapping[str, str]) -> None:
        """`hosts` are the addresses by name that a cluster's DNS knows."""
        root = self.folder / "root"
        root.mkdir(parents=True)
        names = {"localhost": "127.0.0.1", self.name: self.address, **hosts}
        (self.folder / "hosts").write_text("".join(f"{address}\t{name}\n" for name, address in names.items()))
        (self.folder / "passwd").write_text(_USERS)
        (self.folder / "resolv.conf").write_text(_RESOLVER)
        script = "\n".join(
            [*self._mounts(root), f"hostname {self.name}", f"exec chroot {root} {shlex.join(self._as_user())} " + '"$@"']
        )
        apart = ["ip", "netns", "exec", self.namespace, "unshare", "--mount", "--pid", "--uts", "--ipc", "--fork"]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [*apart, "sh", "-euc", script, "pod", *self.command],
                env=self._variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        # Before it, commands that are run in the pod would still find this machine's root.
        while self.first.uids().real != self.spec["securityContext"]["runAsUser"]:
            time.sleep(0.01)

    def _mounts(self, root: Path) -> list[str]:
        """A root that ends with the process: the machine's programs, an empty rest, and the volumes."""
        lines = [f"mount -t tmpfs -o mode=755 none {root}"]
        for path in (Path("/", name) for name in _SYSTEM):
            if path.is_symlink():
                # To a folder of /usr.
                lines.append(f"cp --no-dereference {path} {root}{path}")
            elif path.is_dir():
                lines.append(f"mkdir {root}{path}; mount --rbind {path} {root}{path}")
        lines += [
            f"mkdir -p {root}/proc {root}/tmp {root}/var {root}/run/postgresql {root}{HOME}",
            f"ln -s ../run {root}/var/run",
            f"chmod 1777 {root}/tmp {root}/run/postgresql {root}{HOME}",
            f"mount -t proc none {root}/proc",
            f"mount -t tmpfs -o mode=1777 none {root}/dev/shm",
        ]
        lines += [_bind(str(path), root, str(path)) for path in _needed()]
        for name in ("hosts", "passwd", "resolv.conf"):
            # Where it is a link out of /etc, there is none in the pod.
            lines.append(f"test -L /etc/{name} || mount --bind {self.folder / name} {root}/etc/{name}")
        for volume in self.volumes:
            lines.append(_bind(str(volume.folder), root, volume.path))
            if volume.read_only:
                lines.append(f"mount -o remount,ro,bind {root}{volume.path}")
        return lines

    def _as_user(self) -> list[str]:
        security, container = self.spec["securityContext"], self.container["securityContext"]
        # What `_RIGHTS` takes away.
        assert container == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        user, group, files = (str(security[name]) for name in ("runAsUser", "runAsGroup", "fsGroup"))
        return ["setpriv", "--reuid", user, "--regid", group, "--groups", files, *_RIGHTS, *_IN_FOLDER, HOME]

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def tail(self) -> str:
        return f"{self.name}:\n{self.log.read_text(errors='replace')[-3000:]}"

    @property
    def first(self) -> psutil.Process:
        """The process with the number 1 in the pod."""
        assert self._process is not None
        deadline = time.monotonic() + 10
        while not (found := psutil.Process(self._process.pid).children()):
            assert time.monotonic() < deadline and self.is_alive(), self.tail()
            time.sleep(0.01)
        return found[0]

    def processes(self) -> list[psutil.Process]:
        return [self.first, *self.first.children(recursive=True)]

    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """As `kubectl exec` and probes do."""
        target = ["nsenter", "--target", str(self.first.pid), "--mount", "--pid", "--net", "--uts", "--ipc", "--root"]
        return subprocess.run(
            [*target, *self._as_user(), *command], env=self._variables, capture_output=True, text=True, timeout=120
        )

    def passes(self, kind: str) -> bool:
        """Whether a probe of the manifest (`startup`, `readiness` or `liveness`) succeeds now."""
        probe = self.container[f"{kind}Probe"]
        if "exec" in probe:
            return self.run(*probe["exec"]["command"]).returncode == 0
        (port,) = [each["containerPort"] for each in self.container["ports"] if each["name"] == probe["httpGet"]["port"]]
        headers = {each["name"]: each["value"] for each in probe["httpGet"]["httpHeaders"]}
        url = f"http://{self.address}:{port}{probe['httpGet']['path']}"
        try:
            # Without a value Kubernetes waits for a second.
            answer = httpx.get(url, headers=headers, timeout=probe.get("timeoutSeconds", 1), trust_env=False)
        except httpx.HTTPError:
            return False
        return answer.status_code < 400

    def await_start(self) -> None:
        """Until the startup probe succeeds, at most for as long as it may fail."""
        probe = self.container["startupProbe"]
        deadline = time.monotonic() + probe["failureThreshold"] * probe["periodSeconds"]
        while not self.passes("startup"):
            assert self.is_alive() and time.monotonic() < deadline, self.tail()
            time.sleep(0.5)

    def end(self) -> int:
        """The exit code after SIGTERM, for which the pod has its grace period."""
        assert self._process is not None
        self.first.terminate()
        return self._process.wait(self.spec.get("terminationGracePeriodSeconds", 30))

    def kill(self) -> None:
        """With the first process end all others of the pod."""
        if self._process is not None and self.is_alive():
            os.kill(self.first.pid, signal.SIGKILL)
            self._process.wait(30)


def _needed() -> list[Path]:
    """The Python environment and the checkout, outside of what every root has; above them may be folders that only root may enter."""
    python = Path(sys.base_prefix)
    paths = {Path(sys.prefix), python, python.resolve(), ROOT, (find_binaries() or Path("/usr")).parent}
    return sorted(path for path in paths if path.parts[1] not in _SYSTEM)


def _bind(folder: str, root: Path, path: str) -> str:
    return f"mkdir -p {root}{path}; mount --bind {folder} {root}{path}"

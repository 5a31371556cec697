"""The supervisors' lock in a folder that machines share, whose names are new at each start where they are pods or containers."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

import pytest

from workers.service.stop_request import StopRequest
from workers.service.supervisor_lock import SupervisorLock


def files(root: Path) -> list[str]:
    return sorted(path.name for path in root.glob("supervisor-*"))


def start(root: Path, machine: str, monkeypatch: pytest.MonkeyPatch, stack: contextlib.ExitStack) -> None:
    """A supervisor of this machine that has the lock until the stack ends."""
    monkeypatch.setattr(socket, "gethostname", lambda: machine)
    lock = stack.enter_context(SupervisorLock(root))
    assert lock.acquire(StopRequest(), os.getpid(), beat=lambda: None)


def test_who_starts_deletes_the_files_of_supervisors_that_have_ended_and_leaves_those_of_others_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "supervisor-of-the-night.txt").touch()
    for pod in range(5):
        with contextlib.ExitStack() as former:
            start(tmp_path, f"pod-{pod}", monkeypatch, former)
    with contextlib.ExitStack() as running:
        start(tmp_path, "other", monkeypatch, running)
        start(tmp_path, "pod-5", monkeypatch, running)
        both = ["supervisor-other.json", "supervisor-other.lock", "supervisor-pod-5.json", "supervisor-pod-5.lock"]
        assert files(tmp_path) == ["supervisor-of-the-night.txt", *both]


def test_a_file_that_cannot_be_deleted_is_told_and_keeps_no_supervisor_from_its_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "supervisor-pod-1.lock").mkdir()
    with contextlib.ExitStack() as running:
        start(tmp_path, "pod-2", monkeypatch, running)
    assert "supervisor-pod-1.lock, of a supervisor that has ended, cannot be deleted" in caplog.text

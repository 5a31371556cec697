"""A process is known again, and no other is taken for it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from workers.service.process_identity import ProcessIdentity


@pytest.fixture
def child():
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        yield process
        process.kill()


def test_a_living_process_is_known_from_its_file(child):
    known = ProcessIdentity.from_json(ProcessIdentity.of(child.pid).to_json())
    assert known == ProcessIdentity.of(child.pid)
    assert known.is_here()
    assert not known.is_dead()


def test_a_process_is_dead_when_it_has_ended_even_before_its_parent_has_collected_it(child):
    identity = ProcessIdentity.of(child.pid)
    os.kill(child.pid, 9)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert identity.is_dead()
    child.wait()
    assert identity.is_dead()


def test_another_process_of_the_same_number_is_not_taken_for_it(child):
    identity = ProcessIdentity.of(child.pid)
    assert identity.replace(started=str(int(identity.started) - 1)).is_dead()


def test_a_process_of_another_machine_is_neither_here_nor_dead(child):
    elsewhere = ProcessIdentity.of(child.pid).replace(space="another-boot/1")
    assert not elsewhere.is_here()
    assert not elsewhere.is_dead()


def test_processes_that_start_one_after_the_other_start_at_different_ticks():
    own = int(ProcessIdentity.of(os.getpid()).started)
    time.sleep(0.05)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as later:
        assert int(ProcessIdentity.of(later.pid).started) > own


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux shows the ticks")
def test_the_start_is_the_one_of_files_that_earlier_versions_wrote(child):
    ticks = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19]
    assert ProcessIdentity.of(child.pid).started == ticks

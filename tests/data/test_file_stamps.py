"""Sizes and times of files are the same whoever looks at them, and no process is left."""

from __future__ import annotations

import errno
import logging
import os
import signal
from pathlib import Path

import psutil
import pytest

from autoslim.data import file_stamps
from autoslim.data.file_stamps import stamp_of, stamps_of
from autoslim.data.path_list import PathList, path_array


@pytest.fixture
def paths(tmp_path: Path) -> PathList:
    odd = os.fsdecode(b"\xff.png")
    for number, name in enumerate(("a.png", odd, "c.png")):
        (tmp_path / name).write_bytes(b"1" * number)
        os.utime(tmp_path / name, ns=(5, -7 - number))
    return PathList(tmp_path, [path_array(["a.png", odd, "gone.png", "no\0name.png", *["c.png"] * 60])])


@pytest.fixture(autouse=True)
def a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_stamps, "_AT_ONCE", 5)
    monkeypatch.setattr(file_stamps, "usable_cpus", lambda: 2)


@pytest.fixture
def long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_stamps, "_LONG", 10)


def lookers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if file_stamps._MODULE in child.cmdline()]


def test_another_process_sees_what_this_one_sees(paths: PathList, monkeypatch: pytest.MonkeyPatch):
    alone = list(stamps_of(paths))
    assert alone == [(path, *stamp_of(path)) for path in paths]
    assert [stamp[1] for stamp in alone[:5]] == [0, 1, -1, -1, 2]
    assert alone[1][2] == -8
    monkeypatch.setattr(file_stamps, "_LONG", 10)
    elsewhere = stamps_of(paths)
    assert next(elsewhere) == alone[0]
    assert len(lookers()) == 1
    assert [alone[0], *elsewhere] == alone
    assert not lookers()


@pytest.mark.usefixtures("long")
def test_where_the_other_process_is_killed_this_one_looks_at_the_rest(paths: PathList, caplog: pytest.LogCaptureFixture):
    stamps = stamps_of(paths)
    found = [next(stamps)]
    [looker] = lookers()
    looker.send_signal(signal.SIGKILL)
    with caplog.at_level(logging.WARNING):
        found += stamps
    assert found == [(path, *stamp_of(path)) for path in paths]
    assert "no process looks at the data set's files beside this one" in caplog.text


@pytest.mark.usefixtures("long")
def test_who_stops_asking_leaves_no_process(paths: PathList):
    stamps = stamps_of(paths)
    next(stamps)
    assert len(lookers()) == 1
    stamps.close()
    assert not lookers()


@pytest.mark.usefixtures("long")
@pytest.mark.timeout(60)
def test_who_stops_asking_does_not_wait_for_a_process_that_hangs(paths: PathList):
    stamps = stamps_of(paths)
    next(stamps)
    [looker] = lookers()
    looker.send_signal(signal.SIGSTOP)
    stamps.close()
    assert not lookers()


@pytest.mark.usefixtures("long")
def test_where_no_process_can_be_started_this_one_looks(
    paths: PathList, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def refuse(module: str) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(file_stamps, "start_child", refuse)
    with caplog.at_level(logging.WARNING):
        found = list(stamps_of(paths))
    assert found == [(path, *stamp_of(path)) for path in paths]
    assert "Resource temporarily unavailable" in caplog.text


@pytest.mark.usefixtures("long")
def test_on_one_cpu_no_process_is_started(paths: PathList, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(file_stamps, "usable_cpus", lambda: 1)
    stamps = stamps_of(paths)
    next(stamps)
    assert not lookers()

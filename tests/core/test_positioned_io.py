"""What is longer than one call moves is read and written in several."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from autoslim.core import positioned_io
from autoslim.core.positioned_io import read_at, write_at

CONTENT = bytes(range(256)) * 4


@pytest.fixture
def file() -> Iterator[int]:
    descriptor = os.memfd_create("of-a-test")
    yield descriptor
    os.close(descriptor)


@pytest.fixture(params=[7, 64, 2**20])
def _most(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one call, by our own bound."""
    monkeypatch.setattr(positioned_io, "_MOST_BYTES", request.param)


@pytest.fixture(params=[5, 2**20])
def _system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one call, by a system's that takes less than it is given."""
    write, read, most = os.pwrite, os.preadv, request.param
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: write(file, data[:most], at))
    monkeypatch.setattr(os, "preadv", lambda file, views, at: read(file, [views[0][:most]], at))


@pytest.mark.usefixtures("_most", "_system")
def test_all_of_it_goes_there_and_comes_back(file: int) -> None:
    write_at(file, memoryview(CONTENT), 3)
    back = bytearray(len(CONTENT))
    assert read_at(file, memoryview(back), 3) == len(CONTENT)
    assert bytes(back) == CONTENT
    assert os.pread(file, 4, 0) == b"\0\0\0\0"


@pytest.mark.usefixtures("_most")
def test_what_lies_behind_the_end_is_not_counted(file: int) -> None:
    write_at(file, memoryview(CONTENT), 0)
    back = bytearray(len(CONTENT))
    assert read_at(file, memoryview(back), 100) == len(CONTENT) - 100
    assert bytes(back[:-100]) == CONTENT[100:]


def test_no_call_is_asked_for_more_than_linux_moves() -> None:
    assert positioned_io._MOST_BYTES == 2**31 - 4096

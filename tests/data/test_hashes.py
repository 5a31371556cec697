from __future__ import annotations

import random
import threading

import pytest

from autoslim.data import hashes
from autoslim.data.copies import content_hash
from autoslim.data.hashes import Hashes

MANY = [content_hash(str(number).encode()) for number in range(200)]
# Zeros and large bytes at either end, which a text's order or end would get wrong.
ODD = [bytes(32), bytes(31) + b"\x01", b"\x01" + bytes(31), b"\xff" * 32, b"\xff" + bytes(31), bytes(31) + b"\xff"]


@pytest.mark.parametrize("recent", [1, 7, 1000])
def test_it_is_a_set(monkeypatch, recent):
    monkeypatch.setattr(hashes, "_RECENT", recent)
    shuffled = MANY + ODD[:4]
    random.Random(0).shuffle(shuffled)
    found = Hashes(b"".join(shuffled[:50] + shuffled[:10]))
    assert len(found) == 50
    for content in shuffled + shuffled:
        found.add(content)
    assert len(found) == len(shuffled)
    assert all(content in found for content in shuffled)
    assert not any(content in found for content in ODD[4:])
    assert found.tobytes() == b"".join(sorted(shuffled))


def test_without_anything_it_is_empty():
    assert len(Hashes()) == 0
    assert MANY[0] not in Hashes()
    assert Hashes().tobytes() == b""


def test_what_is_in_it_is_found_while_another_thread_adds(monkeypatch):
    monkeypatch.setattr(hashes, "_RECENT", 3)
    found, missed = Hashes(b"".join(MANY[:20])), []
    added = threading.Event()

    def look() -> None:
        while not added.is_set():
            missed.extend(content for content in MANY[:20] if content not in found)

    thread = threading.Thread(target=look)
    thread.start()
    for content in MANY[20:]:
        found.add(content)
    added.set()
    thread.join()
    assert missed == []

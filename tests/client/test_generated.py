"""The synchronous client is the asynchronous one without `await`."""

from __future__ import annotations

from autoslim.client.generate_sync import TARGET, render


def test_the_synchronous_client_is_what_the_asynchronous_one_gives():
    assert TARGET.read_text(encoding="utf-8") == render(), "make client"

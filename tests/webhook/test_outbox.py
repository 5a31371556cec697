"""Messages are delivered in the background, again after a failure, once, and not lost with the process."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest
from helpers.webhook_receiver import KEY, Receiver, receiving, wait_until

from autoslim.webhook.addresses import AllowedHosts
from autoslim.webhook.message import Message, make_message
from autoslim.webhook.outbox import Outbox, Retries

SOON = Retries(first=0.02, longest=0.1, tries=4)


def message(receiver: Receiver, number: int) -> Message:
    return make_message(receiver.url, "job.best", {"trial": number}, identity=f"j.{number}", at=0.0)


def test_a_message_is_tried_again_until_it_is_taken(receiver: Receiver, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    receiver.answers = [500, 503]
    outbox = Outbox(tmp_path / "webhook.json", KEY, retries=SOON).start()
    outbox.put([message(receiver, 1)])
    assert outbox.close(20) is None
    assert len(receiver.requests) == 3
    assert len(set(receiver.ids)) == 1
    assert [record.getMessage() for record in caplog.records] == ["the webhook's host 127.0.0.1 answered 500; it is tried again"]


def test_putting_does_not_wait_for_the_receiver(receiver: Receiver, tmp_path: Path) -> None:
    receiver.answers = [500] * 100
    outbox = Outbox(tmp_path / "webhook.json", KEY, retries=Retries(first=60.0)).start()
    began = time.monotonic()
    for number in range(20):
        outbox.put([message(receiver, number)])
    assert time.monotonic() - began < 5
    assert (outbox.close(0.1) or "").startswith("20 notifications were not delivered: the webhook's host 127.0.0.1")


def test_what_waits_is_delivered_by_the_next_process_and_what_was_delivered_is_not(receiver: Receiver, tmp_path: Path) -> None:
    file = tmp_path / "webhook.json"
    first = Outbox(file, KEY, remember=True, retries=SOON)
    # It never started, as a process that is killed.
    first.put([message(receiver, 1), message(receiver, 2)])
    second = Outbox(file, KEY, remember=True).start()
    second.put([message(receiver, 2), message(receiver, 3)])
    assert second.close(20) is None
    third = Outbox(file, KEY, remember=True).start()
    third.put([message(receiver, number) for number in (1, 2, 3)])
    assert third.close(20) is None
    assert [body["data"]["trial"] for body in receiver.bodies] == [1, 2, 3]


def test_what_no_try_delivers_is_given_up_and_said(receiver: Receiver, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    receiver.answers = [500] * 4
    outbox = Outbox(tmp_path / "webhook.json", KEY, retries=SOON).start()
    outbox.put([message(receiver, 1)])
    wait_until(lambda: not receiver.answers)
    wait_until(lambda: any(record.levelno == logging.ERROR for record in caplog.records))
    outbox.put([message(receiver, 2)])
    assert outbox.close(20) == "1 notifications were not delivered: the webhook's host 127.0.0.1 answered 500"
    assert receiver.bodies[-1]["data"] == {"trial": 2}


def test_a_receiver_that_is_down_holds_no_other_up(receiver: Receiver, tmp_path: Path) -> None:
    with receiving() as other:
        receiver.answers = [500] * 100
        outbox = Outbox(tmp_path / "webhook.json", KEY, retries=Retries(first=60.0)).start()
        outbox.put([message(receiver, 1), message(receiver, 2), message(other, 3)])
        wait_until(lambda: len(other.requests) == 1)
        outbox.close(0.1)


def test_an_address_that_is_not_allowed_is_not_tried_again(
    receiver: Receiver, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = Outbox(tmp_path / "webhook.json", KEY, allowed=AllowedHosts(["hooks.example.org"])).start()
    outbox.put([message(receiver, 1)])
    assert "leads to 127.0.0.1, which is not a public address" in (outbox.close(20) or "")
    assert receiver.requests == []
    assert "is given up" in caplog.text


def test_what_waits_goes_to_another_url(receiver: Receiver, tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "webhook.json", KEY)
    outbox.put([make_message("http://127.0.0.1:9/wrong", "job.best", {}, identity="j.1", at=0.0)])
    outbox.redirect(receiver.url)
    assert outbox.start().close(20) is None
    assert len(receiver.requests) == 1


def test_neither_the_file_nor_the_log_has_the_secret(
    receiver: Receiver, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    receiver.answers = [500]
    file = tmp_path / "webhook.json"
    outbox = Outbox(file, KEY, remember=True, retries=SOON)
    outbox.put([message(receiver, 1)])
    waiting = file.read_text()
    assert outbox.start().close(20) is None
    for text in (waiting, file.read_text(), caplog.text):
        assert KEY.decode() not in text
    assert "t0k3n" not in caplog.text
    assert file.stat().st_mode & 0o077 == 0


def test_a_file_of_a_later_version_ends_no_search(receiver: Receiver, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "webhook.json"
    file.write_text('{"version": 9}')
    outbox = Outbox(file, KEY).start()
    outbox.put([message(receiver, 1)])
    assert outbox.close(20) is None
    assert "is not read" in caplog.text

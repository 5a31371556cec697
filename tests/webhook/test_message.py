"""A notification is signed by Standard Webhooks, and its secret is read without being shown."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from helpers.webhook_receiver import KEY, SECRET, is_signed

from autoslim.errors import RequestError
from autoslim.webhook.message import Message, make_message, signed_headers
from autoslim.webhook.secret import read_secret


def test_the_signature_is_that_of_the_published_example() -> None:
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    message = Message(id="msg_p5jXN8AQM9LWM0D4loKWxJek", url="http://x/", body='{"test": 2432232314}', at=0.0)
    headers = signed_headers(message, key, now=1614265330.7)
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_another_body_another_time_and_another_key_are_not_what_was_signed() -> None:
    message = make_message("http://x/", "job.best", {"trial": 1}, identity="j.1", at=0.0)
    headers, body = signed_headers(message, KEY, now=1000.0), message.body.encode()
    assert is_signed(headers, body)
    assert not is_signed(headers, body.replace(b"1", b"2"))
    assert not is_signed(headers | {"webhook-timestamp": "1001"}, body)
    assert not is_signed(headers, body, key=KEY[::-1])


def test_the_same_notification_has_the_same_id() -> None:
    first = make_message("http://x/", "job.best", {}, identity="j.1", at=1.5)
    assert make_message("http://y/", "job.best", {}, identity="j.1", at=9.0).id == first.id
    assert make_message("http://x/", "job.best", {}, identity="j.2", at=1.5).id != first.id
    assert json.loads(first.body) == {"type": "job.best", "timestamp": "1970-01-01T00:00:01.500Z", "data": {}}


def test_the_secret_is_a_variable_or_a_private_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(SECRET + "\n")
    file.chmod(0o600)
    assert read_secret({"AUTOSLIM_WEBHOOK_SECRET": SECRET}) == KEY
    assert read_secret({"AUTOSLIM_WEBHOOK_SECRET_FILE": str(file)}) == KEY
    file.chmod(0o644)
    with pytest.raises(RequestError, match=r"can be read by others; allowed: mode 600"):
        read_secret({"AUTOSLIM_WEBHOOK_SECRET_FILE": str(file)})
    with pytest.raises(RequestError, match=r"cannot be read: FileNotFoundError"):
        read_secret({"AUTOSLIM_WEBHOOK_SECRET_FILE": str(tmp_path / "none")})


@pytest.mark.parametrize(
    "text", ["", "hunter2hunter2hunter2hunter2", "whsec_", "whsec_c2hvcnQ=", "whsec_no base64!", "whsec_" + "A" * 200]
)
def test_what_is_no_secret_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(RequestError, match="openssl rand -base64 32") as found:
        read_secret({"AUTOSLIM_WEBHOOK_SECRET": text})
    assert len(text) < 8 or text not in str(found.value)

"""One delivery: signed, to addresses that are allowed, without redirects, and with an end."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time

import pytest
from helpers.webhook_receiver import KEY, Receiver, is_signed, receiving

from autoslim.errors import RequestError, UnavailableError
from autoslim.webhook.addresses import AllowedHosts
from autoslim.webhook.message import Message, make_message
from autoslim.webhook.post import post


def message_to(url: str) -> Message:
    return make_message(url, "job.best", {"job": "j"}, identity="j.1", at=0.0)


def test_the_receiver_gets_the_signed_body(receiver: Receiver) -> None:
    post(message_to(receiver.url), KEY)
    ((path, headers, body),) = receiver.requests
    assert path == "/hook?token=t0k3n"
    assert is_signed(headers, body)
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    assert headers["content-type"] == "application/json"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(receiver: Receiver, status: int) -> None:
    with receiving() as other:
        receiver.answers, receiver.redirect_to = [status], other.url
        with pytest.raises(UnavailableError, match=rf"answered {status}, a redirect, which is not followed$"):
            post(message_to(receiver.url), KEY)
        assert other.requests == []


def test_an_error_names_the_host_and_nothing_else_of_the_url(receiver: Receiver) -> None:
    receiver.answers = [500]
    with pytest.raises(UnavailableError, match=r"^the webhook's host 127\.0\.0\.1 answered 500$"):
        post(message_to(receiver.url), KEY)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(UnavailableError, match=r"^the webhook's host 127\.0\.0\.1 did not answer: ConnectionRefusedError$"):
        post(message_to(f"http://127.0.0.1:{port}/?token=t0k3n"), KEY)


def test_a_receiver_that_sends_a_byte_at_a_time_does_not_hold_it_up() -> None:
    def drip(listener: socket.socket) -> None:
        connected, _ = listener.accept()
        with connected:
            try:
                for byte in b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 1000:
                    connected.sendall(bytes([byte]))
                    time.sleep(0.05)
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=drip, args=[listener], daemon=True).start()
        began = time.monotonic()
        with pytest.raises(UnavailableError, match="did not answer"):
            post(message_to(f"http://127.0.0.1:{listener.getsockname()[1]}/"), KEY, seconds=0.5)
        assert time.monotonic() - began < 5


def test_a_proxy_of_the_environment_is_not_used(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving() as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        post(message_to(receiver.url), KEY)
        assert (len(receiver.requests), proxy.requests) == (1, [])


def test_a_name_that_leads_to_loopback_is_refused_before_it_is_asked(receiver: Receiver) -> None:
    url = f"http://localhost:{receiver.port}/"
    allowed = AllowedHosts(["localhost"])
    assert allowed.problem_with(url) is None
    with pytest.raises(
        RequestError, match=r"leads to (127\.0\.0\.1|::1), which is not a public address; .*--webhook-allow (127|::1)"
    ):
        post(message_to(url), KEY, allowed=allowed)
    assert receiver.requests == []
    post(message_to(url), KEY, allowed=AllowedHosts(["localhost", "127.0.0.0/8", "::1"]))
    assert len(receiver.requests) == 1


def test_the_address_that_was_compared_is_the_one_that_is_asked(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server may answer otherwise at the second question."""
    answers = ["93.184.215.14", "127.0.0.1"]

    def resolve(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answers.pop(0), port))]

    asked: list[object] = []

    def connect(self: socket.socket, address: object) -> None:
        asked.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket.socket, "connect", connect)
    with pytest.raises(UnavailableError):
        post(message_to(f"http://hooks.example.org:{receiver.port}/"), KEY, allowed=AllowedHosts(["hooks.example.org"]))
    assert asked == [("93.184.215.14", receiver.port)]


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1"),
        *("::1", "::", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"),
    ],
)
def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    with pytest.raises(RequestError, match="not a public address"):
        AllowedHosts(["hooks.example.org"]).check_address("hooks.example.org", address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111", "64:ff9b::808:808"])
def test_public_addresses_are_not(address: str) -> None:
    AllowedHosts(["hooks.example.org"]).check_address("hooks.example.org", address)
    assert ipaddress.ip_address(address)


def test_a_host_is_allowed_by_its_whole_name_and_an_address_by_its_network() -> None:
    allowed = AllowedHosts(["hooks.Example.org", "10.0.0.0/8"])
    assert allowed.problem_with("https://HOOKS.example.org:8443/x") is None
    assert allowed.problem_with("http://10.2.3.4/x") is None
    for host in ("example.org", "evil-hooks.example.org", "hooks.example.org.evil.com", "11.0.0.1"):
        problem = allowed.problem_with(f"https://{host}/")
        assert (problem or "").startswith(
            f"has the host {host!r}; allowed: hooks.example.org, 10.0.0.0/8 (the operator's autoslim serve"
        )
    assert AllowedHosts([]).problem_with("https://a.b/") == (
        "has the host 'a.b'; allowed: none, unless the operator names it (autoslim serve --webhook-allow HOST)"
    )

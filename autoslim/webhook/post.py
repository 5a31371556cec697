"""`post`: one try to deliver a message. It follows no redirect, uses no proxy, reads no body of an answer, and has an end."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from importlib import metadata
from urllib.parse import SplitResult, urlsplit

from autoslim.errors import UnavailableError
from autoslim.webhook.addresses import AllowedHosts
from autoslim.webhook.message import Message, signed_headers

SECONDS = 10.0
"""From the connection to the answer's status, however slowly its bytes come."""


def post(message: Message, secret: bytes, *, allowed: AllowedHosts | None = None, seconds: float = SECONDS) -> None:
    """Returns when the receiver has answered 2xx. `allowed` bounds the addresses; None allows every one.

    Raises:
        UnavailableError: for any other answer, or none within `seconds`; names the host and no more of the URL, which may be a secret.
        RequestError: for an address that is not `allowed`.
    """
    url = urlsplit(message.url)
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"autoslim/{metadata.version('autoslim')}",
        **signed_headers(message, secret, now=time.time()),
    }
    try:
        with _connected(url, allowed, seconds) as connection:
            target = (url.path or "/") + (f"?{url.query}" if url.query else "")
            connection.request("POST", target, body=message.body.encode(), headers=headers)
            status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise UnavailableError(f"the webhook's host {url.hostname} did not answer: {type(error).__name__}") from error
    if not 200 <= status < 300:
        redirect = ", a redirect, which is not followed" if 300 <= status < 400 else ""
        raise UnavailableError(f"the webhook's host {url.hostname} answered {status}{redirect}")


@contextlib.contextmanager
def _connected(url: SplitResult, allowed: AllowedHosts | None, seconds: float) -> Iterator[http.client.HTTPConnection]:
    """A connection to an address that was checked; it is shut down after `seconds`, whatever it is used for then."""
    host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
    connected = _connect(host, port, allowed, seconds)
    connection = http.client.HTTPConnection(host, port)
    if url.scheme == "https":
        context = ssl.create_default_context()
        connected = context.wrap_socket(connected, server_hostname=host, do_handshake_on_connect=False)
        connection = http.client.HTTPSConnection(host, port, context=context)
    # `HTTPConnection.connect` would ask for the address again, and might get another one.
    connection.sock, connection.auto_open = connected, 0
    # The timeout of a socket is for each read: a receiver that sends a byte at a time would never pass it.
    timer = threading.Timer(seconds, _shut_down, [connected])
    timer.daemon = True
    timer.start()
    try:
        if isinstance(connected, ssl.SSLSocket):
            connected.do_handshake()
        yield connection
    finally:
        timer.cancel()
        connection.close()
        connected.close()


def _connect(host: str, port: int, allowed: AllowedHosts | None, seconds: float) -> socket.socket:
    """To the first of the host's addresses that answers; all of them have to be allowed."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    if allowed is not None:
        for *_, address in found:
            allowed.check_address(host, str(address[0]))
    failed: OSError = OSError("no address")
    for family, kind, protocol, _, address in found:
        plain = socket.socket(family, kind, protocol)
        plain.settimeout(seconds / len(found))
        try:
            plain.connect(address)
        except OSError as error:
            failed = error
            plain.close()
            continue
        plain.settimeout(seconds)
        return plain
    raise failed


def _shut_down(connected: socket.socket) -> None:
    # It may have been closed meanwhile.
    with contextlib.suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)

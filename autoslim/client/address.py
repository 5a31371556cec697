"""The service's address and API key: from arguments, then AUTOSLIM_URL and AUTOSLIM_KEY, then the configuration file.

The file is `~/.config/autoslim/client.toml`, or the one that AUTOSLIM_CONFIG names. It has `url` and `key`, and `insecure = true` where a
key may be sent unencrypted to another machine. Only its owner may be able to read it.
"""

from __future__ import annotations

import dataclasses
import os
import stat
import tomllib
from pathlib import Path
from typing import Any

import httpx

from autoslim.core.urls import is_loopback
from autoslim.errors import RequestError

DEFAULT_URL = "http://127.0.0.1:8400"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Address:
    """`key` is a secret and not in the representation. `sources` are where the URL and the key come from, in this order."""

    url: str
    key: str | None = dataclasses.field(default=None, repr=False)
    sources: tuple[str, str] = ("default", "none")

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.key is None else {"Authorization": f"Bearer {self.key}"}


def find_address(url: str | None = None, key: str | None = None) -> Address:
    """The first of the arguments, the environment, the file and the default.

    Raises:
        RequestError: for a URL that is not valid, a file that others can read, or a key that would be sent unencrypted.
    """
    file = config_file()
    settings = _read(file) if file.exists() else {}
    url, url_source = _first((url, "given"), (os.environ.get("AUTOSLIM_URL"), "AUTOSLIM_URL"), (settings.get("url"), str(file)))
    key, key_source = _first((key, "given"), (os.environ.get("AUTOSLIM_KEY"), "AUTOSLIM_KEY"), (settings.get("key"), str(file)))
    insecure = os.environ.get("AUTOSLIM_INSECURE") == "1" or settings.get("insecure") is True
    url = _validated(url or DEFAULT_URL, url_source, secret=key is not None and not insecure)
    return Address(url=url, key=key, sources=(url_source or "default", key_source or "none"))


def config_file() -> Path:
    if named := os.environ.get("AUTOSLIM_CONFIG"):
        return Path(named)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "autoslim" / "client.toml"


def _first(*choices: tuple[str | None, str]) -> tuple[str | None, str | None]:
    return next(((value, source) for value, source in choices if value), (None, None))


def _read(file: Path) -> dict[str, Any]:
    if stat.S_IMODE(file.stat().st_mode) & 0o077:
        raise RequestError(f"{file} holds a key and can be read by others; allowed: mode 600 (chmod 600 {file})")
    try:
        settings = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"{file} is not valid TOML: {error}") from error
    for name, value in settings.items():
        kind = {"url": str, "key": str, "insecure": bool}.get(name)
        if kind is None:
            raise RequestError(f"{file} has {name!r}; allowed: url, key, insecure")
        if not isinstance(value, kind):
            raise RequestError(f"{file}: {name} must be {kind.__name__}")
    return settings


def _validated(url: str, source: str | None, *, secret: bool) -> str:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise RequestError(f"the service's address {url!r} ({source}) is not valid: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.userinfo or parsed.query or parsed.fragment:
        # Not the text itself, which may contain a password.
        raise RequestError(
            f"the service's address is {parsed!r} ({source}); allowed: http://HOST:PORT or https://HOST[:PORT][/PATH]"
        )
    if secret and parsed.scheme == "http" and not is_loopback(parsed.host):
        raise RequestError(
            f"an API key would be sent unencrypted to {url}; use https://, or set AUTOSLIM_INSECURE=1 on a network that you trust"
        )
    return url.rstrip("/")

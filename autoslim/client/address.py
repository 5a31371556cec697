"""Where the service is and who asks: arguments, then AUTOSLIM_URL and AUTOSLIM_KEY, then a file that only its owner can read.

The file is `~/.config/autoslim/client.toml` (AUTOSLIM_CONFIG names another one): `url`, `key`, and `insecure = true` where a key may
travel unencrypted to another machine.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import stat
import tomllib
from pathlib import Path
from typing import Any

import httpx

from autoslim.errors import RequestError

DEFAULT_URL = "http://127.0.0.1:8400"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Address:
    """`key` is a secret: it is not part of the representation. `origin` says where each of the two comes from."""

    url: str
    key: str | None = dataclasses.field(default=None, repr=False)
    origin: tuple[str, str] = ("default", "none")

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.key is None else {"Authorization": f"Bearer {self.key}"}


def find_address(url: str | None = None, key: str | None = None) -> Address:
    """Raises RequestError when the address is none, the file can be read by others, or a key would travel unencrypted."""
    file = config_file()
    kept = _read(file) if file.exists() else {}
    url, url_origin = _first((url, "given"), (os.environ.get("AUTOSLIM_URL"), "AUTOSLIM_URL"), (kept.get("url"), str(file)))
    key, key_origin = _first((key, "given"), (os.environ.get("AUTOSLIM_KEY"), "AUTOSLIM_KEY"), (kept.get("key"), str(file)))
    insecure = os.environ.get("AUTOSLIM_INSECURE") == "1" or kept.get("insecure") is True
    url = _checked(url or DEFAULT_URL, url_origin, secret=key is not None and not insecure)
    return Address(url=url, key=key, origin=(url_origin or "default", key_origin or "none"))


def config_file() -> Path:
    if named := os.environ.get("AUTOSLIM_CONFIG"):
        return Path(named)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "autoslim" / "client.toml"


def _first(*choices: tuple[str | None, str]) -> tuple[str | None, str | None]:
    return next(((value, origin) for value, origin in choices if value), (None, None))


def _read(file: Path) -> dict[str, Any]:
    if stat.S_IMODE(file.stat().st_mode) & 0o077:
        raise RequestError(f"{file} holds a key and can be read by others; allowed: mode 600 (chmod 600 {file})")
    try:
        kept = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"{file} is not valid TOML: {error}") from error
    for name, value in kept.items():
        kind = {"url": str, "key": str, "insecure": bool}.get(name)
        if kind is None:
            raise RequestError(f"{file} has {name!r}; allowed: url, key, insecure")
        if not isinstance(value, kind):
            raise RequestError(f"{file}: {name} must be {kind.__name__}")
    return kept


def _checked(url: str, origin: str | None, *, secret: bool) -> str:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise RequestError(f"the service's address {url!r} ({origin}) is none: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.userinfo or parsed.query or parsed.fragment:
        # Not the text itself, which may hold a password.
        raise RequestError(
            f"the service's address is {parsed!r} ({origin}); allowed: http://HOST:PORT or https://HOST[:PORT][/PATH]"
        )
    if secret and parsed.scheme == "http" and not is_loopback(parsed.host):
        raise RequestError(
            f"an API key would travel unencrypted to {url}; use https://, or set AUTOSLIM_INSECURE=1 where the network is your own"
        )
    return url.rstrip("/")


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

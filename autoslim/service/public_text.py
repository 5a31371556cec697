"""`PublicText`: messages as tenants see them, without the paths and addresses of the service's machines.

What libraries and drivers say is for whoever runs the service; the log and the database keep it whole.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from autoslim.service.settings import LOOPBACK, ServiceSettings

_ADDRESS = "(address)"
_PATH = "(path)"
_URL = re.compile(r"\b[a-zA-Z][a-zA-Z0-9+.-]*://[^\s'\"),;]+")
_IP = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?(?![\w.]*\w)|\[[0-9a-fA-F:]*:[0-9a-fA-F:.]*\](?::\d+)?")
# As the C library of PostgreSQL writes it, behind an address that is replaced already.
_PORT = re.compile(r"(?<=\(address\)\"), port \d{1,5}")
# A path from the root with at least two parts: `and/or` and `12/24` are none, and the routes of the API are no secret.
_ABSOLUTE = re.compile(r"(?<![\w.~/:)-])/(?!v1/)[\w.@%+=~-]+(?:/[\w.@%+=~-]+)+/?")


class PublicText:
    """Registered data sets become their names, and paths beneath a root what follows the root, as users write them."""

    def __init__(self, settings: ServiceSettings) -> None:
        names = {path: str(name) for name, path in settings.datasets.items()}
        roots = dict.fromkeys((*settings.data_roots, *settings.model_roots), "")
        replaced = {written: name for path, name in (names | roots).items() for written in (str(path), str(path.resolve()))}
        # The longest first: a data set may lie beneath a root.
        self._known = [(_prefix(path), name) for path, name in sorted(replaced.items(), key=lambda each: -len(each[0]))]
        self._hosts = _hosts(settings)

    def of(self, text: str) -> str:
        for prefix, name in self._known:
            text = prefix.sub(lambda found, name=name: _shortened(name, found[1]), text)  # type: ignore[misc]
        for pattern, shown in ((_URL, _ADDRESS), (_IP, _ADDRESS), (self._hosts, _ADDRESS), (_PORT, ""), (_ABSOLUTE, _PATH)):
            text = pattern.sub(shown, text)
        return text

    def within(self, value: Any) -> Any:
        """The same of all text within JSON, the names of fields left out."""
        if isinstance(value, str):
            return self.of(value)
        if isinstance(value, list):
            return [self.within(each) for each in value]
        if isinstance(value, dict):
            return {name: self.within(each) for name, each in value.items()}
        return value


def _prefix(path: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w.~-]){re.escape(path.rstrip('/'))}(/[\w.@%+=~-]+(?:/[\w.@%+=~-]+)*)?(?![\w-])")


def _shortened(name: str, rest: str | None) -> str:
    return f"{name}{rest or ''}" if name else (rest or "/").lstrip("/") or "the data root"


def _hosts(settings: ServiceSettings) -> re.Pattern[str]:
    """The names of the machines that the operator's settings mention, with a port if there is one."""
    urls = (settings.storage, settings.tracking_uri, settings.mlflow_url, settings.ray_dashboard_url)
    found = {urlsplit(url).hostname for url in urls if url is not None and "://" in url} | {*LOOPBACK}
    names = sorted(re.escape(host) for host in found if host)
    return re.compile(rf"(?<![\w.-])(?:{'|'.join(names)})(?::\d+)?(?![\w-])")

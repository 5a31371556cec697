"""Addresses of databases and servers: the default one, loopback, and how they are shown to people."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from urllib.parse import unquote

# Greedy up to the last @ of a word: a password may hold an unescaped @ or /, and hiding too much does no harm.
_CREDENTIALS = re.compile(r"(?<=://)([^:/@\s]*):[^\s'\"]*@")
_SECRET_ARGUMENT = re.compile(r"([?&][^=&\s]*(?:password|passwd|token|secret|key)[^=&\s]*=)[^&\s'\"]+", re.IGNORECASE)
_PASSWORD_ARGUMENT = re.compile(r"[?&][^=&\s]*(?:password|passwd|token|secret)[^=&\s]*=", re.IGNORECASE)


def hide_password(text: str) -> str:
    """`text`, a URL or a message that quotes one, with passwords and tokens shown as `***`."""
    return _SECRET_ARGUMENT.sub(r"\1***", _CREDENTIALS.sub(r"\1:***@", text))


def has_password(url: str) -> bool:
    """Whether a password or a token is in it. A key, which `hide_password` hides, may be the name of a file."""
    return bool(_CREDENTIALS.search(url) or _PASSWORD_ARGUMENT.search(url))


def sqlite_url(path: str | os.PathLike[str]) -> str:
    """SQLAlchemy's URL of a SQLite file, whatever its name: a `?` would begin the options, and `%20` be read as a blank."""
    text = str(Path(path).absolute())
    return "sqlite:///" + text.replace("%", "%25").replace("?", "%3F")


def sqlite_file(url: str) -> Path | None:
    """The file that a URL of SQLite names, as SQLAlchemy reads it; None for a URL of something else."""
    if not url.startswith(("sqlite:", "sqlite+")):
        return None
    name = url.partition(":///")[2].partition("?")[0]
    return Path(unquote(name)).absolute() if name else None


def default_url(output: str | os.PathLike[str]) -> str:
    """URL of the store of a job whose `storage` is None: SQLite in the output folder."""
    return sqlite_url(Path(output) / "autoslim.db")


def is_loopback(host: str) -> bool:
    """Whether `host`, a name or an address, is this machine only. Other names are not resolved: they may change."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

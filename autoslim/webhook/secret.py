"""The secret that notifications are signed with: from the environment or a file that it names, and never part of a job."""

from __future__ import annotations

import base64
import binascii
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from autoslim.errors import RequestError

SECRET = "AUTOSLIM_WEBHOOK_SECRET"  # noqa: S105 - the name of a variable  # nosec B105
SECRET_FILE = "AUTOSLIM_WEBHOOK_SECRET_FILE"  # noqa: S105 - the name of a variable  # nosec B105

_PREFIX = "whsec_"
# Bytes, as Standard Webhooks bounds them.
_SHORTEST, _LONGEST = 24, 64
_ADVICE = 'make one with: echo "whsec_$(openssl rand -base64 32)"'


def read_secret(environ: Mapping[str, str] = os.environ) -> bytes:
    """The key's bytes, of `whsec_` and base64.

    Raises:
        RequestError: where there is none, or it is not of this form, or its file can be read by others; without the secret itself.
    """
    if text := environ.get(SECRET):
        return _decoded(text, SECRET)
    if name := environ.get(SECRET_FILE):
        return _decoded(_read(Path(name)), f"{SECRET_FILE}={name}")
    raise RequestError(f"a webhook needs a secret to sign with, in {SECRET} or in the file that {SECRET_FILE} names; {_ADVICE}")


def _read(file: Path) -> str:
    try:
        if stat.S_IMODE(file.stat().st_mode) & 0o077:
            raise RequestError(f"{file} holds a secret and can be read by others; allowed: mode 600 (chmod 600 {file})")
        return file.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{SECRET_FILE} is {str(file)!r}, which cannot be read: {type(error).__name__}") from error


def _decoded(text: str, source: str) -> bytes:
    text = text.strip()
    try:
        key = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not text.startswith(_PREFIX) or not _SHORTEST <= len(key) <= _LONGEST:
        raise RequestError(f"{source} is no secret; allowed: whsec_ and base64 of {_SHORTEST} to {_LONGEST} bytes; {_ADVICE}")
    return key

"""API keys: `autoslim_<id>_<secret>`. The store has a digest of the secret, so that reading the store gives no usable key.

A plain SHA-256 is enough for a secret of 256 random bits: there is nothing to guess.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from autoslim.core.record import Record
from autoslim.errors import NotFoundError, RequestError
from autoslim.store import access, clock, schema
from autoslim.store.access import Access
from autoslim.store.database import Database

_CREDENTIAL_PATTERN = re.compile(r"autoslim_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")
_TENANT_PATTERN = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_LAST_USE_SECONDS = 60.0
"""Least time between two writes of a key's last use: else every request would write to the database."""
_NEVER = "~"
"""Stands for the time at which a key without an end expires: it sorts behind every ISO time."""

_keys = schema.keys.c


class Scope(enum.StrEnum):
    """`read` allows reading, `submit` starting and cancelling jobs, `admin` creating keys and access to every tenant's jobs."""

    READ = "read"
    SUBMIT = "submit"
    ADMIN = "admin"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ApiKey(Record):
    """A key without its secret."""

    id: str
    tenant: str
    name: str
    scopes: tuple[Scope, ...]
    created_at: str
    expires_at: str | None = None
    last_used_at: str | None = None
    revoked_at: str | None = None


class Keys:
    """Every method raises UnavailableError, naming the URL, when the database cannot be reached."""

    def __init__(self, url: str) -> None:
        self._database = Database(url)
        self.url = self._database.url

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> Keys:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def create(
        self, *, tenant: str, scopes: Iterable[Scope | str], name: str, lifetime: datetime.timedelta | None = None
    ) -> tuple[ApiKey, str]:
        """The key, and what its owner sends: it is returned once, and cannot be recovered later.

        From then on the service refuses requests without a key (`Access.CLOSED`).

        Raises:
            RequestError: for a tenant, a scope or a lifetime that is not allowed.
        """
        chosen = _scopes(scopes)
        if not _TENANT_PATTERN.fullmatch(tenant):
            raise RequestError(f"tenant {tenant!r} is not allowed: 1 to 63 lower-case letters, digits and inner hyphens")
        if not 1 <= len(name) <= 64 or not name.isprintable():
            raise RequestError(f"the name of a key is {name[:100]!r}; allowed: 1 to 64 printable characters")
        if lifetime is not None and lifetime <= datetime.timedelta(0):
            raise RequestError(f"the lifetime of a key is {lifetime}; allowed: above 0")
        key_id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
        row = {"id": key_id, "tenant": tenant, "name": name, "digest": _digest(secret), "scopes": " ".join(chosen)}
        with self._database.writing() as connection:
            # Locked first, also where it is closed already: of a key that is created and a service that is opened at the same time, the
            # second has to see the first.
            access.read(connection, lock=True)
            access.write(connection, Access.CLOSED)
            now = clock.now(connection)
            expires = None if lifetime is None else clock.text(now + lifetime)
            connection.execute(schema.keys.insert().values(**row, created_at=clock.text(now), expires_at=expires))
        return self.get(key_id), f"autoslim_{key_id}_{secret}"

    def get(self, key_id: str) -> ApiKey:
        with self._database.reading() as connection:
            row = connection.execute(sa.select(schema.keys).where(_keys.id == key_id)).one_or_none()
        if row is None:
            raise NotFoundError(f"there is no key {key_id[:100]!r}")
        return _key(row)

    def authenticate(self, credential: str) -> ApiKey | None:
        """The key of this credential, `autoslim_<id>_<secret>`; None where there is none, or it may not be used now."""
        match = _CREDENTIAL_PATTERN.fullmatch(credential)
        if match is None:
            return None
        key_id, secret = match.groups()
        with self._database.reading() as connection:
            row = connection.execute(sa.select(schema.keys).where(_keys.id == key_id)).one_or_none()
            now = clock.now(connection)
        # An unknown id takes as long as a wrong secret.
        secret_matches = hmac.compare_digest(_digest(secret), row.digest if row is not None else _digest(""))
        if row is None or not secret_matches or row.revoked_at is not None or (row.expires_at or _NEVER) <= clock.text(now):
            return None
        if (row.last_used_at or "") < clock.text(now, offset_seconds=-_LAST_USE_SECONDS):
            with self._database.writing() as connection:
                connection.execute(schema.keys.update().where(_keys.id == key_id).values(last_used_at=clock.text(now)))
        return _key(row)

    def list(self, tenant: str | None = None) -> list[ApiKey]:
        """Oldest first; revoked and expired ones, too."""
        query = sa.select(schema.keys).order_by(_keys.created_at, _keys.id)
        with self._database.reading() as connection:
            rows = connection.execute(query if tenant is None else query.where(_keys.tenant == tenant)).all()
        return [_key(row) for row in rows]

    def count_usable(self) -> int:
        """The number of keys that may be used now."""
        with self._database.reading() as connection:
            return _usable(connection)

    def is_usable(self, key_id: str) -> bool:
        """Whether this key may be used now."""
        with self._database.reading() as connection:
            return _usable(connection, key_id) == 1

    def access(self) -> Access:
        """Whether requests need a key. A new database is open; the first key closes it, and revoked or expired keys do not open it."""
        with self._database.reading() as connection:
            return access.read(connection)

    def set_access(self, state: Access) -> None:
        """Sets whether the service answers requests without a key (OPEN) or refuses them (CLOSED).

        Raises:
            RequestError: for opening while there are keys that may be used.
        """
        with self._database.writing() as connection:
            access.read(connection, lock=True)
            if state is Access.OPEN and (number := _usable(connection)):
                raise RequestError(
                    f"the service is not opened while {number} of its keys may be used; list them with `autoslim keys list`, and revoke "
                    "them with `autoslim keys revoke ID` first"
                )
            access.write(connection, state)

    def revoke(self, key_id: str) -> ApiKey:
        """From now on it is refused; a second time changes nothing. Raises NotFoundError."""
        with self._database.writing() as connection:
            now = clock.text(clock.now(connection))
            this = sa.and_(_keys.id == key_id, _keys.revoked_at.is_(None))
            connection.execute(schema.keys.update().where(this).values(revoked_at=now))
        return self.get(key_id)


def _scopes(scopes: Iterable[Scope | str]) -> list[str]:
    names = {str(scope) for scope in scopes}
    allowed = [scope.value for scope in Scope]
    if not names or names - set(allowed):
        raise RequestError(f"scopes {sorted(names)} are not allowed: one or more of {', '.join(allowed)}")
    return [scope for scope in allowed if scope in names]


def _usable(connection: sa.Connection, key_id: str | None = None) -> int:
    now = clock.text(clock.now(connection))
    usable = sa.select(sa.func.count()).where(
        _keys.revoked_at.is_(None), sa.or_(_keys.expires_at.is_(None), _keys.expires_at > now)
    )
    number: int = connection.execute(usable if key_id is None else usable.where(_keys.id == key_id)).scalar_one()
    return number


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _key(row: sa.Row[Any]) -> ApiKey:
    fields = {field: getattr(row, field) for field in ApiKey.__dataclass_fields__ if field != "scopes"}
    return ApiKey(**fields, scopes=tuple(Scope(scope) for scope in row.scopes.split()))

"""Authentication and scopes: API keys by tenant, or one local tenant where a loopback service has no keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from autoslim.service.app_state import AppState, State
from autoslim.service.problems import ProblemError
from autoslim.store import Scope

LOCAL_TENANT = "local"
"""The tenant of a service without keys."""

bearer = HTTPBearer(auto_error=False, bearerFormat="autoslim_<id>_<secret>", scheme_name="key")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Identity:
    """`tenant` owns the jobs; `client` is what the rate limit counts: a key, or an address where there are no keys."""

    tenant: str
    scopes: frozenset[Scope]
    client: str

    @property
    def visible_tenant(self) -> str | None:
        """The tenant whose jobs are visible; None for all tenants'."""
        return None if Scope.ADMIN in self.scopes else self.tenant


async def authenticate(
    request: Request,
    state: State,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)],
) -> Identity:
    """Raises ProblemError: 401 without a valid key where one is needed, 429 above the rate limit."""
    address = request.client.host if request.client else "unknown"
    if request.headers.get("authorization") is not None:
        identity = await _by_key(state, credentials.credentials if credentials else "", address)
    elif state.settings.keys_required or await state.run_sync(state.keys.exist):
        raise _unauthenticated(state, address, "a key is needed: Authorization: Bearer autoslim_…", "")
    else:
        identity = Identity(tenant=LOCAL_TENANT, scopes=frozenset(Scope), client=address)
    request.state.tenant = identity.tenant
    # After authentication: an unknown client must not use up the tokens of a key.
    if seconds := state.request_rate.acquire(identity.client):
        raise _too_many_requests(seconds)
    return identity


async def _by_key(state: AppState, token: str, address: str) -> Identity:
    # Checked before the database is: an address that guesses keys must not load it.
    if state.failed_login_rate.is_exhausted(address):
        raise _too_many_requests(state.failed_login_rate.acquire(address))
    key = await state.run_sync(state.keys.find, token)
    if key is None:
        raise _unauthenticated(state, address, "the key is unknown, revoked or expired", ', error="invalid_token"')
    return Identity(tenant=key.tenant, scopes=frozenset(key.scopes), client=f"key {key.id}")


def _unauthenticated(state: AppState, address: str, detail: str, error: str) -> ProblemError:
    """Only failures take a token, so that valid keys behind the same address are not slowed down."""
    if seconds := state.failed_login_rate.acquire(address):
        return _too_many_requests(seconds)
    return ProblemError(401, "unauthenticated", detail, headers={"WWW-Authenticate": f'Bearer realm="autoslim"{error}'})


def _too_many_requests(seconds: int) -> ProblemError:
    detail = f"too many requests; try again in {seconds} s"
    return ProblemError(429, "too-many-requests", detail, headers={"Retry-After": str(seconds)})


def _require(scope: Scope) -> Callable[..., Coroutine[Any, Any, Identity]]:
    """A dependency that raises a 403 without this scope; `admin` includes every other scope."""

    async def authorize(identity: Annotated[Identity, Depends(authenticate)]) -> Identity:
        if not identity.scopes & {scope, Scope.ADMIN}:
            raise ProblemError(403, "forbidden", f"the key lacks the scope {scope.value}")
        return identity

    return authorize


Reader = Annotated[Identity, Depends(_require(Scope.READ))]
Submitter = Annotated[Identity, Depends(_require(Scope.SUBMIT))]

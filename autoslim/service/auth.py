"""Authentication and scopes: API keys by tenant, or one local tenant for callers without a key where the service is open."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from autoslim.core.urls import is_loopback
from autoslim.errors import AutoslimError
from autoslim.service.app_state import AppState, State
from autoslim.service.problems import ProblemError
from autoslim.store import Access, Scope

LOCAL_TENANT = "local"
"""The tenant of callers without a key."""

ANONYMOUS_SCOPES = frozenset({Scope.READ, Scope.SUBMIT})
"""What callers without a key may do. Never `admin`: they are not told apart, so that one could change every tenant's jobs."""

# A proxy adds some of these to what it forwards. Only that they are there counts: their values are the caller's to choose.
_FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")

bearer = HTTPBearer(auto_error=False, bearerFormat="autoslim_<id>_<secret>", scheme_name="key")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Identity:
    """`tenant` owns the jobs; `client` is what the rate limit counts: a key, or an address where there is no key."""

    tenant: str
    scopes: frozenset[Scope]
    client: str
    key_id: str | None = None

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
    elif reason := await _needs_key(request, state, address):
        raise _unauthenticated(state, address, f"{reason}: Authorization: Bearer autoslim_…", "")
    else:
        identity = Identity(tenant=LOCAL_TENANT, scopes=ANONYMOUS_SCOPES, client=address)
    request.state.tenant = identity.tenant
    # After authentication: an unknown client must not use up the tokens of a key.
    if seconds := state.request_rate.acquire(identity.client):
        raise _too_many_requests(seconds)
    return identity


async def _needs_key(request: Request, state: AppState, address: str) -> str | None:
    """Why a request without a key is refused; None where it is not."""
    # Read at every request: another process closes the service by creating a key.
    if state.settings.keys_required or await state.run_sync(state.keys.access) is Access.CLOSED:
        return "a key is needed"
    if not state.settings.trust_network and not _is_local(request, address):
        return "a key is needed from another machine or through a proxy"
    return None


def _is_local(request: Request, address: str) -> bool:
    """Whether the caller is on this machine, as far as a request shows. A proxy on this machine connects from loopback, too."""
    host = request.url.hostname or ""
    return is_loopback(address) and is_loopback(host) and not any(name in request.headers for name in _FORWARDED)


async def _by_key(state: AppState, token: str, address: str) -> Identity:
    # Looked up from every address, also after many failures: others behind the same proxy, or on the same machine, must not be able to
    # lock the key's owner out. It is one read by the primary key.
    key = await state.run_sync(state.keys.authenticate, token)
    if key is None:
        raise _unauthenticated(state, address, "the key is unknown, revoked or expired", ', error="invalid_token"')
    return Identity(tenant=key.tenant, scopes=frozenset(key.scopes), client=f"key {key.id}", key_id=key.id)


async def remains_authenticated(state: AppState, identity: Identity) -> bool:
    """Whether a request that was authenticated before would be now. A response that takes hours asks again while it runs."""
    try:
        if identity.key_id is None:
            return await state.run_sync(state.keys.access) is Access.OPEN
        return await state.run_sync(state.keys.is_usable, identity.key_id)
    except AutoslimError:
        # A store that is down for a moment ends no stream.
        return True


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

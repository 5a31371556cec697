"""Who asks, and what they may: API keys by tenant and scope, or nobody in particular on a loopback service without keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from autoslim.service.app_state import AppState, services
from autoslim.service.problems import ProblemError
from autoslim.store import Scope

LOCAL = "local"
"""The tenant of a service without keys."""

bearer = HTTPBearer(auto_error=False, bearerFormat="autoslim_<id>_<secret>", scheme_name="key")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Identity:
    """`client` names the one who is to be slowed down, `tenant` whose jobs these are."""

    tenant: str
    scopes: frozenset[Scope]
    client: str

    @property
    def sees(self) -> str | None:
        """The tenant whose jobs may be seen; None for everybody's."""
        return None if Scope.ADMIN in self.scopes else self.tenant


async def identify(
    request: Request,
    shared: Annotated[AppState, Depends(services)],
    credentials: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)],
) -> Identity:
    """Raises a 401 without a good key where one is needed, a 429 for who asks too often."""
    address = request.client.host if request.client else "unknown"
    if request.headers.get("authorization") is not None:
        identity = await _by_key(shared, credentials.credentials if credentials else "", address)
    elif shared.settings.keys_required or await shared.run(shared.keys.exist):
        raise _refused(shared, address, "a key is needed: Authorization: Bearer autoslim_…", "")
    else:
        identity = Identity(tenant=LOCAL, scopes=frozenset(Scope), client=address)
    request.state.tenant = identity.tenant
    if wait := shared.rate.wait(identity.client):
        raise _too_many(wait)
    return identity


async def _by_key(shared: AppState, token: str, address: str) -> Identity:
    if shared.refusals.is_empty(address):
        raise _too_many(shared.refusals.wait(address))
    key = await shared.run(shared.keys.find, token)
    if key is None:
        raise _refused(shared, address, "the key is unknown, revoked or expired", ', error="invalid_token"')
    return Identity(tenant=key.tenant, scopes=frozenset(key.scopes), client=f"key {key.id}")


def _refused(shared: AppState, address: str, detail: str, error: str) -> ProblemError:
    if wait := shared.refusals.wait(address):
        return _too_many(wait)
    return ProblemError(401, "unauthenticated", detail, headers={"WWW-Authenticate": f'Bearer realm="autoslim"{error}'})


def _too_many(wait: int) -> ProblemError:
    return ProblemError(429, "too-many-requests", f"too many requests; try again in {wait} s", headers={"Retry-After": str(wait)})


def _need(scope: Scope) -> Callable[..., Coroutine[Any, Any, Identity]]:
    async def needed(identity: Annotated[Identity, Depends(identify)]) -> Identity:
        if not identity.scopes & {scope, Scope.ADMIN}:
            raise ProblemError(403, "forbidden", f"the key lacks the scope {scope.value}")
        return identity

    return needed


Reader = Annotated[Identity, Depends(_need(Scope.READ))]
Submitter = Annotated[Identity, Depends(_need(Scope.SUBMIT))]
Shared = Annotated[AppState, Depends(services)]

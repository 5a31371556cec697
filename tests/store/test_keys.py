"""API keys on both databases."""

from __future__ import annotations

import datetime
import threading

import pytest
import sqlalchemy as sa

from autoslim.errors import NotFoundError, RequestError
from autoslim.store import Access, Keys, Scope, schema


@pytest.fixture
def keys(database_url):
    with Keys(database_url) as keys:
        yield keys


def make(keys, **changes):
    return keys.create(**{"tenant": "me", "scopes": [Scope.READ], "name": "laptop", **changes})


def test_a_key_is_found_by_what_its_owner_sends_and_by_nothing_else(keys):
    key, token = make(keys, scopes=["submit", "read"])
    assert token.startswith(f"autoslim_{key.id}_")
    found = keys.authenticate(token)
    assert (found.id, found.tenant, found.scopes) == (key.id, "me", (Scope.READ, Scope.SUBMIT))
    _, other = make(keys)
    secret = token.rpartition("_")[2]
    for wrong in ("", token[:-1], token + "x", token.upper(), f"autoslim_{'0' * 16}_{secret}", key.id, f" {token}", token + "\n"):
        assert keys.authenticate(wrong) is None, wrong
    swapped = f"autoslim_{key.id}_{other.removeprefix('autoslim_').partition('_')[2]}"
    assert keys.authenticate(swapped) is None


def test_the_secret_is_nowhere_in_the_database(keys):
    _, token = make(keys)
    secret = token.removeprefix("autoslim_").partition("_")[2]
    with keys._database.reading() as connection:
        rows = [str(tuple(row)) for row in connection.execute(sa.select(schema.keys))]
    assert rows
    assert not any(secret in row for row in rows)
    assert secret not in str(keys.list())


def test_revoked_and_expired_keys_are_refused(keys):
    assert keys.count_usable() == 0
    first, token = make(keys, lifetime=datetime.timedelta(hours=1))
    assert keys.count_usable() == 1
    assert keys.is_usable(first.id)
    revoked = keys.revoke(first.id)
    assert keys.authenticate(token) is None
    assert keys.revoke(first.id) == revoked
    second, token = make(keys, lifetime=datetime.timedelta(hours=1))
    with keys._database.writing() as connection:
        connection.execute(schema.keys.update().values(expires_at=first.created_at))
    assert keys.authenticate(token) is None
    assert keys.count_usable() == 0
    assert not keys.is_usable(second.id)
    assert [key.id for key in keys.list("me")] == [first.id, second.id]
    assert keys.list("you") == []
    with pytest.raises(NotFoundError, match="there is no key 'nothing'"):
        keys.revoke("nothing")


def test_a_database_without_keys_is_open_and_the_first_key_closes_it_for_good(keys, database_url):
    assert keys.access() is Access.OPEN
    key, _ = make(keys)
    assert keys.access() is Access.CLOSED
    keys.revoke(key.id)
    assert keys.access() is Access.CLOSED
    make(keys, lifetime=datetime.timedelta(milliseconds=1))
    with Keys(database_url) as reopened:
        assert reopened.access() is Access.CLOSED


def test_opening_needs_that_no_key_may_be_used(keys):
    key, _ = make(keys)
    with pytest.raises(RequestError, match=r"not opened while 1 of its keys may be used.*autoslim keys revoke"):
        keys.set_access(Access.OPEN)
    keys.revoke(key.id)
    keys.set_access(Access.OPEN)
    assert keys.access() is Access.OPEN
    keys.set_access(Access.CLOSED)
    assert keys.access() is Access.CLOSED


def test_a_lost_or_unknown_state_is_closed(keys):
    with keys._database.writing() as connection:
        connection.execute(schema.access.update().values(state="ajar"))
    assert keys.access() is Access.CLOSED
    with keys._database.writing() as connection:
        connection.execute(schema.access.delete())
    assert keys.access() is Access.CLOSED


def test_a_key_that_is_created_while_the_service_is_opened_leaves_it_closed(keys):
    for _ in range(20):
        together = threading.Barrier(2)

        def open_it(together=together):
            together.wait()
            try:
                keys.set_access(Access.OPEN)
            except RequestError as error:
                assert "may be used" in str(error)

        opening = threading.Thread(target=open_it)
        opening.start()
        together.wait()
        key, _ = make(keys)
        opening.join()
        assert keys.access() is Access.CLOSED
        keys.revoke(key.id)


def test_the_last_use_is_written_down_and_not_at_every_request(keys):
    key, token = make(keys)
    assert key.last_used_at is None
    keys.authenticate(token)
    used = keys.get(key.id).last_used_at
    keys.authenticate(token)
    assert keys.get(key.id).last_used_at == used is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scopes": []}, r"scopes \[\] are not allowed: one or more of read, submit, admin"),
        ({"scopes": ["root"]}, r"scopes \['root'\]"),
        ({"tenant": "../x"}, "tenant '../x' is not allowed"),
        ({"name": "a\nb"}, "the name of a key"),
        ({"lifetime": datetime.timedelta(0)}, "the lifetime of a key is 0:00:00; allowed: above 0"),
    ],
)
def test_a_key_that_cannot_be_made_says_why(tmp_path, changes, message):
    from autoslim.core.urls import default_url

    with Keys(default_url(tmp_path)) as keys, pytest.raises(RequestError, match=message):
        make(keys, **changes)

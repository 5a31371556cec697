"""The limits after which a PostgreSQL that goes silent counts as out of reach."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from autoslim.store import PATIENCE_SECONDS, database

SERVER = "postgresql+psycopg://me@db/autoslim"


def limits(url):
    return database._silence_limits(sa.make_url(url))


def test_a_search_can_try_again_within_its_patience_and_the_api_answers_within_15_s():
    found = limits(SERVER)
    unanswered = found["keepalives_idle"] + found["keepalives_interval"] * found["keepalives_count"]
    dead = max(found["tcp_user_timeout"] / 1000, unanswered)
    assert found["keepalives"] == 1
    assert 0 < dead + found["connect_timeout"] <= 15 < PATIENCE_SECONDS / 2


def test_what_the_url_says_is_left_to_it():
    found = limits(f"{SERVER}?connect_timeout=30&keepalives_idle=60")
    assert "connect_timeout" not in found
    assert "keepalives_idle" not in found
    assert "tcp_user_timeout" in found


@pytest.mark.parametrize("url", ["sqlite:////data/autoslim.db", "postgresql+pg8000://me@db/autoslim"])
def test_drivers_that_do_not_know_the_limits_do_not_get_them(url):
    assert limits(url) == {}

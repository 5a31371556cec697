"""The driver's credentials stay in its own environment."""

from __future__ import annotations

import pytest
from ray.tune.execution import class_cache

from workers.search.own_credentials import own_credentials

SECRETS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN"}


class Trainable:
    pass


def taken_along() -> set[str]:
    """The variables that Tune asks for in the environment of a trial."""
    return set(class_cache._ActorClassCache().get(Trainable)._default_options["runtime_env"]["env_vars"])


def test_tune_takes_no_credentials_along(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*SECRETS, "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS"):
        monkeypatch.setenv(name, "0")
    before = taken_along()
    assert before > SECRETS
    with own_credentials():
        assert taken_along() == before - SECRETS
    assert taken_along() == before

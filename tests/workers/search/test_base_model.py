"""The dense model's adaptation as a task on the cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autoslim.storage.mirror import NO_MIRROR
from workers.search import base_model


def test_the_task_ends_itself_where_the_training_hangs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is watched from its first batch to its last, and no longer: the process does other tasks, too."""
    events: list[str] = []

    class Watch:
        def __init__(self, limit: float) -> None:
            events.append(f"a limit of {limit:g} s")

        def start(self) -> Watch:
            return self

        def stop(self) -> None:
            events.append("stopped")

        @contextlib.contextmanager
        def working(self) -> Iterator[None]:
            events.append("works")
            yield
            events.append("has worked")

    def prepare(*given: Any, **named: Any) -> Iterator[Any]:
        for epoch in range(2):
            events.append(f"epoch {epoch}")
            yield SimpleNamespace(to_json=lambda epoch=epoch: f"report {epoch}")
        return SimpleNamespace(to_json=lambda: "facts")

    monkeypatch.setattr(base_model, "StallWatch", Watch)
    monkeypatch.setattr(base_model, "prepare_base", prepare)
    monkeypatch.setattr(base_model, "open_reference", lambda reference: None)
    monkeypatch.setattr(base_model, "BaseRequest", SimpleNamespace(from_json=lambda text: None))
    adapt: Any = base_model._adapt
    found = list(adapt._function(NO_MIRROR.address, "", "", str(tmp_path), 1, 600.0))
    assert found == ["report 0", "report 1", "facts"]
    assert events == ["a limit of 600 s", "works", "epoch 0", "epoch 1", "has worked", "stopped"]

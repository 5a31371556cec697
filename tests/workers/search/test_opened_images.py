"""What is heard of a node that prepares images before anything can train there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from autoslim.core.stall_watch import StallWatch
from autoslim.errors import DatasetError
from workers.search import opened_images as module
from workers.search import tune_trainable
from workers.search.drain_watch import DrainWatch
from workers.search.opened_images import opened_images
from workers.search.tune_trainable import TrialTrainable


@pytest.fixture
def preparing(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A node on which images are prepared until `ready` is set; `said` is what the preparation says then, and `idle` for how many seconds
    it has given no sign of life."""
    node = SimpleNamespace(ready=threading.Event(), said="preparing images: 4 of 9, about 2 min left", error=None, idle=0.0)

    def prepare(reference: str, *, tell: Callable[[str], None]) -> Any:
        tell(node.said)
        node.ready.wait(60)
        if node.error is not None:
            raise node.error
        return SimpleNamespace(path=reference)

    monkeypatch.setattr(module, "open_reference", prepare)
    monkeypatch.setattr(module, "idle_seconds", lambda: node.idle)
    monkeypatch.setattr(module, "_FIRST_SECONDS", 0.01)
    monkeypatch.setattr(module, "_SECONDS", 0.01)
    monkeypatch.setattr(module, "ray", SimpleNamespace(util=SimpleNamespace(get_node_ip_address=lambda: "10.0.0.7")))
    yield node
    node.ready.set()


def end_of(lines: Any) -> tuple[list[str], Any]:
    told = []
    while True:
        try:
            told.append(next(lines))
        except StopIteration as end:
            return told, end.value


def test_a_node_that_prepares_images_says_how_far_it_is_until_they_are_there(preparing: SimpleNamespace) -> None:
    lines = opened_images("images")
    line = next(lines)
    while "brought here" in line:
        line = next(lines)
    assert line == next(lines) == f"node 10.0.0.7: {preparing.said}"
    preparing.ready.set()
    _, images = end_of(lines)
    assert images.path == "images"


def test_a_node_that_has_the_images_says_nothing(preparing: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_SECONDS", 60.0)
    preparing.ready.set()
    told, images = end_of(opened_images("images"))
    assert (told, images.path) == ([], "images")


def test_a_preparation_that_hangs_is_one_piece_of_work_to_who_watches_it(preparing: SimpleNamespace) -> None:
    """Every line would begin another one, which never takes long enough to be ended."""
    preparing.idle = 3600.0
    threading.Timer(0.1, preparing.ready.set).start()
    told, _ = end_of(opened_images("images"))
    assert told == []


def test_images_that_cannot_be_opened_are_an_error_of_who_opens_them(preparing: SimpleNamespace) -> None:
    preparing.error = DatasetError("the files have changed")
    preparing.ready.set()
    with pytest.raises(DatasetError, match="the files have changed"):
        end_of(opened_images("images"))


CONFIG = {name: "" for name in tune_trainable._CONTEXT_KEYS} | {"ranks": 1, "trial_folder": "t", "target": "50%"}


def trainable_of(monkeypatch: pytest.MonkeyPatch, trial: Callable[..., Iterator[Any]]) -> TrialTrainable:
    """A worker that has opened nothing yet, and is given a trial."""
    trainable = TrialTrainable.__new__(TrialTrainable)
    trainable._leaves, trainable._stalls = DrainWatch("own", draining=set), StallWatch(0.0)
    trainable._ranks = trainable._trial_context = trainable._opened_for = None
    context: Any = SimpleNamespace(mirror=SimpleNamespace(path=str))
    monkeypatch.setattr(trainable, "_open", lambda config, images: context, raising=True)
    monkeypatch.setattr(tune_trainable, "run_trial", trial)
    recipe: Any = SimpleNamespace()
    trainable._system, trainable._is_open = SimpleNamespace(sample=dict), False  # type: ignore[assignment]
    trainable._trial_config = CONFIG
    trainable._work = trainable._run(recipe, CONFIG)
    return trainable


def test_a_trial_whose_node_prepares_images_runs_and_says_what_it_waits_for(
    preparing: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To Tune a worker that is in its first step runs, and one that is being set up waits for a place."""

    def trial(*given: Any, **named: Any) -> Iterator[Any]:
        yield SimpleNamespace(replace=lambda system: SimpleNamespace(to_json=lambda: "a report"))

    trainable = trainable_of(monkeypatch, trial)
    first = trainable.step()
    assert first["told"].startswith("node 10.0.0.7: ") and not first["done"]
    preparing.ready.set()
    while "told" in (result := trainable.step()):
        pass
    assert result == {"report": "a report", "done": False}


def test_images_that_a_worker_cannot_open_are_no_failure_of_the_recipe(
    preparing: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trial(*given: Any, **named: Any) -> Iterator[Any]:
        yield pytest.fail("the trial was begun")

    preparing.error = OSError("stale file handle")
    preparing.ready.set()
    trainable = trainable_of(monkeypatch, trial)
    with pytest.raises(OSError, match="stale file handle"):
        while True:
            trainable.step()

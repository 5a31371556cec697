"""Ray Tune ends where a search does."""

from __future__ import annotations

import contextlib
import functools
import itertools
from pathlib import Path

import pytest
from helpers.sample_search import make_job
from helpers.simulated_trials import make_coordinator
from ray import tune

from autoslim.core.budget import Budget
from autoslim.core.job import Resources
from autoslim.core.urls import default_url
from autoslim.errors import UnavailableError
from autoslim.store import Store
from workers.search import tune_run
from workers.search.cluster import Cluster
from workers.search.resources import Node
from workers.search.slots import Slots
from workers.search.tune_searcher import CoordinatorSearcher, StandstillCallback

NOWHERE = Resources(cpu=10_000.0)
"""A trial that finds no place."""

_ROUNDS = 600
"""Of Tune's loop: a minute of them. A search that has not ended by itself is ended then."""


class NeverStarted(tune.Trainable):  # type: ignore[misc]
    pass


@pytest.mark.cluster
def test_a_search_whose_node_the_cluster_has_lost_ends_although_a_trial_waits_for_a_place(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    minutes, rounds = itertools.count(step=60), itertools.count()
    lost = functools.partial(StandstillCallback, is_lost=lambda: True, clock=lambda: float(next(minutes)))
    monkeypatch.setattr(tune_run, "StandstillCallback", lost)
    with Store(default_url(str(tmp_path))) as store:
        coordinator = make_coordinator(make_job(str(tmp_path), budgets=(Budget.parse("80%"),)), store, tmp_path)
        slots = Slots(NOWHERE, most=1, concurrency=None, follows=False, nodes=lambda: [Node(cpus=10_000.0)])
        tune_run.run_trials(
            NeverStarted,
            CoordinatorSearcher(coordinator, slots, {}),
            name="lost",
            resources=NOWHERE,
            slots=slots,
            shutdown=contextlib.nullcontext(),
            is_up=lambda: next(rounds) > _ROUNDS,
        )
    assert next(rounds) < _ROUNDS
    assert isinstance(coordinator.fatal, UnavailableError)

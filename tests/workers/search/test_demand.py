"""The placement groups by which an autoscaler sees that places are missing, with a Ray that finds places when a test says so."""

from __future__ import annotations

from typing import Any

import pytest
import ray

from autoslim.core.job import Resources
from workers.search.demand import Demand


class Groups:
    """Ray's placement groups by number: their bundle, and whether a place was found."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[dict[str, float]] = []
        self.waiting: list[int] = []
        self.found: list[int] = []
        self.where: list[dict[str, Any]] = []
        monkeypatch.setattr(ray.util, "placement_group", self._make)
        monkeypatch.setattr(ray.util, "placement_group_table", lambda group: {"state": self._state(group)})
        monkeypatch.setattr(ray.util, "remove_placement_group", self._remove)

    def _make(self, bundles: list[dict[str, float]], **where: Any) -> int:
        self.where.append(where)
        (bundle,) = bundles
        self.made.append(bundle)
        self.waiting.append(len(self.made) - 1)
        return self.waiting[-1]

    def _state(self, group: int) -> str:
        return "CREATED" if group in self.found else "PENDING"

    def _remove(self, group: int) -> None:
        (self.found if group in self.found else self.waiting).remove(group)

    def find(self, group: int) -> None:
        self.waiting.remove(group)
        self.found.append(group)


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> Groups:
    return Groups(monkeypatch)


def test_as_many_places_are_asked_for_as_are_wanted_now(groups: Groups) -> None:
    demand = Demand(Resources(cpu=4.0, gpu=1.0))
    counts: list[Any] = []
    for places in (0, 3, 3, 1, 2, 0):
        demand.hold(places)
        counts.append(len(groups.waiting))
    assert counts == [0, 3, 3, 1, 2, 0]
    # Those that still are wanted keep their turn.
    assert len(groups.made) == 4
    assert groups.made[0] == {"CPU": 4.0, "GPU": 1.0}


def test_a_place_that_is_found_is_given_back_for_a_trial_before_another_one_is_asked_for(groups: Groups) -> None:
    demand = Demand(Resources(cpu=1.0))
    demand.hold(2)
    groups.find(0)
    demand.hold(2)
    assert (groups.found, groups.waiting) == ([], [1])
    demand.hold(2)
    assert groups.waiting == [1, 2]
    assert groups.made[-1] == {"CPU": 1.0}


def test_no_place_is_asked_for_on_a_node_whose_disk_is_full(groups: Groups) -> None:
    full = ["3fa9", "77b0"]
    demand = Demand(Resources(cpu=1.0), full=lambda: full)
    demand.hold(1)
    full.clear()
    demand.hold(2)
    assert groups.where == [{"bundle_label_selector": [{"ray.io/node-id": "!in(3fa9,77b0)"}]}, {}]


def test_nothing_is_asked_for_a_trial_that_takes_nothing(groups: Groups) -> None:
    Demand(Resources(cpu=0.0, gpu=0.0)).hold(5)
    assert groups.made == []
